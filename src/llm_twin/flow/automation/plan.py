"""What is due, worked out without doing anything: by the engine, and on paper by a simulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.flow.automation.timers import Timer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llm_twin.flow.automation.declare import Automation
    from llm_twin.flow.automation.triggers import Event, Occurrence, State

ON_TIME_SECONDS = 300
MOST_CAUGHT_UP = 100


def due(
    automation: Automation, state: State, events: Sequence[Event], now: float
) -> tuple[list[Occurrence], State]:
    """What an automation has to do, its catch-up policy applied, and its state after it."""
    found, after = automation.when.step(state, events, now)
    if isinstance(automation.when, Timer):
        found = found[-MOST_CAUGHT_UP:] if automation.catch_up == "all" else found[-1:]
        if automation.catch_up == "none":
            found = [item for item in found if now - item.at <= ON_TIME_SECONDS]
    return found, after


@dataclass(frozen=True)
class Planned:
    """An action that would be taken: when (seconds since the epoch), why, and with what."""

    at: float
    automation: str
    action: str
    reason: str
    payload: dict[str, Any]


class Simulation:
    """What a daemon that always looks would do; it does nothing, and keeps its state in memory."""

    def __init__(self, automations: Iterable[Automation], at: float) -> None:
        self.automations = list(automations)
        self.states = {item.name: item.when.start(at) for item in self.automations}

    def feed(self, events: Sequence[Event], now: float) -> list[Planned]:
        """Return what these events, and the time until now, would lead to, in order of time."""
        planned = []
        for item in self.automations:
            found, self.states[item.name] = item.when.step(self.states[item.name], events, now)
            planned += [Planned(o.at, item.name, str(item.do), o.reason, o.payload) for o in found]
        return sorted(planned, key=lambda plan: plan.at)


def simulate(
    automations: Iterable[Automation], events: Sequence[Event], since: float, now: float
) -> list[Planned]:
    """What would have fired since then; earlier events only tell what things stood at."""
    before = [event for event in events if event.at < since]
    simulation = Simulation(automations, before[0].at if before else since)
    simulation.feed(before, since)
    return simulation.feed([event for event in events if event.at >= since], now)
