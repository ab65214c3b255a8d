"""What a phase of training tells while it runs: a line now and then, and a point for every step."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_twin.model.budget import Budget, Progress
    from llm_twin.model.curves import Curves

EVERY = 2.0
"""Wall seconds between two lines of progress."""


class Reporter:
    """Passes on steps: all of them to the curves, and one at most every two seconds as a line."""

    def __init__(
        self, phase: str, progress: Progress, budget: Budget, curves: Curves | None = None
    ) -> None:
        self.phase, self.progress, self.budget, self.curves = phase, progress, budget, curves
        self._whole = budget.whole or budget
        self.loss: float | None = None
        self._begun = self._last = time.monotonic()
        self._seen, self._done = budget.seen, 0.0

    def resumed(self, step: int, done: float) -> None:
        """Go on after a step: what the curves have beyond it is removed."""
        self._seen, self._done = self.budget.seen, done
        self._begun = time.monotonic()
        if self.curves:
            self.curves.rewind(self.phase, step)

    @property
    def speed(self) -> float:
        """Tokens learned from in a wall second, by this process in this phase."""
        return (self.budget.seen - self._seen) / max(time.monotonic() - self._begun, 1e-9)

    def step(self, step: int, loss: float, done: float, rate: float | None = None) -> None:
        """Report a step.

        Args:
            step: of the phase, from 1.
            loss: in nats per token, or of the preference.
            done: share of the phase, from 0 to 1.
            rate: of learning.

        """
        self.loss = loss
        if self.curves:
            self.curves.log(
                self.phase,
                step,
                loss=loss,
                rate=rate,
                tokens=self._whole.seen,
                seconds=round(self._whole.used, 3),
            )
        now = time.monotonic()
        if now - self._last < EVERY:
            return
        self._last = now
        gone = (now - self._begun) / max(done - self._done, 1e-9)
        self.progress(
            f"{self.phase} {done:4.0%}  step {step}  loss {loss:.2f}"
            f"  {self.speed:,.0f} tokens/s  {gone * (1 - done):.0f} s to go"
        )

    def evaluated(self, step: int, value: float) -> None:
        """Report the loss on the rows set aside, in the phase's unit."""
        if self.curves:
            self.curves.log(
                self.phase,
                step,
                evaluation=value,
                tokens=self._whole.seen,
                seconds=round(self._whole.used, 3),
            )
