"""One run in progress: start what may start, take in what ended, stop when asked to."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.flow.endings import said, state_of, stopped_by_signals
from llm_twin.flow.files import Files
from llm_twin.flow.key import Keys
from llm_twin.flow.policy import Crashed, TimedOut
from llm_twin.flow.records import Attempt, StageRun
from llm_twin.flow.states import State, awaiting_retry, cancelled, completed, crashed, failed
from llm_twin.flow.store import BEAT_SECONDS, Store
from llm_twin.flow.tree import kill_left
from llm_twin.flow.uptodate import ORIGIN, UpToDate, Verdict, left_by_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO

    from llm_twin.flow.evidence import Evidence
    from llm_twin.flow.process import Children, Outcome
    from llm_twin.flow.runner import Runner
    from llm_twin.flow.stage import Stage

    Planned = list[tuple[Stage, dict[str, Any]]]

WAIT_SECONDS = 0.1
LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class RunResult:
    """What became of a run: its id, final state, exit code and stage runs in order."""

    id: str
    state: State
    exit_code: int
    stages: list[StageRun]


class Execution:
    """One run in progress."""

    def __init__(
        self, runner: Runner, store: Store, run_id: str, force: bool, private: Sequence[IO[str]]
    ) -> None:
        self.runner = runner
        self.store = store
        self.run_id = run_id
        self.force = force
        self.reporter = runner.reporter
        self.files = Files(store.db)
        self.keys = Keys(runner.root, self.files, lambda text: runner.masker.text(text))
        self.judge = UpToDate(store, lambda: runner.cache, self.keys)
        self.private = private
        self.done: dict[str, StageRun] = {}
        self.current: dict[str, StageRun] = {}
        self.entries: dict[str, Any] = {}
        self.tries: dict[str, int] = {}
        self.due: dict[str, float] = {}
        self.exit_code = 0
        self.stopping = ""
        self.prepared = False
        self.evidence: Evidence | None = None
        self.looked = self.beaten = time.monotonic()

    @functools.cached_property
    def children(self) -> Children:
        """The processes; nothing for them is imported as long as every stage is up to date."""
        from llm_twin.flow.process import Children

        return Children(self.private)

    @property
    def running(self) -> list[str]:
        """Names of the stages that are running."""
        return self.children.names() if "children" in self.__dict__ else []

    def take_over(self, stages: Sequence[StageRun]) -> None:
        """Start from what an earlier process of this run completed."""
        for done in stages:
            if done.state.good:
                self.done[done.stage] = done
            else:
                self.current[done.stage] = StageRun(done.stage, attempts=done.attempts)
        kill_left(self.run_id, [name for name, run in self.current.items() if run.attempts])

    def run(self, plan: Planned) -> RunResult:
        waiting = [item for item in plan if item[0].name not in self.done]
        try:
            self.reporter.run_started(
                self.run_id, [stage.name for stage, _ in plan], self.store.log_folder(self.run_id)
            )
            with stopped_by_signals(self._stop), contextlib.closing(self):
                while waiting or self.running or self.due:
                    waiting = self._advance(waiting)
                    if self.running or self.due:
                        self._wait()
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                self.store.bury(self.run_id, crashed(f"{type(error).__name__}: {error}"))
            raise
        self.files.save()
        state = self._final()
        self.store.ended(self.run_id, state)
        stages = [self.done[stage.name] for stage, _ in plan]
        result = RunResult(self.run_id, state, self.exit_code, stages)
        self.reporter.run_ended(result)
        return result

    def close(self) -> None:
        """End what is still running."""
        if "children" in self.__dict__:
            self.children.close()

    def _advance(self, waiting: Planned) -> Planned:
        """Settle what needs no process, start what may start; return what still waits."""
        before = -1
        while len(waiting) != before:
            before = len(waiting)
            settled: list[StageRun] = []
            waiting = [item for item in waiting if not self._settle_or_start(item, settled)]
            self._record(settled)
        now = time.monotonic()
        for name in [name for name, at in self.due.items() if at <= now or self.stopping]:
            if self.stopping or self._room(self.runner.registry[name]):
                del self.due[name]
                self._again(name)
        return waiting

    def _settle_or_start(self, item: tuple[Stage, dict[str, Any]], settled: list[StageRun]) -> bool:
        stage, arguments = item
        if any(need not in self.done for need in stage.needs) and not self.stopping:
            return False
        bad = [need for need in stage.needs if need in self.done and not self.done[need].state.good]
        if self.stopping or bad:
            why = self.stopping or f"{bad[0]} did not complete"
            settled.append(self._settled(stage, cancelled(why, "Skipped")))
            return True
        upstream = {
            need: left_by_run(self.runner.registry[need], self.done[need]) for need in stage.needs
        }
        if not self._room(stage):
            return False
        try:
            verdict = self.judge.verdict(stage, arguments, upstream, self.force)
        except (Exception, SystemExit) as error:  # of the stage's own facts, inputs or outputs
            settled.append(self._settled(stage, failed(self._clean(said(error)))))
            self.exit_code = self.exit_code or getattr(error, "exit_code", 1)
            return True
        if not verdict.why and not verdict.entry:
            settled.append(self._cached(stage, verdict))
            return True
        self._begin(stage, arguments, verdict)
        return True

    def _room(self, stage: Stage) -> bool:
        """Whether the stage may start now, if it has to run at all."""
        names = self.running
        alone = any(self.runner.registry[name].exclusive for name in names)
        return len(names) < self.runner.jobs and not alone and not (stage.exclusive and names)

    def _settled(self, stage: Stage, state: State) -> StageRun:
        """A stage that ends without an attempt, or without another one."""
        run = self.current.setdefault(stage.name, StageRun(stage.name))
        run.state = state
        return run

    def _cached(self, stage: Stage, verdict: Verdict) -> StageRun:
        run = self._settled(stage, completed(verdict.message, "Cached"))
        run.parts, run.key = verdict.parts, verdict.key
        run.result, run.outputs = verdict.result, verdict.outputs
        run.evidence = {ORIGIN: verdict.run}
        return run

    def _clean(self, text: str) -> str:
        """Text as it may be kept: no secrets, and none of what cannot be written as UTF-8."""
        return self.runner.masker.text(text).encode("utf-8", "backslashreplace").decode()

    def _begin(self, stage: Stage, arguments: dict[str, Any], verdict: Verdict) -> None:
        if stage.cached and not self.prepared:
            self.prepared = True
            self.runner.cache.prepare()
            self._tell_trouble(self.runner.cache.trouble)
        run = self.current.setdefault(stage.name, StageRun(stage.name))
        run.parts, run.key = verdict.parts, verdict.key
        run.why = verdict.why
        self.entries[stage.name] = (stage, arguments, verdict)
        self.tries[stage.name] = 0
        self._again(stage.name)

    def _again(self, name: str) -> None:
        """Start the next attempt of a stage that was begun."""
        from llm_twin.flow.job import Job
        from llm_twin.flow.process import Work

        run = self.current[name]
        if self.stopping:
            self._record([_ended(run, cancelled(self.stopping))])
            return
        stage, arguments, verdict = self.entries[name]
        self.tries[name] += 1
        run.attempts += 1
        run.started = run.started or time.time()
        self.store.attempt_started(self.run_id, name, run.attempts, run.why)
        self.reporter.stage_started(name, run.why if stage.cached else [], run.attempts)
        job = Job(
            self.runner.root,
            lambda: self.runner.cache,
            self.keys,
            self.run_id,
            stage,
            arguments,
            verdict,
            run,
            self.force,
            self.runner.masker.value,
        )
        self.children.start(
            Work(
                name,
                f"{self.run_id}/{name}/{run.attempts}",
                job,
                stage.retry.wants,
                self.store.log_path(self.run_id, name),
                lambda text: self.reporter.output(name, text),
                self.runner.masker.stream(),
                stage.timeout,
            )
        )

    def _wait(self) -> None:
        if self.evidence is None:
            from llm_twin.flow.evidence import Evidence

            self.evidence = Evidence(self.runner.root)
        now = time.monotonic()
        # What is due already waits for room, that is for a child's end, which needs no spinning.
        soonest = min((at - now for at in self.due.values() if at > now), default=WAIT_SECONDS)
        for name, outcome in self.children.wait(min(WAIT_SECONDS, soonest)):
            self._attempt_ended(name, outcome)
        now = time.monotonic()
        self.reporter.tick()
        if self.stopping:
            self._ask_to_stop(at_once=False)
        if now - self.looked > LOOK_SECONDS and not self.stopping:
            self.looked = now
            if asked := self.store.cancel_asked(self.run_id):
                self._stop(asked)
        if now - self.beaten > BEAT_SECONDS:
            self.beaten = now
            self.store.beat(self.run_id)

    def _attempt_ended(self, name: str, outcome: Outcome) -> None:
        stage, _, verdict = self.entries[name]
        run = self.current[name]
        state = state_of(stage, outcome)
        state = State(state.type, state.name, self._clean(state.message))
        attempt = Attempt(
            name,
            run.attempts,
            state,
            0.0,
            time.time(),
            round(outcome.cpu, 3),
            round(outcome.peak_mb, 1),
        )
        if self._wants_retry(stage, outcome):
            delay = stage.retry.delay(self.tries[name])
            then = awaiting_retry(
                f"attempt {self.tries[name]} of {stage.retry.attempts}: {state.message};"
                f" the next in {delay:.1f} s"
            )
            self.store.attempt_ended(self.run_id, attempt, then)
            self.reporter.stage_waiting(name, then)
            self.due[name] = time.monotonic() + delay
            return
        run.cpu, run.peak_mb = attempt.cpu, attempt.peak_mb
        run.evidence = self.evidence.facts() if self.evidence else {}
        self.files.look_again()
        done = _ended(run, state)
        if outcome.exit_code == 0 and not outcome.stopped:
            done = self._taken(stage, done, outcome.result)
        else:
            code = 1 if outcome.stopped else outcome.exit_code
            self.exit_code = self.exit_code or code
            if stage.cached:
                self.runner.cache.forget(verdict.key)
        self._record([done], attempt)

    def _wants_retry(self, stage: Stage, outcome: Outcome) -> bool:
        if self.stopping or self.tries[stage.name] >= stage.retry.attempts:
            return False
        if outcome.stopped == "timeout":
            return stage.retry.wants(TimedOut())
        return stage.retry.wants(Crashed()) if outcome.crashed else outcome.retry

    def _taken(self, stage: Stage, done: StageRun, answer: dict[str, Any]) -> StageRun:
        """Take what the child says it did into the record."""
        done.outputs = answer["outputs"]
        done.result = self.runner.masker.value(answer["result"])
        if answer["trouble"] and not self.runner.cache.trouble:
            self.runner.cache.give_up(answer["trouble"])
            self._tell_trouble(answer["trouble"])
        if answer["restored"]:
            done.state = completed(answer["restored"], "Cached")
            done.evidence = {ORIGIN: answer["origin"]}
        elif answer["moved"]:
            done.key = ""
            note = f"{answer['moved'][0]} while it ran, so it will run again next time"
            done.state = completed("; ".join(filter(None, [done.state.message, note])))
        return done

    def _tell_trouble(self, trouble: str) -> None:
        if trouble:
            self.reporter.note(f"going on without the shared cache: {trouble}")

    def _record(self, stages: Sequence[StageRun], attempt: Attempt | None = None) -> None:
        if not stages:
            return
        for done in stages:
            self.done[done.stage] = done
        self.store.stages_ended(self.run_id, stages, attempt)
        for done in stages:
            self.reporter.stage_ended(done)

    def _stop(self, why: str) -> None:
        """Stop everything; asked a second time, at once."""
        again = bool(self.stopping)
        self.stopping = self.stopping or why
        self._ask_to_stop(at_once=again)

    def _ask_to_stop(self, at_once: bool) -> None:
        for name in self.running:
            self.children.stop(name, "cancelled", at_once)

    def _final(self) -> State:
        if self.stopping:
            self.exit_code = 130
            return cancelled(self.stopping)
        bad = [done for done in self.done.values() if not done.state.good]
        if not bad:
            cached = all(done.cached for done in self.done.values())
            last = next(reversed(self.done.values()), None)
            return completed(last.state.message if last else "", "Cached" if cached else "")
        first = bad[0]
        self.exit_code = self.exit_code or 1
        return State(first.state.type, first.state.name, f"{first.stage}: {first.state.message}")


def _ended(run: StageRun, state: State) -> StageRun:
    run.state, run.ended = state, time.time()
    return run
