"""The gate: is the candidate better, worse, or is there too little to tell?

Both models answer the same items, so their per-item differences are compared (see ``paired``).
Which figures decide, from which difference on, and under which a model is never served, says the
profile's ``gate``.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from llm_twin.errors import ConfigError
from llm_twin.model.paired import Comparison, compare
from llm_twin.model.rule import GROUPS, Group, check, there_are

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llm_twin.model import profile

__all__ = ["Comparison", "Verdict", "check", "compare", "gate"]

SAID = {
    "better": "the candidate is better",
    "worse": "the candidate is worse",
    "cannot tell": "too close to tell",
}
MOST_NAMED = 3


@dataclass(frozen=True)
class Verdict:
    """Whether to serve the candidate, and why.

    Attributes:
        promote: serve it.
        verdict: the overall word; ``first`` when there is no production model, ``below the floor``
            when the candidate may not be served whatever production is like.
        reasons: sentences with numbers, for a person.
        compared: what each group that decides says, by the group's name.

    """

    promote: bool
    verdict: str
    reasons: list[str]
    compared: dict[str, Comparison] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def gate(
    candidate: Mapping[str, Any],
    production: Mapping[str, Any] | None,
    rule: profile.Gate,
    *,
    data_changed: bool,
) -> Verdict:
    """Decide whether the candidate goes to production.

    Args:
        candidate: figures by group (see ``GROUPS``), each with ``n`` and ``items``, a list of
            ``{"id", "value"}``; ``{"language": evaluate_language(...), ...}``.
        production: the same for the served model, measured on the same items; None or empty when
            nothing is served yet.
        rule: what decides. The default margin of 0.1 bits per character is what training again on
            the same corpus can differ by anyway (measured: 2.39 to 2.48 over seeds and threads).
        data_changed: fresh texts or corrections are worth serving when nothing got worse.

    Raises:
        ConfigError: the rule names a group or figure that there is not.

    """
    check(rule)
    failures, passed, unjudged = _judge_floors(candidate, rule.floors)
    failures = [*_beaten_by_unigram(candidate), *failures, *_not_numbers(candidate)]
    if failures:
        return Verdict(False, "below the floor", failures)
    if not production:
        beats = _beats_unigram(candidate)
        reasons = ["It is the first model.", *beats, *passed, *unjudged]
        return Verdict(True, "first", reasons)
    compared, reasons = _compare_groups(candidate, production, rule)
    reasons += unjudged
    words = {result.verdict for result in compared.values()}
    if "worse" in words:
        return Verdict(False, "worse", reasons, compared)
    if "better" in words:
        return Verdict(True, "better", reasons, compared)
    reasons.append(
        "Texts or feedback changed and nothing got measurably worse, so what is fresh is served."
        if data_changed
        else "Texts and feedback are the same, so the model in production stays."
    )
    return Verdict(data_changed, "cannot tell", reasons, compared)


def _beaten_by_unigram(candidate: Mapping[str, Any]) -> list[str]:
    language = candidate.get("language") or {}
    if "unigram" not in language or language["bits_per_character"] < language["unigram"]:
        return []
    return [
        f"Its {language['bits_per_character']:.3f} bits per character do not beat the unigram "
        f"baseline's {language['unigram']:.3f}."
    ]


def _beats_unigram(candidate: Mapping[str, Any]) -> list[str]:
    language = candidate.get("language") or {}
    if "unigram" not in language:
        return []
    return [
        f"Its {language['bits_per_character']:.3f} bits per character beat the unigram "
        f"baseline's {language['unigram']:.3f}."
    ]


def _judge_floors(
    candidate: Mapping[str, Any], floors: Mapping[str, float]
) -> tuple[list[str], list[str], list[str]]:
    """Sentences on floors that do not hold, that hold, and that nothing is known of."""
    failures, passed, unjudged = [], [], []
    for name, least in floors.items():
        group = candidate.get(name.partition(".")[0])
        known = GROUPS[name.partition(".")[0]]
        if group is None:
            failures.append(f"{name} was not measured, so its floor of {least:g} is not known met.")
        elif group.get("n") == 0:
            unjudged.append(f"{known.subject} is not judged: there are no {known.items}.")
        elif (value := _figure(group, name)) is None:
            why = group.get("why") or "it cannot be told"
            unjudged.append(f"{known.subject} is not judged: {why}.")
        elif value >= least:
            passed.append(_floor_sentence(name, value, least, group, met=True))
        else:
            failures.append(_floor_sentence(name, value, least, group, met=False))
    return failures, passed, list(dict.fromkeys(unjudged))


def _figure(group: Mapping[str, Any], name: str) -> float | None:
    """The value behind a dotted name, whose first part is the group; None: it cannot be told.

    Raises:
        ConfigError: there is none.

    """
    value: Any = group
    for part in name.split(".")[1:]:
        value = value.get(part, "") if isinstance(value, dict) else ""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        figures = [key for key, own in group.items() if isinstance(own, int | float)]
        raise ConfigError("there is no such figure", f"gate.floors.{name}", there_are(figures))
    return float(value)


def _floor_sentence(
    name: str, value: float, least: float, group: Mapping[str, Any], *, met: bool
) -> str:
    if name == "retrieval.hit@5":
        found = "Retrieval finds the right document among five for"
        if met:
            return f"{found} {value:.0%} of {group['n']} questions (floor {least:.0%})."
        return (
            f"{found} only {value:.0%} of {group['n']} questions, under the floor of {least:.0%}."
        )
    if met:
        return f"{name} is {value:.3f} (floor {least:g})."
    return f"{name} is only {value:.3f}, under the floor of {least:g}."


def _not_numbers(candidate: Mapping[str, Any]) -> list[str]:
    """Sentences on measured values that are infinite or not a number; of many, the first."""
    names = [name for group in GROUPS for name in _strange(candidate.get(group), group)]
    reasons = [f"{name} is not a number." for name in names[:MOST_NAMED]]
    more = len(names) - MOST_NAMED
    return [*reasons, f"Nor are {more} more."] if more > 0 else reasons


def _strange(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, own in value.items():
            yield from _strange(own, f"{name}.{key}")
    elif isinstance(value, list):
        for at, own in enumerate(value):
            yield from _strange(own, f"{name}[{at}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield name


def _compare_groups(
    candidate: Mapping[str, Any], production: Mapping[str, Any], rule: profile.Gate
) -> tuple[dict[str, Comparison], list[str]]:
    compared, reasons, missing = {}, [], []
    for name, margin in rule.margins.items():
        known = GROUPS[name]
        if absent := _absent(candidate, production, name):
            missing.append(f"{known.subject} is not compared: {absent}.")
            continue
        compared[name] = _paired(candidate[name], production[name], name, margin, rule.confidence)
        reasons.append(_sentence(known, compared[name], rule.confidence))
    return compared, [*reasons, *missing]


def _absent(candidate: Mapping[str, Any], production: Mapping[str, Any], group: str) -> str:
    """Why a group cannot be compared; "" when it can."""
    sides = (("the candidate", candidate), ("production", production))
    without = [side for side, metrics in sides if "items" not in (metrics.get(group) or {})]
    if without:
        return f"it was not measured for {' and '.join(without)}"
    if any(_strange(production[group]["items"], group)):
        return "production's values are not all numbers"
    return ""


def _paired(
    candidate: Mapping[str, Any],
    production: Mapping[str, Any],
    group: str,
    margin: float,
    confidence: float,
) -> Comparison:
    """Compare the items that both models answered, matched by id."""
    ours = {item["id"]: item["value"] for item in candidate["items"]}
    theirs = {item["id"]: item["value"] for item in production["items"]}
    shared = [name for name in ours if name in theirs]
    return compare(
        [ours[name] for name in shared],
        [theirs[name] for name in shared],
        higher_is_better=GROUPS[group].higher_is_better,
        margin=margin,
        confidence=confidence,
    )


def _sentence(group: Group, result: Comparison, confidence: float) -> str:
    sentence = (
        f"{group.subject}: {SAID[result.verdict]}, {result.difference:+.3f} {group.unit} on "
        f"{result.n} items ({confidence * 100:.4g} % interval {result.low:+.3f} to "
        f"{result.high:+.3f})"
    )
    if result.verdict == "cannot tell" and result.needed and result.needed > result.n:
        sentence += f"; about {result.needed} items would tell"
    return sentence + "."
