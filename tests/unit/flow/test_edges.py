"""The edges of what a stage may be and do: each ends as its user would hope."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llm_twin.errors import FlowError, SpaceError
from llm_twin.flow.runner import Runner
from llm_twin.flow.store import Store


def states(result):
    return {done.stage: str(done.state) for done in result.stages}


def test_stages_that_need_each_other_are_refused_and_named(registry, runner, home):
    registry.stage(name="a", needs=["b"])(lambda: None)
    registry.stage(name="b", needs=["c"])(lambda: None)
    registry.stage(name="c", needs=["a"])(lambda: None)
    with pytest.raises(FlowError, match="in a circle: a -> b -> c -> a"):
        runner.run("a")
    assert not home.exists()


def test_a_stage_that_needs_itself_is_refused(registry):
    with pytest.raises(FlowError, match="a stage needs itself: a"):
        registry.stage(name="a", needs=["a"])(lambda: None)


def test_an_unknown_stage_is_refused_with_those_there_are(registry, runner, home):
    registry.stage(name="docs", needs=["lnit"])(lambda: None)
    registry.stage(name="lint")(lambda: None)
    for target, unknown in (("docz", "docz"), ("docs", "lnit")):
        with pytest.raises(FlowError, match=rf"no such stage: {unknown}\. Stages are: docs, lint"):
            runner.run(target)
    assert not home.exists()


@pytest.mark.parametrize("cached", [True, False])
def test_an_output_that_was_not_written_fails_the_stage(registry, runner, tmp_path, cached):
    registry.stage(name="build", outputs=["dist/*.whl", "log.txt"], cached=cached)(
        lambda: (tmp_path / "log.txt").write_text("built") and None
    )
    registry.stage(name="after", needs=["build"])(lambda: None)
    result = runner.run("after")
    assert states(result) == {"build": "Failed", "after": "Cancelled(Skipped)"}
    assert result.exit_code == 1
    expected = "build: build ended without writing its declared output: dist/*.whl. Write it, or"
    assert result.state.message.startswith(expected)


@pytest.mark.parametrize("path", ["/etc/passwd", "../other", "a/../../b", "~/x"])
@pytest.mark.parametrize("field", ["outputs", "inputs"])
def test_paths_outside_of_the_project_are_refused(registry, field, path):
    with pytest.raises(FlowError, match="names a path outside the project"):
        registry.stage(name="build", **{field: [path]})(lambda: None)


def test_an_output_that_leads_out_of_the_project_is_not_archived(registry, tmp_path, told):
    root, outside = tmp_path / "project", tmp_path / "outside"
    root.mkdir()
    outside.write_text("private")

    def build() -> None:
        (root / "out").symlink_to(outside)

    registry.stage(name="build", outputs=["out"], cached=True)(build)
    runner = Runner(registry, root, root / ".twin", told)
    assert states(runner.run("build")) == {"build": "Completed"}
    shown = "".join(text for _, text in told.of("output"))
    assert "what it left is not archived: an output is not inside the project" in shown
    assert runner.cache.usage().entries == 0
    assert outside.read_text() == "private"


@pytest.mark.parametrize("field", ["facts", "find_inputs", "kept"])
@pytest.mark.parametrize("error", [ConnectionError("away"), SystemExit(3), FlowError("no", "x")])
def test_a_stage_whose_own_questions_raise_fails_and_others_go_on(
    registry, runner, home, field, error
):
    def ask() -> None:
        raise error

    registry.stage(name="asks", cached=True, **{field: ask})(lambda: None)
    registry.stage(name="after", needs=["asks"])(lambda: None)
    registry.stage(name="other")(lambda: None)
    result = runner.run("after", "other")
    assert states(result) == {
        "asks": "Failed", "after": "Cancelled(Skipped)", "other": "Completed",
    }  # fmt: skip
    assert result.exit_code == (2 if isinstance(error, FlowError) else 1)
    assert Store(home).reap() == []


def test_an_input_that_changes_while_the_stage_runs_makes_it_run_again(registry, runner, tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("one")

    def build() -> str:
        text = source.read_text()
        (tmp_path / "out.txt").write_text(text)
        if text == "one":
            source.write_text("two!")
        return text

    registry.stage(name="build", inputs=["in.txt"], outputs=["out.txt"], cached=True)(build)
    first = runner.run("build")
    assert first.state.message == (
        "input in.txt changed while it ran, so it will run again next time"
    )
    second = runner.run("build")
    assert (states(second), second.stages[0].result) == ({"build": "Completed"}, "two!")
    assert states(runner.run("build")) == {"build": "Completed(Cached)"}


@pytest.mark.parametrize("damage", [lambda blob: blob.write_text("evil"), Path.unlink])
def test_a_damaged_archive_is_a_miss(registry, runner, told, tmp_path, damage):
    registry.stage(name="build", outputs=["out"], cached=True)(
        lambda: (tmp_path / "out").write_text("good") and None
    )
    runner.run("build")
    (tmp_path / "out").unlink()
    (again,) = runner.run("build").stages
    assert str(again.state) == "Completed(Cached)"
    assert (tmp_path / "out").read_text() == "good"
    (blob,) = runner.cache.folder.glob("blobs/*/*")
    damage(blob)
    (tmp_path / "out").unlink()
    (again,) = runner.run("build").stages
    assert str(again.state) == "Completed"
    assert (tmp_path / "out").read_text() == "good"
    shown = "".join(text for _, text in told.of("output"))
    assert shown.endswith("It is dropped: run the stage again; running it instead\n")


def test_leaving_with_exit_code_0_is_being_done(registry, runner, tmp_path):
    def build() -> None:
        (tmp_path / "out").write_text("x")
        sys.exit(0)

    registry.stage(name="build", outputs=["out"], cached=True)(build)
    assert states(runner.run("build")) == {"build": "Completed"}
    assert states(runner.run("build")) == {"build": "Completed(Cached)"}


def test_a_result_that_is_no_json_is_refused_in_words(registry, runner):
    registry.stage(name="build")(lambda: {(1, 2): 3})
    result = runner.run("build")
    assert result.exit_code == 1
    assert result.state.message.startswith("build: what the stage returned is no plain JSON: keys")


def test_a_result_with_other_types_is_kept_as_text(registry, runner, home):
    registry.stage(name="build")(lambda: {"where": Path("x/y"), "kinds": (1, 2)})
    result = runner.run("build")
    assert Store(home).get(result.id).stages[0].result == {"where": "x/y", "kinds": [1, 2]}


@pytest.mark.parametrize("raises", [False, True])
def test_a_text_that_cannot_be_written_is_kept_all_the_same(registry, runner, home, raises):
    def build() -> dict[str, str]:
        if raises:
            raise FileNotFoundError(os.fsdecode(b"caf\xe9"))
        return {"message": os.fsdecode(b"caf\xe9")}

    registry.stage(name="build")(build)
    result = runner.run("build")
    assert "caf\\udce9" in Store(home).get(result.id).state.message


def test_an_interrupt_inside_of_a_stage_is_the_stage_s_failure(registry, runner):
    def stops() -> None:
        raise KeyboardInterrupt

    registry.stage(name="stops")(stops)
    registry.stage(name="other")(lambda: None)
    result = runner.run("stops", "other")
    assert states(result) == {"stops": "Failed", "other": "Completed"}
    assert (result.exit_code, result.state.message) == (130, "stops: interrupted")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, "killed by SIGKILL (out of memory?)"),
        (signal.SIGTERM, "killed by SIGTERM"),
    ],
)
def test_a_killed_stage_is_crashed(registry, runner, number, said):
    registry.stage(name="dies")(lambda: os.kill(os.getpid(), number))
    result = runner.run("dies")
    assert (str(result.state), result.exit_code) == ("Crashed", 128 + number)
    assert result.state.message == f"dies: {said}"


def test_a_stage_without_memory_fails_with_the_name_of_the_error(registry, runner):
    def hungry() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
        bytearray(2**32)

    registry.stage(name="hungry")(hungry)
    assert runner.run("hungry").state.message.startswith("hungry: MemoryError")


def test_a_left_over_that_writes_for_ever_does_not_hold_the_run(registry, runner):
    registry.stage(name="noisy")(lambda: subprocess.Popen(["yes"]) and None)
    registry.stage(name="noisier")(
        lambda: subprocess.Popen(["timeout", "60", "yes"], start_new_session=True) and None
    )
    assert str(runner.run("noisy", "noisier").state) == "Completed"


def test_ten_megabytes_on_one_line_arrive_whole(registry, runner, told, home):
    registry.stage(name="long")(lambda: print("x" * 10_000_000))
    result = runner.run("long")
    log = Store(home).log_path(result.id, "long")
    assert log.stat().st_size == 10_000_001
    assert "".join(text for _, text in told.of("output")) == log.read_text()


def test_invalid_utf_8_is_kept_in_the_log_and_shown_as_replaced(registry, runner, told, home):
    registry.stage(name="bytes")(lambda: os.write(1, b"caf\xe9 \xf0\x9f\x98\x80\n") and None)
    result = runner.run("bytes")
    assert Store(home).log_path(result.id, "bytes").read_bytes() == b"caf\xe9 \xf0\x9f\x98\x80\n"
    assert "".join(text for _, text in told.of("output")) == "caf\ufffd \U0001f600\n"


LOUD = """
import json, resource, sys
from pathlib import Path
from llm_twin.flow import Registry
from llm_twin.flow.runner import Runner

class Deaf:
    def __getattr__(self, name):
        return lambda *told: None

registry = Registry()

@registry.stage
def loud() -> None:
    line = "x" * 99
    for _ in range(int(sys.argv[1]) * 10_000):
        print(line)

result = Runner(registry, Path.cwd(), Path(".twin").absolute(), Deaf()).run("loud")
assert result.exit_code == 0, result
size = (Path(".twin/logs") / result.id / "loud.log").stat().st_size
print(json.dumps([size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


def test_fifty_megabytes_of_log_need_no_memory(tmp_path):
    def run(megabytes):
        command = [sys.executable, "-c", LOUD, str(megabytes)]
        done = subprocess.run(
            command, cwd=tmp_path, check=True, timeout=120, stdout=subprocess.PIPE
        )
        return json.loads(done.stdout)

    (little, before), (much, after) = run(1), run(50)
    assert (little, much) == (1_000_000, 50_000_000)
    assert after - before < 5_000  # KiB


@pytest.mark.parametrize(
    "event", ["run_started", "stage_started", "output", "tick", "stage_ended", "run_ended"]
)
def test_a_reporter_that_breaks_leaves_no_child_and_no_stuck_run(
    registry, runner, told, home, tmp_path, event
):
    def broken(*_):
        raise BrokenPipeError

    def work() -> None:
        with (tmp_path / "pids").open("a") as file:
            file.write(f"{os.getpid()}\n")
        print("hello", flush=True)
        if event in ("output", "tick"):
            signal.pause()

    registry.stage(name="work")(work)
    setattr(told, event, broken)
    with pytest.raises(BrokenPipeError):
        runner.run("work")
    pids = (tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else []
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    store = Store(home)
    (run,) = store.recent()
    assert store.reap() == []
    expected = "Completed" if event == "run_ended" else "Crashed"
    assert str(run.state) == expected
    assert "Running" not in [str(item.state) for item in run.stages]
    if expected == "Crashed":
        setattr(told, event, lambda *_: None)
        registry["work"].__dict__["function"] = lambda: None
        assert str(runner.resume(run.id).state) == "Completed"


def test_a_full_disk_under_the_log_is_one_line(registry, runner, home, monkeypatch):
    monkeypatch.setattr(Store, "log_path", lambda *_: Path("/dev/full"))
    registry.stage(name="prints")(lambda: print("hello") or signal.pause())
    with pytest.raises(SpaceError, match=r"cannot be written.*No space left.*TWIN_HOME") as raised:
        runner.run("prints")
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2
    (run,) = Store(home).recent()
    assert str(run.state) == "Crashed"
