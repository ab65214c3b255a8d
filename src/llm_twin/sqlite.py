"""SQLite files that several processes write at once: WAL, commits on the disk, a schema that grows.

A schema is a list of scripts, appended to and never edited; ``user_version`` counts a file's.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from typing import TYPE_CHECKING, Any

from llm_twin.errors import NotReadyError, SpaceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

BUSY_SECONDS = 30.0
MEMORY = ":memory:"


def open_database(path: Path | str, title: str, migrations: Sequence[str]) -> sqlite3.Connection:
    """Open or create a file, and bring it up to date.

    Args:
        path: of the file, or ``MEMORY``; its folder is made.
        title: what messages call it: "the alerts".
        migrations: the schema's scripts.

    Raises:
        SpaceError: it cannot be written, or the disk is full.
        NotReadyError: a newer version wrote it.

    """
    with named_errors(title, path):
        if path != MEMORY:
            path.parent.mkdir(parents=True, exist_ok=True)  # type: ignore[union-attr]
        db = connect(path)
        migrate(db, migrations, title, path)
    return db


def connect(path: Path | str, **options: Any) -> sqlite3.Connection:
    """Open or create a file as it is; commits are on the disk when they return.

    Args:
        path: of the file.
        options: more of ``sqlite3.connect``'s.

    """
    db: sqlite3.Connection = sqlite3.connect(
        path, timeout=BUSY_SECONDS, isolation_level=None, **options
    )
    _use_wal(db)
    db.execute("PRAGMA synchronous = FULL")
    return db


def _use_wal(db: sqlite3.Connection) -> None:
    """Switch a new file to WAL, for which SQLite does not wait while others do the same."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def migrate(
    db: sqlite3.Connection, migrations: Sequence[str], title: str, path: Path | str
) -> None:
    """Apply the scripts that a file does not have yet: all of them or none.

    Raises:
        NotReadyError: a newer version wrote the file.

    """
    if version(db) == len(migrations):
        return
    with transaction(db):
        found = version(db)
        if found > len(migrations):
            raise NotReadyError(f"a newer version wrote {title}", path, "Update llm-twin")
        for script in migrations[found:]:
            for statement in _statements(script):
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(migrations)}")


def version(db: sqlite3.Connection) -> int:
    """How many of the schema's scripts a file has."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _statements(script: str) -> Iterator[str]:
    """A script's statements; those inside of a trigger are a part of it."""
    text = ""
    for part in script.split(";"):
        text += f"{part};"
        if sqlite3.complete_statement(text):
            yield text
            text = ""


@contextlib.contextmanager
def transaction(
    db: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE"
) -> Iterator[sqlite3.Connection]:
    """All of a block's statements or none; on the disk when it ends."""
    db.execute(begin)
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def named_errors(title: str, path: Path | str) -> Iterator[None]:
    """Say which file cannot be written, and what to do about it.

    Raises:
        SpaceError: in the place of what SQLite or the system raised.

    """
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise SpaceError(
            f"{title} cannot be written ({error})",
            path,
            "Free space or make it writable, or type: export TWIN_HOME=/another/folder",
        ) from None
