"""The gate's rule, checked: which groups of figures there are, and what may be asked of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_twin.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llm_twin.model import profile


@dataclass(frozen=True)
class Group:
    """How a group of figures is spoken of.

    Attributes:
        subject: begins a sentence.
        unit: of its items' values.
        items: what they are.
        higher_is_better: of the items' values.
        figures: those that are known before anything is measured; () when none are.

    """

    subject: str
    unit: str
    items: str
    higher_is_better: bool = True
    figures: tuple[str, ...] = ()


GROUPS = {
    "language": Group("Held-out text", "bits per character", "held-out texts", False),
    "retrieval": Group(
        "Retrieval", "reciprocal rank", "questions", figures=("hit@1", "hit@5", "mrr")
    ),
    "answers": Group("Answers", "share grounded", "questions"),
    "refusal": Group("Refusal", "share right", "questions"),
    "style": Group("Style", "probability of the author", "samples"),
    "judged": Group("The judge", "score", "answers"),
    "preference": Group("Preference", "share preferred", "pairs"),
}


def check(rule: profile.Gate, evaluation: profile.Evaluation | None = None) -> None:
    """Find what is wrong with a rule before anything is trained.

    Args:
        rule: of a profile.
        evaluation: of the same profile: a floor needs its figure measured.

    Raises:
        ConfigError: it names a group or figure that there is not, or a value that says nothing.

    """
    for kind, names in (("floors", rule.floors), ("margins", rule.margins)):
        for name, value in names.items():
            group = name.partition(".")[0] if kind == "floors" else name
            if group not in GROUPS:
                raise ConfigError(
                    "there are no such figures", f"gate.{kind}.{name}", there_are(GROUPS)
                )
            if not math.isfinite(value) or (kind == "margins" and value < 0):
                raise ConfigError(
                    "a floor is a number, and a margin is one from 0 up", f"gate.{kind}.{name}"
                )
    for name in rule.floors:
        _check_floor(name, evaluation)


def _check_floor(name: str, evaluation: profile.Evaluation | None) -> None:
    group, _, figure = name.partition(".")
    known = GROUPS[group]
    if not known.higher_is_better:
        raise ConfigError(
            "of these figures less is better, so they have no least value",
            f"gate.floors.{name}",
            "The unigram baseline is their floor already; set gate.margins to compare them",
        )
    if not figure or (known.figures and figure not in known.figures):
        named = known.figures or (f"{group}.<figure>",)
        raise ConfigError("there is no such figure", f"gate.floors.{name}", there_are(named))
    if evaluation:
        needs = {
            "style": ("samples", evaluation.samples),
            "answers": ("questions", evaluation.questions),
            "judged": ("judge", evaluation.judge),
        }
        setting, measured = needs.get(group, ("", True))
        if not measured:
            raise ConfigError(
                "a floor needs its figure measured",
                f"gate.floors.{name}",
                f"Set evaluation.{setting} or leave the floor out",
            )


def there_are(names: Iterable[str]) -> str:
    """Which names there are, as a hint."""
    return f"There are: {', '.join(names) or 'none'}"
