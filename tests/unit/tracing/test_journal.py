"""The journal: what was appended arrives, whatever happens to the process or the store."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from reading_back import run

from llm_twin.tracing import journal as module
from llm_twin.tracing.delivery import Unavailable
from llm_twin.tracing.journal import Journal

APPENDS = """
from llm_twin.tracing.journal import Journal
journal = Journal(home, lambda method, path, body: {status})
"""


class Shelf:
    """A store that keeps bodies, and may be closed or hang."""

    def __init__(self) -> None:
        self.status = 204
        self.bodies: list[bytes] = []
        self.opened = threading.Event()
        self.opened.set()

    def deliver(self, method: str, path: str, body: bytes) -> int:
        self.opened.wait(10)
        if self.status < 300:
            self.bodies.append(body)
        return self.status

    def ids(self) -> list[int]:
        return [row["id"] for body in self.bodies for row in json.loads(body)["traces"]]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def journal(tmp_path: Path, shelf: Shelf) -> Iterator[Journal]:
    journal = Journal(tmp_path, shelf.deliver)
    yield journal
    shelf.opened.set()
    journal.close()


def _record(number: int, text: str = "") -> bytes:
    return json.dumps({"id": number, "text": text}).encode()


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.journal"))


def test_what_is_appended_arrives_and_leaves_the_file(
    tmp_path: Path, journal: Journal, shelf: Shelf
) -> None:
    for number in range(50):
        journal.append("traces", _record(number))

    assert journal.flush(10)
    assert shelf.ids() == list(range(50))
    assert journal.close()
    assert _files(tmp_path) == []


def test_a_record_longer_than_what_is_read_at_once_arrives(
    journal: Journal, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 100)
    journal.append("traces", _record(1, "x" * 1000))
    journal.append("traces", _record(2))

    assert journal.flush(10)
    assert shelf.ids() == [1, 2]


def test_what_a_store_cannot_take_now_arrives_later(
    journal: Journal, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    shelf.status = 503
    journal.append("traces", _record(1))

    assert not journal.flush(0.1)
    shelf.status = 204
    assert journal.flush(10)
    assert shelf.ids() == [1]


def test_a_hanging_store_holds_up_no_end_and_the_record_waits(
    tmp_path: Path, journal: Journal, shelf: Shelf
) -> None:
    shelf.opened.clear()
    journal.append("traces", _record(1))

    assert not journal.close(0.1)
    assert b'"id": 1' in _files(tmp_path)[0].read_bytes()


def test_a_store_that_fails_at_the_end_leaves_the_record_for_the_next(
    tmp_path: Path, shelf: Shelf
) -> None:
    shelf.status = 503
    journal = Journal(tmp_path, shelf.deliver)
    journal.append("traces", _record(1))

    assert not journal.close(5)
    shelf.status = 204
    assert Journal(tmp_path, shelf.deliver).recover() == 1
    assert shelf.ids() == [1]
    assert _files(tmp_path) == []


def test_what_a_killed_process_wrote_is_carried_on_once(tmp_path: Path, shelf: Shelf) -> None:
    died = run(
        APPENDS.format(status=503) + "import os, signal\n"
        "for number in range(20):\n"
        "    journal.append('traces', b'{\"id\": %d}' % number)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n",
        tmp_path,
    )

    assert died.returncode == -signal.SIGKILL
    assert Journal(tmp_path, shelf.deliver).recover() == 1
    assert shelf.ids() == list(range(20))
    assert Journal(tmp_path, shelf.deliver).recover() == 0


def test_a_line_cut_off_by_a_kill_was_never_acknowledged(tmp_path: Path, shelf: Shelf) -> None:
    (tmp_path / "1-1.journal").write_bytes(b'traces\t{"id": 1}\ntraces\t{"id"')

    assert Journal(tmp_path, shelf.deliver).recover() == 1
    assert shelf.ids() == [1]


def test_the_file_of_a_living_process_is_left_alone(tmp_path: Path, shelf: Shelf) -> None:
    shelf.status = 503
    living = Journal(tmp_path, shelf.deliver)
    living.append("traces", _record(1))

    other = Shelf()
    assert Journal(tmp_path, other.deliver).recover() == 0
    assert other.ids() == []
    living.close()


def test_an_orphan_that_the_store_cannot_take_stays(tmp_path: Path, shelf: Shelf) -> None:
    (tmp_path / "1-1.journal").write_bytes(b'traces\t{"id": 1}\n')
    shelf.status = 429

    with pytest.raises(Unavailable):
        Journal(tmp_path, shelf.deliver).recover()
    assert len(_files(tmp_path)) == 1


def test_a_running_journal_carries_on_what_others_left(
    tmp_path: Path, journal: Journal, shelf: Shelf
) -> None:
    (tmp_path / "1-1.journal").write_bytes(b'traces\t{"id": 7}\n')
    journal._last_look = -module.ORPHANS_SECONDS
    journal.begin()
    journal.append("traces", _record(8))

    ends = time.monotonic() + 30
    while len(shelf.ids()) < 2 and time.monotonic() < ends:
        time.sleep(0.01)
    journal.close()
    assert sorted(shelf.ids()) == [7, 8]


def test_a_fork_writes_a_file_of_its_own(tmp_path: Path, journal: Journal, shelf: Shelf) -> None:
    journal.append("traces", _record(1))
    assert journal.flush(10)
    child = os.fork()
    if child == 0:
        journal._deliver = lambda method, path, body: 503
        journal.append("traces", _record(2))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

    assert journal.recover() == 1
    journal.append("traces", _record(3))
    assert journal.flush(10)
    assert shelf.ids() == [1, 2, 3]


def test_a_full_disk_is_told_and_leaves_no_half_line(tmp_path: Path, shelf: Shelf) -> None:
    done = run(
        APPENDS.format(status=503) + "import resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, -1))\n"
        "journal.append('traces', b'{\"id\": 1}')\n"
        "try:\n"
        "    journal.append('traces', b'x' * 200)\n"
        "except OSError as error:\n"
        "    print(error, journal.waiting())\n"
        "journal.append('traces', b'{\"id\": 2}')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))\n"
        "import os; os._exit(0)\n",
        tmp_path,
    )

    assert done.stdout.endswith("could be written 17\n"), done.stderr
    Journal(tmp_path, shelf.deliver).recover()
    assert shelf.ids() == [1, 2]


def test_a_span_waits_for_its_trace_or_for_a_moment(
    tmp_path: Path, journal: Journal, shelf: Shelf
) -> None:
    journal.append("spans", _record(1))
    journal.append("traces", _record(2))
    assert journal.flush(10)
    journal.append("spans", _record(3))

    assert journal.flush(10)
    assert sorted(json.loads(body).popitem()[1][0]["id"] for body in shelf.bodies) == [1, 2, 3]


def test_spans_that_cannot_be_written_at_the_end_are_told(
    tmp_path: Path, shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    journal = Journal(tmp_path / "file", shelf.deliver)
    journal._closing = True
    journal.append("spans", _record(1))

    assert not journal.close()
    assert "1 spans are lost" in caplog.text


def test_many_threads_lose_nothing(journal: Journal, shelf: Shelf) -> None:
    def append(first: int) -> None:
        for number in range(first, first + 100):
            journal.append("traces", _record(number))

    threads = [threading.Thread(target=append, args=(100 * place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert journal.flush(10)
    assert sorted(shelf.ids()) == list(range(800))
