"""This repository's rules over a real run history and real traces."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from ci import alert_sources
from ci.alerts import rules
from llm_twin.alerting.engine import Engine
from llm_twin.alerting.store import Store, record
from llm_twin.alerting.worker import only_one
from llm_twin.flow.automation.ledger import emit
from llm_twin.flow.states import completed, failed
from llm_twin.flow.store import Store as Runs
from llm_twin.settings import Settings
from llm_twin.tracing.store.store import Store as Traces

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tracing/evaluation"))
from traced_answers import Traced


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path)


@pytest.fixture
def store(tmp_path):
    with closing(Store(tmp_path)) as found:
        yield found


def ended_run(home, run, state, **parameters):
    with closing(Runs(home)) as runs:
        handle = runs.hold(run)
        runs.start(run, "ct", parameters, ["ct"], "laptop")
        runs.ended(run, state)
        handle.close()


def titles(store):
    return [title for (title,) in store.db.execute("SELECT title FROM message ORDER BY id")]


def test_a_run_that_failed_is_told_and_the_next_that_completes_resolves_it(settings, store):
    ended_run(settings.home, "run-1", failed("no corpus in shelf-7", "TimedOut"), corpus="shelf-7")
    engine = alert_sources.engine(settings, store)
    engine.step()
    assert titles(store) == ["ERROR training-failed: continuous training did not get through"]
    said = store.db.execute("SELECT body FROM message").fetchone()[0]
    assert "no corpus in [...]" in said
    assert "look: invoke runs.logs run-1" in said
    ended_run(settings.home, "run-2", completed())
    alert_sources.engine(settings, store).step()
    assert titles(store)[1:] == [
        "RESOLVED training-failed: continuous training did not get through"
    ]
    assert store.recent()[0].by == "run-2"


def test_a_run_whose_process_was_killed_is_told(settings, store):
    with closing(Runs(settings.home)) as runs:
        runs.start("run-1", "ct", {}, ["ct"], "laptop")
    alert_sources.engine(settings, store).step()
    assert "ended without a word" in store.db.execute("SELECT body FROM message").fetchone()[0]


def test_what_an_automation_raised_ends_in_the_same_outbox_with_one_line_in_the_log(
    settings, store
):
    with closing(Runs(settings.home)) as runs:
        data = {"severity": "warning", "text": "worse than it was", "reason": "hit@5 is 0.1"}
        emit(runs, "worse-retrieval", {**data, "payload": {"run": "run-5"}}, kind="alert")
        emit(runs, "something", {"a": 1})
    alert_sources.engine(settings, store).step()
    assert titles(store) == ["WARNING automation: worse than it was"]
    channels = store.db.execute("SELECT channel FROM delivery").fetchall()
    assert channels == [("",)]


def test_what_an_automation_says_of_a_run_that_is_told_already_is_not_told_again(settings, store):
    ended_run(settings.home, "run-1", failed("no"))
    with closing(Runs(settings.home)) as runs:
        data = {"severity": "error", "text": "continuous training failed"}
        emit(runs, "training-failed", {**data, "payload": {"run": "run-1"}}, kind="alert")
    alert_sources.engine(settings, store).step()
    assert len(titles(store)) == 1


def test_old_history_is_no_news_on_the_first_look(settings, store):
    with closing(Runs(settings.home)) as runs:
        emit(runs, "old", {"text": "long ago"}, kind="alert", at=time.time() - 3 * 86400)
    alert_sources.engine(settings, store).step()
    assert titles(store) == []


def test_answers_that_fail_are_told_beside_their_normal(settings, store):
    with closing(Traces(settings.traces, settings)) as traces:
        traced = Traced(traces)
        for n in range(60):
            traced.answer(ago=3600.0 + n)
        for n in range(40):
            error = {"exception_type": "E", "message": "boom", "traceback": "t"}
            traced.answer(ago=120.0, **({"error_info": error} if n % 2 else {}))
    engine = Engine(store, rules(), alert_sources.sources(settings))
    engine.step(time.time())
    engine.step(time.time() + 90)
    assert titles(store) == ["CRITICAL errors: answers fail"]
    said = store.db.execute("SELECT body FROM message").fetchone()[0]
    assert "error_rate 0.5 (40 in 15 min), normal 0 (60)" in said


def test_a_look_sends_what_there_is_and_leaves_it_to_another_that_does(settings, capsys):
    record(settings.home, "gate.refused", "run-1", {})
    with only_one(settings.home):
        assert alert_sources.look(settings) == 0
    assert not (settings.home / "alerts.log").exists()
    assert alert_sources.look(settings, patience=5) == 0
    assert "WARNING gate-refused" in (settings.home / "alerts.log").read_text()
    assert alert_sources.look(Settings(home=settings.home, alert_urls="nonsense")) == 0
    assert "error: alerts were not sent" in capsys.readouterr().err


def test_without_any_history_there_is_nothing_to_tell(settings, store):
    alert_sources.engine(settings, store).step()
    assert titles(store) == []
    assert alert_sources.recorded(settings) == []


def test_the_recorded_events_of_both_histories_are_there_to_simulate(settings):
    record(settings.home, "gate.refused", "run-1", {})
    ended_run(settings.home, "run-2", failed("no"))
    assert [one.kind for one in alert_sources.recorded(settings)] == ["gate.refused", "run"]
