"""Triggers by the clock: cron lines and intervals."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from itertools import count, takewhile
from math import floor
from typing import TYPE_CHECKING

from llm_twin.errors import FlowError
from llm_twin.flow.automation.triggers import Occurrence, Trigger
from llm_twin.flow.automation.words import declared_at, require, seconds, span, utc

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llm_twin.flow.automation.triggers import Event, State

MOST_AT_ONCE = 10_000


class Timer(Trigger):
    """Triggers by the clock; subclasses say when, from a moment on."""

    one_event = False

    def after(self, moment: float) -> Iterator[float]:
        return iter(())

    def start(self, now: float) -> State:
        return {"at": now}

    def step(
        self, state: State, events: Sequence[Event], now: float
    ) -> tuple[list[Occurrence], State]:
        # A clock that was set back: what comes due again has the same key and does not fire again.
        after = min(state["at"], now)
        found = [
            Occurrence(utc(at), at, f"due at {utc(at)}", {"due": utc(at)})
            for at in self._between(after, now)
        ]
        return found, {"at": found[-1].at if found else after}

    def next_due(self, state: State, now: float) -> float | None:
        return next(self.after(now), None)

    def _between(self, after: float, until: float) -> list[float]:
        """The newest moments, oldest first; looks back no further than it must."""
        window = 3600
        while True:
            start = max(after, until - window)
            found = list(takewhile(lambda at: at <= until, self.after(start)))
            if start == after or len(found) >= MOST_AT_ONCE:
                return found[-MOST_AT_ONCE:]
            window *= 24


@dataclass(frozen=True)
class Cron(Timer):
    """See ``cron``."""

    line: str
    timezone: str

    def __str__(self) -> str:
        return f"cron {self.line} ({self.timezone})"

    def after(self, moment: float) -> Iterator[float]:
        from cronsim import CronSim

        last = moment
        for found in CronSim(self.line, datetime.fromtimestamp(moment, zone(self.timezone))):
            # Around the hour that a clock repeats or leaves out, a moment can come twice.
            if found.timestamp() > last:
                last = found.timestamp()
                yield last


@dataclass(frozen=True)
class Every(Timer):
    """See ``every``."""

    seconds: float

    def __str__(self) -> str:
        return f"every {span(self.seconds)}"

    def after(self, moment: float) -> Iterator[float]:
        return (number * self.seconds for number in count(floor(moment / self.seconds) + 1))


def cron(line: str, timezone: str = "UTC") -> Cron:
    """Fire when a cron line of five fields comes due, in a time zone like ``Europe/Berlin``.

    As Debian's cron does it: what falls into the hour that a clock leaves out is due right after
    it, what falls into the hour that it repeats is due once, unless the line says every hour.

    Raises:
        FlowError: the line or the zone cannot be read, or it never comes due.
        NotReadyError: the package that reads cron lines is not installed.

    """
    require("cronsim")
    from cronsim import CronSimError

    made = Cron(line, timezone)
    try:
        zone(timezone)
    except (KeyError, ValueError, OSError):
        hint = f"Mend it in {declared_at()}: a name like UTC or Europe/Berlin (package tzdata)"
        raise FlowError("no such time zone", timezone, hint) from None
    try:
        never = next(made.after(0), None) is None
    except CronSimError as error:
        hint = f'Mend it in {declared_at()}: minute hour day month weekday, like "17 3 * * 1"'
        raise FlowError(f"a cron line cannot be read ({error})", line, hint) from None
    if never:
        raise FlowError("a cron line never comes due", line, f"Mend it in {declared_at()}")
    return made


def every(period: str) -> Every:
    """Fire at each multiple of a period (``15m``, ``6h``, ``1d``), counted from 1970 in UTC."""
    found = seconds(period)
    if found < 1:
        raise FlowError("a period is at least 1s", period, f"Mend it in {declared_at()}")
    return Every(found)


def zone(name: str) -> tzinfo:
    """A time zone by name; UTC is there without a database of zones."""
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo

    return ZoneInfo(name)
