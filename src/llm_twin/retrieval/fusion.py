"""Puts two opinions on each passage, from its words and from its vector, into one order.

A passage is judged by itself and, at half the weight, by the document it comes from: a question
often names what the document is about in words that the answering passage does not repeat.
Measured on the questions of ``benchmarks/retrieval.py``; both weights lie on a plateau.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from llm_twin.retrieval.ports import Hit

    Scores = NDArray[np.float64]

WORDS = 0.25
DOCUMENT = 0.5
ALIKE = 0.8


@dataclass(frozen=True)
class Evidence:
    """What speaks for each of n passages; every array has shape (n,).

    Attributes:
        bm25: the passage's word score, 0 or more, on the question's own scale.
        coverage: share of the question's terms in the passage, weighted by rarity, 0..1.
        cosine: similarity of question and passage, -1..1; 0 without an embedder.
        document_coverage: share of the question's terms anywhere in its document, 0..1.
        document_cosine: similarity of the question and the mean of its document's passages.

    """

    bm25: Scores
    coverage: Scores
    cosine: Scores
    document_coverage: Scores
    document_cosine: Scores


def fuse(evidence: Evidence) -> Scores:
    """Return one score for each passage, higher is better."""
    best = float(evidence.bm25.max(initial=0.0)) or 1.0
    words = (evidence.bm25 / best + evidence.coverage) / 2
    passage = evidence.cosine + WORDS * words
    document = evidence.document_cosine + WORDS * evidence.document_coverage
    return np.asarray(passage + DOCUMENT * document, np.float64)


def rarity(total: int, holding: int) -> float:
    """Inverse frequency of a term that ``holding`` of ``total`` texts have, as in BM25."""
    return float(np.log1p((total - holding + 0.5) / (holding + 0.5)))


def distinct(hits: Iterable[Hit], k: int) -> list[Hit]:
    """Keep the first k, each passage once: cross-posts share most of their words."""
    kept: list[Hit] = []
    seen: list[frozenset[str]] = []
    for hit in hits:
        if len(kept) >= k:
            break
        words = frozenset(hit.chunk.text.lower().split())
        if not any(_alike(words, other) for other in seen):
            kept.append(hit)
            seen.append(words)
    return kept


def _alike(left: frozenset[str], right: frozenset[str]) -> bool:
    # The first test spares the sets of most pairs: lengths alone bound the overlap.
    if min(len(left), len(right)) < ALIKE * max(len(left), len(right)):
        return False
    return len(left & right) >= ALIKE * len(left | right)
