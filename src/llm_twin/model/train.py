"""From a dataset to a model folder: a base or pretraining, two kinds of tuning, manifest.

Each phase leaves its weights where a later process finds them, so that a killed training goes on
instead of beginning again. The model's folder appears under its name only when everything in it is
written; ``manifest.json`` is what makes it a model.
"""

from __future__ import annotations

import math
import shutil
import time
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from llm_twin.model import base as bases
from llm_twin.model import checkpoints as saved
from llm_twin.model import durable, runtime
from llm_twin.model.language_model import MANIFEST
from llm_twin.model.profile import seconds
from llm_twin.model.stages import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from llm_twin.model import profile
    from llm_twin.model.budget import Progress
    from llm_twin.model.curves import Curves
    from llm_twin.model.dataset import Dataset
    from llm_twin.model.report import TrainReport

CURVES = "curves.jsonl"
_LIBRARIES = ("torch", "transformers", "trl", "peft", "tokenizers")


def train(
    dataset: Dataset,
    folder: Path,
    training: profile.Training,
    base: profile.Base,
    progress: Progress,
    seed: int = 0,
    *,
    checkpoints: Path | None = None,
    curves: Curves | None = None,
    listener: Callable[[dict[str, Any]], None] | None = None,
) -> TrainReport:
    """Train a model and write it to the folder, replacing what was there.

    Args:
        dataset: from ``make_dataset``.
        folder: appears complete, or not at all.
        training: how; the budget is at least one step of each phase.
        base: from what.
        progress: called with a line every two seconds.
        seed: of weights and order; with a budget in tokens it decides the weights.
        checkpoints: folder that a killed training goes on from; none: it begins again.
        curves: told of every step; by default kept beside the checkpoints, so that they go on too.
        listener: of those default curves.

    Raises:
        ConfigError: the base is not what is pinned, or no causal language model.
        NotReadyError: a library, a GPU, the base or the hub is missing.
        TwinError: the loss is not a number, or the memory does not suffice.

    """
    bases.check(training, base)
    imports = _load_libraries(progress)
    prefix = f".{folder.name}-"
    durable.sweep_buildings(folder.parent, prefix) if folder.parent.exists() else None
    building = durable.new_building(folder.parent, prefix)
    name = saved.key(dataset.digest, base, training, seed)
    try:
        with _place(checkpoints, name, folder, prefix) as place:
            told = curves or _curves(place, listener)
            every = seconds(training.checkpoints.every) if checkpoints else math.inf
            work = Run(dataset, training, base, seed, place, every, told, progress)
            with (
                runtime.threads(runtime.training_threads()),
                runtime.seeded(seed),
                runtime.repeatable(work.device == "cuda" and training.budget.tokens > 0),
            ):
                report = work.run(imports)
            _fill(building, work.weights, told.path, {"dataset": dataset.digest}, report)
            durable.remove(folder)
            building.rename(folder)
            durable.sync(folder.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    if checkpoints:
        durable.remove(checkpoints / name)
        saved.sweep(checkpoints, name)
    return report


def _load_libraries(progress: Progress) -> float:
    """Import what trains and return the CPU seconds it took."""
    start = time.process_time()
    runtime.prepare()
    progress("loading torch, transformers and TRL")
    with runtime.quiet():
        import torch  # noqa: F401
        import trl.trainer.sft_trainer  # noqa: F401
    return time.process_time() - start


@contextmanager
def _place(root: Path | None, name: str, folder: Path, prefix: str) -> Iterator[Path]:
    """The folder for checkpoints and results of phases: one that stays, or a temporary one."""
    if root is None:
        place = durable.new_building(folder.parent, prefix)
        try:
            yield place
        finally:
            durable.remove(place)
        return
    place = root / name
    place.mkdir(parents=True, exist_ok=True)
    place.touch()
    saved.sweep(root, name)
    yield place


def _curves(place: Path, listener: Callable[[dict[str, Any]], None] | None) -> Curves:
    from llm_twin.model.curves import Curves

    return Curves(place, listener)


def _fill(
    folder: Path, weights: Path, curves: Path, said: dict[str, Any], report: TrainReport
) -> None:
    """Write weights, tokenizer and curves, and last the manifest."""
    aside = (saved.STATE, saved.COMPLETE)
    for path in sorted(weights.iterdir()):
        if path.is_file() and path.name not in aside:
            shutil.copyfile(path, folder / path.name)
    if curves.is_file():
        shutil.copyfile(curves, folder / CURVES)
    durable.write_json(
        folder / MANIFEST,
        {
            "training": {**report.to_dict(), **said},
            "base": report.base,
            "versions": {name: version(name) for name in _LIBRARIES},
            "files": durable.list_files(folder, without=MANIFEST),
        },
    )
    durable.sync_tree(folder)
