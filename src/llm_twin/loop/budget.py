"""What training may cost in a day, whatever asked for it, and how soon there may be more.

A day is the last 24 hours, so that there is no midnight at which twice as much may be spent.
"""

from __future__ import annotations

import contextlib
import resource
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llm_twin.loop.audit import Spent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llm_twin.loop.audit import Audit

DAY = 86400.0


@dataclass(frozen=True)
class Limits:
    """What the turns and other trainings of a day may cost together.

    Attributes:
        cpu: seconds of processors; where training uses a GPU, the seconds that wait for it too.
        tokens: of models that are asked over the network.
        dollars: for them.

    """

    cpu: float
    tokens: int
    dollars: float


def refusal(audit: Audit, limits: Limits, planned: float, now: float, dollars: float = 0.0) -> str:
    """Why what plans so many CPU seconds, and dollars, may not begin today; "" if it may."""
    spent = audit.spent_since(now - DAY)
    used = (
        ("CPU seconds", spent.cpu + planned, limits.cpu),
        ("tokens", spent.tokens, limits.tokens),
        ("dollars", spent.dollars + dollars, limits.dollars),
    )
    over = [f"{value:,.2f} of {most:,.2f} {name}" for name, value, most in used if value > most]
    return f"the day's budget does not suffice: {', '.join(over)}" if over else ""


def resting(audit: Audit, run: str, cooldown: float, now: float) -> str:
    """Why a turn may not begin so soon after the last one; "" if it may."""
    last = audit.last_end(run)
    if last is None or now - last >= cooldown:
        return ""
    left = last + cooldown - now
    return f"the last turn ended {now - last:.0f} s ago, the next may begin in {left:.0f} s"


@dataclass
class Meter:
    """What a step costs besides processors, told as it goes.

    Attributes:
        tokens: of models that were asked.
        dollars: for whatever has a price.
        least: CPU seconds that count anyway: what a killed process used, nobody is told.
        begun: CPU seconds when it began.

    """

    tokens: int = 0
    dollars: float = 0.0
    least: float = 0.0
    begun: float = field(default_factory=lambda: cpu_seconds())

    @property
    def spent(self) -> Spent:
        """All of it, until now."""
        cpu = max(self.least, cpu_seconds() - self.begun)
        return Spent(cpu, self.tokens, self.dollars)


@contextlib.contextmanager
def metered(
    audit: Audit, run: str, step: str, planned: float = 0.0, dollars: float = 0.0
) -> Iterator[Meter]:
    """Write down what a block costs, also when it fails.

    Killed inside, it counts as what was planned.
    """
    row = audit.reserve(run, step, time.time(), planned, dollars)
    meter = Meter()
    try:
        yield meter
    finally:
        audit.settle(row, meter.spent)


def cpu_seconds() -> float:
    """Of this process and of the children that it waited for."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both)
