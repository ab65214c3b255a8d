"""A simulation says what the engine would have said, and does nothing."""

from dataclasses import dataclass

from llm_twin.alerting.conditions import event, metric
from llm_twin.alerting.rules import Rule
from llm_twin.alerting.simulate import simulate
from llm_twin.alerting.store import Event

T = 1_800_000_000.0
DAY = 86400.0


@dataclass
class Figure:
    value: float | None
    count: int = 100
    normal: float | None = None
    normal_count: int = 0


def test_events_and_figures_of_a_week_become_the_messages_that_were_worth_it():
    rules = [
        Rule(
            name="training",
            when=event("ct.failed"),
            resolves_on=event("ct.done"),
            escalate_after="8h",
        ),
        Rule(name="errors", when=metric("error_rate", above=0.1), for_="10m"),
    ]
    events = [Event("ct.failed", f"r{n}", T + DAY + n, {}) for n in range(500)]
    events += [Event("ct.done", "r900", T + 2 * DAY, {}), Event("ct.failed", "old", T - 1, {})]

    def figures(minutes, until):
        bad = 3 * DAY < until - T < 3 * DAY + 3600
        return {"error_rate": Figure(0.5 if bad else 0.0)}

    found = simulate(rules, events, T, T + 7 * DAY, figures=figures)
    assert [(one.what, one.title.split()[1]) for one in found] == [
        ("firing", "training:"),
        ("escalated", "training:"),
        ("resolved", "training:"),
        ("firing", "errors:"),
        ("resolved", "errors:"),
    ]
    assert [round((one.at - T) / 3600) for one in found] == [24, 32, 48, 72, 73]
    assert "500 times" in found[2].body


def test_nothing_recorded_is_nothing_sent():
    assert simulate([], [], T, T + DAY) == []
