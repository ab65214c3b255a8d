"""What a user sees of runs: order, reasons, states, logs, and what a kill leaves behind."""

import faulthandler
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from llm_twin.errors import BusyError, CorpusError, NotReadyError, SpaceError
from llm_twin.flow import Registry
from llm_twin.flow.report import PlainReporter
from llm_twin.flow.runner import Runner
from llm_twin.flow.store import Store
from llm_twin.flow.views import run_details, run_to_dict, runs_table


@pytest.fixture
def registry():
    return Registry()


@pytest.fixture
def out():
    return io.StringIO()


@pytest.fixture
def runner(registry, tmp_path, out):
    return Runner(registry, tmp_path, tmp_path / ".twin", PlainReporter(out))


def test_stages_run_in_order_and_leave_results_and_logs(registry, runner, out, tmp_path):
    @registry.stage
    def first() -> dict:
        print("hello from first")
        subprocess.run(["sh", "-c", "echo from a child; echo to stderr >&2"], check=True)
        return {"answer": 42, "message": "found it"}

    @registry.stage(needs=["first"])
    def second(word: str = "x") -> None:
        print("second got", word)

    result = runner.run("second", parameters={"word": "y"})
    assert result.exit_code == 0
    assert str(result.state) == "Completed"
    assert result.stages[0].result["answer"] == 42
    assert result.stages[0].state.message == "found it"
    shown = out.getvalue()
    assert shown.index("hello from first") < shown.index("second got y")
    store = Store(tmp_path / ".twin")
    log = store.log_path(result.id, "first").read_text()
    assert log.splitlines() == ["hello from first", "from a child", "to stderr"]
    run = store.get(result.id)
    assert run.parameters == {"word": "y"}
    assert [item.stage for item in run.stages] == ["first", "second"]
    assert run.stages[0].cpu is not None
    assert run.stages[0].peak_mb > 1


def test_a_failing_stage_skips_what_needs_it_and_nothing_else(registry, runner, out):
    @registry.stage
    def bad() -> None:
        raise CorpusError("no such folder", "/x", "Type: ls")

    @registry.stage(needs=["bad"])
    def after() -> None:
        print("never")

    @registry.stage
    def other() -> None:
        print("other ran")

    result = runner.run("after", "other")
    assert result.exit_code == 2
    assert [str(done.state) for done in result.stages] == [
        "Failed",
        "Cancelled(Skipped)",
        "Completed",
    ]
    assert "no such folder: /x. Type: ls" in out.getvalue()
    assert "never" not in out.getvalue()
    assert f"invoke runs.logs {result.id}" in out.getvalue()


def test_an_unexpected_error_leaves_its_traceback_in_the_log(registry, runner, tmp_path):
    @registry.stage
    def broken() -> None:
        raise ValueError("boom")

    result = runner.run("broken")
    assert result.exit_code == 1
    assert result.state.message == "broken: ValueError: boom"
    assert "Traceback" in Store(tmp_path / ".twin").log_path(result.id, "broken").read_text()


@pytest.mark.parametrize(("leave", "code"), [(lambda: sys.exit(3), 3), (lambda: sys.exit("no"), 1)])
def test_exit_codes_pass_through(registry, runner, leave, code):
    registry.stage(name="leaves")(leave)
    assert runner.run("leaves").exit_code == code


def test_a_killed_stage_is_reported_as_what_it_was(registry, runner):
    @registry.stage
    def dies() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @registry.stage
    def segfaults() -> None:
        faulthandler.disable()
        os.kill(os.getpid(), signal.SIGSEGV)

    runner.jobs = 1
    result = runner.run("dies", "segfaults")
    assert [str(done.state) for done in result.stages] == ["Crashed", "Crashed"]
    assert result.stages[0].state.message == "killed by SIGKILL (out of memory?)"
    assert result.stages[1].state.message == "killed by SIGSEGV"
    assert result.exit_code == 137


def test_bad_input_is_found_before_anything_is_written(registry, runner, tmp_path):
    def check(path: str) -> None:
        raise CorpusError("no such path", path)

    registry.stage(name="train", check=check)(lambda path="x": None)
    with pytest.raises(CorpusError):
        runner.run("train")
    assert not (tmp_path / ".twin").exists()


def cached(registry, tmp_path, calls):
    @registry.stage(cached=True, inputs=["*.md"], kept=lambda: [tmp_path / "model"])
    def train(size: int = 1) -> int:
        (tmp_path / "model").write_text("x")
        (tmp_path / "calls").open("a").write("x")
        return size

    return lambda: len((tmp_path / "calls").read_text())


def test_an_unchanged_stage_is_not_run_and_says_why(registry, runner, out, tmp_path):
    calls = cached(registry, tmp_path, [])
    first = runner.run("train")
    again = runner.run("train")
    assert calls() == 1
    assert str(again.state) == "Completed(Cached)"
    assert again.stages[0].result == 1
    assert f"nothing changed since run {first.id}" in out.getvalue()
    assert again.exit_code == 0


def test_a_changed_stage_runs_and_says_why(registry, runner, out, tmp_path):
    calls = cached(registry, tmp_path, [])
    runner.run("train")
    (tmp_path / "a.md").write_text("new")
    runner.run("train")
    assert "train runs because input a.md is new" in out.getvalue()
    runner.run("train", parameters={"size": 2})
    assert "parameter size was 1, is 2" in out.getvalue()
    (tmp_path / "model").unlink()
    runner.run("train", parameters={"size": 2})
    assert "its output" in out.getvalue()
    runner.run("train", parameters={"size": 2}, force=True)
    assert "asked to, although nothing changed" in out.getvalue()
    assert calls() == 5


def test_what_a_stage_keeps_itself_is_that_of_its_last_run(registry, runner, out, tmp_path):
    calls = cached(registry, tmp_path, [])
    runner.run("train")
    (tmp_path / "a.md").write_text("new")
    runner.run("train")
    (tmp_path / "a.md").unlink()
    runner.run("train")
    assert "train runs because input a.md is gone" in out.getvalue()
    assert calls() == 3


def test_a_failed_run_does_not_count_as_done(registry, runner, tmp_path):
    @registry.stage(cached=True)
    def train() -> None:
        (tmp_path / "calls").open("a").write("x")
        raise RuntimeError("no")

    runner.run("train")
    runner.run("train")
    assert (tmp_path / "calls").read_text() == "xx"


def test_a_grandchild_that_keeps_the_output_open_does_not_hold_the_run(registry, runner):
    @registry.stage
    def leaves_a_daemon() -> None:
        subprocess.Popen(["sleep", "30"])

    assert str(runner.run("leaves-a-daemon").state) == "Completed"


SCRIPT = """
    import sys, time, subprocess
    from pathlib import Path
    from llm_twin.flow import Registry
    from llm_twin.flow.report import PlainReporter
    from llm_twin.flow.runner import Runner

    registry = Registry()

    @registry.stage(single=True)
    def slow() -> None:
        child = subprocess.Popen(["sleep", "60"])
        Path("child").write_text(str(child.pid))
        child.wait()

    @registry.stage(needs=["slow"])
    def after() -> None:
        pass

    home = Path(".twin")
    result = Runner(registry, Path.cwd(), home, PlainReporter()).run("after")
    sys.exit(result.exit_code)
"""


def wait_for(path):
    """Wait until a file has been written."""
    for _ in range(400):
        if path.exists() and path.read_text():
            return
        time.sleep(0.05)
    pytest.fail(f"{path} was not written")


@pytest.fixture
def slow(tmp_path):
    """A process in the middle of a run."""
    script = tmp_path / "slow.py"
    script.write_text(textwrap.dedent(SCRIPT))
    process = subprocess.Popen(
        [sys.executable, script],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        # A shell starts background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(tmp_path / "child")
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def gone(pid: int) -> bool:
    """Whether a process has ended, waiting a little for it."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_kill_9_leaves_no_orphan_and_the_run_shows_as_crashed(slow, tmp_path):
    slow.kill()
    slow.wait()
    assert gone(int((tmp_path / "child").read_text()))
    store = Store(tmp_path / ".twin")
    (dead,) = store.reap()
    run = store.get(dead)
    assert str(run.state) == "Crashed"
    assert [str(item.state) for item in run.stages] == ["Crashed", "Cancelled(Skipped)"]
    assert store.reap() == []


def test_a_live_run_is_not_reaped_and_a_second_one_is_refused(slow, tmp_path, registry, out):
    store = Store(tmp_path / ".twin")
    assert store.reap() == []
    registry.stage(name="slow", single=True)(lambda: None)
    runner = Runner(registry, tmp_path, tmp_path / ".twin", PlainReporter(out))
    with pytest.raises(BusyError, match=rf"running already: process {slow.pid}.*invoke runs\.logs"):
        runner.run("slow")
    assert len(store.recent()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_whole_tree_and_is_recorded(slow, tmp_path, number):
    slow.send_signal(number)
    assert slow.wait(timeout=20) == 130
    assert gone(int((tmp_path / "child").read_text()))
    (run,) = Store(tmp_path / ".twin").recent()
    assert str(run.state) == "Cancelled"
    assert [str(item.state) for item in run.stages] == ["Cancelled", "Cancelled(Skipped)"]


def test_history_views(registry, runner, tmp_path):
    registry.stage(name="one")(lambda p=0: {"x": 1})
    assert runs_table([]) == "No runs yet. Start one: invoke ct"
    result = runner.run("one", parameters={"p": 1})
    store = Store(tmp_path / ".twin")
    run = store.get(result.id)
    assert result.id in runs_table([run])
    assert "with p=1" in run_details(run)
    data = json.loads(json.dumps(run_to_dict(run)))
    assert data["stages"][0]["result"] == {"x": 1}
    assert data["state"] == "Completed"
    assert store.get(result.id[-4:]).id == result.id
    with pytest.raises(NotReadyError, match="no such run: nope"):
        store.get("nope")
    runner.run("one")
    with pytest.raises(NotReadyError, match="more than one run fits"):
        store.get(result.id[:3])


def test_a_state_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpaceError, match="export TWIN_HOME="):
        Store(tmp_path / "file")
