"""The gate: is the candidate better, worse, or is there too little to tell?

Both models answer the same items, so their per-item differences are compared: a bootstrap interval
of the mean difference (99 %, seeded) that excludes zero is a verdict, anything else is "cannot
tell". Under eight items there is never a verdict: even a perfect record would be luck too often.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

Word = Literal["better", "worse", "cannot tell"]
CONFIDENCE = 0.99
FEWEST_ITEMS = 8
RESAMPLES = 4000


@dataclass(frozen=True)
class Comparison:
    """What the items say about candidate minus production.

    Attributes:
        verdict: seen from the candidate.
        difference: mean of candidate minus production, in the items' own unit.
        low: lower end of its 99 % interval.
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


@dataclass(frozen=True)
class Verdict:
    """Whether to serve the candidate, and why.

    Attributes:
        promote: serve it.
        verdict: the overall word; ``first`` when there is no production model, ``below the floor``
            when the candidate may not be served whatever production is like.
        reasons: sentences with numbers, for a person.

    """

    promote: bool
    verdict: str
    reasons: list[str]


def compare(
    candidate: Sequence[float],
    production: Sequence[float],
    higher_is_better: bool,
    *,
    margin: float = 0.0,
    seed: int = 0,
) -> Comparison:
    """Compare two models item by item; the sequences are aligned.

    Args:
        candidate: one value per item.
        production: the values of the same items.
        higher_is_better: True for hits, False for bits.
        margin: a mean difference smaller than this never makes a verdict.
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
    low, high = _interval(differences, seed)
    told = count >= FEWEST_ITEMS and (low > 0 or high < 0) and abs(mean) >= margin
    word: Word = "cannot tell"
    if told:
        word = "better" if (mean > 0) == higher_is_better else "worse"
    return Comparison(word, mean, low, high, count, _needed(differences))


def _interval(differences: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """Percentile bootstrap, widened by sqrt(n/(n-1)) because resampling shrinks the spread."""
    import numpy as np

    count, mean = len(differences), float(differences.mean())
    random = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, 100):
        picks = random.integers(0, count, size=(100, count))
        means[start : start + 100] = differences[picks].mean(axis=1)
    widened = mean + (means - mean) * math.sqrt(count / max(1, count - 1))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(widened, [tail, 1 - tail])
    return float(low), float(high)


def _needed(differences: NDArray[np.float64]) -> int | None:
    mean = float(differences.mean())
    if mean == 0:
        return None
    normal = NormalDist()
    reach = normal.inv_cdf(1 - (1 - CONFIDENCE) / 2) + normal.inv_cdf(0.8)
    spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    return max(FEWEST_ITEMS, math.ceil((reach * spread / abs(mean)) ** 2))


def gate(
    candidate: Mapping[str, Any],
    production: Mapping[str, Any] | None,
    floor: float,
    *,
    data_changed: bool,
    margin: float = 0.1,
) -> Verdict:
    """Decide whether the candidate goes to production.

    Args:
        candidate: ``{"language": evaluate_language(...), "retrieval": evaluate_retrieval(...)}``.
        production: the same for the served model, measured on the same held-out texts and
            questions; None when nothing is served yet.
        floor: least hit@5 that may be served.
        data_changed: fresh texts or corrections are worth serving when nothing got worse.
        margin: bits per character that training again on the same corpus can differ by anyway
            (measured: 2.39 to 2.48 over seeds and threads), so no verdict.

    """
    failures = _floor_failures(candidate, floor)
    if failures:
        return Verdict(False, "below the floor", failures)
    if production is None:
        return Verdict(True, "first", _first_reasons(candidate, floor))
    language = _paired(candidate, production, "language", margin)
    retrieval = _paired(candidate, production, "retrieval", 0.0)
    reasons = [
        _sentence("Held-out text", language, "bits per character"),
        _sentence("Retrieval", retrieval, "reciprocal rank"),
    ]
    words = {language.verdict, retrieval.verdict}
    if "worse" in words:
        return Verdict(False, "worse", reasons)
    if "better" in words:
        return Verdict(True, "better", reasons)
    reasons.append(
        "Texts or feedback changed and nothing got measurably worse, so what is fresh is served."
        if data_changed
        else "Texts and feedback are the same, so the model in production stays."
    )
    return Verdict(data_changed, "cannot tell", reasons)


def _first_reasons(candidate: Mapping[str, Any], floor: float) -> list[str]:
    language, retrieval = candidate["language"], candidate["retrieval"]
    found = (
        f"Retrieval finds the right document among five for {retrieval['hit@5']:.0%} of "
        f"{retrieval['n']} questions (floor {floor:.0%})."
    )
    return [
        "It is the first model.",
        f"Its {language['bits_per_character']:.3f} bits per character beat the unigram "
        f"baseline's {language['unigram']:.3f}.",
        found if retrieval["n"] else "Retrieval is not judged: there are no questions.",
    ]


def _floor_failures(candidate: Mapping[str, Any], floor: float) -> list[str]:
    language, retrieval = candidate["language"], candidate["retrieval"]
    reasons = []
    if not language["bits_per_character"] < language["unigram"]:
        reasons.append(
            f"Its {language['bits_per_character']:.3f} bits per character do not beat the unigram "
            f"baseline's {language['unigram']:.3f}."
        )
    if retrieval["n"] and retrieval["hit@5"] < floor:
        reasons.append(
            f"Retrieval finds the right document among five for only {retrieval['hit@5']:.0%} of "
            f"{retrieval['n']} questions, under the floor of {floor:.0%}."
        )
    return reasons


def _paired(
    candidate: Mapping[str, Any], production: Mapping[str, Any], part: str, margin: float
) -> Comparison:
    """Compare the items that both models answered, matched by id."""
    ours = {item["id"]: item["value"] for item in candidate[part]["items"]}
    theirs = {item["id"]: item["value"] for item in production[part]["items"]}
    shared = [name for name in ours if name in theirs]
    return compare(
        [ours[name] for name in shared],
        [theirs[name] for name in shared],
        higher_is_better=part == "retrieval",
        margin=margin,
    )


def _sentence(subject: str, result: Comparison, unit: str) -> str:
    said = {
        "better": "the candidate is better",
        "worse": "the candidate is worse",
        "cannot tell": "too close to tell",
    }[result.verdict]
    sentence = (
        f"{subject}: {said}, {result.difference:+.3f} {unit} on {result.n} items "
        f"(99 % interval {result.low:+.3f} to {result.high:+.3f})"
    )
    if result.verdict == "cannot tell" and result.needed and result.needed > result.n:
        sentence += f"; about {result.needed} items would tell"
    return sentence + "."
