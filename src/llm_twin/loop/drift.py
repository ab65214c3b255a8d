"""Whether two samples differ by more than chance: of questions as vectors, and of scores.

Both tests are permutation tests: what is held is the rate of false alarms, whatever the samples
look like. Labels are permuted over groups, because what one person asks in one conversation is not
so many independent questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    Numbers = NDArray[np.float64]

LEAST = 30
"""Questions, or scores, that each of the two samples needs."""
PERMUTATIONS = 999
SMALLEST_DECLINE = 0.05
"""Of a mean score; a smaller one is no reason to do anything, however certain."""
FAR = 0.95
"""Share of the reference's own questions that are nearer to another one than this distance."""
TIE = 1e-12


@dataclass(frozen=True)
class Shift:
    """What the test of the questions says.

    Attributes:
        p: probability of a distance as large, if nothing changed.
        distance: maximum mean discrepancy of the two samples; 0: the same.
        new: share of the recent questions that are farther from every question of the reference
            than 95 % of those are from each other: 0.05 if nothing changed.
        newest: positions of recent questions that are new, those that have most company first.

    """

    p: float
    distance: float
    new: float
    newest: list[int]


@dataclass(frozen=True)
class Decline:
    """What the test of one score says.

    Attributes:
        p: probability of a decline as large, if nothing changed.
        before: mean of the reference.
        now: mean of the recent ones.
        count: how many recent ones there are.

    """

    p: float
    before: float
    now: float
    count: int

    @property
    def matters(self) -> bool:
        """Whether it is large enough to do something about."""
        return self.before - self.now >= SMALLEST_DECLINE


def shift(
    reference: Vectors,
    recent: Vectors,
    threads: tuple[Sequence[str], Sequence[str]],
    seed: int = 0,
) -> Shift:
    """Compare two samples of questions by their maximum mean discrepancy with an RBF kernel.

    Args:
        reference: unit vectors of shape (n, dimension).
        recent: of shape (m, dimension).
        threads: for each question of the reference, and each recent one, the conversation that it
            belongs to.
        seed: of the permutations.

    """
    import numpy as np

    pooled = np.vstack([reference, recent]).astype(np.float64)
    squares = np.clip(2 - 2 * pooled @ pooled.T, 0, None)
    apart = squares[np.triu_indices(len(pooled), 1)]
    positive = apart[apart > TIE]
    kernel = np.exp(-squares / (np.median(positive) if len(positive) else 1.0))
    split = len(reference)
    labels = _labels(threads[0], threads[1], seed)
    found = _discrepancy(kernel, labels)
    p = float(np.mean(found >= found[0] - TIE))
    new, newest = _novel(squares, kernel, split)
    return Shift(p, float(max(0.0, found[0]) ** 0.5), new, newest)


def _labels(reference: Sequence[str], recent: Sequence[str], seed: int) -> Numbers:
    """Which questions count as recent: 1 or 0, of shape (1 + permutations, n + m).

    The first row is how it is, the others permute whole conversations.
    """
    import numpy as np

    names = [*(("before", one) for one in reference), *(("now", one) for one in recent)]
    number = {name: index for index, name in enumerate(dict.fromkeys(names))}
    groups = np.array([number[name] for name in names])
    own = np.array([float(when == "now") for when, _ in number])
    rows = np.tile(own, (PERMUTATIONS + 1, 1))
    rows[1:] = np.random.default_rng(seed).permuted(rows[1:], axis=1)
    labels: Numbers = rows[:, groups]
    return labels


def _discrepancy(kernel: Numbers, labels: Numbers) -> Numbers:
    """The unbiased estimate of the squared discrepancy for each row of labels."""
    import numpy as np

    recent = labels.sum(axis=1)
    rest = labels.shape[1] - recent
    reach = labels @ kernel
    within = (reach * labels).sum(axis=1)
    across = reach.sum(axis=1) - within
    others = kernel.sum() - within - 2 * across
    both = (np.maximum(recent * (recent - 1), 1), np.maximum(rest * (rest - 1), 1))
    found: Numbers = (
        (within - recent) / both[0] + (others - rest) / both[1] - 2 * across / (recent * rest)
    )
    return found


def _novel(squares: Numbers, kernel: Numbers, split: int) -> tuple[float, list[int]]:
    """The share of recent questions that are new, and which."""
    import numpy as np

    own = squares[:split, :split] + 8 * np.eye(split)
    far = np.quantile(own.min(axis=1), FAR)
    nearest = squares[split:, :split].min(axis=1)
    company = kernel[split:, split:].mean(axis=1) - kernel[split:, :split].mean(axis=1)
    order = [int(one) for one in np.argsort(-company, kind="stable") if nearest[one] > far + TIE]
    return len(order) / max(1, len(nearest)), order


def decline(
    reference: Mapping[str, Sequence[float]], recent: Mapping[str, Sequence[float]], seed: int = 0
) -> Decline:
    """Test whether a score's mean is lower than it was.

    Args:
        reference: values by conversation.
        recent: likewise.
        seed: of the permutations.

    """
    import numpy as np

    sides = (reference, recent)
    threads = [[name for name, of in side.items() for _ in of] for side in sides]
    before, now = ([value for of in side.values() for value in of] for side in sides)
    values = np.array([*before, *now], dtype=np.float64)
    labels = _labels(threads[0], threads[1], seed)
    count = labels.sum(axis=1)
    sums = labels @ values
    lower = (values.sum() - sums) / (len(values) - count) - sums / count
    p = float(np.mean(lower >= lower[0] - TIE))
    return Decline(p, float(np.mean(before)), float(np.mean(now)), len(now))


def declined(found: Mapping[str, Decline], level: float) -> list[str]:
    """The scores that declined, worst first; false alarms over all of them stay below the level.

    Holm's procedure: the smallest p has to be below level / n, the next below level / (n - 1) …

    Args:
        found: by name.
        level: probability of any false alarm.

    """
    names = []
    for rank, (name, one) in enumerate(sorted(found.items(), key=lambda item: item[1].p)):
        if one.p > level / (len(found) - rank):
            break
        names.append(name)
    return [name for name in names if found[name].matters]
