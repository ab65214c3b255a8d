"""When a rule is met: by events as they happen, or by figures for as long as they are bad.

Pure: what is met depends on the events and figures given alone, so that the engine, a simulation
and a test agree. Event conditions are put together with ``|``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from llm_twin.alerting.message import UNITS
from llm_twin.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from llm_twin.alerting.store import Event

RUN = "run"
"""The kind of event that a run of a flow is when it ended; see ``run_state``."""


class Figure(Protocol):
    """A figure of a window beside its normal, and how many samples each was taken from."""

    @property
    def value(self) -> float | None: ...
    @property
    def count(self) -> int: ...
    @property
    def normal(self) -> float | None: ...
    @property
    def normal_count(self) -> int: ...


class Reading(NamedTuple):
    """Whether it is bad (None: nobody can tell), and the figures in words."""

    bad: bool | None
    said: str = ""


@dataclass(frozen=True)
class Happened:
    """Events of some kinds, with certain values in their data; see ``event``."""

    kind: str
    where: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def parts(self) -> tuple[Happened, ...]:
        """What it is put together from."""
        return (self,)

    def __or__(self, other: Happened | Either) -> Either:
        return Either((*self.parts, *other.parts))

    def __str__(self) -> str:
        given = "".join(f", {name} {' or '.join(values)}" for name, values in self.where)
        return f"{self.kind}{given}"

    def matches(self, event: Event) -> bool:
        """Whether this event is one of them."""
        return event.kind == self.kind and all(
            _fits(str(event.data.get(name, "")), values) for name, values in self.where
        )


def _fits(value: str, values: tuple[str, ...]) -> bool:
    """Whether a value is one of them; ``Failed(TimedOut)`` is a ``Failed`` too."""
    return value in values or value.partition("(")[0] in values


@dataclass(frozen=True)
class Either:
    """Any of several kinds of events; made with ``|``."""

    parts: tuple[Happened, ...]

    def __or__(self, other: Happened | Either) -> Either:
        return Either((*self.parts, *other.parts))

    def __str__(self) -> str:
        return " | ".join(map(str, self.parts))

    def matches(self, event: Event) -> bool:
        """Whether this event is one of them."""
        return any(part.matches(event) for part in self.parts)


@dataclass(frozen=True)
class Measured:
    """A figure beyond a bound; see ``metric``."""

    name: str
    above: float | None
    below: float | None
    minutes: float
    at_least: int
    worse_than_normal: float | None

    def __str__(self) -> str:
        bounds = (("above", self.above), ("below", self.below))
        said = [f"{word} {bound:g}" for word, bound in bounds if bound is not None]
        if self.worse_than_normal:
            said.append(f"{self.worse_than_normal:g} times worse than normal")
        return f"{self.name} {', '.join(said)} over {self.minutes:g} min"

    def look(self, figures: Callable[[float], Mapping[str, Figure]]) -> Reading:
        """What the figures say now."""
        found = figures(self.minutes).get(self.name)
        if found is None or found.value is None or found.count < self.at_least:
            return Reading(None)
        verdicts = []
        if self.above is not None or self.below is not None:
            verdicts.append(
                (self.above is not None and found.value > self.above)
                or (self.below is not None and found.value < self.below)
            )
        if self.worse_than_normal:
            worse = self._worse(found)
            if worse is None:
                return Reading(None)
            verdicts.append(worse)
        return Reading(all(verdicts), self._said(found))

    def _worse(self, found: Figure) -> bool | None:
        """Scores are worse when they are lower, everything else when it is higher."""
        value, normal, ratio = found.value, found.normal, self.worse_than_normal
        if value is None or normal is None or ratio is None or found.normal_count < self.at_least:
            return None
        if self.below is not None or self.name.startswith("score."):
            return value < normal / ratio
        return value > normal * ratio

    def _said(self, found: Figure) -> str:
        normal = (
            "no normal to compare with"
            if found.normal is None
            else f"normal {found.normal:.3g} ({found.normal_count:,})"
        )
        return f"{self.name} {found.value:.3g} ({found.count:,} in {self.minutes:g} min), {normal}"


@dataclass(frozen=True)
class Silent:
    """No request, where there were some before; see ``no_traffic``."""

    minutes: float

    def __str__(self) -> str:
        return f"no traffic for {self.minutes:g} min"

    def look(self, figures: Callable[[float], Mapping[str, Figure]]) -> Reading:
        """What the figures say now; a service that nobody used the day before is not missed."""
        found = figures(self.minutes).get("requests_per_minute")
        if found is None or (not found.count and not found.normal_count):
            return Reading(None)
        normal = f"normal {found.normal or 0:.3g} a minute"
        return Reading(not found.count, f"{found.count} requests in {self.minutes:g} min, {normal}")


Condition = Happened | Either | Measured | Silent


def event(kind: str, **where: str | Sequence[str]) -> Happened:
    """Met by each event of a kind, like ``event("deploy.failed", target="local")``."""
    return Happened(
        kind,
        tuple(
            (name, (value,) if isinstance(value, str) else tuple(value))
            for name, value in where.items()
        ),
    )


def run_state(flow: str, states: Sequence[str]) -> Happened:
    """Met by each run of a flow ("": any) that ended in a state: ``Failed``, ``Crashed`` …"""
    return event(RUN, **({"flow": flow} if flow else {}), state=states)


def metric(
    name: str,
    *,
    above: float | None = None,
    below: float | None = None,
    minutes: float = 15,
    at_least: int = 20,
    worse_than_normal: float | None = None,
) -> Measured:
    """Met for as long as a figure of the traces is beyond its bounds.

    Args:
        name: ``error_rate``, ``latency_p95``, ``cost_per_hour``, ``refusal_rate``, ``score.NAME``.
        above: bad when above.
        below: bad when below.
        minutes: length of the window.
        at_least: samples, below which nobody can tell: nothing fires and nothing is resolved.
        worse_than_normal: bad only when as many times worse than the day before as well.

    Raises:
        ConfigError: there is no bound.

    """
    if above is None and below is None and worse_than_normal is None:
        raise ConfigError(
            "a metric needs a bound", name, "Say above=, below= or worse_than_normal="
        )
    if worse_than_normal is not None and worse_than_normal < 1:
        raise ConfigError(
            "worse_than_normal is a ratio of 1 or more", f"{name}, {worse_than_normal}"
        )
    return Measured(name, above, below, minutes, at_least, worse_than_normal)


def no_traffic(minutes: float) -> Silent:
    """Met while nobody asks anything, unless nobody did the day before either."""
    return Silent(minutes)


def seconds(text: str) -> float:
    """The seconds of ``90s``, ``5m``, ``2h``, ``8d`` or ``1w``.

    Raises:
        ConfigError: it is not written like that.

    """
    number, unit = text.strip()[:-1], text.strip()[-1:]
    try:
        return float(number) * UNITS[unit]
    except (ValueError, KeyError):
        hint = "Write it like 90s, 12h or 7d"
        raise ConfigError("not a length of time", repr(text), hint) from None
