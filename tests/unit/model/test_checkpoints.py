"""Checkpoints: whole or passed over, the newest first, old ones swept."""

import json
import os
import subprocess
import sys

import pytest

from llm_twin.model import checkpoints
from llm_twin.model.budget import Budget
from llm_twin.model.checkpoints import Shelf, is_whole, key, sweep
from llm_twin.model.profile import Base, Training


@pytest.fixture
def lines():
    return []


@pytest.fixture
def shelf(tmp_path, lines):
    return Shelf(tmp_path / "sft", every=0.0, keep=2, progress=lines.append)


def save(shelf, step, text="weights"):
    building = shelf.begin()
    (building / "weights").write_text(f"{text} {step}")
    shelf.commit(building, step, {"step": step})
    return shelf.folder / f"step-{step:08d}"


def test_the_newest_is_given_out_and_only_so_many_are_kept(shelf):
    for step in (3, 20, 100):
        save(shelf, step)
    folder, state = shelf.newest()
    assert (folder / "weights").read_text() == "weights 100"
    assert state == {"step": 100}
    assert shelf.taken == 100
    assert [path.name for path in sorted(shelf.folder.iterdir())] == [
        "step-00000020",
        "step-00000100",
    ]


@pytest.mark.parametrize("harm", ["cut", "changed", "gone", "no list", "half a list"])
def test_a_damaged_one_is_passed_over_and_told_of(shelf, lines, harm):
    save(shelf, 1)
    newest = save(shelf, 2)
    weights, listed = newest / "weights", newest / checkpoints.COMPLETE
    {
        "cut": lambda: weights.write_text("weig"),
        "changed": lambda: weights.write_text("weightz 2"),
        "gone": weights.unlink,
        "no list": listed.unlink,
        "half a list": lambda: listed.write_text(listed.read_text()[:20]),
    }[harm]()
    folder, state = shelf.newest()
    assert (folder.name, state["step"]) == ("step-00000001", 1)
    assert lines == [f"the checkpoint {newest} is damaged: going on from the one before it"]
    assert not newest.exists()


def test_without_a_whole_one_there_is_none(shelf):
    assert shelf.newest() is None
    (save(shelf, 1) / "weights").unlink()
    assert shelf.newest() is None
    assert shelf.taken is None


def test_a_result_takes_the_place_of_checkpoints(shelf, lines):
    save(shelf, 1)
    building = shelf.begin()
    (building / "model").write_text("done")
    folder = shelf.finish(building, {"step": 9})
    assert shelf.result() == (folder, {"step": 9})
    assert list(shelf.folder.iterdir()) == [folder]
    (folder / "model").write_text("gone")
    assert shelf.result() is None
    assert lines == [f"{folder} is damaged: the phase is done again"]


def test_what_a_dead_process_was_building_goes(shelf):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    shelf.folder.mkdir()
    left = shelf.folder / f"{checkpoints.BUILDING}{dead.pid}-abc"
    left.mkdir()
    own = shelf.begin()
    assert list(shelf.folder.iterdir()) == [own]


def test_the_key_is_of_all_that_shapes_the_weights():
    training, base = Training(), Base()
    same = key("data", base, training, 0)
    assert same == key("data", base, Training.model_validate({"checkpoints": {"every": "9s"}}), 0)
    others = {
        key("other", base, training, 0),
        key("data", Base(model="a", revision="0" * 40, license="MIT"), training, 0),
        key("data", base, Training.model_validate({"sft": {"rate": 1e-5}}), 0),
        key("data", base, training, 1),
    }
    assert len({same, *others}) == 5


def test_of_other_trainings_the_newest_stay(tmp_path):
    for place, name in enumerate(("a", "b", "c", "d", "own")):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (100 + place, 100 + place))
    os.utime(tmp_path / "own", (1, 1))
    sweep(tmp_path, "own")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "d", "own"]


def test_a_list_without_its_files_is_not_whole(tmp_path):
    (tmp_path / checkpoints.COMPLETE).write_text(json.dumps({"files": ["weights"]}))
    assert not is_whole(tmp_path)


def test_a_budget_goes_on_where_it_was():
    whole = Budget(100, 1000, "wall")
    part = whole.part(0.75)
    assert part.tokens == 750
    part.take(300)
    state = json.loads(json.dumps(part.state()))
    later = Budget(100, 1000, "wall")
    resumed = later.part(0.1)
    resumed.restore(state)
    assert (resumed.tokens, resumed.seen, later.seen) == (750, 300, 300)
    assert resumed.fraction == 0.4
    assert resumed.used >= state["used"]
    resumed.take(450)
    assert (resumed.spent, later.spent) == ("tokens", "")


def test_without_limits_a_budget_is_never_spent():
    budget = Budget()
    budget.take(10**12)
    assert (budget.spent, budget.fraction) == ("", 0.0)
    assert Budget(1e-9).spent == "time"
    assert Budget(1e-9, 5).fraction == 0.0
