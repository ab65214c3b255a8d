"""What a twin learns from and is judged by: passages, instruction pairs, retrieval questions.

Sides are drawn by a hash of the document's id, so a document stays where it is when others come
and go, and no model is judged by texts that its predecessor learned from. What readers corrected
comes on top: it moves no document to another side, and what says held-out texts is left out.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llm_twin.corpus.document import content_id
from llm_twin.errors import CorpusError
from llm_twin.model.feedback import digest_of
from llm_twin.model.questions import Question, cited_questions, make_questions
from llm_twin.model.split import Section, copies, sections_of, split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm_twin.corpus.document import Chunk, Document
    from llm_twin.model.feedback import Correction

PAIR_CHARACTERS = (80, 2000)
_PROMPTS = (
    "Write the section “{heading}” of “{title}”.",
    "What do you say about “{heading}” in “{title}”?",
    "Explain “{heading}”, as in “{title}”.",
)
_OPENING = "Write the opening of “{title}”."


@dataclass(frozen=True)
class Pair:
    """An instruction and what the author wrote there."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Preference:
    """A question, the answer that a reader wanted, and the one that was given."""

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Dataset:
    """Everything training and evaluation need, as plain data.

    Attributes:
        train_texts: passages to learn from, in the order of their documents.
        heldout_texts: passages to be judged by, each once.
        pairs: heading → section instructions from the training side, then readers' corrections.
        heldout_pairs: the same from the held-out side.
        questions: for retrieval; search them over ``withhold_headings(chunks, questions)``.
        split_by: ``document``, or ``section`` or ``chunk`` when there are too few documents.
        dropped: held-out passages left out because training texts say the same.
        seed: of the split.
        preferences: what readers wanted instead of what they got.
        feedback: what became of their corrections: ``digest``, and how many were ``taken``,
            ``heldout`` (left out, because they say held-out texts) and ``questions``.

    """

    train_texts: list[str]
    heldout_texts: list[str]
    pairs: list[Pair]
    heldout_pairs: list[Pair]
    questions: list[Question]
    split_by: str
    dropped: int
    seed: int
    preferences: list[Preference] = field(default_factory=list)
    feedback: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Changes with anything a model could learn from or be judged by."""
        return content_id(json.dumps(self._fields(), ensure_ascii=False), length=32)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, with the digest."""
        return {**self._fields(), "digest": self.digest}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Dataset:
        """Reverse of to_dict."""
        return cls(
            train_texts=list(data["train_texts"]),
            heldout_texts=list(data["heldout_texts"]),
            pairs=[Pair(**pair) for pair in data["pairs"]],
            heldout_pairs=[Pair(**pair) for pair in data["heldout_pairs"]],
            questions=[Question.from_dict(question) for question in data["questions"]],
            split_by=data["split_by"],
            dropped=data["dropped"],
            seed=data["seed"],
            preferences=[Preference(**one) for one in data.get("preferences", [])],
            feedback=dict(data.get("feedback", {})),
        )

    def _fields(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def make_dataset(
    documents: list[Document],
    chunks: list[Chunk],
    seed: int = 0,
    corrections: Sequence[Correction] = (),
) -> Dataset:
    """Split the chunks of cleaned, de-duplicated documents and make pairs and questions.

    Args:
        documents: gives the order; chunks of other documents are ignored.
        chunks: of all documents, in any order.
        seed: another one draws other sides.
        corrections: what readers made of answers.

    Raises:
        CorpusError: there are fewer than two chunks, or one side would be empty.

    """
    order = {document.id: place for place, document in enumerate(documents)}
    known = sorted(
        (chunk for chunk in chunks if chunk.document_id in order and chunk.text.strip()),
        key=lambda chunk: (order[chunk.document_id], chunk.position),
    )
    sides = split(known, seed)
    if not sides.train or not sides.heldout:
        raise CorpusError(
            f"The corpus is too small to train on: {len(known)} different passages",
            hint="Give it more text: at least two sections of different content",
        )
    judged = [chunk.text for chunk in sides.heldout]
    copied = copies([row.wanted for row in corrections], judged)
    taken = [row for row, copy in zip(corrections, copied, strict=True) if not copy]
    quoted = copies([row.answer for row in taken], judged)
    asked = cited_questions(corrections, documents)
    return Dataset(
        train_texts=[chunk.text for chunk in sides.train],
        heldout_texts=list(dict.fromkeys(chunk.text for chunk in sides.heldout)),
        pairs=[
            *_pairs(sections_of(sides.train)),
            *(Pair(row.question, row.wanted) for row in taken),
        ],
        heldout_pairs=_pairs(sections_of(sides.heldout)),
        questions=[*make_questions(known, seed), *asked],
        split_by=sides.by,
        dropped=sides.dropped,
        seed=seed,
        preferences=[
            Preference(row.question, row.wanted, row.answer)
            for row, quote in zip(taken, quoted, strict=True)
            if row.answer and not quote
        ],
        feedback={
            "digest": digest_of(corrections),
            "taken": len(taken),
            "heldout": len(corrections) - len(taken),
            "questions": len(asked),
        }
        if corrections
        else {},
    )


def _pairs(sections: Sequence[Section]) -> list[Pair]:
    shortest, longest = PAIR_CHARACTERS
    return [
        Pair(_prompt(section), section.text[:longest])
        for section in sections
        if len(section.text) >= shortest and (section.headings or section.title)
    ]


def _prompt(section: Section) -> str:
    """Phrase the instruction; the same section is always asked for in the same words."""
    if not section.headings:
        return _OPENING.format(title=section.title)
    heading = section.headings[-1]
    if not section.title:
        return f"Explain “{heading}”."
    choice = int(content_id(section.document_id, heading), 16) % len(_PROMPTS)
    return _PROMPTS[choice].format(heading=heading, title=section.title)
