"""What every phase of training is given, and how its failures are explained."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.errors import TwinError
from llm_twin.model.reporting import Reporter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from torch import Tensor

    from llm_twin.model.budget import Budget, Progress
    from llm_twin.model.checkpoints import Shelf
    from llm_twin.model.curves import Curves
    from llm_twin.model.profile import Training

FLOOR = 0.1
"""The share of the peak rate that tuning ends with: measured with such an end, see docs."""


@dataclass(frozen=True)
class Phase:
    """One of ``pretrain``, ``sft`` and ``dpo``, and what it works with.

    Attributes:
        name: of the phase.
        training: the profile's settings.
        device: ``cpu`` or ``cuda``.
        seed: of weights and order.
        budget: of this phase.
        shelf: its checkpoints.
        progress: called with a line every two seconds.
        curves: told of every step; none where nobody wants them.

    """

    name: str
    training: Training
    device: str
    seed: int
    budget: Budget
    shelf: Shelf
    progress: Progress
    curves: Curves | None = None

    def reporter(self) -> Reporter:
        """A reporter of this phase."""
        return Reporter(self.name, self.progress, self.budget, self.curves)

    def resume(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint, with the budget set to where it was; nothing at a first go."""
        found = self.shelf.newest()
        if found:
            self.budget.restore(found[1]["budget"])
            self.progress(f"{self.name} goes on from step {found[1]['step']}")
        elif self.curves:
            self.curves.rewind(self.name, 0)
        return found


def shape(schedule: str, done: float, warm_up: float = 0.0) -> float:
    """The share of the peak rate at a share of the phase, from 0 to 1."""
    if done < warm_up:
        return max(FLOOR, done / warm_up)
    fallen = (done - warm_up) / max(1 - warm_up, 1e-9)
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * fallen)) / 2
    return 1 - (1 - FLOOR) * fallen


def check_number(value: float, step: int, phase: str) -> None:
    """Refuse a loss or a gradient that is not a number.

    Raises:
        TwinError: it is not finite.

    """
    if not math.isfinite(value):
        raise TwinError(
            f"the loss is not a number at step {step} of {phase}",
            hint="Lower the rate in the profile, or raise warm_up. Production is as it was",
        )


def check_weights(weights: Iterable[Tensor], step: int, phase: str) -> None:
    """Refuse weights that are not numbers, so that no checkpoint keeps them.

    Raises:
        TwinError: one is not finite.

    """
    import torch

    if not all(bool(torch.isfinite(one).all()) for one in weights):
        check_number(math.nan, step, phase)


@contextmanager
def explained(phase: str) -> Iterator[None]:
    """Say what to lower when the memory does not suffice.

    Raises:
        TwinError: instead of torch's own error.

    """
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _memory(phase) from error
    except RuntimeError as error:
        if "allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        raise _memory(phase) from error


def _memory(phase: str) -> TwinError:
    return TwinError(
        f"the memory does not suffice for {phase}",
        hint=f"In the profile lower {phase}.batch (and raise {phase}.accumulate as much), lower"
        f" {phase}.length, or set {phase}.gradient_checkpointing. Production is as it was",
    )
