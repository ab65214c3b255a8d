"""Test a stage or an automation without running it: a recording context and a frozen clock.

A stage that starts commands::

    from llm_twin.testing import recording

    with recording({"docker build *": "sha256:1f"}) as context:
        build()
    assert context.commands == ["docker build -t twin ."]

An automation, over eight days that take no time::

    from llm_twin.testing import FrozenClock, Rehearsal

    rehearsal = Rehearsal(automations, FrozenClock("2026-01-05T03:00Z"))
    rehearsal.run_ended("ct", state="Failed")
    rehearsal.advance("8d")
    assert [plan.automation for plan in rehearsal.planned] == ["ct-failed", "no-training"]
"""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from llm_twin.errors import FlowError, TwinError
from llm_twin.flow.automation.plan import Simulation
from llm_twin.flow.automation.triggers import Event, FilesChanged
from llm_twin.flow.automation.words import numbers, seconds
from llm_twin.flow.context import Context, Finished, using

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from llm_twin.flow.automation.declare import Automation
    from llm_twin.flow.automation.plan import Planned

__all__ = ["FrozenClock", "RecordingContext", "Rehearsal", "recording"]

Answer = str | int | Finished | Exception


@dataclass
class RecordingContext(Context):
    """A stage's context that starts nothing: it notes the commands and answers from a table.

    Attributes:
        answers: by a pattern of the whole command line (``git push *``; the first that fits
            counts): the output, the exit code, both as Finished, or an error to raise. A command
            that no pattern fits ends well and prints nothing.
        commands: the command lines, in order, quoted as for a shell.

    """

    answers: Mapping[str, Answer] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)

    def run_command(
        self,
        *command: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        quiet: bool = False,
    ) -> Finished:
        """Note the command and answer for it, as the real one would."""
        line = shlex.join(command)
        self.commands.append(line)
        answer = next((a for p, a in self.answers.items() if fnmatchcase(line, p)), "")
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, str):
            answer = Finished(0, answer)
        elif isinstance(answer, int):
            answer = Finished(answer)
        if check and answer.exit_code:
            raise TwinError(f"{line} failed with exit code {answer.exit_code}", answer.output)
        if not quiet and answer.output:
            print(answer.output)
        return answer if quiet else Finished(answer.exit_code)


@contextlib.contextmanager
def recording(
    answers: Mapping[str, Answer] | None = None, run: str = "test", stage: str = ""
) -> Iterator[RecordingContext]:
    """Make ``context()`` a RecordingContext for the length of a block."""
    chosen = RecordingContext(run=run, stage=stage, answers=answers or {})
    with using(chosen):
        yield chosen


class FrozenClock:
    """A clock that moves only when it is told to.

    Args:
        at: seconds since the epoch, a datetime, or a text like ``2026-01-05T03:00Z`` (UTC when it
            names no zone).

    """

    def __init__(self, at: float | str | datetime) -> None:
        if isinstance(at, str):
            at = datetime.fromisoformat(at)
        if isinstance(at, datetime):
            at = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
        self._now = float(at)

    def now(self) -> float:
        """The time, in seconds since the epoch."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Let the time pass at once."""
        self._now += seconds

    def advance(self, length: str) -> float:
        """Let ``2d``, ``90s`` or the like pass; return the time."""
        self._now += seconds(length)
        return self._now


class Rehearsal:
    """What automations would do about events that you make up; nothing is done.

    Attributes:
        planned: everything that would have been done so far, in order.

    """

    def __init__(self, automations: Iterable[Automation], clock: FrozenClock) -> None:
        """Begin now, by the clock: what comes due from here on counts."""
        self.clock = clock
        self.planned: list[Planned] = []
        self._simulation = Simulation(automations, clock.now())
        self._count = 0

    def advance(self, length: str) -> list[Planned]:
        """Let time pass and return what would be done in it."""
        self.clock.advance(length)
        return self._feed()

    def run_ended(
        self,
        flow: str,
        state: str = "Completed",
        results: dict[str, dict[str, Any]] | None = None,
        message: str = "",
    ) -> list[Planned]:
        """Let a run end; ``results`` are what its stages returned, by stage."""
        data = {"run": "test", "flow": flow, "state": state, "message": message}
        metrics = numbers(results or {})
        return self._happen("run", flow, {**data, "parameters": {}, "metrics": metrics})

    def metric(self, name: str, value: float) -> list[Planned]:
        """Let a stage report a number: ``metric("ct.hit_at_5", 0.6)``."""
        stage, _, path = name.partition(".")
        return self.run_ended(stage, results={stage: {path: value}})

    def webhook(self, name: str, payload: dict[str, Any]) -> list[Planned]:
        """Let a webhook be received."""
        return self._happen("webhook", name, payload)

    def emit(self, name: str, data: dict[str, Any] | None = None) -> list[Planned]:
        """Let an event be told."""
        return self._happen("event", name, data or {})

    def files_changed(self, automation: str, *paths: str) -> list[Planned]:
        """Let files change that an automation watches.

        Raises:
            FlowError: it watches none.

        """
        for item in self._simulation.automations:
            if item.name == automation and isinstance(item.when, FilesChanged):
                return self._happen("files", str(item.when), {"changed": list(paths)})
        raise FlowError("no such automation watches files", automation)

    def _happen(self, kind: str, name: str, data: dict[str, Any]) -> list[Planned]:
        self._count += 1
        return self._feed(Event(kind, name, self.clock.now(), data, f"{kind}:{self._count}"))

    def _feed(self, *events: Event) -> list[Planned]:
        found = self._simulation.feed(events, self.clock.now())
        self.planned += found
        return found
