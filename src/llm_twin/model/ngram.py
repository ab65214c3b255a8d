"""N-gram baselines over the same tokens as the model: the yardsticks that cost a second.

Both are proper distributions over the whole vocabulary after every context. A sequence is scored
from its beginning; the end of a sequence is not scored, as it has no characters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Tokens = Sequence[int]
    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]


class Unigram:
    """Token frequencies with Witten-Bell smoothing towards the uniform distribution."""

    def __init__(self, sequences: Sequence[Tokens], vocabulary: int) -> None:
        counts = np.bincount(_joined(sequences), minlength=vocabulary).astype(np.float64)
        kinds = np.count_nonzero(counts)
        self.probabilities = (counts + kinds / vocabulary) / max(counts.sum() + kinds, 1.0)
        if not kinds:
            self.probabilities = np.full(vocabulary, 1 / vocabulary)

    def bits(self, tokens: Tokens) -> float:
        """Return -log2 of the sequence's probability."""
        return float(-np.log2(self.probabilities[np.asarray(tokens, dtype=np.int64)]).sum())


class Trigram:
    """Interpolated Kneser-Ney of order three, one discount an order.

    The lower orders are estimated from how many different tokens precede an n-gram, not from how
    often it occurs; the unigram is interpolated with the uniform distribution.
    """

    def __init__(self, sequences: Sequence[Tokens], vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self._base = vocabulary + 1  # the beginning of a sequence is a token of its own
        grams = [self._trigrams(tokens) for tokens in sequences if len(tokens)]
        keys = np.concatenate(grams) if grams else np.empty(0, dtype=np.int64)
        trigrams, counts = np.unique(keys, return_counts=True)
        bigrams, before = np.unique(trigrams % self._base**2, return_counts=True)
        words, starts = np.unique(bigrams % self._base, return_counts=True)
        self._orders = [
            _Order(trigrams, counts, self._base),
            _Order(bigrams, before, self._base),
            _Order(words, starts, self._base),
        ]

    def probabilities(self, first: Ints, second: Ints, token: Ints) -> Floats:
        """Return P(token | first, second) for aligned arrays of equal length.

        Contexts may hold ``vocabulary``, the beginning of a sequence.
        """
        key = (first * self._base + second) * self._base + token
        result = np.full(len(key), 1 / self.vocabulary)
        for size, order in zip((1, 2, 3), reversed(self._orders), strict=True):
            result = order.interpolate(key % self._base**size, result)
        return result

    def bits(self, tokens: Tokens) -> float:
        """Return -log2 of the sequence's probability."""
        if not len(tokens):
            return 0.0
        key = self._trigrams(tokens)
        first, second = key // self._base**2, key // self._base % self._base
        return float(-np.log2(self.probabilities(first, second, key % self._base)).sum())

    def _trigrams(self, tokens: Tokens) -> Ints:
        padded = np.asarray([self.vocabulary, self.vocabulary, *tokens], dtype=np.int64)
        return (padded[:-2] * self._base + padded[1:-1]) * self._base + padded[2:]


class _Order:
    """The discounted counts of one n-gram length, looked up by integer key."""

    def __init__(self, keys: Ints, counts: Ints, base: int) -> None:
        self.keys, self.counts, self.base = keys, counts, base
        once, twice = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
        self.discount = once / (once + 2 * twice) if once and twice else 0.5
        self.contexts, place, self.kinds = np.unique(
            keys // base, return_inverse=True, return_counts=True
        )
        self.totals = np.bincount(place, weights=counts, minlength=len(self.contexts))

    def interpolate(self, keys: Ints, lower: Floats) -> Floats:
        """Mix with the next lower order; a context never seen leaves it as it is."""
        counts = _look_up(self.keys, self.counts, keys)
        totals = _look_up(self.contexts, self.totals, keys // self.base)
        kinds = _look_up(self.contexts, self.kinds, keys // self.base)
        seen = totals > 0
        divisor = np.where(seen, totals, 1.0)
        own = np.maximum(counts - self.discount, 0) / divisor
        return np.where(seen, own + self.discount * kinds / divisor * lower, lower)


def _look_up(keys: Ints, values: Ints | Floats, wanted: Ints) -> Floats:
    """Return the values of sorted keys as floats, 0 where a key is absent."""
    if not len(keys):
        return np.zeros(len(wanted))
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0).astype(np.float64)


def _joined(sequences: Sequence[Tokens]) -> Ints:
    parts = [np.asarray(tokens, dtype=np.int64) for tokens in sequences if len(tokens)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
