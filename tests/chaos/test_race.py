"""Several processes at the same run, and at the same store."""

import os
import sqlite3
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
from scene import PATIENCE, STAGES, Scene, children_of, kill

from llm_twin.flow import Registry
from llm_twin.flow.runner import Runner
from llm_twin.flow.store import Store

pytestmark = pytest.mark.chaos
ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "20"))
PROCESSES, EACH = 8, 5


def wait_until(happened):
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_exactly_one_of_those_that_resume_a_run_goes_on_with_it(tmp_path):
    gate = tmp_path / "gate"
    scene = Scene(tmp_path, tmp_path / ".twin", CHAOS_GATE=str(gate))
    for number in range(ROUNDS):
        run_id = f"run-{number:02}"
        gate.unlink(missing_ok=True)
        first = scene.start(run_id, "salt")
        wait_until(lambda process=first: children_of(process.pid))
        kill(first, "parent")
        scene.finish(first)
        racers = [scene.start(run_id, "salt") for _ in range(2 + number % 3)]
        wait_until(lambda all=racers: sum(racer.poll() is None for racer in all) == 1)
        gate.touch()
        ended = sorted((scene.finish(racer) for racer in racers), key=lambda end: end[0])
        assert ended[0][0] == 0
        for code, said in ended[1:]:
            assert code == 2
            assert said.startswith("error: this run is going on in another process: run-")
            assert said.count("\n") == 1
        scene.check_run(run_id, "salt")
    scene.check_store()


def test_many_processes_run_flows_on_one_store(tmp_path):
    scenes = [Scene(tmp_path / f"project-{n}", tmp_path / ".twin") for n in range(PROCESSES)]

    def runs(number):
        for turn in range(EACH):
            process = scenes[number].start(f"run-{number}-{turn}", f"salt-{turn % 2}")
            assert scenes[number].finish(process) == (0, "")
            scenes[number].check_run(f"run-{number}-{turn}", f"salt-{turn % 2}")

    with ThreadPoolExecutor(PROCESSES) as pool:
        list(pool.map(runs, range(PROCESSES)))
    scenes[0].check_store()
    history = Store(tmp_path / ".twin").recent(1000)
    assert len(history) == PROCESSES * EACH
    assert {len(run.stages) for run in history} == {len(STAGES)}


def ends_well(works):
    """Fork a process for each piece of work; whether all of them returned."""
    pids = []
    for work in works:
        if not (pid := os.fork()):
            code = 1
            try:
                work()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * len(works)


def test_a_new_store_may_be_opened_by_all_at_once(tmp_path):
    for number in range(ROUNDS):
        home, start = tmp_path / str(number), tmp_path / f"{number}.start"

        def work(home=home, start=start):
            wait_until(start.exists)
            store = Store(home)
            store.start(f"run-{os.getpid()}", "flow", {}, ["one"], "local")
            store.close()

        assert ends_well([*[work] * PROCESSES, start.touch])
        assert len(Store(home).recent()) == PROCESSES


def test_no_living_run_is_taken_for_dead(tmp_path):
    registry = Registry()
    registry.stage(name="quick", cached=True)(lambda: None)
    home, stop = tmp_path / ".twin", tmp_path / "stop"

    class Quiet:
        def __getattr__(self, name):
            return lambda *told: None

    def reap():
        while not stop.exists():
            assert Store(home).reap() == []

    def run():
        for _ in range(5 * ROUNDS):
            assert Runner(registry, tmp_path, home, Quiet()).run("quick").state.good
        stop.touch()

    assert Runner(registry, tmp_path, home, Quiet()).run("quick").state.good
    assert ends_well([run, run, reap, reap])
    assert {str(run.state) for run in Store(home).recent(10_000)} <= {
        "Completed", "Completed(Cached)",
    }  # fmt: skip
    (told,) = sqlite3.connect(home / "runs.db").execute("PRAGMA integrity_check").fetchone()
    assert told == "ok"
