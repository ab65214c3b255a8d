"""What is said about a run while it goes on: plain lines here, one JSON object a line with --json.

A live board is in ``board``, what GitHub Actions understands in ``github``; ``choose`` takes the
one that fits. What is read afterwards is in ``views``.
"""

from __future__ import annotations

import json as jsonlib
import os
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from llm_twin.flow.views import duration, listing, log_pieces, stage_to_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from llm_twin.flow.records import StageRun
    from llm_twin.flow.runner import RunResult
    from llm_twin.flow.states import State

QUIET_SECONDS = 30.0


def choose(
    out: TextIO | None = None, json: bool = False, environ: Mapping[str, str] | None = None
) -> Reporter:
    """The reporter that fits where its output goes.

    Args:
        out: where to; default: stdout.
        json: whether a program reads it.
        environ: tells GitHub Actions, other CI services and dumb terminals; default: this
            process's environment.

    """
    out = out or sys.stdout
    environ = os.environ if environ is None else environ
    if json:
        return JsonReporter(out)
    if environ.get("GITHUB_ACTIONS") == "true":
        from llm_twin.flow.github import GitHubReporter

        return GitHubReporter(out, environ)
    if out.isatty() and not environ.get("CI") and environ.get("TERM") not in ("dumb", "unknown"):
        from llm_twin.flow.board import BoardReporter

        return BoardReporter(out, no_color=bool(environ.get("NO_COLOR")))
    return PlainReporter(out)


class Reporter(Protocol):
    """Told about a run as it happens; every text it is given has its secrets masked already."""

    def note(self, text: str) -> None:
        """Say something that belongs to no stage."""
        ...

    def run_started(self, run_id: str, stages: Sequence[str], logs: Path) -> None:
        """A run with these stages began; stage X prints to ``logs/X.log``."""
        ...

    def stage_started(self, stage: str, why: Sequence[str], attempt: int) -> None:
        """An attempt of a stage began, for these reasons; 1 is the first."""
        ...

    def output(self, stage: str, text: str) -> None:
        """A stage printed something: any piece of text, not always whole lines."""
        ...

    def stage_waiting(self, stage: str, state: State) -> None:
        """An attempt did not do it; the stage is ``Scheduled(AwaitingRetry)``."""
        ...

    def stage_ended(self, done: StageRun) -> None:
        """A stage reached a final state."""
        ...

    def tick(self) -> None:
        """Called about ten times a second while the run goes on."""
        ...

    def run_ended(self, result: RunResult) -> None:
        """The run reached a final state."""
        ...


class PlainReporter(Reporter):
    """Lines on a stream: a single stage's output as it comes, of several stages one block each.

    Args:
        out: where to; default: stdout.
        clock: seconds that only grow.

    """

    logs: Path

    def __init__(
        self, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.out = out or sys.stdout
        self.clock = clock
        self.several = False
        self.running: dict[str, float] = {}
        self.why: dict[str, Sequence[str]] = {}
        # Where this run's part of a log begins: a resumed run appends to what is there.
        self.log_starts: dict[str, int] = {}
        self.began = self.said = clock()
        self._in_line = False

    def note(self, text: str) -> None:
        self._line(text)

    def run_started(self, run_id: str, stages: Sequence[str], logs: Path) -> None:
        self.several = len(stages) > 1
        self.logs = logs
        self.began = self.clock()
        for of_the_run_before in (self.running, self.why, self.log_starts):
            of_the_run_before.clear()
        self._line(f"run {run_id}: {', '.join(stages)}")

    def stage_started(self, stage: str, why: Sequence[str], attempt: int) -> None:
        self.running[stage] = self.clock()
        if stage in self.log_starts:
            return
        self.log_starts[stage] = self._log_size(stage)
        self.why[stage] = why
        if not self.several:
            self._open(stage)

    def output(self, stage: str, text: str) -> None:
        if not self.several:
            self._write(text)

    def stage_waiting(self, stage: str, state: State) -> None:
        self.running.pop(stage, None)
        self._line(f"-- {stage} {state}: {state.message}")

    def stage_ended(self, done: StageRun) -> None:
        self.running.pop(done.stage, None)
        if done.stage in self.log_starts:
            self._show_log(done.stage)
        if self.several or done.state.name or not done.state.good:
            self._line(final_line(done))

    def tick(self) -> None:
        now = self.clock()
        if self.running and now - self.said >= QUIET_SECONDS:
            since = (f"{name} {duration(now - at)}" for name, at in self.running.items())
            self._line(f".. still running: {', '.join(since)}")

    def run_ended(self, result: RunResult) -> None:
        took = duration(self.clock() - self.began)
        self._line(f"run {result.id}: {result.state} after {took}{self._counts(result)}")
        if not result.state.good or (self.several and self.log_starts):
            self._line(f"look at it: invoke runs.logs {result.id}")
        if not result.state.good:
            self._line(f"go on with it: invoke runs.resume {result.id}")

    def log_path(self, stage: str) -> Path:
        """The log file of a stage."""
        return self.logs / f"{stage}.log"

    def _log_size(self, stage: str) -> int:
        path = self.log_path(stage)
        return path.stat().st_size if path.exists() else 0

    def _counts(self, result: RunResult) -> str:
        counts = Counter(str(done.state) for done in result.stages)
        listed = ", ".join(f"{count} {state}" for state, count in counts.items())
        return f" ({listed})" if self.several else ""

    def _show_log(self, stage: str) -> None:
        """Print a stage's log as one block; of a single stage it is there already."""
        if self.several:
            if not self.why[stage] and self._log_size(stage) == self.log_starts[stage]:
                return
            self._open(stage)
            for piece in log_pieces(self.log_path(stage), self.log_starts[stage]):
                self._write(piece)
        self._close()

    def _open(self, stage: str) -> None:
        """Say that a stage's output follows."""
        if self.several or self.why[stage]:
            self._line(f"{'-- ' if self.several else ''}{self._heading(stage)}")

    def _close(self) -> None:
        """Say that a stage's output is over."""

    def _heading(self, stage: str) -> str:
        why = self.why[stage]
        return f"{stage} runs because {listing(why)}" if why else stage

    def _line(self, text: str) -> None:
        self._write(f"{chr(10) if self._in_line else ''}{text}\n")

    def _write(self, text: str) -> None:
        if not text:
            return
        try:
            self.out.write(text)
        except UnicodeEncodeError:
            encoding = self.out.encoding
            self.out.write(text.encode(encoding, "replace").decode(encoding))
        self.out.flush()
        self._in_line = not text.endswith("\n")
        self.said = self.clock()


def final_line(done: StageRun) -> str:
    """A stage's final state, the time it took and what it said."""
    took = ""
    if done.started is not None and done.ended is not None:
        took = f" after {duration(done.ended - done.started)}"
    message = f": {done.state.message}" if done.state.message else ""
    return f"-- {done.stage} {done.state}{took}{message}"


class JsonReporter(Reporter):
    """One JSON object a line, and nothing else; times are seconds since the epoch."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stdout

    def note(self, text: str) -> None:
        self._event("note", text=text)

    def run_started(self, run_id: str, stages: Sequence[str], logs: Path) -> None:
        self._event("run_started", run=run_id, stages=list(stages), logs=str(logs))

    def stage_started(self, stage: str, why: Sequence[str], attempt: int) -> None:
        self._event("stage_started", stage=stage, why=list(why), attempt=attempt)

    def output(self, stage: str, text: str) -> None:
        self._event("output", stage=stage, text=text)

    def stage_waiting(self, stage: str, state: State) -> None:
        self._event("stage_waiting", stage=stage, state=str(state), message=state.message)

    def stage_ended(self, done: StageRun) -> None:
        self._event("stage_ended", **stage_to_dict(done))

    def tick(self) -> None:
        """Nothing is said between events."""

    def run_ended(self, result: RunResult) -> None:
        self._event(
            "run_ended",
            run=result.id,
            state=str(result.state),
            message=result.state.message,
            exit_code=result.exit_code,
        )

    def _event(self, event: str, **fields: Any) -> None:
        print(
            jsonlib.dumps({"event": event, "time": time.time(), **fields}, default=str),
            file=self.out,
            flush=True,
        )
