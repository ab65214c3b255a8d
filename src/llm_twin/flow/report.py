"""What a person sees of a run: plain lines while it goes, tables and JSON afterwards."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm_twin.flow.runner import RunResult
    from llm_twin.flow.store import Run, StageRun

MOST_REASONS = 5


class Reporter(Protocol):
    """Told about a run as it happens."""

    def note(self, text: str) -> None:
        """Say something that belongs to no stage."""
        ...

    def run_started(self, run_id: str, stages: list[str]) -> None:
        """A run with these stages began."""
        ...

    def stage_started(self, stage: str, why: list[str]) -> None:
        """A stage began, for these reasons."""
        ...

    def output(self, stage: str, text: str) -> None:
        """A stage printed something."""
        ...

    def stage_ended(self, done: StageRun) -> None:
        """A stage reached a final state."""
        ...

    def run_ended(self, result: RunResult) -> None:
        """The run reached a final state."""
        ...


class PlainReporter(Reporter):
    """Lines on a stream; a stage's own output passes through unchanged."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stdout
        self.several = False
        self.started: dict[str, float] = {}

    def note(self, text: str) -> None:
        self._line(text)

    def run_started(self, run_id: str, stages: list[str]) -> None:
        self.several = len(stages) > 1
        self._line(f"run {run_id}: {', '.join(stages)}")

    def stage_started(self, stage: str, why: list[str]) -> None:
        self.started[stage] = time.monotonic()
        if why:
            self._line(f"{stage} runs because {_listing(why)}")
        elif self.several:
            self._line(f"-- {stage}")

    def output(self, stage: str, text: str) -> None:
        self.out.write(text)
        self.out.flush()

    def stage_ended(self, done: StageRun) -> None:
        if done.state.good and not done.state.name and not self.several:
            return
        took = time.monotonic() - self.started.get(done.stage, time.monotonic())
        duration = f" after {took:.1f} s" if done.stage in self.started else ""
        message = f": {done.state.message}" if done.state.message else ""
        self._line(f"-- {done.stage} {done.state}{duration}{message}")

    def run_ended(self, result: RunResult) -> None:
        self._line(f"run {result.id}: {result.state}")
        if result.state.type not in ("Completed", "Cancelled"):
            self._line(f"look at it: invoke runs.logs {result.id}")

    def _line(self, text: str) -> None:
        print(text, file=self.out, flush=True)


def _listing(items: Sequence[str]) -> str:
    shown = "; ".join(items[:MOST_REASONS])
    more = len(items) - MOST_REASONS
    return f"{shown}; and {more} more" if more > 0 else shown


def run_to_dict(run: Run) -> dict[str, Any]:
    """A run as plain JSON types; times are seconds since the epoch."""
    return {
        "id": run.id,
        "flow": run.flow,
        "state": str(run.state),
        "message": run.state.message,
        "parameters": run.parameters,
        "created": run.created,
        "ended": run.ended,
        "pid": run.pid,
        "source": run.source,
        "stages": [
            {
                "stage": item.stage,
                "state": str(item.state),
                "message": item.state.message,
                "started": item.started,
                "ended": item.ended,
                "cpu_seconds": item.cpu,
                "peak_mb": item.peak_mb,
                "result": item.result,
            }
            for item in run.stages
        ],
    }


def runs_table(runs: Sequence[Run]) -> str:
    """One line a run, newest first."""
    if not runs:
        return "No runs yet. Start one: invoke ct"
    rows = [("ID", "FLOW", "STATE", "STARTED", "SECONDS", "MESSAGE")]
    rows += [
        (
            run.id,
            run.flow,
            str(run.state),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.created)),
            _seconds(run.created, run.ended),
            run.state.message,
        )
        for run in runs
    ]
    return table(rows)


def run_details(run: Run) -> str:
    """One run with its stages."""
    head = [
        f"run {run.id}: {run.flow}, {run.state}",
        f"started {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(run.created))}"
        f", took {_seconds(run.created, run.ended)} s, process {run.pid}, {run.source}",
    ]
    if run.parameters:
        head.append("with " + ", ".join(f"{k}={v!r}" for k, v in run.parameters.items()))
    if run.state.message:
        head.append(run.state.message)
    rows = [("STAGE", "STATE", "SECONDS", "CPU", "PEAK MB", "MESSAGE")]
    rows += [
        (
            item.stage,
            str(item.state),
            _seconds(item.started, item.ended),
            "" if item.cpu is None else f"{item.cpu:.1f}",
            "" if item.peak_mb is None else f"{item.peak_mb:.0f}",
            item.state.message,
        )
        for item in run.stages
    ]
    return "\n".join([*head, "", table(rows)])


def table(rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, two spaces apart."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _seconds(start: float | None, end: float | None) -> str:
    return "" if start is None or end is None else f"{end - start:.1f}"
