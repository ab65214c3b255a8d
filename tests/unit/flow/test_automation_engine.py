"""What happens when automations fire: real runs in real processes, calls, alerts, and overlap."""

import contextlib
import http.server
import json
import os
import signal
import sqlite3
import textwrap
import threading
import time
from pathlib import Path

import pytest

from llm_twin.errors import BusyError
from llm_twin.flow.automation import (
    Automations,
    absent,
    alert,
    call_webhook,
    emit,
    event,
    every,
    files_changed,
    from_payload,
    metric,
    run_ended,
    run_flow,
)
from llm_twin.flow.automation.daemon import look_once
from llm_twin.flow.automation.engine import Engine, SystemClock, claim_store
from llm_twin.flow.automation.ledger import events_after, last_firing, note_runs, prune, unfinished
from llm_twin.flow.states import completed, crashed
from llm_twin.flow.store import Store
from llm_twin.testing import FrozenClock

NOW = 1_767_582_000.0
TASKS = """
    import os, time
    from pathlib import Path
    from llm_twin.flow import registry, stage
    from llm_twin.flow.context import context
    from llm_twin.flow.tasks import collection

    ROOT = Path(__file__).resolve().parent

    @stage
    def work(name: str = "x", wait: bool = False, fail: bool = False, die: int = 0) -> dict:
        with (ROOT / "tries").open("a") as file:
            file.write("x")
        for _ in range(600 if wait else 0):
            if (ROOT / "go").exists():
                break
            time.sleep(0.05)
        if len((ROOT / "tries").read_text()) <= die:
            os.kill(os.getppid(), 9)
            time.sleep(30)
        with (ROOT / "ledger").open("a") as file:
            file.write(f"{context().run} {name}" + chr(10))
        if fail:
            raise RuntimeError("no luck")
        return {"score": 0.5}

    namespace = collection(registry, ROOT)
"""


@pytest.fixture
def store(tmp_path):
    with contextlib.closing(Store(tmp_path / ".twin")) as opened:
        yield opened


@pytest.fixture
def lines():
    return []


@pytest.fixture
def make(tmp_path, store, lines):
    """Make an engine; a process that sees to the same store comes after another one's death."""
    (tmp_path / "tasks.py").write_text(textwrap.dedent(TASKS))
    made = []

    def engine(automations, clock=None):
        made.append(Engine(automations, store, tmp_path, clock or FrozenClock(NOW), lines.append))
        return made[-1]

    yield engine
    (tmp_path / "go").touch()
    for process in [process for item in made for process in item.processes.values()]:
        process.wait(timeout=30)


def one(name="x", **options):
    automations = Automations()
    automations.add(name, **options)
    return automations


def until(condition, engine=None, limit=30):
    """Wait for a condition, looking as the daemon does."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        if engine:
            engine.tick(timers=False)
        time.sleep(0.05)


def finish(engine):
    until(lambda: not unfinished(engine.store.db), engine)


def ledger(tmp_path):
    path = tmp_path / "ledger"
    return path.read_text().splitlines() if path.exists() else []


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def firings(store):
    return store.db.execute("SELECT id, state, message FROM firing ORDER BY rowid").fetchall()


def ended_run(store, run_id, state, result=None, flow="ct"):
    """Record a run that ended, as a runner does."""
    with store.hold(run_id):
        store.start(run_id, flow, {}, ["ct"], "local")
        (item,) = store.get(run_id).stages
        item.state, item.result = completed(), result
        store.stages_ended(run_id, [item])
        store.ended(run_id, state)


def test_a_flow_is_run_with_the_firings_id_and_values_from_the_payload(
    make, store, tmp_path, lines
):
    do = run_flow("work", name=from_payload("doc.name"), fail=False)
    engine = make(one(when=event("go"), do=do))
    emit(store, "go", {"doc": {"name": "n; $(x)"}})
    engine.tick()
    finish(engine)
    ((run_id, state, _),) = firings(store)
    assert state == "Completed"
    assert ledger(tmp_path) == [f"{run_id} n; $(x)"]
    assert store.get(run_id).parameters == {"name": "n; $(x)", "fail": False}
    assert lines[0] == "x fires: event go"
    assert lines[-1].startswith("x Completed")


def test_nothing_from_the_past_fires_and_a_changed_trigger_starts_anew(make, store):
    emit(store, "go")
    clock = FrozenClock(NOW)
    engine = make(one(when=event("go"), do=alert("x")), clock)
    assert engine.tick() == []
    clock.advance("3h")
    engine = make(one(when=every("1h"), do=alert("x")), clock)
    assert engine.tick() == []
    assert engine.next_due() == NOW + 4 * 3600
    clock.advance("90m")
    assert [item.due for item in engine.tick()] == [NOW + 4 * 3600]
    assert engine.tick() == []


def test_what_came_due_while_nobody_looked_fires_oldest_first(make, store):
    clock = FrozenClock(NOW)
    automations = one(when=every("1h"), do=alert("x"), catch_up="all")
    make(automations, clock)
    clock.advance("3h")
    found = make(automations, clock).tick()
    assert [item.due for item in found] == [NOW + hours * 3600 for hours in (1, 2, 3)]
    clock.sleep(-7200)
    assert make(automations, clock).tick() == []
    clock.sleep(7200)
    assert make(automations, clock).tick() == []
    assert len(firings(store)) == 3


def test_an_alert_is_raised_once_whatever_is_killed_in_between(make, store, capsys):
    do = alert("training failed", severity="critical")
    automations = one("bad", when=run_ended("ct", states=("Failed",)), do=do)
    engine = make(automations)
    ended_run(store, "r1", crashed("gone"))
    engine.tick()
    assert not (store.home / "alerts.log").exists()
    store.db.execute("UPDATE run SET state = 'Failed', ended = ended + 1, message = 'no\nluck'")
    store.db.execute(
        "CREATE TRIGGER cut BEFORE UPDATE ON firing BEGIN SELECT RAISE(ABORT, 'cut'); END"
    )
    with pytest.raises(sqlite3.IntegrityError, match="cut"):
        engine.tick()
    store.db.execute("DROP TRIGGER cut")
    make(automations).tick()
    make(automations).tick()
    (line,) = (store.home / "alerts.log").read_text().splitlines()
    (firing,) = firings(store)
    expected = "critical bad: training failed (run r1 of ct ended Failed: no luck)"
    assert line == f"2026-01-05T03:00:00Z {expected} [{firing[0]}]"
    assert capsys.readouterr().err == f"alert {line}\n"
    (raised,) = [item for item in events_after(store.db, 0) if item.kind == "alert"]
    assert raised.name == "bad"
    assert raised.data["severity"] == "critical"
    assert raised.data["payload"]["run"] == "r1"


def test_an_alert_after_a_line_that_was_cut_off_begins_a_new_one(make, store):
    (store.home / "alerts.log").write_text("half a li")
    engine = make(one(when=event("go"), do=alert("x")))
    emit(store, "go")
    engine.tick()
    assert (store.home / "alerts.log").read_text().startswith("half a li\n2026-01-05")


def test_an_alert_is_raised_also_when_its_file_cannot_be_written(make, store, capsys):
    (store.home / "alerts.log").mkdir()
    engine = make(one(when=event("go"), do=alert("x")))
    emit(store, "go")
    assert engine.tick()[0].state == "Completed"
    assert [item.kind for item in events_after(store.db, 0)] == ["event", "alert"]
    assert "error: alerts.log cannot be written" in capsys.readouterr().err


def test_results_of_stages_are_metrics_but_not_when_they_were_cached(make, store):
    engine = make(one(when=metric("ct.retrieval.hit", below=0.7, for_last=2), do=alert("low")))
    ended_run(store, "r1", completed(), {"retrieval": {"hit": 0.6}, "note": "text"})
    engine.tick()
    ended_run(store, "r2", completed("", "Cached"), {"retrieval": {"hit": 0.6}})
    store.db.execute("UPDATE stage_run SET state_name = 'Cached' WHERE run = 'r2'")
    assert engine.tick() == []
    ended_run(store, "r3", completed(), {"retrieval": {"hit": 0.5}})
    (firing,) = engine.tick()
    assert firing.reason == "it is 0.5: ct.retrieval.hit below 0.7 2 times"


def test_two_that_look_at_once_do_not_fire_twice(make, store, tmp_path):
    automations = one(when=event("go"), do=alert("x"))
    engines = []
    for _ in range(4):
        engines.append(Engine(automations, store, tmp_path, FrozenClock(NOW), print))
    emit(store, "go", key="once")
    assert emit(store, "go", key="once") is False

    def look():
        with contextlib.closing(Store(store.home)) as own:
            Engine(automations, own, tmp_path, FrozenClock(NOW), lambda _: None).tick()

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(firings(store)) == 1
    assert len((store.home / "alerts.log").read_text().splitlines()) == 1


def test_queue_waits_for_the_run_of_the_former_firing(make, store, tmp_path):
    engine = make(one(when=event("go"), do=run_flow("work", wait=True)))
    emit(store, "go")
    engine.tick()
    emit(store, "go")
    until(lambda: (tmp_path / "tries").exists(), engine)
    assert [state for _, state, _ in firings(store)] == ["Running", "Pending"]
    (tmp_path / "go").touch()
    finish(engine)
    assert [state for _, state, _ in firings(store)] == ["Completed", "Completed"]
    assert [line.split()[0] for line in ledger(tmp_path)] == [row[0] for row in firings(store)]


def test_a_queue_is_not_endless(make, store, tmp_path):
    engine = make(one(when=event("go"), do=run_flow("work", wait=True)))
    for _ in range(103):
        emit(store, "go")
    engine.tick()
    states = [state for _, state, _ in firings(store)]
    assert states == ["Running"] + ["Pending"] * 100 + ["Skipped"] * 2
    store.db.execute("DELETE FROM firing WHERE state = 'Pending'")


def test_skip_says_why(make, store, tmp_path):
    engine = make(one(when=event("go"), do=run_flow("work", wait=True), overlap="skip"))
    emit(store, "go")
    engine.tick()
    emit(store, "go")
    engine.tick()
    first, second = firings(store)
    assert second[1:] == ("Skipped", f"the run of a former firing goes on: {first[0]}")
    (tmp_path / "go").touch()
    finish(engine)
    assert len(ledger(tmp_path)) == 1


def test_cancel_previous_starts_after_the_former_run_stopped(make, store, tmp_path):
    do = run_flow("work", wait=from_payload("wait"))
    engine = make(one(when=event("go"), do=do, overlap="cancel-previous"))
    emit(store, "go", {"wait": True})
    engine.tick()
    until(lambda: (tmp_path / "tries").exists(), engine)
    emit(store, "go", {"wait": True})
    emit(store, "go", {"wait": False})
    engine.tick()
    finish(engine)
    first, second, third = firings(store)
    assert first[1] == "Cancelled"
    assert second[1:] == ("Skipped", f"a newer firing took its place: {third[0]}")
    assert third[1] == "Completed"
    assert [line.split()[0] for line in ledger(tmp_path)] == [third[0]]


def test_a_run_that_failed_or_was_refused_fails_its_firing_and_no_other(make, store, tmp_path):
    automations = Automations()
    automations.add("bad", when=event("go"), do=run_flow("work", fail=True))
    automations.add("gone", when=event("go"), do=run_flow("no-such-flow"))
    automations.add("no-value", when=event("go"), do=run_flow("work", name=from_payload("n")))
    automations.add("nul", when=event("go"), do=run_flow("work", name="a\0b"))
    automations.add("good", when=event("go"), do=run_flow("work"))
    engine = make(automations)
    emit(store, "go")
    engine.tick()
    finish(engine)
    ended = {item.name: last_firing(store.db, item.name) for item in automations}
    assert {name: item.state for name, item in ended.items()} == {
        "bad": "Failed",
        "gone": "Failed",
        "no-value": "Failed",
        "nul": "Failed",
        "good": "Completed",
    }
    assert "no luck" in ended["bad"].message
    assert "no such stage: no-such-flow" in ended["gone"].message
    assert ended["no-value"].message == "the payload has no such value: n"
    assert "null byte" in ended["nul"].message


def test_a_run_that_crashes_is_resumed_but_not_for_ever(make, store, tmp_path):
    engine = make(one(when=event("go"), do=run_flow("work", die=from_payload("die"))))
    emit(store, "go", {"die": 2})
    engine.tick()
    finish(engine)
    ((run_id, state, _),) = firings(store)
    assert state == "Completed"
    assert ledger(tmp_path) == [f"{run_id} x"]
    emit(store, "go", {"die": 99})
    engine.tick()
    finish(engine)
    assert firings(store)[1][1] == "Crashed"
    assert len((tmp_path / "tries").read_text()) == 3 + 3


def test_the_next_process_finds_out_what_became_of_a_run(make, store, tmp_path):
    automations = one(when=event("go"), do=run_flow("work", wait=True))
    emit_and_forget = make(automations)
    emit(store, "go")
    emit_and_forget.tick()
    ((run_id, _, _),) = firings(store)
    until(lambda: (tmp_path / "tries").exists())
    after = make(automations)
    after.tick()
    assert after.processes == {}
    pid = store.get(run_id).pid
    stages = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(pid, signal.SIGKILL)
    emit_and_forget.processes[run_id].wait(timeout=30)
    until(lambda: not any(map(lives, stages)))
    (tmp_path / "go").touch()
    finish(after)
    assert firings(store)[0][1] == "Completed"
    assert ledger(tmp_path) == [f"{run_id} x"]


def test_a_firing_recorded_but_not_started_is_started_by_the_next_process(make, store, tmp_path):
    automations = one(when=event("go"), do=run_flow("work"))
    make(automations)
    emit(store, "go")
    engine = make(automations)
    engine.invoke = ("true",)
    engine.tick()
    ((run_id, state, _),) = firings(store)
    assert state == "Running"
    finish(make(automations))
    assert ledger(tmp_path) == [f"{run_id} x"]


def test_a_command_that_says_nothing(make, store):
    engine = make(one(when=event("go"), do=run_flow("work")))
    engine.invoke = ("true",)
    emit(store, "go")
    engine.tick()
    finish(engine)
    assert firings(store)[0][1:] == ("Failed", "it ended without a word")


def test_a_run_that_another_process_holds_but_has_not_recorded_is_waited_for(make, store):
    engine = make(one(when=event("go"), do=run_flow("work")))
    engine.invoke = ("true",)
    emit(store, "go")
    (firing,) = engine.tick()
    with store.hold(firing.id):
        engine.processes[firing.id].wait(timeout=30)
        engine.tick()
        assert firings(store)[0][1] == "Running"
    finish(engine)


def test_what_is_no_longer_declared_is_skipped(make, store, tmp_path):
    automations = one(when=event("go"), do=run_flow("work"))
    engine = make(automations)
    engine.invoke = ("true",)
    emit(store, "go")
    emit(store, "go")
    engine.tick()
    make(Automations()).tick()
    assert [row[1:] for row in firings(store)] == [("Skipped", "it is no longer declared")] * 2


class Sink(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.calls.append((dict(self.headers), json.loads(body)))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def sink():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    server.calls, server.answers = [], []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join(timeout=30)
    server.server_close()


def call_until_done(engine):
    """Let the time between attempts pass at once."""

    def done():
        due = engine.next_due()
        if due:
            engine.clock.sleep(due - engine.clock.now())
        return not unfinished(engine.store.db)

    until(done, engine)


def test_a_webhook_is_called_again_until_it_is_taken(make, store, sink, monkeypatch):
    monkeypatch.setenv("SINK_URL", f"http://127.0.0.1:{sink.server_port}/in?token=x")
    monkeypatch.setenv("SINK_SECRET", "s3cret")  # pragma: allowlist secret
    automations = one(
        when=event("go"), do=call_webhook(url_env="SINK_URL", secret_env="SINK_SECRET")
    )
    engine = make(automations)
    sink.answers = [500, 302]
    emit(store, "go", {"a": 1})
    engine.tick()
    until(lambda: sink.calls)
    until(lambda: engine.next_due(), engine)
    assert engine.next_due() == NOW + 1
    engine = make(automations, engine.clock)
    call_until_done(engine)
    ((firing, state, message),) = firings(store)
    assert (state, message) == ("Completed", "call $SINK_URL was taken")
    assert {headers["Idempotency-Key"] for headers, _ in sink.calls} == {firing}
    assert len(sink.calls) == 3
    headers, body = sink.calls[0]
    assert body == {"automation": "x", "firing": firing, "reason": "event go", "payload": {"a": 1}}
    assert headers["X-Hub-Signature-256"].startswith("sha256=")


def test_a_webhook_that_is_never_taken_fails_after_five_attempts(make, store, sink):
    engine = make(one(when=event("go"), do=call_webhook(f"http://127.0.0.1:{sink.server_port}/")))
    sink.answers = [503] * 9
    emit(store, "go")
    engine.tick()
    call_until_done(engine)
    assert len(sink.calls) == 5
    assert firings(store)[0][1:] == (
        "Failed",
        "HTTPError: HTTP Error 503: Service Unavailable, 5 times",
    )


def test_a_webhook_whose_address_is_not_set(make, store):
    engine = make(one(when=event("go"), do=call_webhook(url_env="NO_SUCH_URL")))
    emit(store, "go")
    engine.tick()
    call_until_done(engine)
    assert "a secret is not set: NO_SUCH_URL" in firings(store)[0][2]


def test_watched_files_fire_once_they_settled(make, store, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("one")
    clock = FrozenClock(NOW)
    automations = one(when=files_changed("docs/**/*.md", settle="30s"), do=alert("changed"))

    def look(engine):
        engine.watch.moved = True
        return [item.reason for item in engine.tick()]

    engine = make(automations, clock)
    assert look(engine) == []
    (tmp_path / "docs" / "b.md").write_text("new")
    (tmp_path / "docs" / "c.txt").write_text("not watched")
    assert look(engine) == []
    assert engine.next_due() == NOW + 30
    clock.advance("20s")
    (tmp_path / "docs" / "a.md").write_text("two!")
    assert look(engine) == []
    clock.advance("20s")
    assert look(engine) == []
    clock.advance("10s")
    assert engine.tick()[0].reason == "docs/a.md, docs/b.md changed"
    assert look(engine) == []

    for name in "ab":
        (tmp_path / "docs" / f"{name}.md").unlink()
    for name in "defg":
        (tmp_path / "docs" / f"{name}.md").write_text(name)
    os.utime(tmp_path / "docs" / "c.txt")
    (firing,) = look_once(make(automations, clock))
    assert firing.reason == "docs/a.md, docs/b.md, docs/d.md and 3 more changed"
    os.utime(tmp_path / "docs" / "d.md", (1, 1))
    assert look_once(make(automations, clock)) == []


def test_looking_once_sees_runs_and_what_follows_from_them_through(make, store, tmp_path):
    automations = Automations()
    automations.add("often", when=every("1s"), do=run_flow("work", fail=True))
    automations.add("failed", when=run_ended("work", states=("Failed",)), do=alert("failed"))
    clock = SystemClock()
    make(automations, clock)
    clock.sleep(1.1)
    found = look_once(make(automations, clock))
    assert [(item.automation, item.state) for item in found] == [
        ("often", "Failed"),
        ("failed", "Completed"),
    ]


def test_one_process_at_a_time_sees_to_a_store(store):
    with (
        claim_store(store),
        pytest.raises(
            BusyError, match=rf"invoke automate is running already: process {os.getpid()}"
        ),
    ):
        claim_store(store)
    claim_store(store).close()


def test_pruning_forgets_old_events_and_firings_but_not_what_goes_on(make, store):
    automations = Automations()
    automations.add("x", when=event("go"), do=alert("x"))
    automations.add("y", when=absent(event("go"), within="1d"), do=alert("y"))
    engine = make(automations)
    emit(store, "go", at=NOW)
    ended_run(store, "r1", completed())
    engine.tick()
    store.prune(time.time() + 60)
    prune(store, time.time() + 60)
    note_runs(store)
    assert events_after(store.db, 0) == []
    assert firings(store) == []
    assert engine.tick() == []
