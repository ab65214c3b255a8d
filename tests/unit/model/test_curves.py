"""Curves survive a kill, go on where training goes on, and never hold a line twice."""

import json
import os
import signal
import subprocess
import sys

import pytest

from llm_twin.model.curves import FILE, Curves, read


@pytest.fixture
def curves(tmp_path):
    return Curves(tmp_path / "made on demand")


def steps(points):
    return [(point["phase"], point["step"]) for point in points]


def test_a_point_is_in_the_file_when_log_returns_and_holds_what_was_measured(curves):
    curves.log("pretrain", 1, loss=7.5, rate=1e-3, tokens=512, seconds=0.25)
    curves.log("pretrain", 1, evaluation=7.25)
    assert read(curves.path) == [
        {"phase": "pretrain", "step": 1, "loss": 7.5, "rate": 1e-3, "tokens": 512, "seconds": 0.25},
        {"phase": "pretrain", "step": 1, "evaluation": 7.25},
    ]
    assert curves.points() == read(curves.path)


def test_nothing_is_read_where_nothing_was_logged(tmp_path):
    assert read(tmp_path / FILE) == []
    assert Curves(tmp_path / "none").points() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("torn", [b'{"phase": "sft", "st', b'{"phase": "sft", "step": 9}', b"{"])
def test_a_torn_last_line_is_not_read_and_not_joined_to_the_next(curves, torn):
    curves.log("pretrain", 1, loss=2.0)
    with curves.path.open("ab") as file:
        file.write(torn)
    assert steps(curves.points()) == [("pretrain", 1)]
    again = Curves(curves.path.parent)
    again.log("pretrain", 2, loss=1.5)
    assert steps(again.points()) == [("pretrain", 1), ("pretrain", 2)]
    assert all(json.loads(line) for line in curves.path.read_text().splitlines())


def test_damaged_lines_are_left_out(curves):
    curves.log("sft", 1, loss=1.0)
    with curves.path.open("ab") as file:
        file.write(b'garbage\n[1]\n{"step": 2}\n\xff\xfe\n')
    curves.log("sft", 2, loss=0.5)
    assert steps(curves.points()) == [("sft", 1), ("sft", 2)]


def test_what_is_not_a_number_is_null_and_the_file_stays_json(curves):
    curves.log("sft", 1, loss=float("nan"), evaluation=float("inf"), rate=0.1)
    assert curves.points() == [
        {"phase": "sft", "step": 1, "loss": None, "rate": 0.1, "evaluation": None}
    ]


def logged(curves):
    for phase in ("pretrain", "sft", "dpo"):
        for step in (1, 2, 3):
            curves.log(phase, step, loss=1 / step)
    return curves


@pytest.mark.parametrize(
    ("phase", "step", "kept"),
    [
        ("sft", 2, [("pretrain", 1), ("pretrain", 2), ("pretrain", 3), ("sft", 1), ("sft", 2)]),
        ("pretrain", 0, []),
        ("sft", 0, [("pretrain", 1), ("pretrain", 2), ("pretrain", 3)]),
    ],
)
def test_rewinding_drops_what_came_after(curves, phase, step, kept):
    logged(curves).rewind(phase, step)
    assert steps(curves.points()) == kept
    assert [path.name for path in curves.path.parent.iterdir()] == [FILE]


@pytest.mark.parametrize(("phase", "step"), [("dpo", 3), ("dpo", 9), ("judging", 0)])
def test_rewinding_to_the_end_leaves_the_file_alone(curves, phase, step):
    before = logged(curves).path.stat().st_ino
    curves.rewind(phase, step)
    assert len(curves.points()) == 9
    assert curves.path.stat().st_ino == before


def test_a_resumed_training_continues_the_curve(curves):
    logged(curves)
    resumed = Curves(curves.path.parent)
    resumed.rewind("sft", 1)
    resumed.log("sft", 2, loss=0.4)
    assert steps(resumed.points())[-2:] == [("sft", 1), ("sft", 2)]
    assert resumed.points()[-1]["loss"] == 0.4
    resumed.rewind("sft", 1)
    assert steps(resumed.points())[-1] == ("sft", 1)


def test_rewinding_curves_that_never_began_makes_nothing(tmp_path):
    Curves(tmp_path / "none").rewind("sft", 3)
    assert list(tmp_path.iterdir()) == []


def test_the_listener_hears_each_point(tmp_path):
    heard = []
    curves = Curves(tmp_path, heard.append)
    curves.log("dpo", 4, loss=0.7)
    assert heard == curves.points() == [{"phase": "dpo", "step": 4, "loss": 0.7}]


def test_a_killed_process_loses_nothing_that_it_logged(tmp_path):
    code = (
        "import sys; from pathlib import Path; from llm_twin.model.curves import Curves\n"
        "curves = Curves(Path(sys.argv[1]))\n"
        "for step in range(1, 10**9):\n"
        "    curves.log('pretrain', step, loss=1.0); print(step, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
    said = [int(child.stdout.readline()) for _ in range(50)]
    os.kill(child.pid, signal.SIGKILL)
    said += [int(line) for line in child.stdout.read().split()]
    child.wait(timeout=10)
    child.stdout.close()
    assert [point["step"] for point in read(tmp_path / FILE)][: len(said)] == said
