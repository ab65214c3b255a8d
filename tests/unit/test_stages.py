"""This repository's own stages and automations, tested without running anything."""

import sys

import pytest

import ci
from ci.automations import automations
from llm_twin.errors import TwinError
from llm_twin.testing import FrozenClock, Rehearsal, recording


@pytest.mark.parametrize(
    "name", ["lint", "types", "workflows", "secrets", "tests", "chaos", "package"]
)
def test_a_check_is_the_nox_session_of_its_name(name):
    with recording() as context:
        ci.registry[name].function()
    (line,) = context.commands
    assert line.startswith(f"{sys.executable} -m nox --noxfile ")
    assert line.endswith(f" -s {name}")


def test_a_failing_session_says_how_to_run_it_alone():
    with recording({"*": 1}), pytest.raises(TwinError, match="Run it alone: nox -s lint"):
        ci.registry["lint"].function()


def test_the_automations_fit_the_stages_and_do_what_they_say(monkeypatch):
    monkeypatch.setenv("TWIN_WEBHOOK_SECRET", "x" * 20)
    automations.check(ci.registry)
    rehearsal = Rehearsal(automations, FrozenClock("2026-01-05T03:00Z"))
    rehearsal.metric("ct.retrieval.hit@5", 0.8)
    rehearsal.metric("ct.retrieval.hit@5", 0.6)
    rehearsal.webhook("corpus", {"corpus": "docs"})
    rehearsal.advance("8d")
    planned = [plan.automation for plan in rehearsal.planned]
    hourly = ("loop-hourly", "drift-hourly", "put-off")
    assert [planned.count(name) for name in hourly] == [8 * 24] * 3
    assert [name for name in planned if name not in hourly] == [
        "worse-retrieval",
        "corpus-pushed",
        "weekly-training",
        "weekly-training",
        "no-training-for-8-days",
    ]
