"""A build on the screen: live lines on a terminal, else a line for each step that ended.

A step's log is shown while it runs, its last line only; all that was kept of it when it fails.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from typing import TYPE_CHECKING, TextIO

from llm_twin.delivery.events import TAIL_LINES, Event, LogLine, Step

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress, TaskID

NAME_WIDTH = 100


def build_view(out: TextIO | None = None) -> PlainView:
    """What fits the stream (default: standard error): a context manager and an ``on_event``."""
    out = sys.stderr if out is None else out
    live = out.isatty() and os.environ.get("TERM") != "dumb"
    return LiveView(out) if live else PlainView(out)


class PlainView:
    """A line for each step, with its seconds or CACHED."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self._tails: dict[str, deque[str]] = {}

    def __enter__(self) -> PlainView:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.out.flush()

    def __call__(self, event: Event) -> None:
        if isinstance(event, LogLine):
            self._tails.setdefault(event.step, deque(maxlen=TAIL_LINES)).append(event.text)
            self.said(event)
        elif event.seconds is None:
            self.began(event)
        else:
            self.ended(event)

    def said(self, line: LogLine) -> None:
        """A running step printed a line."""

    def began(self, step: Step) -> None:
        """A step started."""

    def ended(self, step: Step) -> None:
        """A step ended: its line, and its log's last lines if it failed."""
        lines = self._tails.pop(step.key, ())
        if step.internal and not step.error:
            return
        self.show(f"{_short(step.name)}  {outcome(step)}")
        for line in lines if step.error else ():
            self.show(f"    {line}")

    def show(self, text: str) -> None:
        """Print a line that stays."""
        self.out.write(f"{text}\n")
        self.out.flush()


class LiveView(PlainView):
    """Lines for the steps that run now, each with the last of its log, below those that ended."""

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.table import Column

        super().__init__(out)
        self._tasks: dict[str, TaskID] = {}
        self._progress: Progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            TimeElapsedColumn(),
            TextColumn("{task.fields[last]}", markup=False, style="dim",
                       table_column=Column(no_wrap=True, ratio=1)),
            console=Console(file=out),
            transient=True,
            expand=True,
        )  # fmt: skip

    def __enter__(self) -> LiveView:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def said(self, line: LogLine) -> None:
        if line.step in self._tasks:
            self._progress.update(self._tasks[line.step], last=line.text)

    def began(self, step: Step) -> None:
        if not step.internal and step.key not in self._tasks:
            self._tasks[step.key] = self._progress.add_task(_short(step.name), last="")

    def ended(self, step: Step) -> None:
        if (task := self._tasks.pop(step.key, None)) is not None:
            self._progress.remove_task(task)
        super().ended(step)

    def show(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)


def outcome(step: Step) -> str:
    """How a step that ended went, in a word."""
    if step.error:
        return "CANCELLED" if step.cancelled else "FAILED"
    return "CACHED" if step.cached else f"{step.seconds or 0:.1f} s"


def _short(name: str) -> str:
    line = " ".join(name.split())
    return line if len(line) <= NAME_WIDTH else f"{line[: NAME_WIDTH - 1]}…"
