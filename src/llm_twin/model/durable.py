"""Files that are whole or absent after ``kill -9``: hashes, synced writes, folders with an owner.

A folder under construction carries its process id in its name, so that a later process can tell
work in progress from the leftovers of a dead one.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SQLITE_SIDE_FILES = ("-wal", "-shm")


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(folder: Path, without: str) -> dict[str, dict[str, object]]:
    """Map each file below a folder, by relative POSIX path, to its ``size`` and ``sha256``.

    SQLite's ``-wal`` and ``-shm`` come and go with readers and are never listed.
    """
    return {
        path.relative_to(folder).as_posix(): {
            "size": path.stat().st_size,
            "sha256": sha256_of(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != without and not path.name.endswith(SQLITE_SIDE_FILES)
    }


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below a folder, and the folder itself."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if not path.is_symlink():
            sync(path)
    sync(folder)


def write_json(path: Path, data: Mapping[str, object]) -> None:
    """Write JSON so that the path holds the old text or the new, never a part of either."""
    building = path.with_name(f".{path.name}.{os.getpid()}")
    building.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sync(building)
    building.replace(path)
    sync(path.parent)


def new_building(parent: Path, prefix: str) -> Path:
    """Make an empty folder ``<prefix><process id>-<random>`` inside the parent and return it."""
    parent.mkdir(parents=True, exist_ok=True)
    building = parent / f"{prefix}{os.getpid()}-{secrets.token_hex(4)}"
    building.mkdir()
    return building


def sweep_buildings(parent: Path, prefix: str) -> list[str]:
    """Remove the building folders and links of dead processes; return their names."""
    removed = []
    for path in sorted(parent.glob(f"{prefix}*")):
        owner = path.name.removeprefix(prefix).partition("-")[0]
        if owner.isdigit() and is_alive(int(owner)):
            continue
        remove(path)
        removed.append(path.name)
    return removed


def remove(path: Path) -> None:
    """Remove a folder, file or link; one that is already gone is fine."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    elif path.exists():
        shutil.rmtree(path)


def is_alive(pid: int) -> bool:
    """Tell whether a process with that id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
