"""The question that a deployment asks of a new version: one that the twin inside surely answers.

It is found when the image is built, where the twin is at hand, and travels as two labels.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llm_twin.errors import TwinError
from llm_twin.model import durable

if TYPE_CHECKING:
    from llm_twin.model.bundles import Bundle
    from llm_twin.settings import Settings

TRIES = 20


def find_question(bundle: Bundle, settings: Settings) -> tuple[str, str]:
    """A heading of the corpus that is answered from its own section, and what must be cited.

    Returns: the question and the link of its first citation; both empty if no heading does. Found
        once for a version and then remembered.

    """
    path = settings.home / "delivery" / f"question-{bundle.version}.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return str(known["question"]), str(known["citation"])
    except (OSError, ValueError, KeyError, TypeError):
        question, citation = _ask(bundle, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.write_json(path, {"question": question, "citation": citation})
    return question, citation


def _ask(bundle: Bundle, settings: Settings) -> tuple[str, str]:
    from llm_twin.model.questions import make_questions
    from llm_twin.serving.answer import answer
    from llm_twin.serving.twin import Twin

    twin = Twin.open(bundle.path, settings)
    try:
        chunks = twin.index.chunks()
        links = {chunk.document_id: chunk.link or chunk.title for chunk in chunks}
        for question in make_questions(chunks)[:TRIES]:
            text = f"{question.text.rstrip('?')}?"
            found = answer(text, twin)
            first = found.citations[0] if found.citations and not found.abstained else None
            if first and (first.link or first.title) == links[question.document_id]:
                return text, first.link or first.title
    except TwinError:
        return "", ""
    finally:
        twin.index.close()
    return "", ""
