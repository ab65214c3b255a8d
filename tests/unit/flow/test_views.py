"""What is read of recorded runs: tables, details, JSON, and logs in pieces."""

import json

import pytest

from llm_twin.flow.records import Attempt, Run, StageRun
from llm_twin.flow.states import (
    PENDING,
    RUNNING,
    State,
    StateType,
    awaiting_retry,
    completed,
    failed,
)
from llm_twin.flow.views import (
    duration,
    last_lines,
    listing,
    log_pieces,
    plain_line,
    run_details,
    run_to_dict,
    runs_table,
    table,
)

EVIDENCE = {
    "source": "ci",
    "commit": "0123456789abcdef",
    "dirty": "yes",
    "host": "runner-1",
    "machine": "Linux x86_64, 4 cores",
    "python": "cpython 3.11.7",
}


def a_run(**changes):
    stages = [
        StageRun("lint", completed("clean"), 100.0, 101.5, 1.25, 40.0, evidence=EVIDENCE),
        StageRun(
            "tests",
            failed("1 failed"),
            101.0,
            161.0,
            why=["code a.py changed", "input b.md is new"],
            outputs={"report.xml": "d1", "coverage.xml": "d2"},
            attempts=2,
            evidence=EVIDENCE,
        ),
        StageRun("deploy", PENDING),
    ]
    values = {
        "id": "260131-142502-9f3c2a",
        "flow": "ci",
        "parameters": {"word": "y"},
        "state": State(StateType.FAILED, "", "tests: 1 failed"),
        "created": 100.0,
        "ended": 162.0,
        "pid": 4242,
        "source": "ci",
        "options": {"jobs": 2},
        "host": "runner-1",
        "heartbeat": 160.0,
        "stages": stages,
    }
    return Run(**{**values, **changes})


ATTEMPTS = [
    Attempt("lint", 1, completed(), 100.0, 101.5),
    Attempt("tests", 1, awaiting_retry("no connection; next in 2.0 s"), 101.0, 120.0, 3.0, 55.0),
    Attempt("tests", 2, failed("1 failed"), 122.0),
]


def test_no_runs_says_how_to_start_one():
    assert runs_table([]) == "No runs yet. Start one: invoke ct"


def test_the_table_of_runs():
    head, line = runs_table([a_run()], now=1000.0).splitlines()
    assert head.split() == ["ID", "FLOW", "STATE", "STARTED", "SECONDS", "MESSAGE"]
    assert line.startswith("260131-142502-9f3c2a  ci    Failed")
    assert line.endswith("62.0     tests: 1 failed")


@pytest.mark.parametrize(
    ("heartbeat", "shown"),
    [(990.0, "Running  "), (880.0, "Running, silent for 2 min"), (None, "Running  ")],
)
def test_a_silent_run_is_told_from_a_busy_one(heartbeat, shown):
    run = a_run(state=RUNNING, ended=None, heartbeat=heartbeat)
    assert shown in runs_table([run], now=1000.0)
    assert "has not ended" in run_details(run, now=1000.0)


def test_details_name_place_reasons_and_attempts():
    shown = run_details(a_run(), ATTEMPTS).splitlines()
    assert shown[0] == "run 260131-142502-9f3c2a: ci, Failed"
    assert "took 62.0 s, process 4242 on runner-1, ci" in shown[1]
    assert shown[2:5] == [
        "with word='y'",
        "tests: 1 failed",
        "ran at 0123456789ab, with changes on runner-1 (Linux x86_64, 4 cores), cpython 3.11.7, ci",
    ]
    rows = {line.split()[0]: line.split() for line in shown[6:10]}
    assert rows["lint"] == ["lint", "Completed", "1.5", "1.2", "40", "clean"]
    assert rows["tests"] == ["tests", "Failed", "60.0", "2", "2", "1", "failed"]
    assert rows["deploy"] == ["deploy", "Pending"]
    assert shown[10:] == [
        "",
        "tests ran because code a.py changed; input b.md is new",
        "",
        "tests, attempt 1: Scheduled(AwaitingRetry) after 19 s: no connection; next in 2.0 s",
        "tests, attempt 2: Failed: 1 failed",
    ]


def test_stages_that_ran_in_different_places_say_so():
    run = a_run()
    run.stages[1].evidence = {**EVIDENCE, "host": "laptop", "source": "local", "dirty": "no"}
    shown = run_details(run)
    assert "lint ran at 0123456789ab, with changes on runner-1" in shown
    assert "tests ran at 0123456789ab on laptop" in shown
    run.stages[1].evidence = {"host": "laptop", "dirty": "unknown"}
    assert "tests ran at no commit, perhaps with changes on laptop (?), ?, ?" in run_details(run)


def test_a_run_with_little_to_say():
    shown = run_details(a_run(parameters={}, host="", state=completed(), stages=[StageRun("x")]))
    assert shown.splitlines()[1].endswith("process 4242, ci")
    assert shown.splitlines()[-1].split() == ["x", "Pending"]


def test_json_has_every_field():
    data = json.loads(json.dumps(run_to_dict(a_run(), ATTEMPTS)))
    assert data["options"] == {"jobs": 2}
    assert (data["host"], data["heartbeat"], data["state"]) == ("runner-1", 160.0, "Failed")
    assert data["stages"][1] == {
        "stage": "tests",
        "state": "Failed",
        "message": "1 failed",
        "started": 101.0,
        "ended": 161.0,
        "cpu_seconds": None,
        "peak_mb": None,
        "result": None,
        "key": "",
        "parts": None,
        "why": ["code a.py changed", "input b.md is new"],
        "outputs": {"report.xml": "d1", "coverage.xml": "d2"},
        "attempts": 2,
        "evidence": EVIDENCE,
    }
    assert data["attempts"][1] == {
        "stage": "tests",
        "number": 1,
        "state": "Scheduled(AwaitingRetry)",
        "message": "no connection; next in 2.0 s",
        "started": 101.0,
        "ended": 120.0,
        "cpu_seconds": 3.0,
        "peak_mb": 55.0,
    }
    assert "attempts" not in run_to_dict(a_run())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1.0, "0.0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (100, "1 min 40 s"),
        (3600, "1 h"),
        (7505, "2 h 5 min"),
    ],
)
def test_durations_as_a_person_says_them(seconds, text):
    assert duration(seconds) == text


def test_many_reasons_are_cut():
    assert listing(list("abcde")) == "a; b; c; d; e"
    assert listing(list("abcdefg")) == "a; b; c; d; e; and 2 more"


def test_nothing_in_a_cell_breaks_the_table():
    rows = [("A", "B"), ("x\ny\x1b[31m\x07z", "\x1b]0;title\x07\x1b]8;;http://x\x1b\\b\u202e")]
    assert table(rows) == "A      B\nx y z  b"
    assert plain_line("\x1b(B\x1b[?25lok\tthen\r") == "ok then"


def test_a_log_in_pieces(tmp_path):
    log = tmp_path / "x.log"
    assert list(log_pieces(log)) == []
    assert last_lines(log, 3) == []
    log.write_bytes("earlier\nbü\xffd".encode("latin-1") + b"\xc3\xbc\n" + b"y" * 200_000)
    text = "".join(log_pieces(log, start=8))
    assert text == "b\ufffd\ufffddü\n" + "y" * 200_000
    assert max(map(len, log_pieces(log))) <= 65536


def test_a_character_on_the_seam_of_two_pieces_is_whole(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("x" * 65535 + "ü" + "\n" * 30 + "z" * 65536 + "ö\nend\n", encoding="utf-8")
    assert "".join(log_pieces(log)) == log.read_text(encoding="utf-8")
    shown = "".join(log_pieces(log, most=4))
    assert "\ufffd" not in shown
    assert shown.startswith("x" * 65535 + "ü\n\n.. 28 lines left out")
    assert shown.endswith("z" * 65536 + "ö\nend\n")


def test_the_middle_of_a_long_log_is_left_out(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("".join(f"line {n}\n" for n in range(10)) + "no newline")
    shown = "".join(log_pieces(log, most=4)).splitlines()
    assert shown[:2] == ["line 0", "line 1"]
    assert shown[2] == f".. 6 lines left out; all of them: {log}"
    assert shown[3:] == ["line 8", "line 9", "no newline"]
    assert "left out" not in "".join(log_pieces(log, most=10))


def test_the_last_lines_of_a_log(tmp_path):
    log = tmp_path / "x.log"
    log.write_bytes(b"before\nold \xff\n" + b"\x1b[31mred\x1b[0m\n\n\tla\x07st")
    assert last_lines(log, 2) == ["red", "        la st"]
    assert last_lines(log, 10, start=13) == ["red", "        la st"]
    log.write_bytes(b"x" * 10_000_000 + b"\nend\n")
    assert last_lines(log, 1) == ["end"]
