"""What becomes of children: their answers, output and descendants, and their end."""

import contextlib
import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llm_twin.errors import ConfigError
from llm_twin.flow import child, process
from llm_twin.flow.mask import Masker
from llm_twin.flow.process import Children, Work
from llm_twin.flow.tree import kill_left

NAP = ["sleep", "300"]


def gone(pid: int) -> bool:
    """Whether a process has ended, waiting a little for it; one that nobody reaps has."""
    for _ in range(200):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def nap_in_a_session():
    """A daemon that is a program of its own."""
    return subprocess.Popen(NAP, start_new_session=True, stdout=subprocess.DEVNULL).pid


def fork_into_a_session():
    """A daemon that starts no program: its environment is that of the process before the fork."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        time.sleep(300)
        os._exit(0)
    return pid


def ignore_sigint():
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Bench:
    """Children, and what one of them printed."""

    def __init__(self, folder):
        self.log = folder / "stage.log"
        self.shown = []
        self.children = Children()

    def start(self, function, name="stage", timeout=None, wants_retry=lambda error: False):
        cookie = f"{self.log.parent.name}/{name}/1"
        stream = Masker([]).stream()
        self.children.start(
            Work(name, cookie, function, wants_retry, self.log, self.shown.append, stream, timeout)
        )

    def end(self):
        """Wait for the next to end."""
        for _ in range(600):
            if ended := self.children.wait(0.1):
                return ended[0][1]
        raise AssertionError("it did not end")

    def outcome(self, function, **options):
        self.start(function, **options)
        return self.end()

    def until_written(self, path):
        for _ in range(200):
            self.children.wait(0.05)
            if path.exists() and path.read_text().endswith("\n"):
                return [int(word) for word in path.read_text().split()]
        raise AssertionError(f"{path} was not written")


@pytest.fixture
def bench(tmp_path):
    found = Bench(tmp_path)
    with contextlib.closing(found.children):
        yield found


def test_an_answer_arrives_with_what_it_cost(bench):
    def work():
        print("hello")
        sum(i * i for i in range(200_000))
        return {"text": "é", "path": Path("x"), "list": (1, 2)}

    outcome = bench.outcome(work)
    assert (outcome.exit_code, outcome.error, outcome.signal) == (0, "", "")
    assert outcome.result == {"text": "é", "path": "x", "list": [1, 2]}
    assert outcome.cpu > 0
    assert outcome.peak_mb > 1
    assert bench.log.read_text() == "".join(bench.shown) == "hello\n"


def test_a_child_that_cannot_leave_does_not_go_on_as_its_parent(bench, monkeypatch):
    def refuse(code):
        raise OSError("something wraps it, and fails")

    monkeypatch.setattr(os, "_exit", refuse)
    assert bench.outcome(lambda: 42).signal == "SIGKILL"


def test_threads_that_the_work_started_come_to_their_end(bench, tmp_path):
    def work():
        threading.Thread(target=lambda: time.sleep(0.3) or (tmp_path / "done").touch()).start()

    assert bench.outcome(work).exit_code == 0
    assert (tmp_path / "done").exists()


def test_a_large_answer_arrives_whole(bench):
    assert bench.outcome(lambda: "x" * 5_000_000).result == "x" * 5_000_000


def test_an_answer_is_not_lost_behind_a_left_over_that_writes_for_ever(bench):
    def work():
        subprocess.Popen(["yes"])
        time.sleep(0.3)
        return 42

    assert bench.outcome(work).result == 42


@pytest.mark.parametrize(
    ("leave", "code", "said"),
    [
        (lambda: sys.exit(3), 3, "exit code 3"),
        (lambda: sys.exit(256), 1, "exit code 1"),
        (lambda: sys.exit(-1), 255, "exit code 255"),
        (lambda: sys.exit("no"), 1, "exit code 1"),
        (lambda: os._exit(7), 7, "ended with exit code 7 and no answer"),
        (lambda: signal.raise_signal(signal.SIGRTMIN + 3), 165, "killed by signal 37"),
        (lambda: os._exit(0), 1, "ended with exit code 0 and no answer"),
        (lambda: {(1, 2): 3}, 1, "TypeError: keys must be str"),
        (lambda: signal.raise_signal(signal.SIGINT), 130, "interrupted"),
    ],
)  # fmt: skip
def test_every_way_to_leave_has_an_exit_code_and_a_line(bench, leave, code, said):
    outcome = bench.outcome(leave)
    assert (outcome.exit_code, outcome.error.partition(",")[0]) == (code, said)
    assert outcome.crashed is ("no answer" in said or "killed" in said)


def test_a_text_given_to_exit_is_printed(bench):
    bench.outcome(lambda: sys.exit("not today"))
    assert bench.log.read_text() == "not today\n"


def test_an_error_a_user_can_meet_has_no_traceback(bench):
    def work():
        raise ConfigError("a setting is wrong", "TWIN_X", "Unset it")

    outcome = bench.outcome(work, wants_retry=lambda error: isinstance(error, ConfigError))
    assert (outcome.exit_code, outcome.retry) == (2, True)
    assert outcome.error == "a setting is wrong: TWIN_X. Unset it"
    assert bench.log.read_text() == ""


def test_a_traceback_begins_with_the_stage_s_own_code(bench):
    def work():
        raise ValueError("boom\nmore")

    assert bench.outcome(work).error == "ValueError: boom"
    assert f'"{child.__file__}"' not in bench.log.read_text()
    assert bench.log.read_text().endswith("ValueError: boom\nmore\n")


@pytest.mark.parametrize("end", [sys.exit, ValueError])
def test_a_stage_may_close_its_streams(bench, end):
    def work():
        print("before")
        sys.stdout.close()
        sys.stderr.close()
        if end is ValueError:
            raise ValueError("boom")
        return 42

    outcome = bench.outcome(work)
    assert outcome.result == (42 if end is sys.exit else None)
    assert outcome.error == ("" if end is sys.exit else "ValueError: boom")
    assert bench.log.read_text() == "before\n"


def test_a_stage_may_close_its_descriptors_and_replace_its_streams(bench):
    def work():
        os.close(1)
        os.close(2)
        sys.stdout = sys.stderr = None
        return 42

    assert bench.outcome(work).result == 42


def test_a_crash_is_called_what_it_was(bench):
    def work():
        faulthandler.disable()
        ctypes.string_at(0)

    outcome = bench.outcome(work)
    assert (outcome.exit_code, outcome.signal) == (139, "SIGSEGV")
    assert outcome.error == "killed by SIGSEGV"


def test_what_is_no_text_is_kept_as_it_is_and_shown_as_well_as_it_can_be(bench):
    def work():
        print("\udc80 lone", flush=True)
        os.write(1, b"\xff\xfe caf\xc3")
        time.sleep(0.3)
        os.write(1, b"\xa9\n\xc3")

    bench.outcome(work)
    assert bench.log.read_bytes() == b"\\udc80 lone\n\xff\xfe caf\xc3\xa9\n\xc3"
    assert "".join(bench.shown) == "\\udc80 lone\n\ufffd\ufffd café\n\ufffd"


def test_standard_input_is_empty(bench):
    outcome = bench.outcome(lambda: subprocess.run(["cat"], check=True, timeout=20).returncode)
    assert outcome.result == 0


def test_a_line_without_an_end_is_shown_while_the_stage_waits(bench):
    def work():
        os.write(1, b"name? ")
        time.sleep(300)

    bench.start(work)
    for _ in range(100):
        bench.children.wait(0.1)
        if bench.shown:
            break
    assert bench.shown == ["name? "]


@pytest.mark.parametrize("daemon", [nap_in_a_session, fork_into_a_session])
def test_a_daemon_with_a_session_of_its_own_survives_a_normal_end(bench, daemon):
    pid = bench.outcome(daemon).result
    os.kill(pid, 0)
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)


@pytest.mark.parametrize("why", ["timeout", "cancelled"])
@pytest.mark.parametrize("daemon", [nap_in_a_session, fork_into_a_session])
def test_no_daemon_survives_a_stop(bench, tmp_path, daemon, why):
    def work():
        pids = [daemon(), subprocess.Popen(NAP).pid]
        (tmp_path / "pids").write_text(" ".join(map(str, pids)) + "\n")
        time.sleep(300)

    bench.start(work, timeout=3.0 if why == "timeout" else None)
    pids = bench.until_written(tmp_path / "pids")
    if why == "cancelled":
        bench.children.stop("stage", "cancelled")
    outcome = bench.end()
    assert outcome.stopped == why
    assert outcome.exit_code == 130
    assert all(map(gone, pids))


def test_what_stays_in_the_stage_s_own_group_is_ended_after_it(bench):
    def work():
        polite = subprocess.Popen(NAP)
        stubborn = subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 1; done"])
        time.sleep(0.3)
        return [polite.pid, stubborn.pid]

    pids = bench.outcome(work).result
    bench.children.close()
    assert all(map(gone, pids))


def test_a_stage_that_ignores_the_request_is_killed_after_the_grace(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.2)

    def work():
        ignore_sigint()
        (tmp_path / "pids").write_text(f"{os.getpid()}\n")
        time.sleep(300)

    bench.start(work)
    bench.until_written(tmp_path / "pids")
    bench.children.stop("stage", "cancelled")
    outcome = bench.end()
    assert (outcome.stopped, outcome.signal) == ("cancelled", "SIGKILL")


def test_what_ended_in_time_is_not_late_because_its_parent_was_busy(bench):
    bench.start(lambda: 42, timeout=2)
    time.sleep(2.5)
    outcome = bench.end()
    assert (outcome.stopped, outcome.result) == ("", 42)


def test_a_stage_may_clean_up_when_it_is_asked_to_stop(bench, tmp_path):
    def work():
        try:
            (tmp_path / "pids").write_text(f"{os.getpid()}\n")
            time.sleep(300)
        finally:
            print("cleaned up")

    bench.start(work)
    bench.until_written(tmp_path / "pids")
    bench.children.stop("stage", "cancelled")
    assert bench.end().exit_code == 130
    assert bench.log.read_text() == "cleaned up\n"


def test_nothing_is_started_when_the_log_cannot_be_written(bench, tmp_path):
    bench.log = tmp_path / "no folder" / "log"
    with pytest.raises(FileNotFoundError):
        bench.start(lambda: (tmp_path / "ran").touch())
    assert len(bench.children) == 0
    assert not (tmp_path / "ran").exists()


def test_a_sink_that_fails_leaves_nothing_behind(bench, tmp_path):
    def work():
        (tmp_path / "pids").write_text(f"{os.getpid()} {subprocess.Popen(NAP).pid}\n")
        while True:
            print("x" * 1000)

    def broken(text):
        raise BrokenPipeError

    bench.shown = type("Shown", (), {"append": staticmethod(broken)})
    bench.start(work)
    with pytest.raises(BrokenPipeError):
        bench.until_written(tmp_path / "never")
    bench.children.close()
    assert len(bench.children) == 0
    assert all(gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())


def test_a_sink_that_fails_on_the_last_words_leaves_nothing_behind(bench):
    def broken(text):
        raise BrokenPipeError

    bench.shown = type("Shown", (), {"append": staticmethod(broken)})
    bench.start(lambda: os.write(1, b"last words") and None)
    with pytest.raises(BrokenPipeError):
        bench.end()
    bench.children.close()
    assert len(bench.children) == 0


def test_a_log_that_is_full_leaves_nothing_behind(bench):
    bench.log = Path("/dev/full")
    bench.start(lambda: print("hello") or time.sleep(300))
    with pytest.raises(OSError, match="No space left"):
        bench.end()
    bench.children.close()
    assert len(bench.children) == 0


def test_children_do_not_keep_each_other_s_pipes(bench):
    bench.start(lambda: time.sleep(300), name="long")
    bench.start(lambda: os.getpid(), name="short")
    outcome = bench.end()
    assert outcome.result
    assert bench.children.names() == ["long"]


CLOSED = """
import os, sys
for fd in (0, 1, 2):
    os.close(fd)
sys.stdin = sys.stdout = sys.stderr = None
sys.path.insert(0, {tests!r})
from test_process import Bench
from pathlib import Path
outcome = Bench(Path.cwd()).outcome(lambda: print("hello") or 42)
Path("result").write_text(repr(outcome.result))
"""


def test_a_parent_without_any_standard_stream(tmp_path):
    script = CLOSED.format(tests=str(Path(__file__).parent))
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "result").read_text() == "42"
    assert (tmp_path / "stage.log").read_text() == "hello\n"


PARENT = """
import subprocess, sys, time
sys.path.insert(0, {tests!r})
from test_process import Bench, NAP, fork_into_a_session, nap_in_a_session
from pathlib import Path

def work():
    pids = [fork_into_a_session(), nap_in_a_session(), subprocess.Popen(NAP).pid]
    Path("pids").write_text(" ".join(map(str, pids)) + "\\n")
    time.sleep(300)

bench = Bench(Path.cwd())
bench.start(work)
bench.end()
"""


@pytest.fixture
def parent(tmp_path):
    """A process with a running child, and the process ids of the child's descendants."""
    script = PARENT.format(tests=str(Path(__file__).parent))
    with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path) as found:
        for _ in range(400):
            if (tmp_path / "pids").exists() and (tmp_path / "pids").read_text().endswith("\n"):
                break
            time.sleep(0.05)
        yield found, [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        found.kill()


def test_a_killed_parent_leaves_nobody(parent):
    found, pids = parent
    found.kill()
    assert all(map(gone, pids))


def test_what_a_parent_and_a_child_killed_together_leave_is_found(parent, tmp_path):
    found, pids = parent
    children = Path(f"/proc/{found.pid}/task/{found.pid}/children").read_text().split()
    for pid in (found.pid, *map(int, children)):
        os.kill(pid, signal.SIGSTOP)  # so that neither sees the other die
    for pid in (found.pid, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    found.wait()
    forked, *programs = pids
    assert Path(f"/proc/{programs[0]}").exists()
    kill_left("another", ["stage"])
    assert Path(f"/proc/{programs[0]}").exists()
    kill_left(tmp_path.name, ["stage"])
    assert all(map(gone, programs))
    with contextlib.suppress(ProcessLookupError):
        os.kill(forked, signal.SIGKILL)  # a program's environment is all that can be seen now
