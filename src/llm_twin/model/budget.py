"""A budget of CPU seconds: the sum over all threads, so it means the same on a busy machine."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[str], None]
EVERY = 2.0
"""Wall seconds between two lines of progress."""


class Budget:
    """CPU seconds of this process, counted from when it is made."""

    def __init__(self, seconds: float) -> None:
        self.seconds = max(seconds, 1e-9)
        self._start = time.process_time()

    @property
    def used(self) -> float:
        """CPU seconds since the start."""
        return time.process_time() - self._start

    @property
    def left(self) -> float:
        """CPU seconds to go; zero when it is spent."""
        return max(0.0, self.seconds - self.used)

    @property
    def fraction(self) -> float:
        """How much is used, from 0 to 1."""
        return min(1.0, self.used / self.seconds)


class Reporter:
    """Passes on a line of progress at most every two seconds of wall time."""

    def __init__(self, phase: str, progress: Progress, budget: Budget) -> None:
        self.phase, self.progress, self.budget = phase, progress, budget
        self._last = time.monotonic()

    def step(self, step: int, loss: float) -> None:
        """Report a step if the last line is old enough."""
        if time.monotonic() - self._last < EVERY:
            return
        self._last = time.monotonic()
        self.progress(
            f"{self.phase} {self.budget.used:.0f}/{self.budget.seconds:.0f} cpu-s"
            f"  step {step}  loss {loss:.2f}"
        )
