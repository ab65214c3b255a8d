"""What a plan promises is what a run does; ``why`` and parity name the files."""

import json
import sqlite3

import pytest

from llm_twin.errors import FlowError, NotReadyError
from llm_twin.flow.cache import Cache
from llm_twin.flow.parity import parity, parity_table
from llm_twin.flow.plan import make_plan, makespan, plan_table, why
from llm_twin.flow.runner import Runner
from llm_twin.flow.schema import MIGRATIONS
from llm_twin.flow.stage import Stage
from llm_twin.flow.store import Store


@pytest.fixture
def flow(registry, tmp_path):
    """build (a file out of a file) -> test -> all; lint stands beside."""
    (tmp_path / "in.txt").write_text("one")
    (tmp_path / "style.txt").write_text("x")

    @registry.stage(cached=True, inputs=["in.txt"], outputs=["out/*.txt"])
    def build() -> None:
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "a.txt").write_text((tmp_path / "in.txt").read_text().strip())

    registry.stage(name="lint", cached=True, inputs=["style.txt"])(lambda: None)
    registry.stage(name="test", cached=True, needs=["build"])(lambda: None)
    registry.stage(name="all", needs=["test", "lint"], cached=True)(lambda strict=False: None)
    return tmp_path


@pytest.fixture
def store(home):
    return Store(home)


def actions(runner, store, *targets, **given):
    return {s.stage: s.action for s in make_plan(runner, store, targets or ["all"], given).steps}


def test_a_plan_before_the_first_run_runs_everything_and_writes_no_run(flow, runner, store):
    plan = make_plan(runner, store, ["all"], {})
    assert {step.action for step in plan.steps} == {"run"}
    assert plan.seconds is None
    assert "no history yet to say how long" in plan_table(plan, 2)
    assert store.recent() == []


def test_after_a_run_nothing_would_run(flow, runner, store):
    runner.run("all")
    assert set(actions(runner, store).values()) == {"cached"}
    plan = make_plan(runner, store, ["all"], {})
    assert plan_table(plan, 2).endswith("nothing would run")
    assert json.loads(json.dumps(plan.to_dict()))["steps"][0]["action"] == "cached"


def test_what_hangs_on_an_output_is_named_as_perhaps(flow, runner, store, told):
    runner.run("all")
    (flow / "in.txt").write_text("one ")
    assert actions(runner, store) == {
        "build": "run",
        "test": "depends",
        "lint": "cached",
        "all": "cached",
    }
    plan = make_plan(runner, store, ["all"], {})
    assert plan.steps[1].why == ["if what build leaves changes"]
    assert plan.seconds.median > 0
    assert "2 stages would run, in about" in plan_table(plan, 2)
    runner.run("all")
    assert told.states() == {
        "build": "Completed",
        "test": "Completed(Cached)",
        "lint": "Completed(Cached)",
        "all": "Completed(Cached)",
    }


def test_force_and_parameters_are_part_of_the_plan(flow, runner, store):
    runner.run("all")
    forced = make_plan(runner, store, ["all"], {}, force=True)
    assert {step.action for step in forced.steps} == {"run"}
    assert actions(runner, store, strict=True)["all"] == "run"
    with pytest.raises(FlowError, match=r"takes a parameter colour\. Parameters are: strict"):
        make_plan(runner, store, ["all"], {"colour": 1})


def test_an_archived_state_is_restored_when_it_comes_back(flow, runner, store):
    runner.run("all")
    (flow / "in.txt").write_text("two")
    runner.run("all")
    (flow / "in.txt").write_text("one")
    assert actions(runner, store)["build"] == "restore"
    result = runner.run("all")
    assert {str(done.state) for done in result.stages} == {"Completed(Cached)"}
    assert (flow / "out" / "a.txt").read_text() == "one"


def test_why_lists_what_moved_file_by_file(flow, runner, store):
    first = runner.run("all").id
    assert why(runner, store, "build", {})[0].why == []
    (flow / "in.txt").write_text("two")
    verdict, last = why(runner, store, "build", {})
    assert (verdict.why, last) == (["input in.txt changed"], first)
    (flow / "in.txt").write_text("one")
    (flow / "out" / "a.txt").unlink()
    (flow / ".twin" / "cache").rename(flow / "gone")
    assert why(runner, store, "build", {})[0].why == ["its output out/a.txt is gone"]


def stages(*needs):
    return [Stage(str(i), print, needs=tuple(map(str, need))) for i, need in enumerate(needs)]


def test_the_predicted_time_knows_of_needs_and_jobs():
    four = stages((), (), (), ())
    each = dict.fromkeys("0123", 1.0)
    assert makespan(four, each, 4) == 1
    assert makespan(four, each, 2) == 2
    assert makespan(four, each, 1) == 4
    assert makespan(stages((), (0,), (0,), (1, 2)), each, 4) == 3
    assert makespan(four, {"0": 5.0}, 4) == 5
    alone = [*stages((), ()), Stage("2", print, exclusive=True)]
    assert makespan(alone, {"0": 1.0, "1": 3.0, "2": 1.0}, 2) == 4


# Parity


def run_as(source, runner, monkeypatch, force=True):
    if source == "ci":
        monkeypatch.setenv("CI", "true")
    else:
        monkeypatch.delenv("CI", raising=False)
    return runner.run("all", force=force)


def test_parity_is_never_seen_then_exact_then_names_the_file(
    flow, runner, store, registry, monkeypatch
):
    run_as("local", runner, monkeypatch)
    found = parity("build", [store], Cache(runner.home))
    assert found.verdict == "never seen"
    run_as("ci", runner, monkeypatch)
    found = parity("build", [store], Cache(runner.home))
    assert found.verdict == "exact"
    assert found.local.source == "local"
    assert "1 output file, the same digests" in parity_table([found])
    key = found.local.key
    store.db.execute(
        "UPDATE stage_run SET outputs = replace(outputs, substr(outputs, 20, 5), 'zzzzz')"
        " WHERE key = ? AND evidence LIKE '%\"ci\"%'",
        (key,),
    )
    (runner.home / "cache").rename(runner.home / "away")
    found = parity("build", [store], Cache(runner.home))
    assert (found.verdict, found.files) == ("differs", ("out/a.txt",))
    assert "out/a.txt" in parity_table([found])


def test_parity_looks_into_another_history_and_the_cache(
    flow, registry, told, tmp_path, monkeypatch
):
    def runner(name):
        return Runner(registry, tmp_path, tmp_path / name, told, jobs=2)

    run_as("local", runner("here"), monkeypatch)
    run_as("ci", runner("there"), monkeypatch)
    here = Store(tmp_path / "here")
    for path in (tmp_path / "there", tmp_path / "there" / "runs.db"):
        found = parity("build", [here, Store.read(path)], Cache(tmp_path / "here"))
        assert found.verdict == "exact"
    assert parity("build", [here], Cache(tmp_path / "there")).verdict == "exact"
    with pytest.raises(NotReadyError, match="no run history is there"):
        Store.read(tmp_path / "nowhere")


# The store


def test_a_history_of_the_first_version_is_taken_over(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    db = sqlite3.connect(home / "runs.db")
    for statement in MIGRATIONS[0].split(";"):
        db.execute(statement)
    db.execute("PRAGMA user_version = 1")
    db.execute(
        "INSERT INTO run VALUES ('old-1', 'ct', '{}', 'Completed', '', 'ok', 1.0, 2.0, 7, 'local')"
    )
    db.execute(
        "INSERT INTO stage_run VALUES"
        " ('old-1', 'ct', 0, 'Completed', '', 'ok', 1.0, 2.0, 0.5, 9.0, '{\"python\": \"3\"}', '4')"
    )
    db.commit()
    db.close()
    with pytest.raises(NotReadyError, match="written by another version"):
        Store.read(home)
    store = Store(home)
    (run,) = store.recent()
    assert run.stages[0].result == 4
    assert run.stages[0].attempts == 0
    assert store.last_completed("ct")[0] == "old-1"
    assert store.durations("ct") == [1.0]
    Store(home).close()
