"""Two models on the same items: a bootstrap interval of the mean of their differences.

An interval that excludes zero is a verdict, anything else is "cannot tell". Under a few items
(eight at 99 %) there is never a verdict: even a perfect record would be luck too often.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

Word = Literal["better", "worse", "cannot tell"]
CONFIDENCE = 0.99
RESAMPLES = 4000


@dataclass(frozen=True)
class Comparison:
    """What the items say about candidate minus production.

    Attributes:
        verdict: seen from the candidate.
        difference: mean of candidate minus production, in the items' own unit.
        low: lower end of its interval.
        high: upper end.
        n: how many items were paired.
        needed: about how many items would tell a difference of this size four times in five;
            None when the difference is exactly zero.

    """

    verdict: Word
    difference: float
    low: float
    high: float
    n: int
    needed: int | None


def compare(
    candidate: Sequence[float],
    production: Sequence[float],
    higher_is_better: bool,
    *,
    margin: float = 0.0,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Comparison:
    """Compare two models item by item; the sequences are aligned.

    Args:
        candidate: one value per item, each a finite number.
        production: the values of the same items.
        higher_is_better: True for hits, False for bits.
        margin: a mean difference smaller than this never makes a verdict.
        confidence: of the interval, between 0.5 and 1.
        seed: of the bootstrap.

    Raises:
        ValueError: the sequences have different lengths.

    """
    import numpy as np

    if len(candidate) != len(production):
        raise ValueError("candidate and production must hold the same items")
    differences = np.asarray(candidate, dtype=np.float64) - np.asarray(production, dtype=np.float64)
    count = len(differences)
    if not count:
        return Comparison("cannot tell", 0.0, 0.0, 0.0, 0, None)
    mean = float(differences.mean())
    low, high = _interval(differences, confidence, seed)
    told = count >= fewest_items(confidence) and (low > 0 or high < 0) and abs(mean) >= margin
    word: Word = "cannot tell"
    if told:
        word = "better" if (mean > 0) == higher_is_better else "worse"
    return Comparison(word, mean, low, high, count, _needed(differences, confidence))


def fewest_items(confidence: float) -> int:
    """Items under which all differences have one sign too often by luck: 8 at 99 %, 6 at 95 %."""
    return math.ceil(1 - math.log2(1 - confidence))


def _interval(
    differences: NDArray[np.float64], confidence: float, seed: int
) -> tuple[float, float]:
    """Percentile bootstrap, widened by sqrt(n/(n-1)) because resampling shrinks the spread."""
    import numpy as np

    count, mean = len(differences), float(differences.mean())
    random = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, 100):
        picks = random.integers(0, count, size=(100, count))
        means[start : start + 100] = differences[picks].mean(axis=1)
    widened = mean + (means - mean) * math.sqrt(count / max(1, count - 1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(widened, [tail, 1 - tail])
    return float(low), float(high)


def _needed(differences: NDArray[np.float64], confidence: float) -> int | None:
    mean = float(differences.mean())
    if mean == 0:
        return None
    normal = NormalDist()
    reach = normal.inv_cdf(1 - (1 - confidence) / 2) + normal.inv_cdf(0.8)
    spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    return max(fewest_items(confidence), math.ceil((reach * spread / abs(mean)) ** 2))
