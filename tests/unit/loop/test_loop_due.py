"""The guard of training: one at a time, one cooldown, one budget, and a ledger of who asked."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace

import pytest

from ci import due as command
from ci import loop as flow
from llm_twin.errors import ConfigError
from llm_twin.flow.context import Context, using
from llm_twin.flow.locks import hold
from llm_twin.loop.audit import MIGRATIONS, Audit, Spent
from llm_twin.loop.budget import Limits
from llm_twin.loop.due import (
    BESIDES_TRAINING,
    Guard,
    Plan,
    checked_corpus,
    checked_profile,
    counted,
    outcome_of,
)
from llm_twin.loop.requests import NOT_NOW, TAKEN_UP, Request, Requests
from llm_twin.model.profile import Profile
from llm_twin.settings import Settings
from llm_twin.sqlite import open_database

PLAN = Plan(100.0, 0.5)
MOST = Limits(cpu=1000, tokens=1000, dollars=2)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TWIN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TWIN_EMBEDDER", "words")
    for name in ("TWIN_CORPUS", "TWIN_PROFILE", "GITHUB_EVENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def audit(home):
    with closing(Audit(home)) as made:
        yield made


@pytest.fixture
def guard(home):
    return Guard(home, MOST, 3600.0)


def asks(guard, audit, run, cause="webhook", **more):
    return guard.admit(audit, Request(run, 0.0, cause), PLAN, **more)


def alive(home, run):
    return contextlib.closing(hold(home / "logs" / run / "alive"))


# One at a time


def test_the_second_is_told_which_training_goes_on(home, guard, audit):
    with alive(home, "r1"):
        assert asks(guard, audit, "r1", "schedule").began
        second = asks(guard, audit, "r2")
    assert second.outcome == NOT_NOW
    assert second.reason == "a training goes on (schedule, run r1)"
    assert Requests(audit).find("r2") == second


def test_one_whose_process_died_is_in_nobodys_way_but_counts_as_planned(home, guard, audit):
    asks(guard, audit, "r1")
    audit.reserve("r1", "train", time.time(), PLAN.cpu, PLAN.dollars)
    assert asks(guard, audit, "r2").began
    assert Requests(audit).find("r1").outcome == "cut short"
    assert audit.spent_by("r1") == Spent(100.0, 0, 0.5)


def test_the_same_run_gets_the_same_answer_and_may_go_on_after_it_failed(home, guard, audit):
    first = asks(guard, audit, "r1")
    assert asks(guard, audit, "r1") == first
    Requests(audit).end("r1", "failed", "no", 5.0)
    assert asks(guard, audit, "r1").outcome == ""
    Requests(audit).end("r1", "failed", "no", 5.0)
    assert asks(guard, audit, "r2").began
    assert asks(guard, audit, "r1").outcome == "failed"


def test_a_turn_of_the_loop_and_a_training_by_hand_are_in_the_way_too(home, guard, audit):
    audit.begin("loop1", time.time(), {})
    with alive(home, "loop1"):
        assert asks(guard, audit, "r1").reason == "the loop is turning (run loop1)"
    with contextlib.closing(hold(home / "locks" / "ct")):
        assert asks(guard, audit, "r2").reason == "invoke ct is running already"
    assert asks(guard, audit, "r3").began


def test_of_many_threads_that_ask_at_once_one_trains(home, guard, audit):
    barrier, begun = threading.Barrier(6), []

    def one(number):
        with closing(Audit(home)) as own, alive(home, f"r{number}"):
            barrier.wait()
            begun.append(asks(guard, own, f"r{number}").began)
            barrier.wait()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(began is not None for began in begun) == 1


# Cooldown and budget


def test_trainings_and_turns_of_the_loop_share_one_cooldown(home, guard, audit):
    asks(guard, audit, "r1")
    Requests(audit).end("r1", "refused", "worse", time.time() - 600)
    why = asks(guard, audit, "r2").reason
    assert why.startswith("the last turn ended 600 s ago")
    assert guard.not_now(audit, "loop2", PLAN, time.time()).startswith("the last turn ended 600 s")
    Requests(audit).end("r1", "promoted", "", time.time())
    audit.begin("loop3", 1.0, {})
    audit.end("loop3", "done", "", time.time() - 60)
    assert asks(guard, audit, "r3").reason.startswith("the last turn ended 60 s ago")


@pytest.mark.parametrize("outcome", ["failed", "cut short", "unchanged", NOT_NOW])
def test_what_was_no_training_starts_no_cooldown(guard, audit, outcome):
    asks(guard, audit, "r1")
    Requests(audit).end("r1", outcome, "", time.time())
    assert asks(guard, audit, "r2").began


def test_they_share_one_budget_of_a_day(guard, audit):
    audit.settle(audit.reserve("loop1", "train", time.time(), 0), Spent(850.0, 0, 1.4))
    assert asks(guard, audit, "r1").began
    audit.settle(audit.reserve("r1", "train", time.time(), 0), Spent(60.0, 0, 0.2))
    Requests(audit).end("r1", "unchanged", "", 1.0)
    assert asks(guard, audit, "r2").reason == (
        "the day's budget does not suffice: 1,010.00 of 1,000.00 CPU seconds, 2.10 of 2.00 dollars"
    )


def test_by_hand_neither_counts_but_another_training_does(home, guard, audit):
    asks(guard, audit, "r1")
    Requests(audit).end("r1", "promoted", "", time.time())
    audit.reserve("r1", "train", time.time(), 5000)
    with alive(home, "r2"):
        assert asks(guard, audit, "r2", "by hand", ask=False).began
        assert asks(guard, audit, "r3", "by hand", ask=False).outcome == NOT_NOW


def test_what_was_put_off_is_taken_up_once(home, guard, audit):
    requests = Requests(audit)
    with alive(home, "r1"):
        asks(guard, audit, "r1")
        asks(guard, audit, "r2")
        asks(guard, audit, "r3", "drift of questions")
    found = requests.put_off(0.0)
    assert found.run == "r3"
    requests.take_up(found, "r4")
    assert [one.outcome for one in requests.recent()] == [TAKEN_UP, TAKEN_UP, ""]
    assert requests.find("r2").reason.endswith("; taken up by r4")
    assert requests.put_off(0.0) is None


def test_what_was_trained_meanwhile_is_no_longer_put_off(home, guard, audit):
    requests = Requests(audit)
    with alive(home, "r1"):
        asks(guard, audit, "r1")
        asks(guard, audit, "r2")
        guard.admit(audit, Request("r3", 0.0, "webhook", "docs"), PLAN)
    requests.end("r1", "unchanged", "", 1.0)
    assert requests.put_off(0.0).run == "r3"
    assert asks(guard, audit, "r4").began
    requests.end("r4", "promoted", "", 2.0)
    assert requests.put_off(0.0).corpus == "docs"
    assert requests.put_off(time.time() + 1) is None


def test_a_ledger_of_before_goes_on(home):
    with closing(open_database(home / "loop.db", "old", MIGRATIONS[:1])) as db:
        db.execute("INSERT INTO turn VALUES ('t', 1, 2, 'done', '', '{}')")
    with closing(Audit(home)) as audit:
        assert audit.find("t").outcome == "done"
        assert Requests(audit).recent() == []


# Plans


def test_what_a_profile_may_cost():
    def plan(**said):
        return Plan.of(Profile.model_validate({"name": "p", **said}))

    assert plan() == Plan(60 + BESIDES_TRAINING)
    assert plan(training={"budget": {"tokens": 1000}}).cpu == 3600 + BESIDES_TRAINING
    budget = {"time": "2h", "clock": "wall", "hourly": 1.5}
    there = plan(training={"budget": budget}, remote={"stack": "sagemaker"})
    assert there == Plan(BESIDES_TRAINING, 3.0, 1.5)
    asked = plan(data={"generate": {"model": "m", "cost": 0.25}})
    assert asked.dollars == 0.25


# Counted by hand


def test_a_training_by_hand_is_counted_with_what_it_cost(home, audit):
    plan = Plan(77.0, 1.0, hourly=3600.0)
    with counted(Settings.load(), "r1", "docs", "tiny", plan) as note:
        assert audit.spent_by("r1") == Spent(77.0, 0, 1.0)
        note({"version": "v2", "message": "promoted v2", "spent": {"tokens": 9, "dollars": 5}})
    one = Requests(audit).find("r1")
    assert (one.cause, one.corpus, one.profile) == ("by hand", "docs", "tiny")
    assert (one.outcome, one.reason) == ("promoted", "promoted v2")
    spent = audit.spent_by("r1")
    assert spent.tokens == 9
    assert spent.cpu < 77
    assert 5 < spent.dollars < 5 + 60


def test_one_that_failed_by_hand_says_why_and_may_be_resumed(home, audit):
    with pytest.raises(ValueError, match="no"), counted(Settings.load(), "r1", "", "", PLAN):
        raise ValueError("no")
    assert Requests(audit).find("r1").outcome == "failed"
    with counted(Settings.load(), "r1", "", "", PLAN) as note:
        note({"version": None, "message": "not promoted: worse"})
    assert Requests(audit).find("r1").outcome == "refused"


def test_what_the_guard_or_the_loop_began_is_not_counted_twice(home, guard, audit):
    one = asks(guard, audit, "r1")
    audit.begin("loop1", 1.0, {})
    for run in (one.training, "loop1"):
        with counted(Settings.load(), run, "", "", PLAN) as note:
            note({})
    assert [row.run for row in Requests(audit).recent()] == ["r1"]
    assert audit.spent_since(0.0) == Spent()


def test_one_that_is_killed_by_hand_counts_as_planned(home, audit):
    code = (
        "import os, signal\nfrom llm_twin.loop.due import Plan, counted\n"
        "from llm_twin.settings import Settings\n"
        "with counted(Settings.load(), 'r1', '', '', Plan(77.0)):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert audit.spent_by("r1").cpu == 77
    assert Requests(audit).find("r1").ended is None


def test_how_a_report_is_told():
    assert outcome_of({"version": "v", "message": "promoted v"}) == ("promoted", "promoted v")
    assert outcome_of({"version": None, "message": "not promoted: worse"})[0] == "refused"


# What comes from outside


@pytest.mark.parametrize("name", ["", "tiny", "gpu-2_b"])
def test_names_of_profiles_are_taken(name):
    assert checked_profile(name) == name


@pytest.mark.parametrize(
    "name", ["../x", "a.yaml", "/etc/passwd", "a b", "a\n", "$(id)", "ä", "a;b", "`id`"]
)
def test_other_profiles_are_refused(name):
    with pytest.raises(ConfigError, match="no name of a profile"):
        checked_profile(name)


@pytest.mark.parametrize(
    "corpus",
    ["", "docs", "docs/how-to", "https://example.org/feed.xml", "git@example.org:me/blog.git",
     "a & b.md", "/srv/own"],
)  # fmt: skip
def test_corpora_of_the_project_and_the_web_are_taken(tmp_path, corpus):
    settings = Settings(home=tmp_path / ".twin", corpus="/srv/own")
    assert checked_corpus(corpus, tmp_path, settings) == corpus


@pytest.mark.parametrize(
    "corpus",
    ["/etc", "../elsewhere", "docs/../../x", "~/notes", "-x", "file:///etc", ".twin/traces",
     "https://a b", "https://example.org/\n", "docs\nx", "ext::sh -c id", "x" * 501,
     "-x@example.org:a", "ssh://-oProxyCommand=id/x",
     "out"],
)  # fmt: skip
def test_other_places_of_this_machine_are_refused(tmp_path, corpus):
    (tmp_path / "out").symlink_to("/etc")
    settings = Settings(home=tmp_path / ".twin")
    with pytest.raises(ConfigError, match="not a corpus that may be named from outside"):
        checked_corpus(corpus, tmp_path, settings)


def test_what_a_workflow_was_sent_is_looked_at_too(home, monkeypatch, tmp_path):
    (tmp_path / "notes.md").write_text("# Notes\n\nOf what is to be done.\n")
    given = {"corpus": "", "profile": "", "cooldown": "1h"}
    monkeypatch.setenv("GITHUB_EVENT_NAME", "repository_dispatch")
    monkeypatch.setenv("TWIN_PROFILE", "../x")
    with pytest.raises(ConfigError, match="no name of a profile"):
        command.check(**given)
    monkeypatch.setenv("TWIN_PROFILE", "laptop")
    monkeypatch.setenv("TWIN_CORPUS", str(tmp_path / "notes.md"))
    with pytest.raises(ConfigError, match="not a corpus"):
        command.check(**given)
    monkeypatch.delenv("GITHUB_EVENT_NAME")
    command.check(**given)


# The stage and the ledger, without training


def test_the_stage_says_not_now_and_the_ledger_shows_it(home, audit, monkeypatch, capsys):
    monkeypatch.setattr(flow, "CPU_A_DAY", 5.0)
    with using(Context(run="r1", environment=os.environ)):
        said = command.ct_due(cause="webhook", corpus="docs")["message"]
    assert said.startswith("not now: the day's budget does not suffice: ")
    assert said.endswith(" of 5.00 CPU seconds")
    audit.begin("loop1", time.time(), {"why": "1 new or changed documents"})
    audit.end("loop1", "done", "it serves", time.time())
    audit.settle(audit.reserve("loop1", "train", time.time(), 9), Spent(42.0))
    capsys.readouterr()
    command.triggers.body(None)
    head, turn, row, foot = capsys.readouterr().out.splitlines()
    assert head.split() == list(command.HEADS)
    assert "loop: 1 new or changed documents" in turn
    assert "42 CPU-s" in turn
    assert row.split()[2:6] == ["webhook", "docs", "not", "now"]
    assert foot == "in 24 hours 42 CPU-s, 0 tokens, $0.00, of 5 CPU-s, 500,000 tokens, $5.00"
    command.triggers.body(None, json=True)
    told = json.loads(capsys.readouterr().out)
    assert [one["run"] for one in told["asked"]] == ["loop1", "r1"]
    assert told["limits"]["cpu"] == 5.0


def test_without_a_request_the_ledger_says_what_to_type(home, capsys):
    command.triggers.body(None)
    assert capsys.readouterr().out == "Nothing has asked for training yet. Type: invoke ct\n"


def test_nothing_put_off_is_no_row(home, audit):
    assert command.ct_due(cause="put off") == {"message": "nothing was put off"}
    assert Requests(audit).recent() == []


def test_what_was_put_off_stays_so_without_another_row(home, guard, audit, monkeypatch):
    with alive(home, "r1"):
        asks(guard, audit, "r1")
        asks(guard, audit, "r2")
        said = command.ct_due(cause="put off")["message"]
    assert said == "not now: a training goes on (webhook, run r1)"
    assert [one.run for one in Requests(audit).recent()] == ["r2", "r1"]
    assert replace(Requests(audit).find("r2"), asked=0.0).outcome == NOT_NOW
