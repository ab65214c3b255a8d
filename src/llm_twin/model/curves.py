"""What training measures step by step, in a file that a kill and a resumption leave whole.

Each point is one JSON line, written at once: ``phase``, ``step``, and what of ``loss``, ``rate``,
``tokens``, ``evaluation`` and ``seconds`` was measured.
"""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, Any

from llm_twin.model import durable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Point = dict[str, Any]

FILE = "curves.jsonl"


class Curves:
    """The curves of one training; one process writes them at a time.

    Args:
        folder: where ``curves.jsonl`` is; made when the first point is logged.
        listener: is given each point after it is written.

    """

    def __init__(self, folder: Path, listener: Callable[[Point], None] | None = None) -> None:
        self.path = folder / FILE
        self._listener = listener
        self._mended = False

    def log(
        self,
        phase: str,
        step: int,
        *,
        loss: float | None = None,
        rate: float | None = None,
        tokens: int | None = None,
        evaluation: float | None = None,
        seconds: float | None = None,
    ) -> None:
        """Append one point; what is None is left out, what is not a number is written as null.

        Args:
            phase: ``pretrain``, ``sft`` or ``dpo``.
            step: of the optimizer in this phase, from 1.
            loss: of training, mean over the step's tokens, in nats (of dpo: of the pairs).
            rate: learning rate of the step.
            tokens: learned from in all phases so far.
            evaluation: loss on the rows set aside, in the unit of ``loss``.
            seconds: of the budget's clock so far.

        """
        measured = {
            "loss": loss,
            "rate": rate,
            "tokens": tokens,
            "evaluation": evaluation,
            "seconds": seconds,
        }
        point: Point = {"phase": phase, "step": int(step)}
        for name, value in measured.items():
            if value is not None:
                point[name] = value if math.isfinite(value) else None
        self._mend()
        with self.path.open("ab") as file:
            file.write(_line(point))
        if self._listener:
            self._listener(point)

    def rewind(self, phase: str, step: int) -> None:
        """Drop what was logged after a step: a training that goes on from there logs it anew.

        Args:
            phase: that training goes on in.
            step: last that is kept of it; phases that first appear after this one go too.

        """
        points = self.points()
        order = list(dict.fromkeys(point["phase"] for point in points))
        before = order[: order.index(phase)] if phase in order else order
        kept = [
            point
            for point in points
            if point["phase"] in before or (point["phase"] == phase and point["step"] <= step)
        ]
        if len(kept) < len(points):
            building = self.path.with_name(f".{FILE}.{os.getpid()}")
            building.write_bytes(b"".join(map(_line, kept)))
            durable.sync(building)
            building.replace(self.path)
            durable.sync(self.path.parent)

    def points(self) -> list[Point]:
        """All that was logged, in the order in which it was."""
        return read(self.path)

    def _mend(self) -> None:
        """Cut off what a killed process wrote half, once, so that no line is joined to it."""
        if self._mended:
            return
        self._mended = True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            whole = self.path.read_bytes().rfind(b"\n") + 1
            os.truncate(self.path, whole)


def read(path: Path) -> list[Point]:
    """The points of a file of curves; [] when there is none, a torn last line left out."""
    if not path.exists():
        return []
    *whole, _ = path.read_bytes().split(b"\n")
    return [point for line in whole if (point := _point(line)) is not None]


def _line(point: Point) -> bytes:
    return json.dumps(point, allow_nan=False).encode() + b"\n"


def _point(line: bytes) -> Point | None:
    """The point in a line; None when a disk or a person damaged it."""
    try:
        point = json.loads(line)
    except ValueError:
        return None
    if isinstance(point, dict) and {"phase", "step"} <= point.keys():
        return point
    return None
