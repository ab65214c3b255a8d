"""Run a flow: its stages in dependency order, each recorded, the unchanged ones left alone."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sqlite3
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.errors import SpaceError
from llm_twin.flow.graph import order
from llm_twin.flow.key import combine, key_parts, reasons, unchanged
from llm_twin.flow.process import Outcome, run_in_child
from llm_twin.flow.states import State, cancelled, completed, crashed, failed
from llm_twin.flow.store import StageRun, Store, new_run_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import IO

    from llm_twin.flow.report import Reporter
    from llm_twin.flow.stage import Registry, Stage


@dataclass(frozen=True)
class RunResult:
    """What became of a run: its id, final state, exit code and stage runs in order."""

    id: str
    state: State
    exit_code: int
    stages: list[StageRun]


class Runner:
    """Runs flows of one registry on one store."""

    def __init__(self, registry: Registry, root: Path, home: Path, reporter: Reporter) -> None:
        self.registry = registry
        self.root = root
        self.home = home
        self.reporter = reporter

    def run(
        self, *targets: str, parameters: dict[str, Any] | None = None, force: bool = False
    ) -> RunResult:
        """Run the targets and what they need.

        Args:
            targets: stage names.
            parameters: values for the stages' parameters, by name.
            force: do the work even where nothing changed.

        Raises:
            UserError: bad input, found before anything was written.

        """
        given = parameters or {}
        plan = [(stage, stage.arguments(given)) for stage in order(self.registry, *targets)]
        for stage, arguments in plan:
            if stage.check:
                stage.check(**arguments)
        with contextlib.ExitStack() as stack, _no_space_said(self.home):
            store = Store(self.home)
            stack.callback(store.close)
            for run_id in store.reap():
                self.reporter.note(f"run {run_id} had died; it is marked Crashed")
            locks = [stack.enter_context(store.claim(s.name)) for s, _ in plan if s.single]
            names = [stage.name for stage, _ in plan]
            run_id = new_run_id()
            alive = stack.enter_context(store.hold(run_id))
            store.start(run_id, " ".join(targets), given, names, _source())
            for lock in locks:
                lock.truncate(0)
                lock.write(
                    f"process {os.getpid()}, since {time.strftime('%H:%M:%S')}, run {run_id}"
                )
                lock.flush()
            with _terminate_as_interrupt():
                return _Execution(self, store, run_id, force, [alive, *locks]).run(plan)


class _Execution:
    """The state of one run in progress."""

    def __init__(
        self, runner: Runner, store: Store, run_id: str, force: bool, private: Sequence[IO[str]]
    ) -> None:
        self.root = runner.root
        self.reporter = runner.reporter
        self.store = store
        self.run_id = run_id
        self.force = force
        self.private = private
        self.done: dict[str, StageRun] = {}
        self.exit_code = 0

    def run(self, plan: Sequence[tuple[Stage, dict[str, Any]]]) -> RunResult:
        self.reporter.run_started(self.run_id, [stage.name for stage, _ in plan])
        interrupted = False
        for stage, arguments in plan:
            try:
                blocked = [need for need in stage.needs if not self.done[need].state.good]
                if interrupted or blocked:
                    why = "the run was stopped" if interrupted else f"{blocked[0]} did not complete"
                    self._record(StageRun(stage.name, cancelled(why, "Skipped")))
                else:
                    self._stage(stage, arguments)
            except KeyboardInterrupt:
                interrupted = True
                self._record(StageRun(stage.name, cancelled("stopped by a signal")))
        state = self._final(interrupted)
        self.store.ended(self.run_id, state)
        result = RunResult(self.run_id, state, self.exit_code, list(self.done.values()))
        self.reporter.run_ended(result)
        return result

    def _stage(self, stage: Stage, arguments: dict[str, Any]) -> None:
        upstream = {need: combine(self.done[need].parts or {}) for need in stage.needs}
        parts = key_parts(stage, arguments, self.root, upstream, self.store.digest)
        moved, previous = self._moved(stage, parts)
        if previous and not moved and not self.force:
            run_id, before = previous
            message = f"nothing changed since run {run_id}: {unchanged(parts)}"
            self._record(
                StageRun(
                    stage.name, completed(message, "Cached"), parts=parts, result=before.result
                )
            )
            return
        why = moved or ["it was asked to, although nothing changed"]
        self.reporter.stage_started(stage.name, why if stage.cached else [])
        self.store.stage_started(self.run_id, stage.name)
        started = time.time()
        outcome = run_in_child(
            lambda: _call(stage, arguments, self.run_id),
            self.store.log_path(self.run_id, stage.name),
            lambda text: self.reporter.output(stage.name, text),
            self.private,
        )
        self.exit_code = self.exit_code or outcome.exit_code
        self._record(
            StageRun(
                stage.name,
                _state(outcome),
                started,
                time.time(),
                round(outcome.cpu, 3),
                round(outcome.peak_mb, 1),
                parts,
                outcome.result,
            )
        )

    def _moved(
        self, stage: Stage, parts: dict[str, str]
    ) -> tuple[list[str], tuple[str, StageRun] | None]:
        """What speaks for running, and the last completed run to compare with."""
        previous = self.store.last_completed(stage.name) if stage.cached else None
        if not stage.cached:
            return ["it always runs"], None
        if previous is None:
            return reasons(None, parts), None
        moved = reasons(previous[1].parts, parts)
        missing = [path for path in (stage.outputs() if stage.outputs else []) if not path.exists()]
        return [*moved, *(f"its output {path} is gone" for path in missing)], previous

    def _record(self, done: StageRun) -> None:
        self.done[done.stage] = done
        self.store.stage_ended(self.run_id, done)
        self.reporter.stage_ended(done)

    def _final(self, interrupted: bool) -> State:
        if interrupted:
            self.exit_code = 130
            return cancelled("stopped by a signal")
        bad = [done for done in self.done.values() if not done.state.good]
        if not bad:
            cached = all(done.state.name == "Cached" for done in self.done.values())
            last = next(reversed(self.done.values()), None)
            return completed(last.state.message if last else "", "Cached" if cached else "")
        first = bad[0]
        self.exit_code = self.exit_code or 1
        return State(first.state.type, first.state.name, f"{first.stage}: {first.state.message}")


def _call(stage: Stage, arguments: dict[str, Any], run_id: str) -> Any:
    """Do the work, in the child; it can learn the run's id from the environment."""
    os.environ["TWIN_RUN_ID"] = run_id
    return stage.function(**arguments)


def _state(outcome: Outcome) -> State:
    if outcome.signal:
        hint = " (out of memory?)" if outcome.signal == "SIGKILL" else ""
        return crashed(outcome.error + hint)
    if outcome.exit_code:
        return failed(outcome.error or f"exit code {outcome.exit_code}")
    said = outcome.result.get("message", "") if isinstance(outcome.result, dict) else ""
    return completed(str(said))


def _source() -> str:
    return "ci" if os.environ.get("CI") else "local"


@contextlib.contextmanager
def _no_space_said(home: Path) -> Iterator[None]:
    """Say in one line that the history could not be kept."""
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EROFS):
            raise
        raise SpaceError(
            f"the run history cannot be written ({error})",
            home,
            "Free space, or type: export TWIN_HOME=/another/folder",
        ) from None


@contextlib.contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end a run as Ctrl-C does: children ended, history written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
