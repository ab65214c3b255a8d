"""Rules over stored traces: which are scored, when, how often, and what survives a kill."""

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from traced_answers import PROJECT, QUOTE, Traced

from llm_twin.errors import BusyError, ConfigError, RemoteError
from llm_twin.tracing.evaluation import Rule, Score, Skip, rule
from llm_twin.tracing.evaluation import worker as working
from llm_twin.tracing.evaluation.view import View
from llm_twin.tracing.evaluation.worker import Worker
from llm_twin.tracing.store.store import Store


@rule()
def short(trace: View) -> Score:
    return Score(1.0 if len(trace.answer) < 200 else 0.0, f"{len(trace.answer)} characters")


def worker_of(store: Store, *rules: Rule, lane: str = "rules", quiet: float = 0.0) -> Worker:
    return Worker(store, rules or (short,), project=PROJECT, lane=lane, quiet=quiet)


def errors_of(store: Store) -> list[tuple[str, str]]:
    with store.database.read() as db:
        return db.execute("SELECT rule, message FROM evaluation_error ORDER BY 1").fetchall()


def test_a_trace_gets_a_feedback_score_with_its_reason(store: Store, traced: Traced) -> None:
    trace = traced.answer("An answer.")
    worker = worker_of(store)
    assert worker.once() == 0
    assert worker.scored == 1
    score = traced.scores(trace)["short"]
    assert (score["value"], score["reason"]) == (1.0, "10 characters")
    assert score["source"] == "online_scoring"


def test_a_rule_sees_what_the_answer_path_recorded(store: Store, traced: Traced) -> None:
    seen: list[View] = []
    watching = Rule("watching", lambda view: seen.append(view))
    trace = traced.answer(seconds=2.5, cost=0.25, thread_id="t1")
    worker_of(store, watching).once()
    view = seen[0]
    assert (view.id, view.name) == (trace, "answer")
    assert view.question == "What does a vector database do with embeddings?"
    assert view.answer == f"{QUOTE} [1]"
    assert view.declined is False
    assert [(passage.id, passage.score) for passage in view.passages] == [("c1", 0.9)]
    assert QUOTE in view.texts[0]
    assert view.citations[0]["quote"] == QUOTE
    assert (view.seconds, view.cost, view.error) == (2.5, 0.25, None)
    assert [span["name"] for span in view.spans] == ["generate", "retrieve"]
    assert view.trace["thread_id"] == "t1"


@pytest.mark.parametrize(
    ("given", "told", "question", "answer"),
    [
        ("plain", "text", "plain", "text"),
        ({"query": "q"}, {"answer": "a"}, "q", "a"),
        (
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]},
            {"choices": [{"message": {"role": "assistant", "content": "c"}}]},
            "u",
            "c",
        ),
        ({"anything": "x"}, {"whatever": {"more": "y"}}, "x", "y"),
        ({"a": "1", "b": "2"}, [], "", ""),
        (None, 7, "", ""),
    ],
)
def test_questions_and_answers_are_found_in_common_shapes(
    given: object, told: object, question: str, answer: str
) -> None:
    view = View.of({"id": "1", "input": given, "output": told}, [])
    assert (view.question, view.answer) == (question, answer)


def test_a_trace_is_scored_once_by_each_version_of_a_rule(store: Store, traced: Traced) -> None:
    asked: list[str] = []

    def counting(version: int) -> Rule:
        def function(view: View) -> Score:
            asked.append(view.id)
            return Score(version / 10)

        return Rule("counting", function, version=version)

    trace = traced.answer()
    for _ in range(3):
        worker = worker_of(store, counting(1))
        worker.look_back(timedelta(hours=1))
        worker.once()
    assert asked == [trace]
    worker_of(store, counting(2)).once()
    assert asked == [trace], "a new version does not look back by itself"
    newer = worker_of(store, counting(2))
    newer.look_back(timedelta(hours=1))
    newer.once()
    assert asked == [trace, trace]
    assert traced.values(trace) == {"counting": 0.2}


def test_what_comes_late_is_found_although_it_began_early(store: Store, traced: Traced) -> None:
    worker = worker_of(store)
    worker.once()
    traced.answer(ago=1)
    worker.once()
    late = traced.answer(ago=7200)
    worker.once()
    assert traced.values(late) == {"short": 1.0}


def test_a_trace_waits_until_it_has_ended(store: Store, traced: Traced) -> None:
    trace = traced.answer(ended=False)
    worker = worker_of(store)
    assert worker.once() == 1
    assert traced.values(trace) == {}
    traced.send(
        "PATCH",
        f"traces/{trace}",
        {"project_name": PROJECT, "end_time": "2126-01-01T00:00:00Z"},
    )
    time.sleep(0.01)
    assert worker.once() == 0
    assert traced.values(trace) == {"short": 1.0}


def age(store: Store, table: str) -> None:
    """Let rows look as if they came an hour ago."""
    with store.database.write() as db:
        before = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-1 hour')"
        db.execute(f"UPDATE {table} SET created = {before}, updated = {before}")


def test_a_trace_waits_for_late_spans(store: Store, traced: Traced) -> None:
    trace = traced.answer()
    worker = worker_of(store, quiet=60)
    assert worker.once() == 1, "it has just come"
    age(store, "trace")
    assert worker.once() == 1, "its spans have just come"
    age(store, "span")
    traced.span(trace, "late", {"text": "still coming"})
    assert worker.once() == 1, "a late span begins the wait anew"
    age(store, "span")
    assert worker.once() == 0
    assert traced.values(trace) == {"short": 1.0}


def test_a_trace_that_never_ends_is_given_up(
    store: Store, traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = traced.answer(ended=False)
    monkeypatch.setattr(working, "UNFINISHED", timedelta(0))
    assert worker_of(store).once() == 0
    assert traced.values(trace) == {}


def test_experiments_and_other_projects_are_left_alone(store: Store, traced: Traced) -> None:
    experiment = traced.answer(source="experiment")
    other = traced.answer(project="somebody else's")
    mine = traced.answer()
    assert worker_of(store).once() == 0
    assert [traced.values(one) for one in (experiment, other, mine)] == [{}, {}, {"short": 1.0}]


def test_deleted_traces_are_forgotten(store: Store, traced: Traced) -> None:
    scored, waiting = traced.answer(), traced.answer(ended=False)
    worker = worker_of(store)
    worker.once()
    traced.send("POST", "traces/delete", {"ids": [scored, waiting]})
    assert worker.once() == 0
    with store.database.read() as db:
        assert db.execute("SELECT count(*) FROM evaluation").fetchone() == (0,)


def test_a_trace_that_is_deleted_while_a_rule_thinks_leaves_nothing(
    store: Store, traced: Traced
) -> None:
    trace = traced.answer()

    def function(view: View) -> list[Score]:
        traced.send("POST", "traces/delete", {"ids": [view.id]})
        return [Score(1, view.answer)]

    worker = worker_of(store, Rule("slow", function))
    assert worker.once() == 0
    assert worker.scored == 0
    with store.database.read() as db:
        assert db.execute("SELECT * FROM score WHERE entity = ?", (trace,)).fetchall() == []


def test_looking_back_never_looks_less_far_back(store: Store, traced: Traced) -> None:
    trace = traced.answer()
    age(store, "trace")
    worker = worker_of(store)
    worker.look_back(timedelta(minutes=1))
    worker.once()
    assert traced.values(trace) == {"short": 1.0}


def test_a_clock_that_was_set_back_hides_nothing(store: Store, traced: Traced) -> None:
    early = traced.answer()
    with store.database.write() as db:
        db.execute("UPDATE trace SET created = '2126-01-01T00:00:00.000000Z'")
        state = '["2126-01-01T00:00:00.000000Z", ""]'
        db.execute("INSERT INTO evaluation_state VALUES ('cursor rules', ?)", (state,))
    worker = worker_of(store)
    worker.once()
    late = traced.answer()
    worker.once()
    assert [traced.values(one) for one in (early, late)] == [{}, {"short": 1.0}]


def test_a_sample_is_the_same_traces_every_time_and_about_its_share() -> None:
    half = Rule("half", lambda view: None, sample=0.5)
    again = Rule("half", lambda view: None, sample=0.5)
    other = Rule("other", lambda view: None, sample=0.5)
    ids = [f"trace-{number}" for number in range(2000)]
    taken = [half.sampled(one) for one in ids]
    assert taken == [again.sampled(one) for one in ids]
    assert 900 < sum(taken) < 1100
    both = sum(half.sampled(one) and other.sampled(one) for one in ids)
    assert 400 < both < 600, "samples of different rules are independent"
    assert not any(Rule("none", lambda view: None, sample=0).sampled(one) for one in ids)
    assert all(Rule("all", lambda view: None).sampled(one) for one in ids)


def test_a_larger_sample_is_made_up_for_by_looking_back(store: Store, traced: Traced) -> None:
    trace = traced.answer()
    worker_of(store, Rule("share", lambda view: Score(1), sample=0.0)).once()
    assert traced.values(trace) == {}
    worker = worker_of(store, Rule("share", lambda view: Score(1)))
    worker.look_back(timedelta(hours=1))
    worker.once()
    assert traced.values(trace) == {"share": 1.0}


def test_a_share_beyond_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"share from 0 to 1: loud: 10"):
        rule(sample=10, name="loud")(lambda view: None)


def test_a_rule_looks_only_where_it_has_something_to_do(store: Store, traced: Traced) -> None:
    failing = traced.answer(error_info={"exception_type": "E", "traceback": "at home"})
    well = traced.answer()
    fine = rule(when=lambda view: view.error is None)(short.function)
    assert fine(View("1", answer="x")) == Score(1.0, "1 characters")
    worker_of(store, Rule("fine", fine.function, when=fine.when)).once()
    assert (traced.values(failing), traced.values(well)) == ({}, {"fine": 1.0})


def test_one_rule_may_give_several_scores(store: Store, traced: Traced) -> None:
    trace = traced.answer()
    both = Rule("both", lambda view: [Score(0.25, name="a"), Score(0.75, name="b"), Score(1)])
    worker_of(store, both).once()
    assert traced.values(trace) == {"a": 0.25, "b": 0.75, "both": 1.0}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (Score(7), "ValueError: a score from 0 to 1 was expected, not 7.0"),
        (Score(float("nan")), "ValueError: a score from 0 to 1 was expected, not nan"),
        (Score(1, name="n" * 101), "ValueError: a score's name has at most 100 characters"),
        (["good"], "ValueError: no Score but str"),
        (3, "TypeError: 'int' object is not iterable"),
    ],
)
def test_what_is_no_score_is_counted_and_not_written(
    store: Store, traced: Traced, found: object, message: str
) -> None:
    trace = traced.answer()
    wrong = Rule("wrong", lambda view: found)  # type: ignore[arg-type, return-value]
    worker = worker_of(store, wrong, short)
    worker.once()
    assert traced.values(trace) == {"short": 1.0}
    assert errors_of(store) == [("wrong", message)]
    assert worker.errors == 1


def test_a_rule_that_fails_is_asked_again_when_looking_back(store: Store, traced: Traced) -> None:
    trace = traced.answer()
    broken = True

    def function(view: View) -> Score:
        if broken:
            raise OSError("no way")
        return Score(1)

    worker_of(store, Rule("shaky", function)).once()
    broken = False
    worker = worker_of(store, Rule("shaky", function))
    worker.look_back(timedelta(hours=1))
    worker.once()
    assert traced.values(trace) == {"shaky": 1.0}
    assert errors_of(store) == [("shaky", "OSError: no way")]


def test_a_rule_may_skip_without_that_being_an_error(store: Store, traced: Traced) -> None:
    trace = traced.answer()

    def function(view: View) -> Score:
        raise Skip("not now")

    worker = worker_of(store, Rule("later", function))
    assert worker.once() == 0
    assert (traced.values(trace), worker.errors, errors_of(store)) == ({}, 0, [])


def test_lanes_do_not_know_of_each_other(store: Store, traced: Traced) -> None:
    trace = traced.answer()
    worker_of(store, Rule("one", lambda view: Score(1)), lane="one").once()
    worker_of(store, Rule("two", lambda view: Score(0)), lane="two").once()
    assert traced.values(trace) == {"one": 1.0, "two": 0.0}


def test_a_second_worker_is_told_who_is_there(store: Store) -> None:
    worker = worker_of(store)
    with worker.alone(), pytest.raises(BusyError, match="another process scores these traces"):
        worker_of(store).once()


def test_scores_that_the_store_refuses_leave_the_trace_waiting(
    store: Store, traced: Traced
) -> None:
    trace = traced.answer()
    store.body_limit = 10
    worker = worker_of(store)
    with pytest.raises(RemoteError, match="status 413"):
        worker.once()
    assert worker.waiting() == 1
    store.body_limit = 10**6
    worker.once()
    assert traced.values(trace) == {"short": 1.0}


def test_running_scores_what_comes_and_outlives_a_refusal(
    store: Store, traced: Traced, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(working, "RETRY_SECONDS", 0.05)
    stop = threading.Event()
    store.body_limit = 10
    lanes = [worker_of(store), worker_of(store, Rule("b", lambda view: Score(1)), lane="b")]
    thread = threading.Thread(target=working.run, args=(lanes, stop))
    thread.start()
    try:
        store.body_limit = 10**6
        first = traced.answer()
        _wait_for(lambda: set(traced.values(first)) == {"short", "b"})
        store.body_limit = 10
        with store.database.write() as db:
            db.execute("UPDATE evaluation SET due = 1, done = '{}'")
        _wait_for(lambda: "traces wait to be scored" in caplog.text)
        store.body_limit = 10**6
        second = traced.answer()
        _wait_for(lambda: set(traced.values(second)) == {"short", "b"})
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()


def test_a_lane_that_breaks_ends_all_and_says_why(store: Store) -> None:
    with store.database.write() as db:
        db.execute("INSERT INTO evaluation_state VALUES ('cursor rules', 'no JSON')")
    stop = threading.Event()
    with pytest.raises(ValueError, match="Expecting value"):
        working.run([worker_of(store), worker_of(store, lane="other")], stop)
    assert stop.is_set()


KILLED = """
import os, sys
from pathlib import Path
from llm_twin.tracing.evaluation import Rule, Score
from llm_twin.tracing.evaluation.worker import Worker
from llm_twin.tracing.store.store import Store

log = open(sys.argv[2], "a", buffering=1)

def function(view):
    log.write(view.id + "\\n")
    return Score(1)

store = Store(Path(sys.argv[1]))
worker = Worker(store, [Rule("kept", function)], project="llm-twin", quiet=0, batch=3)
print("ready", flush=True)
while True:
    worker.step()
"""


def test_killed_at_any_moment_it_goes_on_where_it_was(
    store: Store, traced: Traced, tmp_path: Path
) -> None:
    log = tmp_path / "asked"
    log.touch()
    traces = [traced.answer() for _ in range(60)]
    for round_ in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(store.database.path.parent), str(log)],
            stdout=subprocess.PIPE,
        )
        try:
            assert child.stdout
            assert child.stdout.readline() == b"ready\n"
            asked = 10 * round_ + 5
            _wait_for(lambda asked=asked: log.read_text().count("\n") >= asked)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait(10)
            child.stdout.close()
    worker = Worker(store, [Rule("kept", lambda view: Score(1))], project=PROJECT, quiet=0)
    assert worker.once() == 0
    assert all(traced.values(trace) == {"kept": 1.0} for trace in traces)
    repeated = log.read_text().count("\n") - len(set(log.read_text().split()))
    assert repeated <= 6 * 3, "at most the batch that was open at each kill is asked again"


def _wait_for(condition: object, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
