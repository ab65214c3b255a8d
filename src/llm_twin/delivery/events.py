"""What a build says while it runs: steps and lines of their logs, whichever builder it is.

BuildKit reports vertices as often as it likes and logs in pieces of bytes; a plain builder prints
text. Both become the same few events here, with secrets replaced before anyone sees them.
"""

from __future__ import annotations

import re
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llm_twin.delivery import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TAIL_LINES = 30
# A part of a secret that is shorter than this is a word like any other.
SHORTEST = 4
HEADING = re.compile(r"^(?:STEP|Step) (\d+/\d+) ?: (.*)", re.DOTALL)
COLOURS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
CACHED = re.compile(r"^ *--+> Using cache")


@dataclass(frozen=True, slots=True)
class Step:
    """A step that started or ended.

    Attributes:
        key: what it is known by in this build.
        name: like ``[build 2/5] RUN uv sync``.
        cached: whether its result was there already.
        seconds: how long it took; None while it runs.
        error: why it failed; empty if it did not.

    """

    key: str
    name: str
    cached: bool = False
    seconds: float | None = None
    error: str = ""

    @property
    def internal(self) -> bool:
        """Whether it is the builder's own and of no interest unless it fails."""
        return self.name.startswith("[internal]") or self.name == "copy /context /"

    @property
    def cancelled(self) -> bool:
        """Whether it ended only because another failed."""
        return self.error.endswith("context canceled")


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line that a step printed, without its end."""

    step: str
    text: str


Event = Step | LogLine


class Masks:
    """Replaces secrets by ``***``: whole values, and each of their lines."""

    def __init__(self, secrets: Iterable[bytes] = ()) -> None:
        lines = {line.strip() for value in secrets for line in (value, *value.splitlines())}
        found = sorted((line for line in lines if len(line) >= SHORTEST), key=len, reverse=True)
        self._pattern = re.compile(b"|".join(re.escape(line) for line in found)) if found else None

    def __call__(self, text: str) -> str:
        if self._pattern is None:
            return text
        return self._pattern.sub(b"***", text.encode()).decode("utf-8", "replace")


@dataclass
class Listener:
    """Keeps what a build has said so far and tells ``on_event`` what is new.

    Attributes:
        steps: every step that began, by key, in order.
        failed: the step that failed, if one did.

    """

    on_event: Callable[[Event], None]
    masks: Masks = field(default_factory=Masks)
    steps: dict[str, Step] = field(default_factory=dict)
    failed: Step | None = None
    _tails: dict[str, deque[str]] = field(default_factory=dict)

    def step(self, step: Step) -> None:
        """Take a step's state; BuildKit repeats itself, so only what is new is told."""
        known = self.steps.get(step.key)
        ended = known is not None and known.seconds is not None
        if known == step or (ended and not step.error):
            return
        self.steps[step.key] = step
        if step.error and not step.cancelled:
            self.failed = self.failed or step
        self.on_event(step)

    def line(self, key: str, text: str) -> None:
        """Take a whole line of a step's log."""
        clean = self.masks(COLOURS.sub("", text))
        self._tails.setdefault(key, deque(maxlen=TAIL_LINES)).append(clean)
        self.on_event(LogLine(key, clean))

    def tail(self) -> tuple[str, ...]:
        """The last lines of the step that failed."""
        return tuple(self._tails.get(self.failed.key, ())) if self.failed else ()


class TraceReader:
    """Reads BuildKit's ``moby.buildkit.trace`` messages."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._open: dict[tuple[str, int], bytes] = {}

    def feed(self, data: bytes) -> None:
        """Take one StatusResponse: logs first, since a step's last lines come with its end."""
        message = wire.read(data)
        for item in message.get(3, []):
            self._log(wire.read(bytes(item)) if isinstance(item, bytes) else {})
        for item in message.get(1, []):
            self._vertex(wire.read(item) if isinstance(item, bytes) else {})

    def _vertex(self, vertex: wire.Message) -> None:
        started, completed = wire.seconds(vertex, 5), wire.seconds(vertex, 6)
        cached = bool(wire.number(vertex, 4))
        if started is None and not cached:
            return
        key = wire.text(vertex, 1)
        if completed is not None:
            self._flush(key)
        elif cached:
            completed = started = started or 0.0
        took = None if completed is None else completed - (started or completed)
        masks = self._listener.masks
        name, error = masks(wire.text(vertex, 3)), masks(wire.text(vertex, 7))
        self._listener.step(Step(key, name, cached, took, error))

    def _log(self, log: wire.Message) -> None:
        key, stream = wire.text(log, 1), wire.number(log, 3)
        whole = self._open.pop((key, stream), b"") + wire.blob(log, 4)
        *lines, rest = re.split(rb"\r\n|[\r\n]", whole)
        if rest:
            self._open[key, stream] = rest
        self._say(key, lines)

    def _flush(self, key: str) -> None:
        for at in [at for at in self._open if at[0] == key]:
            self._say(key, [self._open.pop(at)])

    def _say(self, key: str, lines: Iterable[bytes]) -> None:
        for line in lines:
            if line.strip():
                self._listener.line(key, line.decode("utf-8", "replace"))


class TextReader:
    """Reads what a plain builder prints: a heading before each step, then its output."""

    def __init__(self, listener: Listener, clock: Callable[[], float] = time.monotonic) -> None:
        self._listener = listener
        self._clock = clock
        self._running: Step | None = None
        self._began = 0.0

    def feed(self, text: str) -> None:
        """Take a piece of text; these builders print whole lines."""
        for line in filter(str.strip, text.splitlines()):
            if heading := HEADING.match(line):
                self.end()
                name = f"[{heading[1]}] {heading[2].strip()}"
                self._running = Step(heading[1], self._listener.masks(name))
                self._began = self._clock()
                self._listener.step(self._running)
            elif self._running and CACHED.match(line):
                self._running = replace(self._running, cached=True)
            elif self._running:
                self._listener.line(self._running.key, line)

    def end(self, error: str = "") -> None:
        """The running step ended, with an error or well."""
        if self._running:
            took = self._clock() - self._began
            error = self._listener.masks(error)
            self._listener.step(replace(self._running, seconds=took, error=error))
            self._running = None
