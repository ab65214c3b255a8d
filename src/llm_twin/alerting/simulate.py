"""What rules would have sent: the same engine over recorded events, on a store in memory."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_twin.alerting.engine import Engine, Sources
from llm_twin.alerting.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from llm_twin.alerting.conditions import Figure
    from llm_twin.alerting.rules import Rule
    from llm_twin.alerting.store import Event

TICK_SECONDS = 60.0
MOST_TICKS = 20_000
FIGURES_SECONDS = 300.0
MOST_LOOKS = 1000


@dataclass(frozen=True)
class Sent:
    """A message that would have been made, at a time in seconds since the epoch."""

    at: float
    what: str
    title: str
    body: str


def simulate(
    rules: Sequence[Rule],
    events: Sequence[Event],
    since: float,
    now: float,
    *,
    figures: Callable[[float, float], Mapping[str, Figure]] | None = None,
    dedup: str = "1h",
) -> list[Sent]:
    """What these rules would have said since a time, looking once a minute.

    Nothing is acknowledged or silenced in a simulation. A length of time beyond two weeks is looked
    at less often, and figures at most 1,000 times.
    """
    queue = sorted((one for one in events if since <= one.at <= now), key=lambda one: one.at)
    clock, taken = since, 0

    def read(_: int | None) -> tuple[list[Event], int]:
        nonlocal taken
        start = taken
        while taken < len(queue) and queue[taken].at <= clock:
            taken += 1
        return queue[start:taken], taken

    every = max(FIGURES_SECONDS, (now - since) / MOST_LOOKS)
    sources = Sources({"recorded": read}, figures)
    with closing(Store(None)) as store:
        engine = Engine(store, rules, sources, dedup=dedup, figures_every=every)
        while clock < now:
            clock = min(now, clock + max(TICK_SECONDS, (now - since) / MOST_TICKS))
            engine.step(clock)
        rows = store.db.execute("SELECT made, what, title, body FROM message ORDER BY id")
        return [Sent(*row) for row in rows.fetchall()]
