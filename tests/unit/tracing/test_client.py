"""Starting and ending tracing: in one process, in forks, without Opik, with a stuck store."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from reading_back import EMAIL, rows, run

from llm_twin.errors import ConfigError, SpaceError
from llm_twin.settings import Settings
from llm_twin.tracing import client, track
from llm_twin.tracing.client import Tracing
from llm_twin.tracing.store.store import Store

START = """
import os, sys, threading, time
from llm_twin.settings import Settings
from llm_twin.tracing import client, track
@track.traced("answer", before=lambda n: {"input": {"n": n}}, after=lambda n: {"output": {"n": n}})
def answer(n):
    return n
settings = Settings(home=home)
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "traces")
    yield store
    store.close()


@track.traced("ask")
def ask() -> str:
    return track.trace_id()


def _numbers(store: Store) -> list[int]:
    return sorted(row["input"]["n"] for row in rows(store, "traces"))


def test_starting_twice_is_starting_once(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    tracing = client.start(settings)

    assert client.start(settings) is tracing is client.current()
    assert tracing.stop()
    assert client.current() is None


def test_another_home_takes_over(tmp_path: Path) -> None:
    first = client.start(Settings(home=tmp_path / "a"))
    ask()
    second = client.start(Settings(home=tmp_path / "b"))
    ask()
    assert second.stop()

    assert [len(rows(one.store, "traces")) for one in (first, second)] == [1, 1]


def test_a_score_arrives_whatever_comes_first(tmp_path: Path) -> None:
    tracing = client.start(Settings(home=tmp_path))
    identity = ask()
    tracing.score(identity, "helpful", 1, f"thanks, {EMAIL}")
    assert tracing.stop()

    (trace,) = rows(tracing.store, "traces")
    (score,) = trace["feedback_scores"]
    assert (score["name"], score["value"], score["reason"]) == ("helpful", 1, "thanks, [EMAIL]")


def test_a_score_that_cannot_be_written_down_is_told(tmp_path: Path) -> None:
    tracing = client.start(Settings(home=tmp_path))
    tracing.journal.folder = tmp_path / "traces" / "traces.db" / "no"

    with pytest.raises(SpaceError, match="score cannot be written"):
        tracing.score("01a208da-a488-7cca-84c0-0a2ed1dc5781", "helpful", 1)
    tracing.stop()


def test_what_ends_after_the_end_is_kept_for_the_next_start(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    client.start(settings)
    import opik

    begun, ended = threading.Event(), threading.Event()

    @opik.track
    def slow() -> None:
        begun.set()
        ended.wait(20)

    thread = threading.Thread(target=slow)
    thread.start()
    begun.wait(20)
    tracing = client.current()
    assert tracing is not None
    tracing.stop()
    ended.set()
    thread.join(20)

    assert rows(tracing.store, "traces") == []
    tracing.journal._segment.close(remove=False)
    assert client.recover(settings, tracing.store) == 1
    assert [row["name"] for row in rows(tracing.store, "traces")] == ["slow"]


def test_a_killed_process_loses_nothing(tmp_path: Path, store: Store) -> None:
    died = run(
        START + "client.start(settings)\nfor n in range(30): answer(n)\nos.kill(os.getpid(), 9)\n",
        tmp_path,
    )

    assert died.returncode == -signal.SIGKILL
    client.recover(Settings(home=tmp_path), store)
    assert _numbers(store) == list(range(30))
    assert len(rows(store, "spans")) == 30


def test_a_fork_after_the_start_traces_on_both_sides(tmp_path: Path, store: Store) -> None:
    """As gunicorn --preload does: the parent has traced, then workers are forked and killed."""
    done = run(
        START + "client.start(settings); answer(0)\n"
        "children = []\n"
        "for child in (1, 2):\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        answer(child * 10); answer(child * 10 + 1)\n"
        "        if child == 1: os.kill(os.getpid(), 9)\n"
        "        sys.exit(0)\n"
        "    children.append(pid)\n"
        "print([os.waitpid(pid, 0)[1] for pid in children])\n"
        "answer(1)\n",
        tmp_path,
    )

    assert done.stdout == "[9, 0]\n", done.stderr
    client.recover(Settings(home=tmp_path), store)
    assert _numbers(store) == [0, 1, 10, 11, 20, 21]


def test_a_stuck_store_holds_up_no_exit(tmp_path: Path, store: Store) -> None:
    """Another process holds the database for longer than this one is given."""
    with store.database.write():
        done = run(
            START + "client.start(settings); answer(7)\n",
            tmp_path,
            timeout=25,
        )

    assert done.returncode == 0, done.stderr
    assert client.recover(Settings(home=tmp_path), store) == 1
    assert _numbers(store) == [7]


def test_without_opik_the_words_are_clear(tmp_path: Path) -> None:
    done = run(
        "import sys\nsys.modules['opik'] = None\n" + START + "client.start(settings)\n", tmp_path
    )

    assert "NotReadyError: tracing needs the Opik SDK" in done.stderr
    assert "./bootstrap" in done.stderr


def test_a_bad_pattern_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 1"):
        client.start(Settings(home=tmp_path, trace_patterns="("))

    assert client.current() is None


def test_nothing_is_said_on_the_terminal(tmp_path: Path) -> None:
    done = run(START + "client.start(settings); answer(1)\n", tmp_path)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_the_process_says_of_itself_is_on_every_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWIN_IMAGE_DIGEST", "sha256:11")
    monkeypatch.setenv("TWIN_RUN_ID", "run-1")
    tracing: Tracing = client.start(Settings(home=tmp_path))
    ask()
    tracing.stop()

    metadata = rows(tracing.store, "traces")[0]["metadata"]
    assert metadata["image_digest"] == "sha256:11"
    assert metadata["run_id"] == "run-1"
    assert os.environ["OPIK_SENTRY_ENABLE"] == "false"
