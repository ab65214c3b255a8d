"""The places that a text is removed from; each function may be called again after a crash.

What serves is never edited under its readers: production becomes a new version without the text,
other bundles get a new index file. What can be made again is deleted; rows that hold more than the
text are kept, with the text blanked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import re
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

from llm_twin.corpus.document import Document
from llm_twin.corpus.forgotten import FILE
from llm_twin.ct import place
from llm_twin.errors import BusyError, NotReadyError
from llm_twin.flow.blobs import Blobs
from llm_twin.loop.texts import bundle_folders, chunks_in
from llm_twin.model import durable, feedback
from llm_twin.model.bundles import BUILDING, MANIFEST, Bundle, Bundles
from llm_twin.retrieval import open_embedder, open_index
from llm_twin.retrieval.sqlite import SqliteIndex

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from llm_twin.loop.content import Needles
    from llm_twin.settings import Settings

BLANK = "(forgotten)"
BUSY_SECONDS = 20.0
SQLITE = b"SQLite format 3\0"
APART = ("embedder", "registry", "locks", "lineage", FILE)
"""Not searched: weights, images, what tracing carries on itself, locks, and lists of ids."""
OWN = ("traces.db", "index.db", MANIFEST)
"""Files that are changed by what knows them; a bundle names documents by their ids for good."""


def bundles(settings: Settings, documents: set[str]) -> list[str]:
    """Take documents out of every index; return the versions that were changed or made."""
    models = Bundles(settings.home / "models")
    durable.sweep_buildings(models.folder, BUILDING)
    changed = _replace_production(models, settings, documents)
    for folder in bundle_folders(settings.home):
        if any(chunk.document_id in documents for chunk in chunks_in(folder)):
            _rewrite(folder, documents)
            changed.append(folder.name)
    return changed


def successor(version: str) -> str:
    """The name of a version from which something was removed: ``v``, ``v.1``, ``v.2`` …"""
    match = re.fullmatch(r"(.*)\.(\d+)", version)
    return f"{match[1]}.{int(match[2]) + 1}" if match else f"{version}.1"


def _replace_production(models: Bundles, settings: Settings, documents: set[str]) -> list[str]:
    try:
        served = models.production()
    except NotReadyError:
        return []
    if served is None:
        return []
    if not served.index_path.is_file():
        _without_in_server(served, settings, documents)
        return []
    if all(chunk.document_id not in documents for chunk in chunks_in(served.path)):
        return []
    version = successor(served.version)
    if not (models.folder / version / MANIFEST).is_file():
        building = models.stage()
        skipped = shutil.ignore_patterns(
            MANIFEST, *(f"*{end}" for end in durable.SQLITE_SIDE_FILES)
        )
        shutil.copytree(served.path, building, ignore=skipped, dirs_exist_ok=True)
        count = _without(building / "index.db", documents)
        details = {**served.manifest["details"], "chunks": count, "before": served.version}
        models.commit(building, version, details)
    models.promote(version)
    return [version]


def _without_in_server(served: Bundle, settings: Settings, documents: set[str]) -> None:
    embedder = str(served.manifest["details"]["embedder"])
    with closing(open_index(settings, served.index_path, served.version, embedder)) as index:
        for document in sorted(documents):
            index.delete_document(document)


def _rewrite(folder: Path, documents: set[str]) -> None:
    """Give a bundle another index file; a process that has the old one open keeps that."""
    index, building = folder / "index.db", folder / ".index.db"
    durable.remove(building)
    shutil.copyfile(index, building)
    _without(building, documents)
    durable.sync(building)
    building.replace(index)
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    listed = {"size": index.stat().st_size, "sha256": durable.sha256_of(index)}
    manifest["files"]["index.db"] = listed
    durable.write_json(folder / MANIFEST, manifest)


def _without(path: Path, documents: set[str]) -> int:
    with SqliteIndex.open(path) as index:
        for document in sorted(documents):
            index.delete_document(document)
        return index.count()


def traces(settings: Settings, needles: Needles) -> dict[str, int]:
    """Delete traces, scores, files and dataset rows that hold it; return how many of each kind.

    Raises:
        BusyError: it is deleted, but its bytes are in the file yet.

    """
    if not (settings.traces / "traces.db").is_file():
        return {}
    from llm_twin.tracing import forget
    from llm_twin.tracing.store.store import Store

    with closing(Store(settings.traces, settings)) as store:
        found = forget.find(store, settings, needle=needles)
        forget.forget(store, settings, found)
    return {kind: number for kind, number in found.counts().items() if number}


def curated(home: Path, needles: Needles) -> int:
    """Remove rows that hold it from what was curated; return how many versions had some."""
    return feedback.forget(
        home, lambda row: needles.within(json.dumps(dataclasses.asdict(row), ensure_ascii=False))
    )


def features(settings: Settings, documents: set[str]) -> None:
    """Take documents out of the index of `invoke features`, and forget what it worked out."""
    path, cache = place.path_of(settings), settings.home / "cache"
    if path.is_file():
        _without(path, documents)
    elif settings.index_url and (cache / "features.db").exists():
        with closing(place.open_at(settings, open_embedder(settings, str))) as index:
            index.delete_documents(sorted(documents))
    for name in ("prepared.db", "features.db"):
        for end in ("", *durable.SQLITE_SIDE_FILES):
            (cache / f"{name}{end}").unlink(missing_ok=True)


def caches(home: Path, documents: set[str]) -> None:
    """Forget extracted documents, vectors of passages that no index holds, clones, checkpoints."""
    for name in ("cache/git", "checkpoints"):
        shutil.rmtree(home / name, ignore_errors=True)
    cached, vectors = home / "cache" / "documents.db", home / "cache" / "embeddings.db"
    if cached.is_file():
        with _rewritten(cached) as db:
            for row, text in db.execute("SELECT rowid, document FROM documents").fetchall():
                if Document.from_dict(json.loads(text)).id in documents:
                    db.execute("DELETE FROM documents WHERE rowid = ?", (row,))
    if vectors.is_file():
        kept = {key for folder in bundle_folders(home) for key in _vector_keys(folder)}
        with _rewritten(vectors) as db:
            held = {key for (key,) in db.execute("SELECT text FROM vectors")}
            db.executemany("DELETE FROM vectors WHERE text = ?", [(key,) for key in held - kept])


def _vector_keys(bundle: Path) -> Iterator[bytes]:
    """Keys of the vectors of a bundle's passages, with any of their headings withheld."""
    for chunk in chunks_in(bundle):
        for size in range(len(chunk.headings) + 1):
            for headings in itertools.combinations(chunk.headings, size):
                text = dataclasses.replace(chunk, headings=headings).passage
                yield hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


@contextlib.contextmanager
def _rewritten(path: Path) -> Iterator[sqlite3.Connection]:
    """A database whose file keeps nothing of what a block deletes or changes.

    Raises:
        BusyError: others read or write it for too long.

    """
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as db:
            db.execute("PRAGMA secure_delete = ON")
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
            db.execute("VACUUM")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.OperationalError as error:
        raise BusyError(f"a file is in use ({error})", path, "Type again: invoke forget") from None


def files(settings: Settings, needles: Needles) -> list[Path]:
    """Remove what else holds it: artifacts, cached outputs, logs, rows of other databases."""
    changed = []
    with Blobs(settings.home / "cache" / "stages").lock(alone_within=BUSY_SECONDS):
        for path in _searched(settings):
            if path.name not in OWN and needles.within_file(path):
                changed.append(path)
                _cleanse(path, needles)
    return changed


def left(settings: Settings, needles: Needles) -> list[Path]:
    """Files that hold it still."""
    said = dataclasses.replace(needles, ids=frozenset())
    return [
        path
        for path in _searched(settings)
        if (said if path.name == MANIFEST else needles).within_file(path)
    ]


def _searched(settings: Settings) -> list[Path]:
    """The files of the state folder, and of the traces' folder should that be another."""
    return sorted(
        {
            path
            for folder in (settings.home, settings.traces)
            for path in folder.rglob("*")
            if path.is_file()
            and not path.is_symlink()
            and not path.is_relative_to(settings.traces / "journal")
            and path.relative_to(folder).parts[0] not in APART
            and path.suffix != ".safetensors"
        }
    )


def _cleanse(path: Path, needles: Needles) -> None:
    with path.open("rb") as file:
        start = file.read(len(SQLITE))
    if start == SQLITE:
        blank(path, needles)
    elif path.suffix == ".jsonl":
        lines = path.read_text("utf-8").splitlines(keepends=True)
        building = path.with_name(f".{path.name}")
        building.write_text("".join(line for line in lines if not needles.within(line)), "utf-8")
        durable.sync(building)
        building.replace(path)
    elif not path.name.endswith(durable.SQLITE_SIDE_FILES):
        path.unlink(missing_ok=True)


def blank(path: Path, needles: Needles) -> None:
    """Replace the strings that hold it in every table of a database, inside JSON too."""

    def blanked(text: str) -> str:
        try:
            return json.dumps(_blanked(json.loads(text), needles), ensure_ascii=False)
        except ValueError:
            return BLANK

    with _rewritten(path) as db:
        db.create_function("holds", 1, needles.within)
        db.create_function("blanked", 1, blanked)
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        for (table,) in db.execute(tables).fetchall():
            for column in [row[1] for row in db.execute(f'PRAGMA table_info("{table}")')]:
                db.execute(
                    f'UPDATE "{table}" SET "{column}" = blanked("{column}")'  # noqa: S608
                    f' WHERE typeof("{column}") = \'text\' AND holds("{column}")'
                )


def _blanked(value: Any, needles: Needles) -> Any:
    if isinstance(value, dict):
        return {key: _blanked(one, needles) for key, one in value.items()}
    if isinstance(value, list):
        return [_blanked(one, needles) for one in value]
    return BLANK if isinstance(value, str) and needles.within(value) else value
