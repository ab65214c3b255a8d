"""What a twin learns from and is judged by: passages, instruction pairs, retrieval questions.

Sides are drawn by a hash of the document's id, so a document stays where it is when others come
and go, and no model is judged by texts that its predecessor learned from. What readers corrected
comes on top: it moves no document to another side, and what says held-out texts is left out. So do
sets by others and pairs by a language model, as far as the corpus supports them.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from llm_twin.corpus.document import content_id
from llm_twin.errors import CorpusError
from llm_twin.model.feedback import digest_of
from llm_twin.model.imports import take_in
from llm_twin.model.leakage import Judged, Leak, leaks, verdict
from llm_twin.model.pairs import PAIR_CHARACTERS, pairs_of
from llm_twin.model.preferences import longer_chosen, preferences_of
from llm_twin.model.questions import Question, cited_questions, make_questions
from llm_twin.model.row_duplicates import first_alike
from llm_twin.model.rows import CORRECTION, Pair, Preference
from llm_twin.model.split import copies, sections_of, split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm_twin.corpus.document import Chunk, Document
    from llm_twin.model.feedback import Correction
    from llm_twin.model.imports import Foreign
    from llm_twin.model.profile import Data
    from llm_twin.model.split import Sides

__all__ = ["PAIR_CHARACTERS", "Dataset", "Pair", "Preference", "make_dataset", "train_chunks"]

Row = TypeVar("Row", Pair, Preference)


@dataclass(frozen=True)
class Dataset:
    """Everything training and evaluation need, as plain data.

    Attributes:
        train_texts: passages to learn from, in the order of their documents.
        heldout_texts: passages to be judged by, each once.
        pairs: instructions from the training side (``model.pairs``), then what of others' sets is
            grounded, then readers' corrections.
        heldout_pairs: the same from the held-out side, without corrections.
        questions: for retrieval; search them over ``withhold_headings(chunks, questions)``.
        split_by: ``document``, or ``section`` or ``chunk`` when there are too few documents.
        dropped: held-out passages left out because training texts say the same.
        seed: of the split.
        preferences: from the training side (``model.preferences``) and others' sets, then what
            readers wanted instead of what they got.
        feedback: what became of their corrections: ``digest``, and how many were ``taken``,
            ``heldout`` (left out, because they say held-out texts) and ``questions``.
        heldout_preferences: the same from the held-out side, without readers'.
        sources: what came from where: rows by kind under ``pairs``, ``preferences``,
            ``heldout_pairs``, ``heldout_preferences``; ``left_out`` by reason; ``imports``, a
            report for each set by others; ``generated``, that of what a language model wrote,
            where one was asked; ``longer_chosen``, a share; ``leakage``, the verdict;
            ``notes``, sentences on what is missing. No part of the digest.

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
    heldout_preferences: list[Preference] = field(default_factory=list)
    sources: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Changes with anything a model could learn from or be judged by."""
        fields = {name: value for name, value in self._fields().items() if name != "sources"}
        return content_id(json.dumps(fields, ensure_ascii=False), length=32)

    def leaks(self) -> list[Leak]:
        """Training rows that say what the model is judged by: the final proof, an empty list.

        A reader's question may also be one that retrieval is asked, which learns from no row.
        """
        return leaks(self)

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
            heldout_preferences=[Preference(**one) for one in data.get("heldout_preferences", [])],
            sources=dict(data.get("sources", {})),
        )

    def _fields(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def train_chunks(documents: list[Document], chunks: list[Chunk], seed: int = 0) -> list[Chunk]:
    """The passages that ``make_dataset`` will learn from: what a language model may be shown."""
    return split(_known(documents, chunks), seed).train


def make_dataset(
    documents: list[Document],
    chunks: list[Chunk],
    seed: int = 0,
    corrections: Sequence[Correction] = (),
    data: Data | None = None,
    generated: Sequence[Pair] = (),
) -> Dataset:
    """Split the chunks of cleaned, de-duplicated documents and make pairs and questions.

    Args:
        documents: gives the order; chunks of other documents are ignored.
        chunks: of all documents, in any order.
        seed: another one draws other sides.
        corrections: what readers made of answers.
        data: what is learned from besides; None: what a profile says that says nothing.
        generated: pairs by a language model, from ``model.generation``.

    Raises:
        CorpusError: there are fewer than two chunks, or one side would be empty.
        ConfigError: a set that ``data`` names cannot be read.

    """
    from llm_twin.model.profile import Data

    data = data or Data()
    known = _known(documents, chunks)
    sides = split(known, seed)
    if not sides.train or not sides.heldout:
        raise _too_small(known)
    foreign = take_in(data, generated, known, sides.heldout)
    asked = cited_questions(corrections, documents)
    taken, quoted = _sifted(corrections, sides, known, seed)
    made = _assembled(sides, foreign, [*_questions(known, sides, seed), *asked], seed, data)
    made.pairs.extend(Pair(row.question, row.wanted, CORRECTION) for row in taken)
    made.preferences.extend(
        Preference(row.question, row.wanted, row.answer, CORRECTION)
        for row in taken
        if row.answer and row not in quoted
    )
    counts = {"taken": len(taken), "heldout": len(corrections) - len(taken)}
    if corrections:
        made.feedback.update(digest=digest_of(corrections), **counts, questions=len(asked))
    _tell(made, foreign)
    return made


def _known(documents: list[Document], chunks: list[Chunk]) -> list[Chunk]:
    """The chunks of these documents that say something, in their order."""
    order = {document.id: place for place, document in enumerate(documents)}
    return sorted(
        (chunk for chunk in chunks if chunk.document_id in order and chunk.text.strip()),
        key=lambda chunk: (order[chunk.document_id], chunk.position),
    )


def _too_small(known: list[Chunk]) -> CorpusError:
    different = len({chunk.text for chunk in known})
    if different > 1:
        return CorpusError(
            "The corpus repeats itself, so that nothing is left to judge a model by:"
            f" {len(known):,} passages, {different:,} of them different",
            hint="Give it texts that do not say the same",
        )
    return CorpusError(
        f"The corpus is too small to train on: {different} different passages",
        hint="Give it more text: at least two sections of different content",
    )


def _questions(known: list[Chunk], sides: Sides, seed: int) -> list[Question]:
    learned = {chunk.id for chunk in sides.train}
    return [
        dataclasses.replace(question, heldout=learned.isdisjoint(question.chunk_ids))
        for question in make_questions(known, seed)
    ]


def _sifted(
    corrections: Sequence[Correction], sides: Sides, known: list[Chunk], seed: int
) -> tuple[list[Correction], list[Correction]]:
    """Corrections that say nothing held out, and those of them whose bad answer quotes it."""
    judged = [chunk.text for chunk in sides.heldout]
    alone = Judged(
        judged, (), _questions(known, sides, seed), [chunk.text for chunk in sides.train]
    )
    copied = copies([row.wanted for row in corrections], judged)
    taken = [
        row
        for row, copy in zip(corrections, copied, strict=True)
        if not copy and not alone.reason(row.question, row.wanted, reader=True)
    ]
    copied = copies([row.answer for row in taken], judged)
    quoted = [
        row
        for row, copy in zip(taken, copied, strict=True)
        if copy or alone.reason("", row.answer, reader=True)
    ]
    return taken, quoted


def _assembled(
    sides: Sides, foreign: Foreign, questions: list[Question], seed: int, data: Data
) -> Dataset:
    """Everything but corrections, without near duplicates and leaks."""
    learned, judged = sections_of(sides.train), sections_of(sides.heldout)
    own, own_held = pairs_of(learned), pairs_of(judged)
    prompts = {pair.prompt for pair in own}
    own_held = [pair for pair in own_held if pair.prompt not in prompts]
    with_preferences = data.preferences_from_corpus
    preferences = preferences_of(learned) if with_preferences else []
    held_preferences = preferences_of(judged) if with_preferences else []
    held_preferences = [row for row in held_preferences if row.prompt not in prompts]
    share, left = data.duplicates, Counter[str]()
    made = Dataset(
        train_texts=[chunk.text for chunk in sides.train],
        heldout_texts=list(dict.fromkeys(chunk.text for chunk in sides.heldout)),
        pairs=_apart([*own, *foreign.pairs], share, left),
        heldout_pairs=_apart([*own_held, *foreign.heldout_pairs], share),
        questions=questions,
        split_by=sides.by,
        dropped=sides.dropped,
        seed=seed,
        preferences=_apart([*preferences, *foreign.preferences], share, left),
        heldout_preferences=_apart([*held_preferences, *foreign.heldout_preferences], share),
    )
    leaking = {(leak.part, leak.place): leak.reason for leak in made.leaks()}
    left.update(leaking.values())
    made.sources["left_out"] = dict(sorted(left.items()))
    return dataclasses.replace(
        made,
        pairs=[row for at, row in enumerate(made.pairs) if ("pairs", at) not in leaking],
        preferences=[
            row for at, row in enumerate(made.preferences) if ("preferences", at) not in leaking
        ],
    )


def _apart(rows: Sequence[Row], share: float, left: Counter[str] | None = None) -> list[Row]:
    """Rows whose answers are no near duplicates of an earlier row's; 0 looks for none."""
    if not share:
        return list(rows)
    alike = first_alike(["\n".join(row.answers) for row in rows], share)
    kept = [row for place, row in enumerate(rows) if alike[place] == place]
    if left is not None and len(kept) < len(rows):
        left["near duplicate"] += len(rows) - len(kept)
    return kept


def _tell(made: Dataset, foreign: Foreign) -> None:
    """Write down what came from where, and what is missing."""
    parts: dict[str, Sequence[Pair | Preference]] = {
        "pairs": made.pairs,
        "preferences": made.preferences,
        "heldout_pairs": made.heldout_pairs,
        "heldout_preferences": made.heldout_preferences,
    }
    for name, rows in parts.items():
        made.sources[name] = dict(sorted(Counter(row.kind for row in rows).items()))
    left = made.sources["left_out"]
    leaked = sum(count for reason, count in left.items() if reason != "near duplicate")
    total = len(made.pairs) + len(made.preferences)
    made.sources["leakage"] = verdict(made.leaks(), total, leaked)
    made.sources["longer_chosen"] = round(longer_chosen(made.preferences), 3)
    made.sources["imports"] = foreign.reports
    made.sources["notes"] = [
        f"there are no {name.replace('_', ' ').replace('heldout', 'held-out')}: its texts are too"
        " short, or have neither headings nor titles"
        for name, rows in parts.items()
        if not rows
    ]
