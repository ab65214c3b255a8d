"""What a user can test without running it; the examples of the docstring are run."""

import textwrap
from datetime import datetime

import pytest

from llm_twin import testing
from llm_twin.errors import FlowError, TwinError
from llm_twin.flow.automation import (
    Automations,
    absent,
    alert,
    event,
    files_changed,
    metric,
    run_ended,
    run_flow,
    webhook,
)
from llm_twin.flow.context import Finished, context
from llm_twin.testing import FrozenClock, RecordingContext, Rehearsal, recording


def build():
    context().run_command("docker", "build", "-t", "twin", ".", quiet=True)


def automations_of_the_docstring():
    automations = Automations()
    automations.add("ct-failed", when=run_ended("ct", states=("Failed",)), do=alert("failed"))
    completed = run_ended("ct", states=("Completed",))
    automations.add("no-training", when=absent(completed, within="8d"), do=alert("none"))
    return automations


@pytest.mark.parametrize("number", [0, 1])
def test_the_examples_of_the_docstring_hold(number):
    blocks = [part.split("\n\n") for part in testing.__doc__.split("::\n\n")[1:]]
    examples = ["\n\n".join(p for p in block if p.startswith("    ")) for block in blocks]
    names = {"build": build, "automations": automations_of_the_docstring()}
    exec(textwrap.dedent(examples[number]), names)


def test_commands_are_noted_and_answered_from_the_table(capsys):
    answers = {
        "git push *": 1,
        "git rev-parse *": Finished(128, "no commits"),
        "git *": "done",
        "curl *": TwinError("no network"),
    }
    with recording(answers, run="r1", stage="release") as recorded:
        assert context() is recorded
        assert context().idempotency_key == "r1/release"
        assert context().run_command("git", "tag", "v 1", quiet=True).output == "done"
        assert context().run_command("git", "status") == Finished(0)
        assert context().run_command("git", "push", "x", check=False).exit_code == 1
        assert context().run_command("ls", quiet=True) == Finished(0, "")
        with pytest.raises(TwinError, match="failed with exit code 128: no commits"):
            context().run_command("git", "rev-parse", "HEAD")
        with pytest.raises(TwinError, match="no network"):
            context().run_command("curl", "https://example.org")
    assert recorded.commands[:2] == ["git tag 'v 1'", "git status"]
    assert capsys.readouterr().out == "done\n"
    assert not isinstance(context(), RecordingContext)


@pytest.mark.parametrize(
    "at", [1767582000.0, "2026-01-05T03:00Z", "2026-01-05 04:00+01:00", datetime(2026, 1, 5, 3)]
)
def test_a_frozen_clock_moves_only_when_told(at):
    clock = FrozenClock(at)
    assert clock.now() == clock.now() == 1767582000
    assert clock.advance("2d") == 1767582000 + 2 * 86400
    clock.sleep(5)
    assert clock.now() == 1767582005 + 2 * 86400


def test_every_kind_of_event_can_be_made_up():
    automations = Automations()
    automations.add("low", when=metric("ct.retrieval.hit", below=0.7), do=alert("low"))
    automations.add("pushed", when=webhook("corpus", secret_env="S"), do=run_flow("ct"))
    automations.add("drift", when=event("drift"), do=alert("drift"))
    automations.add("docs", when=files_changed("docs/*.md"), do=run_flow("ct"))
    rehearsal = Rehearsal(automations, FrozenClock("2026-01-05"))
    assert rehearsal.metric("ct.retrieval.hit", 0.9) == []
    (low,) = rehearsal.metric("ct.retrieval.hit", 0.6)
    assert (low.automation, low.action, low.payload["value"]) == ("low", "alert error: low", 0.6)
    assert rehearsal.webhook("corpus", {"a": 1})[0].payload == {"a": 1}
    assert rehearsal.emit("drift")[0].reason == "event drift"
    assert rehearsal.files_changed("docs", "docs/a.md")[0].reason == "docs/a.md changed"
    assert [plan.automation for plan in rehearsal.planned] == ["low", "pushed", "drift", "docs"]
    with pytest.raises(FlowError, match="no such automation watches files: low"):
        rehearsal.files_changed("low")


HOURLY = ("loop-hourly", "drift-hourly", "put-off")


def test_this_repositorys_automations_say_when_training_stops():
    from ci.automations import automations

    rehearsal = Rehearsal(automations, FrozenClock("2026-01-05T03:00Z"))
    rehearsal.run_ended("ct")
    planned = [(plan.automation, plan.action) for plan in rehearsal.advance("8d")]
    planned = [one for one in planned if one[0] not in HOURLY]
    assert planned == [
        ("weekly-training", "run ct-due cause=schedule"),
        ("weekly-training", "run ct-due cause=schedule"),
        (
            "no-training-for-8-days",
            "alert warning: no continuous training completed for 8 days",
        ),
    ]
