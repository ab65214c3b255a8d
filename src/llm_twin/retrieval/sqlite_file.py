"""How the SQLite index's file is opened, and what is said when that fails."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llm_twin.errors import BusyError, ConfigError, SpaceError, TwinError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUSY_SECONDS = 30


def open_file(path: Path, readonly: bool) -> sqlite3.Connection:
    """Open a file that is there; readonly works on read-only media too."""
    address = path.absolute().as_uri()
    if not readonly:
        return for_writing(f"{address}?mode=rw")
    database = _connect(f"{address}?mode=ro")
    try:
        database.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except sqlite3.OperationalError:
        # A file in WAL mode needs a writable folder, unless it is promised that nobody writes:
        # true when the folder is read-only and no writer's log lies beside the file.
        database.close()
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            raise
        return _connect(f"{address}?mode=ro&immutable=1")
    return database


def for_writing(address: str) -> sqlite3.Connection:
    """Open an SQLite URI so that commits are durable and what is deleted is overwritten."""
    database = _connect(address)
    database.execute("PRAGMA secure_delete=ON")
    database.execute("PRAGMA synchronous=FULL")
    return database


def _connect(address: str) -> sqlite3.Connection:
    return sqlite3.connect(
        address, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=True
    )


@contextmanager
def blamed(path: Path) -> Iterator[None]:
    """Turn what SQLite or the disk says into an error that says what to do."""
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        raise _reason(error, path) from error
    except sqlite3.DatabaseError as error:
        raise ConfigError("The file is not an index", path, "Run invoke ct to make it again") from (
            error
        )


def _reason(error: Exception, path: Path) -> TwinError:
    text = str(error)
    if "locked" in text:
        return BusyError("Another process is writing the index", path, "Try again in a moment")
    if "no such table" in text:
        return ConfigError("The file is not an index", path, "Run invoke ct to make it again")
    return SpaceError("The index cannot be written or read", path, "Check the disk and its rights")
