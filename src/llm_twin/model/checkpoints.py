"""Checkpoints that survive ``kill -9``: whole or not there, and never trusted unread.

``<root>/<key>/<phase>/step-N`` holds what a phase goes on from, ``result`` what it ended with. Each
carries a list of its files with sizes and hashes, written last, and gets its name by a rename.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

from llm_twin.model import durable

if TYPE_CHECKING:
    from pathlib import Path

    from llm_twin.model.budget import Progress
    from llm_twin.model.profile import Base, Training

COMPLETE = "complete.json"
STATE = "state.json"
STEP, RESULT, BUILDING = "step-", "result", ".building-"
KEPT_KEYS = 3
"""Trainings whose checkpoints are kept, the newest first: an interrupted one may be taken up."""


def key(dataset_digest: str, base: Base, training: Training, seed: int) -> str:
    """Name a training by all that shapes its weights; how often it is saved does not."""
    said = [
        dataset_digest,
        base.model_dump(mode="json"),
        training.model_dump(mode="json", exclude={"checkpoints"}),
        seed,
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:24]


def sweep(root: Path, current: str) -> None:
    """Remove the checkpoints of all but the newest trainings, and never the current one's."""
    others = [path for path in root.iterdir() if path.is_dir() and path.name != current]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[KEPT_KEYS - 1 :]:
        durable.remove(path)


def is_whole(folder: Path) -> bool:
    """Whether every file that the folder lists is there with its size and hash."""
    try:
        files = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))["files"]
        return all(
            (folder / name).stat().st_size == listed["size"]
            and durable.sha256_of(folder / name) == listed["sha256"]
            for name, listed in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


class Shelf:
    """The checkpoints of one phase.

    Args:
        folder: of the phase; made when something is written.
        every: wall seconds between two checkpoints; inf: none, only the result is kept.
        keep: how many checkpoints to keep.
        progress: told of one that is passed over.

    Attributes:
        taken: step of the checkpoint that ``newest`` gave out.

    """

    def __init__(self, folder: Path, every: float, keep: int, progress: Progress) -> None:
        self.folder, self.every, self.keep, self.progress = folder, every, keep, progress
        self.taken: int | None = None
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for another checkpoint."""
        return time.monotonic() - self._last >= self.every

    def begin(self) -> Path:
        """Make a folder to build something in; those of dead processes go."""
        if self.folder.exists():
            durable.sweep_buildings(self.folder, BUILDING)
        return durable.new_building(self.folder, BUILDING)

    def commit(self, building: Path, step: int, state: dict[str, Any]) -> None:
        """Make a built folder the newest checkpoint, and drop the oldest."""
        self._name(building, f"{STEP}{step:08d}", state)
        for old in self._steps()[self.keep :]:
            durable.remove(old)
        self._last = time.monotonic()

    def finish(self, building: Path, state: dict[str, Any]) -> Path:
        """Make a built folder the phase's result; its checkpoints are no longer needed."""
        result = self._name(building, RESULT, state)
        for old in self._steps():
            durable.remove(old)
        return result

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that is whole, and its state; broken ones are passed over."""
        for folder in self._steps():
            if is_whole(folder):
                state = _state(folder)
                self.taken = state["step"]
                return folder, state
            self.progress(f"the checkpoint {folder} is damaged: going on from the one before it")
            durable.remove(folder)
        return None

    def result(self) -> tuple[Path, dict[str, Any]] | None:
        """What the phase ended with, and its state, if it ended."""
        folder = self.folder / RESULT
        if not folder.exists():
            return None
        if is_whole(folder):
            return folder, _state(folder)
        self.progress(f"{folder} is damaged: the phase is done again")
        durable.remove(folder)
        return None

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob(f"{STEP}*"), reverse=True)

    def _name(self, building: Path, name: str, state: dict[str, Any]) -> Path:
        durable.write_json(building / STATE, state)
        durable.sync_tree(building)
        durable.write_json(
            building / COMPLETE, {"files": durable.list_files(building, without=COMPLETE)}
        )
        final = self.folder / name
        durable.remove(final)
        building.rename(final)
        durable.sync(self.folder)
        return final


def _state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return state
