"""A live board of a run's stages, for a terminal: one row each, kept at the end.

It appears when one of several stages really runs, so a run in which nothing changed does not pay
for importing rich. It is drawn only when the runner calls: no thread, because the runner forks.
"""

from __future__ import annotations

import atexit
import time
from collections import Counter
from typing import TYPE_CHECKING, TextIO

from llm_twin.flow.report import PlainReporter, final_line
from llm_twin.flow.states import PENDING, RUNNING, State, StateType
from llm_twin.flow.views import duration, last_lines, plain_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from llm_twin.flow.records import StageRun
    from llm_twin.flow.runner import RunResult

REFRESH_SECONDS = 0.25
LAST_LINES = 10
# What is kept of a stage's output to find its last line in.
TAIL = 2000
CLOCK_WIDTH = 11
FINAL = {StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED}
MARKS = {
    StateType.PENDING: ("·", ".", "dim"),
    StateType.SCHEDULED: ("↻", "~", "yellow"),
    StateType.RUNNING: ("▶", ">", "cyan"),
    StateType.COMPLETED: ("✔", "+", "green"),
    StateType.FAILED: ("✘", "x", "red"),
    StateType.CRASHED: ("✘", "x", "red"),
    StateType.CANCELLED: ("⊘", "-", "yellow"),
}
# What is shown first when the terminal has fewer rows than there are stages.
URGENCY = (
    StateType.FAILED,
    StateType.CRASHED,
    StateType.RUNNING,
    StateType.SCHEDULED,
    StateType.PENDING,
    StateType.CANCELLED,
    StateType.COMPLETED,
)


class BoardReporter(PlainReporter):
    """A board for several stages; a single one's output passes through as on a plain stream.

    Args:
        out: a terminal.
        clock: seconds that only grow.
        no_color: whether to do without colours.

    """

    def __init__(
        self,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        no_color: bool = False,
    ) -> None:
        super().__init__(out, clock)
        self.run_id = ""
        self.states: dict[str, State] = {}
        self._no_color = no_color
        self._encoding = self.out.encoding or "ascii"
        self._unicode = _can_encode("✔…", self._encoding)
        self._tails: dict[str, str] = {}
        self._took: dict[str, str] = {}
        # Lines that the board will say instead, if there is one.
        self._held: list[str] | None = None
        self._live: Live | None = None
        self._drawn = 0.0
        self._whole = False

    def note(self, text: str) -> None:
        if self._live:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            self._write(f"{text}\n")

    def run_started(self, run_id: str, stages: Sequence[str], logs: Path) -> None:
        self.run_id = run_id
        self.states = dict.fromkeys(stages, PENDING)
        self._held = [] if len(stages) > 1 else None
        super().run_started(run_id, stages, logs)

    def stage_started(self, stage: str, why: Sequence[str], attempt: int) -> None:
        super().stage_started(stage, why, attempt)
        self.states[stage] = RUNNING

    def output(self, stage: str, text: str) -> None:
        super().output(stage, text)
        self._tails[stage] = (self._tails.get(stage, "") + text)[-TAIL:]

    def stage_waiting(self, stage: str, state: State) -> None:
        self.states[stage] = state
        self.running.pop(stage, None)
        if not self._live:
            super().stage_waiting(stage, state)

    def stage_ended(self, done: StageRun) -> None:
        self.states[done.stage] = done.state
        if done.started is not None and done.ended is not None:
            self._took[done.stage] = duration(done.ended - done.started)
        if self._held is not None and done.stage in self.log_starts:
            self._start()
        self.running.pop(done.stage, None)
        if not self._live:
            super().stage_ended(done)

    def tick(self) -> None:
        if self._held is not None and self.running:
            self._start()
        elif not self._live:
            super().tick()
        elif self.clock() - self._drawn >= REFRESH_SECONDS:
            self._drawn = self.clock()
            self._live.refresh()

    def run_ended(self, result: RunResult) -> None:
        self.states.update((done.stage, done.state) for done in result.stages)
        if self._live:
            self._stop()
            for done in result.stages:
                if done.stage in self.log_starts and not done.state.good:
                    self._show_end(done)
        self._release()
        super().run_ended(result)

    def _start(self) -> None:
        """Put the board up; without rich, go on as a plain reporter."""
        try:
            from rich.console import Console
            from rich.live import Live
        except ImportError:
            self._release()
            return
        self._held = None
        console = Console(file=self.out, no_color=self._no_color or None)
        self._live = Live(
            console=console,
            get_renderable=lambda: self._board(console.width, console.height),
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        atexit.register(self._stop)
        self._live.start(refresh=True)
        self._drawn = self.clock()

    def _stop(self) -> None:
        """Leave the whole board on the screen and give the cursor back."""
        atexit.unregister(self._stop)
        if self._live:
            self._whole = True
            self._live.stop()
            self._live = None

    def _release(self) -> None:
        held, self._held = self._held, None
        for line in held or ():
            self._line(line)

    def _line(self, text: str) -> None:
        if self._held is None:
            super()._line(text)
        else:
            self._held.append(text)

    def _show_end(self, done: StageRun) -> None:
        """The last lines of a stage that failed, below the board."""
        path = self.log_path(done.stage)
        self._line(f"\n{final_line(done)}")
        self._line(f"the end of {path}:")
        for line in last_lines(path, LAST_LINES, self.log_starts[done.stage]):
            self._line(f"  {line}")

    def _board(self, width: int, height: int) -> Group:
        """The board as it is now, for a terminal of this many columns and rows."""
        from rich.console import Group
        from rich.text import Text

        shown = list(self.states) if self._whole else self._most_urgent(height - 2)
        finished = sum(state.type in FINAL for state in self.states.values())
        elapsed = duration(self.clock() - self.began)
        rows = [Text(f"run {self.run_id}  {finished}/{len(self.states)}  {elapsed}", "bold")]
        rows += [self._row(stage, width) for stage in shown]
        if hidden := [state for stage, state in self.states.items() if stage not in shown]:
            counts = Counter(state.type.lower() for state in hidden)
            more = ", ".join(f"{count} more {name}" for name, count in counts.items())
            rows.append(Text(f"{'…' if self._unicode else '...'} {more}", "dim"))
        for row in rows:
            row.truncate(width - 1, overflow="crop")
        return Group(*rows)

    def _row(self, stage: str, width: int) -> Text:
        """Mark, name, state, clock, and what it said last."""
        from rich.text import Text

        state = self.states[stage]
        symbol, plain, style = MARKS[state.type]
        names = max(map(len, self.states))
        kinds = max(len(str(state)) for state in self.states.values())
        took = self._took.get(stage, "")
        said = state.message
        if stage in self.running:
            took = duration(self.clock() - self.running[stage])
            said = self._last_line(stage)
        said = plain_line(said)[:width].encode(self._encoding, "replace").decode(self._encoding)
        return Text.assemble(
            (symbol if self._unicode else plain, style),
            (f" {stage:{names}}  ", "dim" if state == PENDING else ""),
            (f"{state!s:{kinds}}", style),
            (f"  {took:>{CLOCK_WIDTH}}  {said}", "dim"),
        )

    def _most_urgent(self, room: int) -> list[str]:
        """The stages that fit, in the order of the run; one row is kept for what does not."""
        if len(self.states) <= room:
            return list(self.states)
        ranked = sorted(self.states, key=lambda stage: URGENCY.index(self.states[stage].type))
        chosen = set(ranked[: max(1, room - 1)])
        return [stage for stage in self.states if stage in chosen]

    def _last_line(self, stage: str) -> str:
        lines = self._tails.get(stage, "").replace("\r", "\n").split("\n")
        return next((line for line in reversed(lines) if plain_line(line)), "")


def _can_encode(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
