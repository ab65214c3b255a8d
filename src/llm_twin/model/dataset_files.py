"""A dataset as a folder of JSON lines that DVC can track and the Hugging Face hub can show.

::

    instructions.jsonl  preferences.jsonl  texts.jsonl      to learn from
    heldout_instructions.jsonl  …                           to be judged by
    questions.jsonl                                         for retrieval
    README.md                                               the card
    dataset.dvc                                             MD5 and size of each, as DVC writes them
    manifest.json                                           SHA-256 and size of each, digest, counts

The same dataset has the same bytes. The folder is written beside its place and moved there whole.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llm_twin.errors import ConfigError, NotReadyError, SpaceError
from llm_twin.model import durable
from llm_twin.model.card import card

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from llm_twin.model.dataset import Dataset

CARD, DVC, MANIFEST = "README.md", "dataset.dvc", "manifest.json"
BUILDING = ".building-dataset-"


def write(dataset: Dataset, folder: Path) -> dict[str, Any]:
    """Write everything; a former dataset in the folder is replaced. Return the manifest.

    Raises:
        ConfigError: the folder holds something else.
        SpaceError: it cannot be written.

    """
    folder = folder.expanduser().absolute()
    _check(folder)
    try:
        durable.sweep_buildings(folder.parent, BUILDING) if folder.parent.is_dir() else None
        building = durable.new_building(folder.parent, BUILDING)
        manifest = _fill(building, dataset)
        durable.sync_tree(building)
        durable.remove(folder)
        building.rename(folder)
    except OSError as error:
        raise SpaceError("the dataset cannot be written", folder, str(error)) from None
    return manifest


def _check(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigError("the dataset needs a folder", folder, "Name another one")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        what = "the folder holds something else than a dataset"
        raise ConfigError(what, folder, "Name an empty or a new one")


def _fill(folder: Path, dataset: Dataset) -> dict[str, Any]:
    for name, rows in rows_of(dataset).items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / name).write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
    (folder / CARD).write_text(card(dataset), encoding="utf-8", errors="backslashreplace")
    files = durable.list_files(folder, MANIFEST)
    (folder / DVC).write_text(_dvc(folder, files), encoding="utf-8")
    manifest = {"digest": dataset.digest, "sources": dataset.sources, "files": files}
    durable.write_json(folder / MANIFEST, manifest)
    return manifest


def rows_of(dataset: Dataset) -> dict[str, list[dict[str, Any]]]:
    """The rows of each file, by its name."""
    return {
        "instructions.jsonl": _plain(dataset.pairs),
        "preferences.jsonl": _plain(dataset.preferences),
        "texts.jsonl": [{"text": text} for text in dataset.train_texts],
        "heldout_instructions.jsonl": _plain(dataset.heldout_pairs),
        "heldout_preferences.jsonl": _plain(dataset.heldout_preferences),
        "heldout_texts.jsonl": [{"text": text} for text in dataset.heldout_texts],
        "questions.jsonl": _plain(dataset.questions),
    }


def _plain(rows: Iterable[Any]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


def _dvc(folder: Path, files: dict[str, dict[str, object]]) -> str:
    lines = ["outs:"]
    for name, said in files.items():
        with (folder / name).open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        lines += [f"- md5: {md5}", f"  size: {said['size']}", "  hash: md5", f"  path: {name}"]
    return "\n".join(lines) + "\n"


def check(folder: Path) -> dict[str, Any]:
    """The manifest of a folder whose files are what it says.

    Raises:
        NotReadyError: there is none, or a file is missing or was changed.

    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        wrong = [
            name
            for name, said in manifest["files"].items()
            if not (folder / name).is_file() or durable.sha256_of(folder / name) != said["sha256"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise NotReadyError(
            "there is no dataset", folder, "Make it: invoke ct.dataset --out FOLDER"
        ) from None
    if wrong:
        what = f"the dataset is not what was written ({', '.join(wrong)})"
        raise NotReadyError(what, folder, "Make it anew: invoke ct.dataset --out FOLDER")
    return manifest
