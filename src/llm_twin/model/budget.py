"""What training may cost: seconds of the CPU or the wall, and tokens; and what it has cost so far.

CPU seconds are the sum over all threads, so they mean the same on a busy machine. With a limit in
tokens nothing that shapes the weights looks at a clock, so the same seed makes the same model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Literal

Progress = Callable[[str], None]


class Budget:
    """Seconds and tokens of one training or of a part of it, counted from when it is made.

    Args:
        seconds: of the clock, after which it is spent; inf: no limit.
        tokens: after which it is spent; 0: no limit.
        clock: ``cpu`` counts the seconds of all threads, ``wall`` those on the wall.
        whole: the budget that this one is a part of; its tokens count there too.

    """

    def __init__(
        self,
        seconds: float = math.inf,
        tokens: int = 0,
        clock: Literal["cpu", "wall"] = "cpu",
        whole: Budget | None = None,
    ) -> None:
        self.seconds, self.tokens = max(seconds, 1e-9), tokens
        self.clock, self.whole = clock, whole
        self.seen = 0
        self._start, self._cpu = self._now(), time.process_time()

    def _now(self) -> float:
        return time.process_time() if self.clock == "cpu" else time.monotonic()

    @property
    def used(self) -> float:
        """Seconds of the clock since the start, those of killed processes before it included."""
        return self._now() - self._start

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds since the start, whatever the clock is."""
        return time.process_time() - self._cpu

    @property
    def left(self) -> float:
        """Seconds to go; zero when they are spent."""
        return max(0.0, self.seconds - self.used)

    @property
    def fraction(self) -> float:
        """How much is used, from 0 to 1: of the tokens if they are limited, else of the time."""
        if self.tokens:
            return min(1.0, self.seen / self.tokens)
        return min(1.0, self.used / self.seconds)

    @property
    def spent(self) -> Literal["", "tokens", "time"]:
        """Which limit is reached, if any."""
        if self.tokens and self.seen >= self.tokens:
            return "tokens"
        return "time" if self.left <= 0 else ""

    def take(self, tokens: int) -> None:
        """Count tokens that were learned from."""
        self.seen += tokens
        if self.whole:
            self.whole.take(tokens)

    def part(self, share: float) -> Budget:
        """A budget of that share of what is left of this one."""
        tokens = max(1, int(share * (self.tokens - self.seen))) if self.tokens else 0
        return Budget(share * self.left, tokens, self.clock, self)

    def state(self) -> dict[str, Any]:
        """Limits and use as JSON types, for ``restore`` in a later process."""
        said = {name: getattr(self, name) for name in ("seconds", "tokens", "seen", "used")}
        return {
            **said,
            "cpu_seconds": self.cpu_seconds,
            "whole": self.whole.state() if self.whole else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` said, for the budget that this is a part of too."""
        self.seconds, self.tokens, self.seen = state["seconds"], state["tokens"], state["seen"]
        self._start = self._now() - state["used"]
        self._cpu = time.process_time() - state["cpu_seconds"]
        if self.whole and state["whole"]:
            self.whole.restore(state["whole"])
