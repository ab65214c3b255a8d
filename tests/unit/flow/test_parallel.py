"""Stages side by side: what overlaps, what waits, what is stopped, and what others are spared."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from llm_twin.errors import BusyError, NotReadyError
from llm_twin.flow import execution, process
from llm_twin.flow.locks import claim, hold, is_held
from llm_twin.flow.policy import Backoff, Retry
from llm_twin.flow.runner import Runner
from llm_twin.flow.store import Store


@pytest.fixture(autouse=True)
def interruptible():
    """A shell starts background jobs with SIGINT ignored, and a run leaves that alone."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "place")


class Place:
    """A folder in which stages meet, and see how many are there."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def meet(self, name, others):
        """Come and wait until all are there, which they are only if they run at once."""
        (self.folder / name).touch()
        for _ in range(400):
            if len(list(self.folder.iterdir())) >= others:
                return
            time.sleep(0.05)
        raise AssertionError("the others did not come")

    def pass_through(self, name):
        """Come, look who else is there, and leave."""
        (self.folder / name).touch()
        time.sleep(0.05)
        there = sorted(path.name for path in self.folder.iterdir())
        (self.folder / name).unlink()
        return there


def test_independent_stages_run_at_once(registry, tmp_path, home, told, place):
    for name in "abc":
        registry.stage(name=name)(lambda name=name: place.meet(name, 3))
    registry.stage(name="after", needs=["a", "b", "c"])(lambda: None)
    result = Runner(registry, tmp_path, home, told, jobs=3).run("after")
    assert str(result.state) == "Completed"


@pytest.mark.parametrize(("jobs", "most"), [(1, 1), (2, 2)])
def test_no_more_than_so_many_jobs_run_at_once(registry, tmp_path, home, told, place, jobs, most):
    for name in "abcdef":
        registry.stage(name=name)(lambda name=name: place.pass_through(name))
    result = Runner(registry, tmp_path, home, told, jobs=jobs).run(*"abcdef")
    assert str(result.state) == "Completed"
    assert max(len(done.result) for done in result.stages) <= most


def test_an_exclusive_stage_runs_alone(registry, tmp_path, home, told, place):
    for name in "abcdef":
        alone = name in "ce"
        registry.stage(name=name, exclusive=alone)(lambda name=name: place.pass_through(name))
    result = Runner(registry, tmp_path, home, told, jobs=6).run(*"abcdef")
    there = {done.stage: done.result for done in result.stages}
    assert there["c"] == ["c"]
    assert there["e"] == ["e"]
    assert not any({"c", "e"} & set(there[name]) for name in "abdf")


def test_a_failed_branch_skips_only_what_needs_it(registry, runner):
    registry.stage(name="bad")(lambda: sys.exit(7))
    registry.stage(name="after-bad", needs=["bad"])(lambda: None)
    registry.stage(name="after-that", needs=["after-bad"])(lambda: None)
    registry.stage(name="good")(lambda: None)
    registry.stage(name="after-good", needs=["good"])(lambda: None)
    registry.stage(name="all", needs=["after-that", "after-good"])(lambda: None)
    result = runner.run("all")
    assert {done.stage: str(done.state) for done in result.stages} == {
        "bad": "Failed",
        "after-bad": "Cancelled(Skipped)",
        "after-that": "Cancelled(Skipped)",
        "good": "Completed",
        "after-good": "Completed",
        "all": "Cancelled(Skipped)",
    }
    assert result.exit_code == 7
    assert result.state.message == "bad: exit code 7"


def flaky(folder):
    """Fails the first time."""

    def work() -> None:
        if not (folder / "tried").exists():
            (folder / "tried").touch()
            raise ConnectionError("away")

    return work


def test_waiting_for_a_retry_holds_nobody_up(registry, tmp_path, home, told):
    retry = Retry(2) + Backoff(initial=0.5)
    registry.stage(name="flaky", retry=retry)(flaky(tmp_path))
    registry.stage(name="other")(lambda: None)
    result = Runner(registry, tmp_path, home, told, jobs=1).run("flaky", "other")
    assert str(result.state) == "Completed"
    started = [(stage, attempt) for stage, _, attempt in told.of("stage_started")]
    assert started == [("flaky", 1), ("other", 1), ("flaky", 2)]


def test_a_retry_that_is_due_waits_for_room_without_spinning(registry, tmp_path, home, told):
    ticks = []
    told.tick = lambda: ticks.append(1)
    registry.stage(name="flaky", retry=Retry(2))(flaky(tmp_path))
    registry.stage(name="other")(lambda: time.sleep(1))
    result = Runner(registry, tmp_path, home, told, jobs=1).run("flaky", "other")
    assert str(result.state) == "Completed"
    assert len(ticks) < 100


def test_ctrl_c_stops_what_runs_and_skips_the_rest(registry, tmp_path, home, told):
    def interrupt() -> None:
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(300)

    registry.stage(name="first")(interrupt)
    registry.stage(name="beside")(lambda: time.sleep(300))
    registry.stage(name="after", needs=["first"])(lambda: None)
    result = Runner(registry, tmp_path, home, told, jobs=2).run("after", "beside")
    assert (str(result.state), result.exit_code) == ("Cancelled", 130)
    assert [str(done.state) for done in result.stages] == [
        "Cancelled", "Cancelled(Skipped)", "Cancelled",
    ]  # fmt: skip
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert str(Store(home).get(result.id).state) == "Cancelled"


def test_ctrl_c_typed_twice_does_not_wait_for_the_grace(registry, runner, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "GRACE_SECONDS", 600.0)

    def stubborn() -> None:
        parent = os.getppid()
        signal.signal(signal.SIGINT, lambda *_: os.kill(parent, signal.SIGINT))
        os.kill(parent, signal.SIGINT)
        for _ in range(300):
            time.sleep(0.1)
        (tmp_path / "survived").touch()

    registry.stage(name="stubborn")(stubborn)
    result = runner.run("stubborn")
    assert (str(result.state), result.exit_code) == ("Cancelled", 130)
    assert not (tmp_path / "survived").exists()


def test_a_stop_ends_the_wait_for_a_retry(registry, tmp_path, home, told):
    registry.stage(name="flaky", retry=Retry(2) + Backoff(initial=600, limit=600))(flaky(tmp_path))
    registry.stage(name="other")(lambda: os.kill(os.getppid(), signal.SIGTERM))
    result = Runner(registry, tmp_path, home, told, jobs=1).run("flaky", "other")
    assert (str(result.state), result.exit_code) == ("Cancelled", 130)
    assert str(result.stages[0].state) == "Cancelled"
    assert [str(a.state) for a in Store(home).attempts(result.id) if a.stage == "flaky"] == [
        "Failed"
    ]


CANCEL = """
import os, sys
from pathlib import Path
from llm_twin.flow.store import Store
Store(Path(sys.argv[1])).cancel(os.environ["TWIN_RUN_ID"], "not needed any more")
"""


def test_another_process_can_cancel_a_run(registry, runner, home):
    def work() -> None:
        subprocess.run([sys.executable, "-c", CANCEL, str(home)], check=True, timeout=60)
        time.sleep(300)

    registry.stage(name="long")(work)
    registry.stage(name="after", needs=["long"])(lambda: None)
    result = runner.run("after")
    assert (str(result.state), result.exit_code) == ("Cancelled", 130)
    assert result.state.message == "not needed any more"
    assert [str(done.state) for done in result.stages] == ["Cancelled", "Cancelled(Skipped)"]


def test_a_cancelled_run_can_be_resumed(registry, runner, tmp_path, home):
    def work() -> None:
        if not (tmp_path / "tried").exists():
            (tmp_path / "tried").touch()
            os.kill(os.getppid(), signal.SIGINT)
            time.sleep(300)

    registry.stage(name="before")(lambda: "done once")
    registry.stage(name="work", needs=["before"])(work)
    registry.stage(name="after", needs=["work"])(lambda: None)
    first = runner.run("after")
    again = runner.resume(first.id)
    assert str(again.state) == "Completed"
    attempts = [(a.stage, str(a.state)) for a in Store(home).attempts(first.id)]
    assert attempts == [
        ("before", "Completed"), ("work", "Cancelled"), ("work", "Completed"),
        ("after", "Completed"),
    ]  # fmt: skip
    with pytest.raises(NotReadyError, match="this run completed"):
        runner.resume(first.id)


def test_a_stage_that_was_tried_and_then_skipped_can_still_be_resumed(
    registry, runner, tmp_path, home
):
    """Attempts are numbered through, also past a resumption that did not get as far."""
    stop = tmp_path / "stop"

    def facts() -> dict[str, str]:
        if stop.exists():
            raise ConnectionError("the remote is away")
        return {}

    registry.stage(name="work", facts=facts)(flaky(tmp_path))
    first = runner.run("work")
    assert first.state.message == "work: ConnectionError: away"
    stop.touch()
    second = runner.resume(first.id)
    assert second.state.message == "work: ConnectionError: the remote is away"
    stop.unlink()
    assert str(runner.resume(first.id).state) == "Completed"
    assert [a.number for a in Store(home).attempts(first.id)] == [1, 2]


def test_a_single_stage_names_who_holds_it(registry, runner, home):
    registry.stage(name="train", single=True)(lambda: None)
    registry.stage(name="after", needs=["train"])(lambda: None)
    with (
        claim(home / "locks", "train", "process 12, since 10:00:00, run 260131-1"),
        pytest.raises(BusyError, match=r"train is running already: process 12.*logs 260131-1$"),
    ):
        runner.run("after")
    assert Store(home).recent() == []
    assert str(runner.run("after").state) == "Completed"


def test_a_holder_that_has_not_said_who_it_is_yet(home):
    with (
        hold(home / "locks" / "train"),
        pytest.raises(BusyError, match=r"is running already: another process\. Wait for it$"),
    ):
        claim(home / "locks", "train", "me")


def test_who_looks_does_not_take_and_what_cannot_be_looked_at_counts_as_held(home):
    path = home / "lock"
    assert not is_held(path)
    handle = hold(path)
    assert is_held(path)
    assert hold(path) is None
    handle.close()
    assert not is_held(path)
    path.unlink()
    path.symlink_to(path)
    assert is_held(path)


def test_a_run_that_is_held_elsewhere_is_not_gone_on_with(registry, runner, tmp_path, home):
    registry.stage(name="flaky")(flaky(tmp_path))
    first = runner.run("flaky")
    with (
        Store(home).hold(first.id),
        pytest.raises(BusyError, match="going on in another process"),
    ):
        runner.resume(first.id)
    assert str(runner.resume(first.id).state) == "Completed"


def test_a_run_beside_the_main_thread_is_a_run_like_any_other(registry, runner):
    registry.stage(name="work")(lambda: 42)
    results = []
    thread = threading.Thread(target=lambda: results.append(runner.run("work")))
    thread.start()
    thread.join(timeout=60)
    assert results[0].stages[0].result == 42


def test_a_run_gives_signs_of_life(registry, runner, home, tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "BEAT_SECONDS", 0.0)
    registry.stage(name="work")(lambda: time.sleep(0.5))
    run = Store(home).get(runner.run("work").id)
    assert run.created < run.heartbeat < run.ended
