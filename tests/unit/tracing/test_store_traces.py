"""Traces: versions in any order become one, updates may come first, deleting takes all along."""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.synchronize
import os
import signal
import sqlite3
import threading
from pathlib import Path

import pytest
from store_calls import EARLY, LATE, PROJECT, START, Caller, row

from llm_twin.errors import NotReadyError, SpaceError
from llm_twin.tracing.store.database import Database
from llm_twin.tracing.store.merge import new_id, started_of
from llm_twin.tracing.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


def test_the_version_of_the_newest_writer_wins_whatever_comes_first(store: Caller) -> None:
    start = row(name="begun", metadata={"a": 1}, last_updated_at=EARLY)
    end = {**start, "name": "ended", "output": {"x": 1}, "end_time": LATE, "last_updated_at": LATE}
    store.traces(end, start)
    store.traces(start)
    [found] = store.search("traces")
    assert (found["name"], found["output"], found["end_time"]) == (
        "ended",
        {"x": 1},
        "2026-11-23T10:00:02.000000Z",
    )
    assert found["duration"] == 2000


def test_a_field_that_only_the_older_version_has_is_kept(store: Caller) -> None:
    end = row(output={"x": 1}, last_updated_at=LATE)
    store.traces(end)
    store.traces({"id": end["id"], "input": {"q": 2}, "last_updated_at": EARLY})
    found = store.get(f"traces/{end['id']}")
    assert (found["input"], found["output"]) == ({"q": 2}, {"x": 1})


def test_an_update_may_come_before_what_it_updates(store: Caller) -> None:
    trace = row(input={"q": 1}, last_updated_at=EARLY)
    store.do("PATCH", f"traces/{trace['id']}", {"project_name": PROJECT, "output": {"a": 1}})
    [early] = store.search("traces")
    assert early["start_time"] == started_of(trace["id"])
    store.traces(trace)
    [found] = store.search("traces")
    assert (found["input"], found["output"], found["start_time"]) == ({"q": 1}, {"a": 1}, START)


def test_an_update_is_newer_than_what_is_there_whatever_the_clocks_say(store: Caller) -> None:
    trace = row(name="old", last_updated_at="2099-01-01T00:00:00Z")
    store.traces(trace)
    store.do("PATCH", f"traces/{trace['id']}", {"name": "new", "project_name": PROJECT})
    assert store.get(f"traces/{trace['id']}")["name"] == "new"


def test_updates_of_many_and_their_tags(store: Caller) -> None:
    one, two = row(tags=["a", "b"]), row(tags=["c"])
    store.traces(one, two)
    ids = [one["id"], two["id"]]
    update = {"project_name": PROJECT, "tags": ["d"]}
    store.do("PATCH", "traces/batch", {"ids": ids, "update": update, "merge_tags": True})
    assert [store.get(f"traces/{i}")["tags"] for i in ids] == [["a", "b", "d"], ["c", "d"]]
    change = {"project_name": PROJECT, "tags_to_add": ["e"], "tags_to_remove": ["a"]}
    store.do("PATCH", f"traces/{ids[0]}", change)
    assert store.get(f"traces/{ids[0]}")["tags"] == ["b", "d", "e"]


def test_an_update_that_names_its_project_by_id(store: Caller) -> None:
    trace = row()
    store.traces(trace)
    project = store.get(f"traces/{trace['id']}")["project_id"]
    store.do("PATCH", f"traces/{trace['id']}", {"project_id": project, "name": "new"})
    assert store.get(f"traces/{trace['id']}")["project_id"] == project


def test_a_trace_can_be_made_alone_and_without_an_id(store: Caller) -> None:
    answer = store.ask("POST", "traces", {"name": "alone", "project_name": PROJECT})
    assert answer.status == 201
    assert answer.headers["location"].startswith("/api/v1/private/traces/")
    [found] = store.search("traces")
    assert answer.headers["location"].endswith(found["id"])


def test_a_trace_adds_up_its_spans(store: Caller) -> None:
    trace = row()
    first = {"type": "llm", "usage": {"total_tokens": 3}, "total_estimated_cost": 0.5}
    second = {"type": "tool", "usage": {"total_tokens": 4, "note": "x"}, "provider": "openai"}
    store.spans(row(trace_id=trace["id"], **first), row(trace_id=trace["id"], **second))
    store.traces(trace)
    found = store.get(f"traces/{trace['id']}")
    assert (found["span_count"], found["llm_span_count"], found["has_tool_spans"]) == (2, 1, True)
    assert (found["usage"], found["total_estimated_cost"]) == ({"total_tokens": 7}, 0.5)
    assert found["providers"] == ["openai"]


def test_deleting_a_trace_takes_all_that_is_its(store: Caller, tmp_path: Path) -> None:
    trace, other = row(thread_id="t"), row(thread_id="u")
    span = row(trace_id=trace["id"])
    store.traces(trace, other)
    store.spans(span)
    for kind, one in (("traces", trace), ("spans", span)):
        store.do("PUT", f"{kind}/{one['id']}/feedback-scores", {"name": "good", "value": 1})
        store.do("POST", f"{kind}/{one['id']}/comments", {"text": "fine"})
    store.do("POST", "traces/delete", {"ids": [trace["id"]]})
    assert [one["id"] for one in store.search("traces")] == [other["id"]]
    assert [one["id"] for one in store.search("traces/threads")] == ["u"]
    with sqlite3.connect(tmp_path / "traces.db") as db:
        left = [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for table in ("trace", "span", "score", "comment", "thread")]  # fmt: skip
    assert left == [1, 0, 0, 0, 1]
    store.do("DELETE", f"traces/{other['id']}")
    assert store.search("traces") == []


def test_what_is_not_there_is_said(store: Caller) -> None:
    missing = new_id()
    assert store.refusal("GET", f"traces/{missing}") == f"404 trace not found: {missing}"


@pytest.mark.parametrize(
    ("trace", "words"),
    [
        ({"id": "x"}, "id is no UUID: x"),
        ({"start_time": "soon"}, "start_time is no ISO 8601 time: soon"),
        ({"tags": "a"}, "tags is no list: a"),
        ({"ttft": "fast"}, "ttft is no number: fast"),
        ({"error_info": "x"}, "error_info is no dict: x"),
        ({"tags_to_add": 3}, "tags_to_add is a list of texts"),
    ],
)
def test_what_cannot_be_stored_is_refused_in_words(
    store: Caller, trace: dict[str, object], words: str
) -> None:
    body = {"traces": [row(**trace)]}
    assert store.refusal("POST", "traces/batch", body) == f"400 {words}"


def test_a_batch_is_stored_whole_or_not_at_all(store: Caller) -> None:
    assert store.ask("POST", "traces/batch", {"traces": [row(), row(id="x")]}).status == 400
    assert store.search("traces") == []
    assert "more than 1000" in store.refusal("POST", "traces/batch", {"traces": [row()] * 1001})
    assert "list of objects" in store.refusal("POST", "traces/batch", {"traces": 3})


def test_names_too_long_are_cut_and_ids_of_impossible_times_are_taken(store: Caller) -> None:
    far = "ffffffff-ffff-7fff-8fff-ffffffffffff"
    store.traces({"id": far, "project_name": PROJECT, "name": "n" * 20_000})
    assert len(store.get(f"traces/{far}")["name"]) == 10_000
    assert started_of(far) > START
    assert started_of("11111111-1111-4111-8111-111111111111") > START


def test_projects_are_made_by_their_traces_and_deleted_with_them(store: Caller) -> None:
    store.traces(row(), row(project_name=None))
    listed = store.get("projects", name="twi")
    assert [one["name"] for one in listed["content"]] == [PROJECT]
    project = store.do("POST", "projects/retrieve", {"name": PROJECT})
    assert project["last_updated_trace_at"]
    store.do("PATCH", f"projects/{project['id']}", {"name": "renamed", "description": "d"})
    assert store.get(f"projects/{project['id']}")["description"] == "d"
    assert "exists" in store.refusal("POST", "projects", {"name": "renamed"})
    assert "exists" in store.refusal(
        "PATCH", f"projects/{project['id']}", {"name": "Default Project"}
    )
    store.do("POST", "projects", {"name": "empty"})
    store.do("DELETE", f"projects/{project['id']}")
    assert store.refusal("GET", f"projects/{project['id']}").startswith("404 project not found")
    assert [one["name"] for one in store.get("projects")["content"]] == ["empty", "Default Project"]
    ids = [one["id"] for one in store.get("projects")["content"]]
    store.do("POST", "projects/delete", {"ids": ids})
    assert store.get("projects")["total"] == 0
    assert "1 to 500" in store.refusal("POST", "projects", {"name": ""})
    assert "500 characters" in store.refusal("POST", "traces", {"project_name": "p" * 501})


def _write(home: Path, number: int) -> None:
    caller = Caller(home)
    for _ in range(number):
        caller.traces(row())


def test_threads_and_processes_write_at_the_same_time(store: Caller, tmp_path: Path) -> None:
    store.traces(row())  # this process has an open connection when it forks
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_write, args=(tmp_path, 20)) for _ in range(2)]
    workers += [fork.Process(target=store.traces, args=(row(),)) for _ in range(2)]
    threads = [threading.Thread(target=lambda: store.traces(row())) for _ in range(5)]
    for one in [*workers, *threads]:
        one.start()
    for one in [*workers, *threads]:
        one.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len(store.search("traces")) == 48


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reader)
        caller = Caller(tmp_path)
        while True:
            trace = row()
            caller.traces(trace)
            os.write(writer, trace["id"].encode() + b"\n")
    os.close(writer)
    lines = os.fdopen(reader)
    acknowledged = [lines.readline().strip() for _ in range(50)]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    acknowledged += [line.strip() for line in lines]
    kept = {one["id"] for one in Caller(tmp_path).search("traces", limit=2000)}
    assert set(acknowledged) <= kept


def test_nothing_is_half_written_and_what_follows_a_commit_follows_it(tmp_path: Path) -> None:
    database = Database(tmp_path / "some.db")
    done: list[str] = []

    def fail() -> None:
        with database.write() as db:
            db.execute("INSERT INTO project VALUES ('1', 'p', '{}')")
            database.after_commit(lambda: done.append("never"))
            with database.write(), database.read() as inner:
                assert inner.execute("SELECT count(*) FROM project").fetchone() == (1,)
                raise KeyError

    with pytest.raises(KeyError):
        fail()
    with database.write() as db:
        with database.write(), database.read():
            database.after_commit(lambda: done.append("now"))
        assert db.execute("SELECT count(*) FROM project").fetchone() == (0,)
        assert done == []
    assert done == ["now"]
    with pytest.raises(RuntimeError, match="inside of write"):
        database.after_commit(lambda: None)
    database.close()


def test_a_new_file_waits_for_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "some.db"
    with sqlite3.connect(path, check_same_thread=False) as other:
        other.execute("CREATE TABLE t (a)")
        other.execute("BEGIN EXCLUSIVE")
        timer = threading.Timer(0.2, other.execute, ["COMMIT"])
        timer.start()
        database = Database(path)
        timer.join()
    with database.read() as db:
        assert db.execute("SELECT count(*) FROM trace").fetchone() == (0,)
    database.close()


def _open(path: Path, barrier: multiprocessing.synchronize.Barrier) -> None:
    barrier.wait(30)
    Database(path).close()


def test_several_processes_make_the_same_new_file(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    for number in range(4):
        barrier = fork.Barrier(6)
        path = tmp_path / f"{number}.db"
        workers = [fork.Process(target=_open, args=(path, barrier)) for _ in range(6)]
        for one in workers:
            one.start()
        for one in workers:
            one.join(60)
        assert [one.exitcode for one in workers] == [0] * 6


def test_a_store_of_a_newer_version_or_in_no_folder_is_refused(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "traces.db") as db:
        db.execute("PRAGMA user_version = 999")
    with pytest.raises(NotReadyError, match="newer version"):
        Store(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SpaceError, match="cannot be written"):
        Store(tmp_path / "file")


def test_a_store_that_cannot_be_written_says_so_and_to_come_again(
    store: Caller, tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "traces.db") as db:
        db.execute("DROP TABLE trace")
    answer = store.ask("POST", "traces", row())
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert "no such table" in json.loads(bytes(answer.body))["message"]  # type: ignore[arg-type]
