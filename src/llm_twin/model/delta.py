"""Cosine delta: how far a text's use of common words points away from an author's.

Burrows's classic delta adds up differences of z-scores. On a hundred words that is mostly noise,
and bland prose, whose z-scores are all small, is near everybody. The angle between the vectors of
z-scores has neither fault.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llm_twin.model import prose

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Rows = NDArray[np.float64]

WORDS = 200
"""How many common words are counted, at most."""


def common_words(classes: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the words that all classes use most, hence those of grammar, most common first."""
    shares = []
    for texts in classes.values():
        counts = Counter(word for text in texts for word in prose.words(text))
        total = sum(counts.values())
        shares.append({word: count / total for word, count in counts.items()})
    shared = set.intersection(*map(set, shares)) if shares else set()
    return sorted(shared, key=lambda word: (-min(one[word] for one in shares), word))[:WORDS]


def frequencies(texts: Sequence[str], vocabulary: Sequence[str]) -> Rows:
    """Return the words' relative frequencies in each plain text, shape (texts, words)."""
    rows = np.zeros((len(texts), len(vocabulary)))
    for row, text in zip(rows, texts, strict=True):
        counts = Counter(prose.words(text))
        row += [counts[word] / max(1, counts.total()) for word in vocabulary]
    return rows


@dataclass(frozen=True)
class Delta:
    """What is usual, and how each class differs from it.

    Attributes:
        mean: of the frequencies, all classes weighing the same; shape (words,).
        deviation: likewise.
        centroids: mean z-scores of each class; shape (classes, words).

    """

    mean: Rows
    deviation: Rows
    centroids: Rows

    @classmethod
    def learn(cls, rows: Rows, labels: NDArray[np.int64], classes: int) -> Delta:
        """Learn from frequencies of shape (n, words), labelled from 0 to classes - 1."""
        means = np.array([rows[labels == one].mean(axis=0) for one in range(classes)])
        squares = np.array([(rows[labels == one] ** 2).mean(axis=0) for one in range(classes)])
        mean = means.mean(axis=0)
        spread = np.sqrt(np.maximum(squares.mean(axis=0) - mean**2, 0))
        deviation = np.where(spread > 0, spread, 1.0)
        return cls(mean, deviation, (means - mean) / deviation)

    def scores(self, rows: Rows) -> Rows:
        """Return the z-scores of frequencies; same shape."""
        scores: Rows = (rows - self.mean) / self.deviation
        return scores

    def distances(self, rows: Rows) -> Rows:
        """Return 1 - cosine to each centroid, 0 to 2, shape (n, classes); 1 says nothing."""
        scores = self.scores(rows)
        lengths = np.linalg.norm(scores, axis=1)[:, None] * np.linalg.norm(self.centroids, axis=1)
        distances: Rows = 1 - scores @ self.centroids.T / np.maximum(lengths, 1e-9)
        return distances
