"""One turn of the loop, step by step: when it begins, what it may cost, how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ci import loop as flow
from ci import loop_history
from llm_twin.alerting import approval
from llm_twin.alerting.conditions import event, metric
from llm_twin.alerting.outbox import LOG, history
from llm_twin.alerting.rules import Rule
from llm_twin.alerting.store import FIRING, Alert
from llm_twin.alerting.store import Store as Alerts
from llm_twin.errors import BusyError, ConfigError, RemoteError, SpaceError, UserError
from llm_twin.flow.context import Context, using
from llm_twin.flow.locks import hold
from llm_twin.loop import canary
from llm_twin.loop import loop as turns
from llm_twin.loop.audit import Audit, Spent
from llm_twin.loop.budget import Limits, metered, refusal, resting
from llm_twin.model import feedback
from llm_twin.model.bundles import Bundles
from llm_twin.model.feedback import Correction
from llm_twin.settings import Settings
from llm_twin.tracing.store.merge import new_id
from llm_twin.tracing.store.routing import Request
from llm_twin.tracing.store.store import Store

ROOT = Path(__file__).resolve().parents[3]
RUN = "261123-100000-aaaaaa"


@pytest.fixture
def at_home(scene, monkeypatch):
    """A twin trained on five documents, and the environment of a stage of the loop's run."""
    for name, value in {"TWIN_HOME": str(scene.home), "TWIN_EMBEDDER": "words"}.items():
        monkeypatch.setenv(name, value)
    scene.settings = Settings.load()
    with using(Context(run=RUN, environment=os.environ)):
        yield scene


@pytest.fixture
def audit(tmp_path):
    with closing(Audit(tmp_path / "home")) as made:
        yield made


def plan(scene, **more):
    given = {"corpus": str(scene.corpus), "budget": "10s", **more}
    return flow.loop_plan(**given)["message"]


def add_document(scene, name="ferns"):
    (scene.corpus / f"{name}.md").write_text(
        f"# {name.title()}\n\n## {name.title()} in the shade\n\n"
        + f"The {name} unroll their green croziers in april when the moss is still wet. " * 4
    )


def fire(home, rule="refusals"):
    alert = Alert(rule, {}, "warning", 1e9, 1e9, state=FIRING, text="it declines")
    with closing(Alerts(home)) as store, store.transaction():
        store.save(alert)
    return alert.id


def find_alert(home, name):
    with closing(Alerts(home)) as store:
        return store.find(name)


def said(home, name):
    with closing(Alerts(home)) as store:
        return [one["what"] for one in history(store, name) if one["channel"] == LOG]


def turn_of(home, run=RUN):
    with closing(Audit(home)) as audit:
        return audit.find(run)


def begin(home, run=RUN, **facts):
    with closing(Audit(home)) as audit:
        audit.begin(run, 1000.0, {"alerts": [], "before": "v1", **facts})


# The audit and the budget


def test_a_turn_is_kept_as_it_was_begun_and_first_ended(audit):
    audit.begin("r1", 10.0, {"why": "x"})
    audit.begin("r1", 11.0, {"why": "y"})
    audit.note("r1", before="v1")
    audit.note("r1", before="v2", n=[1])
    audit.end("r1", "refused", "worse", 20.0)
    audit.end("r1", "done", "", 30.0)
    turn = audit.find("r1")
    assert turn.facts == {"why": "x", "before": "v2", "n": [1]}
    assert (turn.began, turn.ended, turn.outcome, turn.reason) == (10.0, 20.0, "refused", "worse")
    assert audit.find("r2") is None
    assert audit.unfinished() == []


def test_a_failed_turn_is_taken_up_again_unless_another_came(audit):
    audit.begin("r1", 10.0, {})
    audit.end("r1", "failed", "train: no", 20.0)
    assert audit.reopen("r1").ended is None
    assert [turn.run for turn in audit.unfinished()] == ["r1"]
    audit.end("r1", "failed", "train: no", 30.0)
    audit.begin("r2", 40.0, {})
    assert audit.reopen("r1").outcome == "failed"
    assert audit.reopen("r3") is None


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "home").write_text("")
    with pytest.raises(SpaceError, match="the loop's history cannot be written"):
        Audit(tmp_path / "home")


def test_what_a_day_may_cost(audit):
    limits = Limits(cpu=100, tokens=1000, dollars=1)
    assert refusal(audit, limits, 100, now=1000.0) == ""
    row = audit.reserve("r1", "train", 1000.0, 60)
    assert refusal(audit, limits, 50, now=2000.0) == (
        "the day's budget does not suffice: 110.00 of 100.00 CPU seconds"
    )
    audit.settle(row, Spent(10.0, 1001, 2.5))
    assert refusal(audit, limits, 50, now=2000.0).endswith(
        "1,001.00 of 1,000.00 tokens, 2.50 of 1.00 dollars"
    )
    assert refusal(audit, limits, 50, now=1001.0 + 86400) == ""
    assert str(audit.spent_by("r1")) == "10 CPU-s, 1,001 tokens, $2.50"


def test_a_killed_step_counts_as_planned_and_a_failed_one_as_it_was(tmp_path, audit):
    code = (
        "import os, signal; from pathlib import Path; from llm_twin.loop.audit import Audit\n"
        "from llm_twin.loop.budget import metered\n"
        f"with metered(Audit(Path({str(tmp_path / 'home')!r})), 'r1', 'train', 77):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert audit.spent_by("r1").cpu == 77
    with contextlib.suppress(ValueError), metered(audit, "r2", "train", 77) as meter:
        meter.tokens += 5
        raise ValueError
    assert audit.spent_by("r2").tokens == 5
    assert audit.spent_by("r2").cpu < 77


def test_it_rests_after_a_turn_but_not_after_one_that_failed(audit):
    audit.begin("r1", 10.0, {})
    audit.end("r1", "failed", "", 100.0)
    assert resting(audit, "r2", 60, now=110.0) == ""
    audit.begin("r2", 120.0, {})
    audit.end("r2", "refused", "", 200.0)
    text = "the last turn ended 10 s ago, the next may begin in 50 s"
    assert resting(audit, "r3", 60, now=210.0) == text
    assert resting(audit, "r3", 60, now=260.0) == ""


# Planning


def test_without_a_reason_nothing_begins(at_home):
    assert plan(at_home) == "nothing to do: 0 new or changed documents, 0 new corrections"
    assert turn_of(at_home.home) is None
    for one in (flow.loop_curate, flow.loop_train, flow.loop_canary, flow.loop_approve,
                flow.loop_build, flow.loop_deploy, flow.loop_watch, flow.loop):  # fmt: skip
        assert one() == {"message": "nothing to do"}


def test_new_documents_begin_a_turn_once(at_home):
    add_document(at_home)
    text = "1 new or changed documents, 0 new corrections"
    assert plan(at_home, dry_run=True) == f"would train because of {text}; 70 CPU-s are planned"
    assert turn_of(at_home.home) is None
    assert plan(at_home, topic="green") == f"training because of {text}"
    turn = turn_of(at_home.home)
    assert turn.fact("before") == "v1"
    assert turn.fact("score") == "answered"
    assert turn.fact("topic") == "green"
    assert plan(at_home) == "goes on"


def test_an_alert_with_nothing_to_learn_from_is_handed_on_once(at_home):
    alert = fire(at_home.home)
    fire(at_home.home, "slow")
    assert plan(at_home).startswith("nothing to learn: there are neither new documents")
    turn = turn_of(at_home.home)
    assert turn.fact("alerts") == [alert]
    assert find_alert(at_home.home, alert).note.startswith(f"the loop's run {RUN} nothing to learn")
    turns.escalate(at_home.home, [alert], find_alert(at_home.home, alert).note)
    assert said(at_home.home, alert) == ["escalated"]


def test_it_waits_for_its_cooldown_and_its_budget(at_home, monkeypatch):
    add_document(at_home)
    begin(at_home.home, "earlier")
    with closing(Audit(at_home.home)) as audit:
        turns.finish(audit, at_home.settings, "earlier", turns.REFUSED, "worse")
    assert plan(at_home).startswith("not now: the last turn ended")
    monkeypatch.setattr(flow, "CPU_A_DAY", 5.0)
    assert plan(at_home, cooldown="0s") == (
        "not now: the day's budget does not suffice: 70.00 of 5.00 CPU seconds"
    )


def test_a_second_loop_is_refused_and_a_dead_one_cleared_away(at_home):
    add_document(at_home)
    alert = fire(at_home.home)
    begin(at_home.home, "other", alerts=[alert])
    alive = hold(at_home.home / "logs" / "other" / "alive")
    with pytest.raises(BusyError, match="the loop is turning already: other"):
        plan(at_home)
    alive.close()
    assert plan(at_home).startswith("training because of alert")
    assert turn_of(at_home.home, "other").outcome == "cut short"
    assert "nobody resumed it" in find_alert(at_home.home, alert).note


def test_what_a_dead_turn_promoted_is_taken_back(at_home):
    add_document(at_home)
    at_home.train("v2")
    begin(at_home.home, "run-1")
    assert turns.served_version(at_home.settings).version == "v2"
    plan(at_home, cooldown="0s")
    assert turns.served_version(at_home.settings).version == "v1"


def test_feedback_that_was_learned_from_is_not_new(at_home):
    rows = [Correction(new_id(), f"How is {word}?", f"It is {word}.", "") for word in "abc"]
    digest = feedback.keep(at_home.home, rows, {})
    assert turns.new_feedback(at_home.settings, 3) == 3
    bundles = Bundles(at_home.home / "models")
    bundles.commit(bundles.stage(), "v9", {"feedback": digest})
    bundles.promote("v9")
    assert turns.new_feedback(at_home.settings, 5) == 2
    assert turns.Reasons(feedback=20).suffice(20)
    assert not turns.Reasons(feedback=19).suffice(20)


@pytest.mark.parametrize("name", ["cooldown", "wait", "watch"])
def test_ages_are_checked_before_anything_is_written(at_home, name):
    given = {"cooldown": "1h", "wait": "1h", "watch": "1m", name: "soon"}
    with pytest.raises(UserError, match="not a length of time"):
        flow.check(str(at_home.corpus), "", "10s", True, **given)


# Steps


def test_a_version_that_a_killed_step_had_promoted_is_found_and_kept_from_serving(at_home):
    add_document(at_home)
    at_home.train("v2")
    begin(at_home.home, "run-1")
    with using(Context(run="run-1")):
        with closing(Audit(at_home.home)) as audit:
            audit.note("run-1", before="v1")
        # Both have the run's id here; the newer one is what the turn made.
        assert flow.loop_train()["message"].startswith("v2 passed the gate")
    assert turns.served_version(at_home.settings).version == "v1"
    assert turn_of(at_home.home, "run-1").fact("version") == "v2"


def test_a_step_that_fails_says_so_and_hands_the_alert_on(at_home):
    alert = fire(at_home.home)
    begin(at_home.home, alerts=[alert], version="gone", score="answered", since="2000-01-01")
    with pytest.raises(UserError, match="gone"):
        flow.loop_canary()
    turn = turn_of(at_home.home)
    assert turn.outcome == "failed"
    assert turn.reason.startswith("canary: The bundle is damaged")
    assert turn.reason in find_alert(at_home.home, alert).note


def put(store, question, answered, project="llm-twin"):
    trace = {
        "id": new_id(), "project_name": project, "name": "answer",
        "start_time": "2090-01-01T00:00:00Z", "end_time": "2090-01-01T00:00:01Z",
        "input": {"question": question}, "output": {"text": "Some."},
    }  # fmt: skip
    if answered is None:
        trace["error_info"] = {"exception_type": "OSError", "traceback": "t"}
    asked = [("POST", "batch", {"traces": [trace]})]
    if answered is not None:
        score = {"id": trace["id"], "project_name": project, "name": "answered"}
        rows = [score | {"value": answered, "source": "sdk"}]
        asked.append(("PUT", "feedback-scores", {"scores": rows}))
    for method, path, body in asked:
        request = Request(method, f"v1/private/traces/{path}", body=json.dumps(body).encode())
        assert store.handle(request).status < 300


def test_questions_are_replayed_once_by_their_newest_answer_and_topic(at_home):
    with closing(Store(at_home.settings.traces, at_home.settings)) as store:
        put(store, "Where is  the fern?", 0)
        put(store, "where is the fern?", 1)
        put(store, "What is a fern?", 0)
        put(store, "What is a moss?", 0)
        put(store, "Who failed the fern?", None)
        put(store, "Who else?", 1, project="other")
        found = canary.asked(store, "llm-twin", "answered", "2080-01-01", "FERN")
        everything = canary.asked(store, "llm-twin", "answered", "2080-01-01")
        later = canary.asked(store, "llm-twin", "answered", "2100-01-01")
    assert sorted(found.bad) == ["What is a fern?", "Who failed the fern?"]
    assert len(everything.bad) == 3
    assert [question.casefold() for question in found.good] == ["where is the fern?"]
    assert later.all == []


def test_both_versions_answer_what_was_asked_and_are_compared(at_home):
    begin(at_home.home, score="answered", since="2080-01-01", version="v2")
    add_document(at_home)
    at_home.train("v2")
    phrases = ("Do {} unroll?", "Why do {} unroll?", "What of {}?", "What do {} do in april?")
    asked = [phrase.format(name) for phrase in phrases for name in ("ferns", "green croziers")]
    with closing(Store(at_home.settings.traces, at_home.settings)) as store:
        for question in asked:
            put(store, question, 0)
        put(store, "How do wild yeast and cold dough rise?", 1)
    done = flow.loop_canary()
    assert done["message"] == "the new version is better where it was bad"
    assert (done["worse"], done["before"]) == (False, 0.0)
    assert done["after"] > 0.7
    assert done["reasons"][0].startswith("8 questions that had bad answers: answered 0.00 → ")
    with closing(Store(at_home.settings.traces, at_home.settings)) as store:
        again = canary.asked(store, "llm-twin-canary", "answered", "2020-01-01")
        assert len(again.all) == 9
        assert len(canary.asked(store, "llm-twin", "answered", "2080-01-01").all) == 9


def test_a_version_that_loses_good_answers_is_worse(at_home):
    old = [{"answered": 0.0}] * 8 + [{"answered": 1.0, "groundedness": 1.0}] * 9
    new = [{"answered": 1.0}] * 8 + [{}] * 9
    questions = canary.Asked(["?"] * 8, ["!"] * 9)
    verdict = canary.judge("answered", questions, old, new)
    assert (verdict.worse, verdict.helps) == (True, True)
    assert verdict.reasons == [
        "8 questions that had bad answers: answered 0.00 → 1.00, better",
        "9 questions that had good answers: answered 1.00 → 0.00, worse",
    ]
    few = canary.judge("groundedness", canary.Asked([], ["!"] * 3), old[-3:], new[-3:])
    assert (few.worse, few.helps, few.before) == (False, False, None)
    assert few.reasons == ["3 questions that had good answers: answered 1.00 → 0.00, cannot tell"]


def test_a_candidate_that_answers_worse_does_not_serve(at_home):
    alert = fire(at_home.home)
    begin(at_home.home, alerts=[alert], score="answered", since="2080-01-01", version="v2")
    for name in ("heron", "bees"):
        (at_home.corpus / f"{name}.md").unlink()
    for name in ("ferns", "mosses"):
        add_document(at_home, name)
    at_home.train("v2")
    turns.switch_to(at_home.settings, "v1")
    with closing(Store(at_home.settings.traces, at_home.settings)) as store:
        for word in ("shivering", "hive", "queen", "bees", "winter hive", "only queen", "warm bees",
                     "violet heron", "umbrella", "lighthouse keeper"):  # fmt: skip
            put(store, f"What of the {word}?", 1)
    done = flow.loop_canary()
    assert done["message"].startswith("refused: ")
    assert "worse" in turn_of(at_home.home).reason
    assert turns.served_version(at_home.settings).version == "v1"
    assert "worse" in find_alert(at_home.home, alert).note


def test_a_person_says_no(at_home, monkeypatch):
    begin(at_home.home, version="v1")
    monkeypatch.setattr(flow, "send", lambda settings: no(at_home.home))
    done = flow.loop_approve(approve=True, wait="1m")
    assert done["message"] == "refused: refused by Ada not on a Friday"
    assert turn_of(at_home.home).outcome == "refused"


def no(home):
    (asked,) = approval.recent(home)
    approval.answer(home, asked.id, False, "not on a Friday", by="Ada")


def test_a_question_is_sent_to_the_channels_at_once(at_home):
    approval.request(at_home.home, "Put v2 live?")
    flow.send(at_home.settings)
    assert "Put v2 live?" in (at_home.home / "alerts.log").read_text()


def test_production_without_deployment(at_home):
    begin(at_home.home, version="v1", canary={"helps": True, "reasons": ["8 questions …"]})
    assert flow.loop_build(deploy=False)["message"] == "no image is built"
    assert flow.loop_deploy(deploy=False)["message"] == "v1 is production; nothing is deployed"
    assert flow.loop_watch(deploy=False) == {"message": "nothing to do"}
    assert flow.loop()["message"] == "v1 serves. 8 questions …"
    assert turn_of(at_home.home).outcome == "done"


def test_what_does_not_come_live_is_not_production_either(at_home):
    alert = fire(at_home.home)
    at_home.train("v2")
    begin(at_home.home, "run-1", alerts=[alert], version="v2")
    with socket.socket() as taken, using(Context(run="run-1", environment=os.environ)):
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = flow.loop_deploy(process=True, port=taken.getsockname()[1])
    assert done["message"].startswith("not deployed: front: ")
    assert turns.served_version(at_home.settings).version == "v1"
    assert "not deployed" in find_alert(at_home.home, alert).note


def test_an_alert_that_was_not_helped_is_handed_on(at_home):
    alert = fire(at_home.home)
    begin(at_home.home, alerts=[alert], version="v1", live="v1", canary={"helps": False})
    assert flow.loop()["message"].startswith("no help: the new version serves")
    assert find_alert(at_home.home, alert).state == "firing"
    assert said(at_home.home, alert) == ["escalated"]


def test_only_rules_about_answers_make_it_turn():
    assert turns.score_of(Rule(name="a", when=metric("refusal_rate", above=1))) == "answered"
    assert turns.score_of(Rule(name="a", when=metric("score.language", below=1))) == "language"
    for condition in (metric("latency_p95", above=1), event("ct.failed")):
        with pytest.raises(ConfigError, match="training mends answers"):
            turns.score_of(Rule(name="a", when=condition))
    assert len(flow._rules()) == len(flow.RULES)


def test_traces_that_are_not_stored_in_time_are_said(at_home):
    class Tracing:
        settings = at_home.settings

        def flush(self, timeout):
            return False

    with pytest.raises(RemoteError, match="not stored in time"):
        canary.replay([], None, replace(at_home.settings, llm=""), Tracing(), [], None)


def test_history_as_a_user_reads_it(at_home, capsys):
    show = loop_history.history.body
    show(None)
    assert capsys.readouterr().out == "The loop has not turned yet. Type: invoke loop\n"
    begin(at_home.home, why="2 new or changed documents", version="v2")
    show(None)
    out = capsys.readouterr().out
    assert "goes on" in out
    assert "2 new or changed documents" in out
    show(None, json=True)
    (row,) = json.loads(capsys.readouterr().out)
    assert row["spent"] == {"cpu": 0, "tokens": 0, "dollars": 0}
