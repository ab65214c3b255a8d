"""Ask the twin: commands over the promoted bundle, not recorded stages."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.tasks import task

from llm_twin.flow.tasks import tell_errors
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from invoke.context import Context

ROOT = Path(__file__).resolve().parents[1]


@task(
    help={
        "question": "in plain words, quoted",
        "llm": "local: the trained model; openai: the endpoint of TWIN_LLM_URL; default: quotes",
        "k": "passages to look at",
        "json": "print JSON",
    },
    auto_shortflags=False,
)
@tell_errors
def ask(c: Context, question: str, llm: str = "", k: int = 5, json: bool = False) -> None:
    """Answer a question from the author's texts, with citations."""
    from llm_twin.serving.answer import answer
    from llm_twin.serving.llm import open_llm
    from llm_twin.serving.render import render
    from llm_twin.serving.twin import open_production

    settings = Settings.load(root=ROOT)
    twin = open_production(settings)
    found = answer(question, twin, open_llm(llm or settings.llm, settings, twin), k)
    print(jsonlib.dumps(found.to_dict(), indent=2, ensure_ascii=False) if json else render(found))


@task(
    help={"question": "in plain words, quoted", "k": "how many", "json": "print JSON"},
    auto_shortflags=False,
)
@tell_errors
def search(c: Context, question: str, k: int = 5, json: bool = False) -> None:
    """List the passages that a question finds, best first."""
    from llm_twin.serving.render import found_passages, render_passages
    from llm_twin.serving.twin import open_production

    hits = open_production(Settings.load(root=ROOT)).search(question, k)
    if json:
        print(jsonlib.dumps(found_passages(hits), indent=2, ensure_ascii=False))
    else:
        print(render_passages(hits))
