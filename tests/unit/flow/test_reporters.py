"""What a person or a program sees of a run while it goes on: lines, a board, JSON."""

import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import textwrap

import pytest

from llm_twin.flow.board import BoardReporter
from llm_twin.flow.github import GitHubReporter
from llm_twin.flow.records import StageRun
from llm_twin.flow.report import JsonReporter, PlainReporter, choose
from llm_twin.flow.runner import RunResult
from llm_twin.flow.states import awaiting_retry, cancelled, completed, crashed, failed


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def logs(tmp_path):
    return tmp_path


@pytest.fixture
def out():
    return io.StringIO()


@pytest.fixture
def plain(out, clock):
    return PlainReporter(out, clock)


def ended(stage, state=None, took=None, **fields):
    times = (None, None) if took is None else (1000.0, 1000.0 + took)
    return StageRun(stage, state or completed(), *times, **fields)


def result(*stages, state=None):
    state = state or completed()
    return RunResult("r-1", state, 0 if state.good else 1, list(stages))


def say(reporter, logs, stage, data):
    """Print as a stage does: to its log, and to the reporter."""
    with (logs / f"{stage}.log").open("ab") as file:
        file.write(data)
    reporter.output(stage, data.decode("utf-8", "replace"))


# Plain lines


def test_a_single_stage_is_heard_at_once(plain, out, logs, clock):
    plain.run_started("r-1", ["train"], logs)
    plain.stage_started("train", ["input a.md is new"], 1)
    say(plain, logs, "train", b"half a li")
    assert out.getvalue() == "run r-1: train\ntrain runs because input a.md is new\nhalf a li"
    say(plain, logs, "train", b"ne\nrest")
    plain.stage_ended(ended("train", took=1))
    clock.now += 1.5
    plain.run_ended(result(ended("train")))
    assert out.getvalue().splitlines()[2:] == [
        "half a line",
        "rest",
        "run r-1: Completed after 1.5 s",
    ]


def test_each_of_several_stages_is_one_block(plain, out, logs, clock):
    plain.run_started("r-1", ["lint", "tests", "docs", "quiet"], logs)
    plain.stage_started("lint", [], 1)
    plain.stage_started("tests", ["code a.py changed"], 1)
    plain.stage_started("quiet", [], 1)
    for word in (b"one", b"two", b"three"):
        say(plain, logs, "lint", word + b" of lint\n")
        say(plain, logs, "tests", word + b" of tests \xff\n")
    plain.stage_ended(ended("tests", failed("1 failed"), 70))
    plain.stage_ended(ended("docs", cancelled("tests did not complete", "Skipped")))
    plain.stage_ended(ended("lint", took=2))
    plain.stage_ended(ended("quiet", took=0.1))
    clock.now += 72
    plain.run_ended(result(ended("lint"), ended("tests", failed("x")), state=failed("x")))
    assert out.getvalue().splitlines() == [
        "run r-1: lint, tests, docs, quiet",
        "-- tests runs because code a.py changed",
        "one of tests \ufffd",
        "two of tests \ufffd",
        "three of tests \ufffd",
        "-- tests Failed after 1 min 10 s: 1 failed",
        "-- docs Cancelled(Skipped): tests did not complete",
        "-- lint",
        "one of lint",
        "two of lint",
        "three of lint",
        "-- lint Completed after 2.0 s",
        "-- quiet Completed after 0.1 s",
        "run r-1: Failed after 1 min 12 s (1 Completed, 1 Failed)",
        "look at it: invoke runs.logs r-1",
        "go on with it: invoke runs.resume r-1",
    ]


def test_what_was_unchanged_is_one_line(plain, out, logs):
    plain.run_started("r-2", ["lint", "types"], logs)
    done = completed("nothing changed since run r-1: 3 code files are the same", "Cached")
    plain.stage_ended(ended("lint", done))
    plain.run_ended(result(ended("lint", done), ended("types", done), state=done))
    assert out.getvalue().splitlines()[1:] == [
        "-- lint Completed(Cached): nothing changed since run r-1: 3 code files are the same",
        "run r-1: Completed(Cached) after 0.0 s (2 Completed(Cached))",
    ]


def test_an_attempt_that_failed_says_when_the_next_one_starts(plain, out, logs, clock):
    plain.run_started("r-1", ["fetch"], logs)
    plain.stage_started("fetch", ["it has not completed here before"], 1)
    say(plain, logs, "fetch", b"connecting")
    plain.stage_waiting("fetch", awaiting_retry("attempt 1 of 3: no route; the next in 2.0 s"))
    clock.now += 40
    plain.tick()
    plain.stage_started("fetch", ["it has not completed here before"], 2)
    say(plain, logs, "fetch", b"connected\n")
    plain.stage_ended(ended("fetch", crashed("killed by SIGKILL"), 12))
    plain.run_ended(result(ended("fetch"), state=crashed("fetch: killed")))
    assert out.getvalue().splitlines()[1:] == [
        "fetch runs because it has not completed here before",
        "connecting",
        "-- fetch Scheduled(AwaitingRetry): attempt 1 of 3: no route; the next in 2.0 s",
        "connected",
        "-- fetch Crashed after 12 s: killed by SIGKILL",
        "run r-1: Crashed after 40 s",
        "look at it: invoke runs.logs r-1",
        "go on with it: invoke runs.resume r-1",
    ]


def test_long_silence_is_broken(plain, out, logs, clock):
    plain.run_started("r-1", ["tests", "types", "docs"], logs)
    plain.stage_started("tests", [], 1)
    clock.now += 88
    plain.stage_started("types", [], 1)
    plain.tick()
    clock.now += 17
    plain.tick()
    clock.now += 12
    plain.tick()
    assert out.getvalue().splitlines()[1:] == [".. still running: tests 1 min 28 s, types 0.0 s"]
    clock.now += 1
    plain.tick()
    assert out.getvalue().splitlines()[2:] == [".. still running: tests 1 min 58 s, types 30 s"]


def test_a_resumed_run_shows_only_what_is_new(plain, out, logs):
    (logs / "a.log").write_text("of yesterday\n")
    plain.run_started("r-1", ["a", "b"], logs)
    plain.stage_started("a", [], 3)
    say(plain, logs, "a", b"of today\n")
    plain.stage_ended(ended("a", took=1))
    assert "yesterday" not in out.getvalue()
    assert "of today" in out.getvalue()


def test_a_long_log_is_cut_in_the_middle_and_a_long_line_is_not(plain, out, logs):
    plain.run_started("r-1", ["a", "b"], logs)
    plain.stage_started("a", [], 1)
    plain.stage_started("b", [], 1)
    (logs / "a.log").write_text("".join(f"line {n}\n" for n in range(600_000)))
    (logs / "b.log").write_bytes(b"y" * 10_000_000 + b"\xff")
    plain.stage_ended(ended("a"))
    shown = out.getvalue().splitlines()
    assert len(shown) == 2004
    assert f".. 598000 lines left out; all of them: {logs / 'a.log'}" in shown
    plain.stage_ended(ended("b"))
    assert "y" * 10_000_000 + "\ufffd\n-- b Completed" in out.getvalue()


def test_a_stream_that_cannot_say_everything_still_says_the_rest(logs):
    raw = io.BytesIO()
    reporter = PlainReporter(io.TextIOWrapper(raw, encoding="ascii"))
    reporter.run_started("r-1", ["a"], logs)
    reporter.output("a", "45% █ done\n")
    assert raw.getvalue() == b"run r-1: a\n45% ? done\n"


def test_a_note(plain, out):
    plain.note("run r-0 had died; it is marked Crashed")
    assert out.getvalue() == "run r-0 had died; it is marked Crashed\n"


# JSON


def test_json_is_one_object_a_line_and_nothing_else(out, logs):
    reporter = JsonReporter(out)
    reporter.note("hello")
    reporter.run_started("r-1", ("a",), logs)
    reporter.stage_started("a", ("new",), 1)
    reporter.output("a", "x\ny ü")
    reporter.stage_waiting("a", awaiting_retry("next in 1 s"))
    reporter.tick()
    done = ended("a", failed("no"), 2, result={"n": 1}, outputs={"f": "d"}, attempts=2)
    reporter.stage_ended(done)
    reporter.run_ended(result(done, state=failed("a: no")))
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert all(event.pop("time") > 1e9 for event in events)
    assert events[:5] == [
        {"event": "note", "text": "hello"},
        {"event": "run_started", "run": "r-1", "stages": ["a"], "logs": str(logs)},
        {"event": "stage_started", "stage": "a", "why": ["new"], "attempt": 1},
        {"event": "output", "stage": "a", "text": "x\ny ü"},
        {
            "event": "stage_waiting",
            "stage": "a",
            "state": "Scheduled(AwaitingRetry)",
            "message": "next in 1 s",
        },
    ]
    assert events[5]["outputs"] == {"f": "d"}
    assert (events[5]["event"], events[5]["state"], events[5]["attempts"]) == (
        "stage_ended",
        "Failed",
        2,
    )
    assert events[6] == {
        "event": "run_ended",
        "run": "r-1",
        "state": "Failed",
        "message": "a: no",
        "exit_code": 1,
    }
    assert len(events) == 7


# Which one


@pytest.mark.parametrize(
    ("terminal", "environ", "kind"),
    [
        (True, {}, BoardReporter),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, BoardReporter),
        (True, {"TERM": "dumb"}, PlainReporter),
        (True, {"CI": "true"}, PlainReporter),
        (False, {}, PlainReporter),
        (False, {"GITHUB_ACTIONS": "true", "CI": "true"}, GitHubReporter),
    ],
)
def test_the_reporter_fits_where_its_output_goes(terminal, environ, kind):
    out = Terminal() if terminal else io.StringIO()
    assert type(choose(out, environ=environ)) is kind
    assert type(choose(out, json=True, environ=environ)) is JsonReporter


def test_the_default_is_stdout(capsys):
    choose(environ={}).note("here")
    assert capsys.readouterr().out == "here\n"
    assert choose(json=True).out is sys.stdout


# The board


class Screen:
    """As much of a terminal as the board uses: what a person would see, row by row."""

    def __init__(self):
        self.rows, self.y, self.x = [""], 0, 0
        self.cursor = True

    def feed(self, text):
        for number, final, plain in re.findall(r"\x1b\[([0-9;?]*)([a-zA-Z])|([^\x1b])", text):
            if plain == "\n":
                self.y += 1
                self.rows += [""] * (self.y + 1 - len(self.rows))
            elif plain == "\r":
                self.x = 0
            elif plain:
                row = self.rows[self.y].ljust(self.x)
                self.rows[self.y] = row[: self.x] + plain + row[self.x + 1 :]
                self.x += 1
            elif final == "A":
                self.y -= int(number or 1)
            elif final == "K":
                self.rows[self.y] = ""
            elif final in "hl":
                self.cursor = final == "h"
            else:
                assert final == "m"
        return self

    @property
    def text(self):
        return "\n".join(row.rstrip() for row in self.rows)


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


@pytest.fixture
def board(terminal, clock):
    return BoardReporter(terminal, clock)


def seen(terminal):
    return Screen().feed(terminal.getvalue().replace("\n", "\r\n"))


def test_the_board_shows_every_stage_while_it_runs(board, terminal, logs, clock):
    board.note("r-0 had died")
    board.run_started("r-1", ["lint", "types", "tests", "deploy"], logs)
    cached = ended("lint", completed("nothing changed", "Cached"))
    board.stage_ended(cached)
    board.stage_started("types", [], 1)
    board.stage_started("tests", [], 1)
    say(board, logs, "types", b"first\nchecking \x1b[31mx.py\x1b[0m\r50%\tof it\x07 " + b"y" * 90)
    board.stage_waiting("tests", awaiting_retry("attempt 1 of 2; the next in 9 s"))
    clock.now += 61
    board.tick()
    assert seen(terminal).text.splitlines() == [
        "r-0 had died",
        "run r-1  1/4  1 min 1 s",
        "✔ lint    Completed(Cached)                      nothing changed",
        "▶ types   Running                     1 min 1 s  50% of it yyyyyyyyyyyyyyyyyyyy",
        "↻ tests   Scheduled(AwaitingRetry)               attempt 1 of 2; the next in 9",
        "· deploy  Pending",
    ]
    assert not seen(terminal).cursor
    board.note("a note")
    board.tick()
    board.stage_started("tests", [], 2)
    say(board, logs, "tests", b"".join(b"line %d \x1b[1m\n" % n for n in range(14)))
    bad = ended("tests", failed("2 failed"), 5)
    board.stage_ended(bad)
    board.stage_ended(ended("types", took=62))
    skipped = ended("deploy", cancelled("tests did not complete", "Skipped"))
    board.stage_ended(skipped)
    board.run_ended(result(cached, ended("types"), bad, skipped, state=failed("tests: 2 failed")))
    assert seen(terminal).cursor
    assert seen(terminal).text.splitlines() == [
        "r-0 had died",
        "a note",
        "run r-1  4/4  1 min 1 s",
        "✔ lint    Completed(Cached)                nothing changed",
        "✔ types   Completed             1 min 2 s",
        "✘ tests   Failed                    5.0 s  2 failed",
        "⊘ deploy  Cancelled(Skipped)               tests did not complete",
        "",
        "-- tests Failed after 5.0 s: 2 failed",
        f"the end of {logs / 'tests.log'}:",
        *(f"  line {n}" for n in range(4, 14)),
        "run r-1: Failed after 1 min 1 s (1 Completed(Cached), 1 Completed, 1 Failed,"
        " 1 Cancelled(Skipped))",
        "look at it: invoke runs.logs r-1",
        "go on with it: invoke runs.resume r-1",
    ]


def test_it_is_drawn_a_few_times_a_second_at_most(board, terminal, logs, clock):
    board.run_started("r-1", ["a", "b"], logs)
    board.stage_started("a", [], 1)
    board.tick()
    size = len(terminal.getvalue())
    clock.now += 0.1
    board.tick()
    assert len(terminal.getvalue()) == size
    clock.now += 0.2
    board.tick()
    assert len(terminal.getvalue()) > size
    board.run_ended(result())


def test_a_small_terminal_shows_the_urgent_ones_first(board, terminal, logs, monkeypatch, clock):
    monkeypatch.setenv("LINES", "7")
    names = [f"s{n:02}" for n in range(20)]
    board.run_started("r-1", names, logs)
    board.stage_ended(ended("s00"))
    board.stage_started("s07", [], 1)
    board.stage_ended(ended("s03", failed("no"), 1))
    board.stage_started("s19", [], 1)
    clock.now += 1
    board.tick()
    rows = [row.split()[:3] for row in seen(terminal).text.splitlines()[1:]]
    assert rows[:4] == [
        ["·", "s01", "Pending"],
        ["✘", "s03", "Failed"],
        ["▶", "s07", "Running"],
        ["▶", "s19", "Running"],
    ]
    assert "… 1 more completed, 15 more pending" in seen(terminal).text
    board.run_ended(result(*(ended(name) for name in names)))
    assert [row.split()[1] for row in seen(terminal).text.splitlines()[1:21]] == names


def test_a_terminal_without_unicode_gets_ascii(logs, clock, terminal):
    terminal.encoding = "ascii"
    board = BoardReporter(terminal, clock, no_color=True)
    board.run_started("r-1", ["a", "b"], logs)
    board.stage_started("a", [], 1)
    say(board, logs, "a", "█ half".encode())
    clock.now += 1
    board.tick()
    assert seen(terminal).text.splitlines()[1:] == [
        "> a  Running        1.0 s  ? half",
        ". b  Pending",
    ]
    assert terminal.getvalue().isascii()
    assert "\x1b[3" not in terminal.getvalue()
    board.run_ended(result())


def test_a_single_stage_has_no_board(board, terminal, logs, clock):
    board.run_started("r-1", ["a"], logs)
    board.stage_started("a", [], 1)
    say(board, logs, "a", b"hello\n")
    board.stage_waiting("a", awaiting_retry("again"))
    board.stage_started("a", [], 2)
    clock.now += 31
    board.tick()
    board.stage_ended(ended("a", took=1))
    board.run_ended(result(ended("a")))
    assert terminal.getvalue().splitlines() == [
        "run r-1: a",
        "hello",
        "-- a Scheduled(AwaitingRetry): again",
        ".. still running: a 31 s",
        "run r-1: Completed after 31 s",
    ]


PTY_SCRIPT = """
    import os, sys, time
    from pathlib import Path
    from llm_twin.flow.report import choose
    from llm_twin.flow.runner import RunResult
    from llm_twin.flow.states import completed
    from llm_twin.flow.records import StageRun

    reporter = choose()
    done = StageRun("a", completed("nothing changed", "Cached"))
    reporter.run_started("r-1", ["a", "b"], Path("."))
    reporter.stage_ended(done)
    if sys.argv[1] == "cached":
        reporter.run_ended(RunResult("r-1", done.state, 0, [done, done]))
        print("imported" if "rich" in sys.modules else "without rich")
        sys.exit()
    if sys.argv[1] == "no rich":
        sys.modules["rich"] = sys.modules["rich.console"] = None
    reporter.stage_started("b", [], 1)
    Path("b.log").write_text("from b\\n")
    if sys.argv[1] != "no rich":
        reporter.tick()
    print("threads", len(os.listdir("/proc/self/task")), file=sys.stderr)
    if sys.argv[1] == "dies":
        raise KeyboardInterrupt
    if sys.argv[1] == "waits":
        print("ready", file=sys.stderr, flush=True)
        for _ in range(600):
            time.sleep(0.05)
            reporter.tick()
    reporter.stage_ended(StageRun("b", completed(), 1.0, 2.0))
    reporter.run_ended(RunResult("r-1", completed(), 0, [done, StageRun("b", completed())]))
"""


@pytest.fixture
def on_pty(tmp_path):
    """Start the script on a terminal of its own; returns the process and our end of it."""
    started = []

    def start(how):
        (tmp_path / "s.py").write_text(textwrap.dedent(PTY_SCRIPT))
        parent, child = pty.openpty()
        resize(child, 24, 60)
        environ = {k: v for k, v in os.environ.items() if k not in ("CI", "COLUMNS", "LINES")}
        process = subprocess.Popen(
            [sys.executable, "s.py", how],
            cwd=tmp_path,
            env={**environ, "TERM": "xterm", "GITHUB_ACTIONS": ""},
            stdout=child,
            stderr=subprocess.PIPE,
            # A shell starts background jobs with SIGINT ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(child)
        started.append((process, parent))
        return process, parent

    yield start
    for process, parent in started:
        process.kill()
        process.wait(timeout=20)
        process.stderr.close()
        os.close(parent)


def resize(terminal, rows, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def read_to_end(parent, data=b""):
    try:
        while piece := os.read(parent, 65536):
            data += piece
    except OSError:
        pass  # Linux says so when the other side is closed
    return Screen().feed(data.decode())


def test_on_a_real_terminal_the_board_stays_and_the_cursor_comes_back(on_pty):
    process, parent = on_pty("runs")
    screen = read_to_end(parent)
    assert screen.cursor
    assert [row.split()[:3] for row in screen.text.splitlines()[1:3]] == [
        ["✔", "a", "Completed(Cached)"],
        ["✔", "b", "Completed"],
    ]
    assert screen.text.count("r-1  2/2") == 1
    assert process.stderr.read() == b"threads 1\n"


def test_a_run_in_which_nothing_changed_does_not_import_rich(on_pty):
    _, parent = on_pty("cached")
    rows = read_to_end(parent).text.splitlines()
    assert rows[:2] == ["run r-1: a, b", "-- a Completed(Cached): nothing changed"]
    assert rows[-1] == "without rich"


def test_without_rich_lines_are_printed(on_pty):
    _, parent = on_pty("no rich")
    assert read_to_end(parent).text.splitlines()[:5] == [
        "run r-1: a, b",
        "-- a Completed(Cached): nothing changed",
        "-- b",
        "from b",
        "-- b Completed after 1.0 s",
    ]


def test_the_cursor_comes_back_after_an_error(on_pty):
    _, parent = on_pty("dies")
    screen = read_to_end(parent)
    assert screen.cursor
    assert screen.text.count("Running") == 1


def test_a_new_size_is_used_and_the_cursor_comes_back_after_ctrl_c(on_pty):
    process, parent = on_pty("waits")
    assert process.stderr.readline() == b"threads 1\n"
    assert process.stderr.readline() == b"ready\n"
    resize(parent, 24, 12)
    data = b""
    while b"run r-1  1/\x1b" not in data:
        data += os.read(parent, 65536)
    process.send_signal(signal.SIGINT)
    assert read_to_end(parent, data).cursor
    assert process.wait(timeout=20) != 0
