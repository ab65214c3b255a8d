"""The embedded answerer: quotes the best stretch of neighbouring sentences, never a stitched one.

A stretch is scored by the mean of its sentences' vectors against the question's, by the passage it
stands in, and by the informative words it holds; without an embedder by passage and words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llm_twin.serving import echoes
from llm_twin.serving.citations import Citation
from llm_twin.serving.passages import split, windows
from llm_twin.serving.words import terms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llm_twin.corpus.document import Chunk
    from llm_twin.retrieval.ports import Embedder, Hit
    from llm_twin.serving.passages import Kind, Unit, Window
    from llm_twin.serving.words import Vocabulary

    Vectors = NDArray[np.float32]

PASSAGES = 3
"""How many retrieved passages are read sentence by sentence."""

BEHIND = 0.05
"""A passage whose score is this far behind the best is not read: each costs 30 ms."""

SHOWN = 400
"""Characters of a sentence, list or code block that are embedded."""

PASSAGE, WORDS = 0.6, 0.3
"""Weights beside the stretch's own similarity: its passage's, its words'."""

OPENING, WANTED = 0.03, 0.08
"""What a paragraph's start adds, and a list or code block where one is asked for."""

BARE, UNSOUND, CLOSING = 0.2, 0.15, 0.15
"""What is taken off code that no prose leads to, stumps, and text under closing headings."""

HEADED, PROMISED = 0.15, 0.2
"""What a heading over the passage that says what is asked adds, and what is taken off sentences
that promise what another section says."""

ADDS, CLOSE = 0.25, 0.85
"""A second quotation adds this share of the question's words, and scores this share of the best."""

_CLOSINGS = frozenset(
    terms("references bibliography resources conclusion conclusions acknowledgements sources")
)
_CUES: dict[Kind, tuple[str, ...]] = {
    "code": ("code", "command", "config", "configuration", "script", "snippet", "syntax",
             "install", "implement", "import", "declare", "how do i", "how can i", "how to",
             "look like"),
    "list": ("steps", "which", "what are", "list", "types", "kinds", "how do i", "how can i",
             "how to"),
}  # fmt: skip


@dataclass(frozen=True)
class Quotation:
    """A scored stretch of a passage."""

    chunk: Chunk
    text: str
    score: float
    words: frozenset[str]
    about: frozenset[str]


def extract(
    question: str, hits: Sequence[Hit], embedder: Embedder | None, vocabulary: Vocabulary
) -> list[Citation]:
    """Return one quotation, or two where the second adds; none when there are no hits.

    Args:
        question: in plain words.
        hits: retrieved passages, best first; the first few are read.
        embedder: of the index, or None to go by words.
        vocabulary: weighs the words.

    """
    asked = _Question(question)
    read = [_Passage(hit) for hit in _worth_reading(hits, embedder)]
    similarities = _similarities(question, read, embedder)
    found = [
        quotation
        for passage, similar in zip(read, similarities, strict=True)
        for quotation in passage.quotations(asked, similar, vocabulary)
    ]
    found.sort(key=lambda item: -item.score)
    return [Citation.of(item.chunk, item.text) for item in _pair(found, asked.terms, vocabulary)]


def opening(chunk: Chunk, most: int = 300) -> str:
    """Return the first whole sentences of a passage, at least one, up to ``most`` characters."""
    units = split(chunk.text)
    fitting = [unit.end for unit in units if unit.end <= most]
    return chunk.text[: fitting[-1] if fitting else units[0].end] if units else chunk.text


def _worth_reading(hits: Sequence[Hit], embedder: Embedder | None) -> list[Hit]:
    """Return the few best passages; one under a closing heading repeats what others say better."""
    behind = BEHIND if embedder else float("inf")
    scores = [hit.score - CLOSING * _closes(hit.chunk) for hit in hits]
    ranked = sorted(zip(scores, hits, strict=True), key=lambda pair: -pair[0])
    return [hit for score, hit in ranked[:PASSAGES] if score >= ranked[0][0] - behind]


def _closes(chunk: Chunk) -> bool:
    return bool(chunk.headings) and bool(_CLOSINGS & set(terms(chunk.headings[-1])))


class _Question:
    """What is asked: its informative words, and the kinds of text it asks for."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.terms = terms(text)
        self.echo = echoes.pattern(text)
        asked = f" {' '.join(text.lower().replace('?', ' ').split())} "
        self.kinds = {
            kind for kind, cues in _CUES.items() if any(f" {cue} " in asked for cue in cues)
        }


class _Passage:
    """A retrieved chunk with its units and the windows over them."""

    def __init__(self, hit: Hit) -> None:
        self.hit = hit
        self.units: list[Unit] = split(hit.chunk.text)
        self.windows: list[Window] = windows(self.units)
        self.words = [frozenset(terms(unit.text)) for unit in self.units]
        self.about = frozenset(terms(hit.chunk.prefix))
        self.headed = frozenset(terms(" ".join(hit.chunk.headings)))
        self.closes = _closes(hit.chunk)

    def quotations(
        self, question: _Question, similar: Vectors | None, vocabulary: Vocabulary
    ) -> list[Quotation]:
        """Score every window; ``similar`` holds a row for each unit, see `_similarities`."""
        return [
            Quotation(
                self.hit.chunk,
                window.quote(self.hit.chunk.text, self.units),
                self._closeness(window, question, similar, vocabulary)
                + self._shape(window, question),
                frozenset().union(*self.words[window.first : window.last + 1]),
                self.about,
            )
            for window in self.windows
        ]

    def _closeness(
        self, window: Window, question: _Question, similar: Vectors | None, vocabulary: Vocabulary
    ) -> float:
        """How much the window is about what is asked."""
        places = self._telling(window.first, window.last + 1, question)
        words = frozenset().union(*(self.words[place] for place in places))
        score = WORDS * vocabulary.coverage(question.terms, words)
        score += HEADED * vocabulary.coverage(question.terms, self.headed)
        if similar is None:
            whole = self._telling(0, len(self.units), question)
            words = self.about.union(*(self.words[place] for place in whole))
            return score + PASSAGE * vocabulary.coverage(question.terms, words)
        return score + PASSAGE * self.hit.cosine + _similarity(similar[places])

    def _telling(self, start: int, end: int, question: _Question) -> list[int]:
        """Return the places of the units that do more than ask."""
        return [
            place
            for place in range(start, end)
            if not (self.units[place].asks or question.echo.search(self.units[place].text))
        ]

    def _shape(self, window: Window, question: _Question) -> float:
        """How well the window reads as an answer, whatever it says."""
        units = self.units[window.first : window.last + 1]
        score = OPENING * units[0].opens
        score += WANTED * any(unit.kind in question.kinds for unit in units)
        score -= BARE * (units[0].kind == "code")
        score -= PROMISED * sum(unit.promises for unit in units) / len(units)
        return score - UNSOUND * (not window.sound) - CLOSING * self.closes


def _similarity(rows: Vectors) -> float:
    """Cosine of the question (column 0 holds the dot products) and the mean of the vectors."""
    if not len(rows):
        return 0.0
    mean = rows.mean(axis=0)
    length = float(np.linalg.norm(mean[1:]))
    return float(mean[0]) / length if length else 0.0


def _similarities(
    question: str, read: Sequence[_Passage], embedder: Embedder | None
) -> list[Vectors | None]:
    """Per passage an array (units, 1 + dimension): dot product with the question, then vector."""
    if embedder is None:
        return [None for _ in read]
    texts = [unit.text[:SHOWN] for passage in read for unit in passage.units]
    vectors = embedder.embed([question, *texts])
    rows = np.hstack([vectors[1:] @ vectors[:1].T, vectors[1:]])
    ends = np.cumsum([len(passage.units) for passage in read])
    return list(np.split(rows, ends[:-1])) if read else []


def _pair(
    found: Sequence[Quotation], wanted: Sequence[str], vocabulary: Vocabulary
) -> list[Quotation]:
    """Return the best quotation, and the best of another passage that adds to its words."""
    if not found:
        return []
    best = found[0]
    held = best.words | best.about
    share = vocabulary.coverage(wanted, held)
    for other in found:
        gain = vocabulary.coverage(wanted, held | other.words) - share
        if other.chunk.id != best.chunk.id and gain >= ADDS and other.score >= CLOSE * best.score:
            return [best, other]
    return [best]
