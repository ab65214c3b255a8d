"""Draws the line between answering and declining, on the corpus itself, at training time.

Questions that the corpus answers are made from it: headings withheld from their sections, and
sentences taken out of their passages. Questions that it does not answer are everyday ones; those
that this corpus does answer stand out from the rest and are not counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_twin.corpus.document import content_id
from llm_twin.retrieval.ports import Hit
from llm_twin.serving import everyday
from llm_twin.serving.abstention import UNCALIBRATED, evidence
from llm_twin.serving.passages import split
from llm_twin.serving.words import Vocabulary, terms

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from llm_twin.corpus.document import Chunk
    from llm_twin.retrieval.search import Retriever

KEEP = 0.95
"""Share of the corpus's own questions that stays above the line."""

EASE = 0.5
"""How far the line moves from the higher of both bounds to the lower: people ask less like the
author than his own sentences do, but more plainly than a sentence torn out of its passage."""

PRIOR = 20
"""The uncalibrated line weighs as much as this many of the corpus's own questions: in a small
corpus a sentence's words are mostly gone when the sentence is taken out, so these look foreign."""

PASSAGES = 5
MOST_HEADINGS = 120
MOST_SENTENCES = 60
LONGEST_SENTENCE = 240
TELLING = 3
"""Fewest informative words of a sentence that is asked as a question."""


@dataclass(frozen=True)
class Trial:
    """A question as it would be judged: what is found for it, in a corpus with these words."""

    question: str
    hits: list[Hit]
    vocabulary: Vocabulary


def calibrate(
    retriever: Retriever, questions: Sequence[str], chunks: Sequence[Chunk]
) -> dict[str, Any]:
    """Learn when to decline; returns plain JSON types for `Calibration.from_dict`.

    Args:
        retriever: searches the corpus; the headings asked below should be withheld from it.
        questions: such headings; may be empty.
        chunks: what the retriever searches.

    """
    vocabulary = Vocabulary.of(chunk.passage for chunk in chunks)
    own = [*_asked(retriever, questions[:MOST_HEADINGS], vocabulary),
           *_held_out(retriever, chunks, vocabulary)]  # fmt: skip
    foreign = list(_asked(retriever, everyday.QUESTIONS, vocabulary))
    report: dict[str, Any] = {"questions": len(own), "thresholds": {}, "kept": {}, "declined": {}}
    for name in ("vectors", "words") if retriever.embedder else ("words",):
        inside, outside = _judged(own, name), _judged(foreign, name)
        line = threshold(inside, outside, UNCALIBRATED[name])
        report["thresholds"][name] = round(line, 4)
        report["kept"][name] = _share(value >= line for value in inside)
        report["declined"][name] = _share(value < line for value in outside)
    report["vocabulary"] = _served(vocabulary, questions)
    return report


def threshold(inside: Sequence[float], outside: Sequence[float], default: float) -> float:
    """Return the least evidence of an answer.

    Args:
        inside: evidence of questions that the corpus answers.
        outside: evidence of everyday questions, of which it may answer some.
        default: what the line would be without any.

    """
    lowest, lower = np.quantile(inside, [1 - KEEP, 0.25]) if len(inside) else (0.0, 0.0)
    low = float(PRIOR * default + len(inside) * lowest) / (PRIOR + len(inside))
    answered = max(default, float(lower))
    foreign = [value for value in outside if value < answered]
    high = float(np.quantile(foreign, KEEP)) if foreign else 0.0
    return max(low, high) - EASE * abs(low - high)


def _asked(
    retriever: Retriever, questions: Iterable[str], vocabulary: Vocabulary
) -> Iterator[Trial]:
    for question in questions:
        yield Trial(question, retriever.search(question, PASSAGES), vocabulary)


def _held_out(
    retriever: Retriever, chunks: Sequence[Chunk], vocabulary: Vocabulary
) -> Iterator[Trial]:
    """Ask a sample of sentences as if they had never been in their passages."""
    sample = sorted(chunks, key=lambda chunk: content_id("calibration", chunk.id))
    made = 0
    for chunk in sample:
        taken = _take_sentence(chunk)
        if taken is None or made == MOST_SENTENCES:
            continue
        made += 1
        sentence, rest = taken
        hits = [hit for hit in retriever.search(sentence, PASSAGES + 1) if hit.chunk.id != chunk.id]
        hits.append(Hit(rest, 0.0, 0.0, _cosine(retriever, sentence, rest)))
        yield Trial(sentence, hits, vocabulary.without([chunk.passage]))


def _take_sentence(chunk: Chunk) -> tuple[str, Chunk] | None:
    """Return a telling sentence and its passage without it, or None."""
    units = split(chunk.text)
    telling = [
        unit
        for unit in units
        if unit.kind == "sentence"
        and len(unit.text) <= LONGEST_SENTENCE
        and not (unit.leans or unit.announces)
        and len(terms(unit.text)) >= TELLING
    ]
    if len(units) < 2 or not telling:
        return None
    unit = telling[len(telling) // 2]
    text = chunk.text[: unit.start] + chunk.text[unit.end :]
    return unit.text, replace(chunk, text=text.strip())


def _cosine(retriever: Retriever, sentence: str, chunk: Chunk) -> float:
    if retriever.embedder is None:
        return 0.0
    vectors = retriever.embedder.embed([sentence, chunk.passage])
    return float(vectors[0] @ vectors[1])


def _judged(trials: Iterable[Trial], name: str) -> list[float]:
    return [
        evidence(trial.question, trial.hits, trial.vocabulary, vectors=name == "vectors")
        for trial in trials
    ]


def _share(outcomes: Iterable[bool]) -> float:
    values = list(outcomes)
    return round(sum(values) / len(values), 3) if values else 1.0


def _served(vocabulary: Vocabulary, questions: Sequence[str]) -> dict[str, Any]:
    """The corpus's words as they are when it is served: with the headings that were withheld."""
    headings = Counter(term for question in questions for term in terms(question))
    counts = Counter(vocabulary.counts) + headings
    return {"passages": vocabulary.passages, "counts": dict(sorted(counts.items()))}
