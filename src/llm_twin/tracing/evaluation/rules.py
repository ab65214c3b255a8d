"""A rule: a plain function from a trace to scores, and which traces it looks at."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.errors import ConfigError

if TYPE_CHECKING:
    from llm_twin.tracing.evaluation.view import View

LONGEST_NAME = 100


class Skip(Exception):
    """A rule's word for: no score now, and no error; looking back may ask again."""


@dataclass(frozen=True)
class Score:
    """What a rule says of a trace; 1 is good and 0 is bad, whatever it is about.

    Attributes:
        value: 0..1.
        reason: in words.
        name: of the feedback score; "": the rule's.

    """

    value: float
    reason: str = ""
    name: str = ""


Found = Score | Iterable[Score] | None


@dataclass(frozen=True)
class Rule:
    """A function and when it is asked.

    Attributes:
        name: of the rule and of its score.
        function: returns a score, several, or None where there is nothing to say.
        sample: 0..1, the share of traces that it looks at; the same ones every time.
        when: whether it has anything to do with a trace; None: always.
        version: raise it when the function changes; a trace is scored once by each.

    """

    name: str
    function: Callable[[View], Found]
    sample: float = 1.0
    when: Callable[[View], bool] | None = None
    version: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.sample <= 1:
            raise ConfigError(
                "a rule's sample is a share from 0 to 1", f"{self.name}: {self.sample}", "Mend it"
            )

    def __call__(self, view: View) -> Found:
        """What the function says, whoever asks."""
        return self.function(view)

    def wants(self, view: View) -> bool:
        """Whether a trace is in its sample and has to do with it."""
        return self.sampled(view.id) and (self.when is None or self.when(view))

    def sampled(self, trace: str) -> bool:
        """Whether a trace is in its sample.

        The name is hashed too: traces were perhaps sampled by their ids before they came here.
        """
        digest = hashlib.sha256(f"{self.name}\0{trace}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.sample * 2**64

    def scores(self, view: View) -> list[Score]:
        """Ask the function, and check what it says.

        Raises:
            ValueError: it said something that is no score.

        """
        found = self.function(view)
        if found is None:
            return []
        listed = [found] if isinstance(found, Score) else list(found)
        return [self._checked(score) for score in listed]

    def _checked(self, score: Any) -> Score:
        if not isinstance(score, Score):
            raise ValueError(f"no Score but {type(score).__name__}")
        name, value = score.name or self.name, float(score.value)
        if not (math.isfinite(value) and 0 <= value <= 1):
            raise ValueError(f"a score from 0 to 1 was expected, not {value}")
        if len(name) > LONGEST_NAME:
            raise ValueError(f"a score's name has at most {LONGEST_NAME} characters")
        return Score(value, score.reason, name)


def rule(
    sample: float = 1.0,
    when: Callable[[View], bool] | None = None,
    version: int = 1,
    name: str = "",
) -> Callable[[Callable[[View], Found]], Rule]:
    """Make a rule of a function, named as the function unless ``name`` says otherwise.

    Raises:
        ConfigError: the sample is no share.

    """

    def decorate(function: Callable[[View], Found]) -> Rule:
        return Rule(name or function.__name__, function, sample, when, version)

    return decorate
