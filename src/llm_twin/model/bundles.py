"""The promoted bundle on disk: the index and the model that belong together, switched as one.

::

    models/
      .building-<process id>-<random>/   work in progress; never served
      20260101T120000-ab12cd/            a version: bundle.json, index.db, model/
      production -> 20260101T120000-ab12cd

A version exists once its folder has its final name, and ``bundle.json`` is in it by then. The
switch of ``production`` is one rename of a symbolic link. Killed between any two instructions,
``production`` leads to the old version or the new one, and either is complete.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from llm_twin.errors import BusyError, ConfigError, NotReadyError
from llm_twin.model import durable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MANIFEST = "bundle.json"
PRODUCTION = "production"
BUILDING = ".building-"
LINK = ".production-"
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Bundle:
    """One version on disk.

    Attributes:
        version: its name.
        path: its folder.
        manifest: what ``bundle.json`` says: ``version``, ``created``, ``details``, and ``files``
            with the size and SHA-256 of each.

    """

    version: str
    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Read a version's manifest and check that every file has its listed size.

        Raises:
            NotReadyError: the manifest or a file is missing or has another size.

        """
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            bundle = cls(manifest["version"], path, manifest)
            problems = bundle.problems()
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            problems = [f"{MANIFEST} is missing or cannot be read"]
        if problems:
            raise NotReadyError(
                f"The bundle is damaged ({problems[0]})", path, "Make a new one: invoke ct"
            )
        return bundle

    @property
    def index_path(self) -> Path:
        """The search index, one SQLite file."""
        return self.path / "index.db"

    @property
    def model_path(self) -> Path:
        """The trained model, a Hugging Face folder."""
        return self.path / "model"

    def problems(self) -> list[str]:
        """Name each listed file that is missing or has another size; quick."""
        found = []
        for name, listed in self.manifest["files"].items():
            path = self.path / name
            if not path.is_file():
                found.append(f"{name} is missing")
            elif path.stat().st_size != listed["size"]:
                found.append(f"{name} has another size")
        return found

    def verify(self) -> None:
        """Hash every file and compare it with the manifest.

        Raises:
            NotReadyError: a file is missing or was changed.

        """
        problems = self.problems() or [
            f"{name} was changed"
            for name, listed in self.manifest["files"].items()
            if durable.sha256_of(self.path / name) != listed["sha256"]
        ]
        if problems:
            raise NotReadyError(
                f"The bundle is damaged ({'; '.join(problems)})",
                self.path,
                "Make a new one: invoke ct",
            )


def production_files(folder: Path) -> list[Path]:
    """The promoted bundle's manifest and every file that it lists, whether they exist or not."""
    manifest = folder / PRODUCTION / MANIFEST
    try:
        listed = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return [manifest]
    return [manifest.parent / name for name in listed]


class Bundles:
    """The folder of all versions, usually ``<home>/models``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def stage(self) -> Path:
        """Return a fresh, empty building folder that this process owns."""
        return durable.new_building(self.folder, BUILDING)

    def commit(
        self, building: Path, version: str, details: Mapping[str, object] | None = None
    ) -> Path:
        """Turn a building folder into a version, durable when this returns; return its folder.

        Raises:
            ConfigError: the version's name cannot be a folder's name, or is taken.
            BusyError: an SQLite file in the building folder is still being written.

        """
        target = self._path(version)
        _settle_databases(building)
        manifest = {
            "version": version,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "details": dict(details or {}),
            "files": durable.list_files(building, without=MANIFEST),
        }
        durable.write_json(building / MANIFEST, manifest)
        durable.sync_tree(building)
        if target.exists():
            raise ConfigError("That version exists already", target, "Choose another name")
        building.rename(target)
        durable.sync(self.folder)
        return target

    def promote(self, version: str) -> Bundle:
        """Make a version the production one, in one atomic step, and return it.

        Raises:
            NotReadyError: there is no such version, or it is damaged.

        """
        bundle = Bundle.open(self._path(version))
        link = self.folder / f"{LINK}{os.getpid()}-{version}"
        durable.remove(link)
        link.symlink_to(version)
        link.replace(self.folder / PRODUCTION)
        durable.sync(self.folder)
        return bundle

    def production(self) -> Bundle | None:
        """Return the version that is served, or None before the first promotion.

        Raises:
            NotReadyError: it is damaged.

        """
        link = self.folder / PRODUCTION
        if not link.is_symlink():
            return None
        return Bundle.open(self.folder / link.readlink())

    def versions(self) -> list[Bundle]:
        """Every undamaged version, oldest first."""
        found = []
        for manifest in self.folder.glob(f"[!.]*/{MANIFEST}"):
            if manifest.parent.name == PRODUCTION:
                continue
            try:
                found.append(Bundle.open(manifest.parent))
            except NotReadyError:
                continue
        return sorted(found, key=lambda bundle: (bundle.manifest["created"], bundle.version))

    def sweep(self, keep: int = 3) -> list[str]:
        """Remove what dead processes left and all but the newest versions; return the names.

        The production version always stays, and counts as one of those kept.
        """
        removed = durable.sweep_buildings(self.folder, BUILDING)
        removed += durable.sweep_buildings(self.folder, LINK)
        link = self.folder / PRODUCTION
        served = link.readlink().name if link.is_symlink() else ""
        others = [bundle for bundle in self.versions() if bundle.version != served]
        spare = len(others) - max(0, keep - bool(served))
        for bundle in others[: max(0, spare)]:
            # Renamed first: a version that is only half removed must not look like one.
            doomed = self.folder / f"{BUILDING}{os.getpid()}-{bundle.version}"
            bundle.path.rename(doomed)
            durable.remove(doomed)
            removed.append(bundle.version)
        return removed

    def _path(self, version: str) -> Path:
        if not _VERSION.fullmatch(version) or version == PRODUCTION:
            raise ConfigError(
                "A version's name needs letters, digits, dots and dashes only", repr(version)
            )
        return self.folder / version


def _settle_databases(folder: Path) -> None:
    """Fold SQLite's write-ahead logs into their databases, so that one file holds everything."""
    for log in sorted(folder.rglob("*-wal")):
        database = log.with_name(log.name.removesuffix("-wal"))
        with closing(sqlite3.connect(database, timeout=1)) as connection:
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise BusyError("The index is still being written", database, "Close it first")
