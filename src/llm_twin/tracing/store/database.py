"""The traces' SQLite file: WAL, one writer at a time, committed to the disk before an answer."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from typing import TYPE_CHECKING

from llm_twin.errors import NotReadyError, SpaceError
from llm_twin.tracing.store.schema import MIGRATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BUSY_SECONDS = 30.0
CACHE_KIB = 1024


class _Connection(sqlite3.Connection):
    """One that a weak reference can point to."""


class _Here(threading.local):
    connection: sqlite3.Connection | None = None
    after: list[Callable[[], None]] | None = None


class Database:
    """Connections to one file, one per thread and per process."""

    def __init__(self, path: Path) -> None:
        """Open or create the file and bring it up to date.

        Raises:
            SpaceError: the folder cannot be written, or the disk is full.
            NotReadyError: a newer version wrote the file.

        """
        self.path = path
        self._forget()
        _databases.add(self)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._migrate()
        except (OSError, sqlite3.OperationalError) as error:
            raise SpaceError(
                f"the trace store cannot be written ({error})",
                path,
                "Free space or make it writable, or type: export TWIN_HOME=/another/folder",
            ) from None

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """All of a block's statements or none; on the disk when the outermost block ends."""
        db = self._connection()
        if self._here.after is not None:
            yield db
            return
        after: list[Callable[[], None]] = []
        self._here.after = after
        try:
            with self._lock, self._transaction(db, "BEGIN IMMEDIATE"):
                yield db
        finally:
            self._here.after = None
        for call in after:
            call()

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call this when the open ``write`` is on the disk; never when it is rolled back."""
        if self._here.after is None:
            raise RuntimeError("after_commit is for inside of write()")
        self._here.after.append(call)

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One unchanging view for all of a block's statements."""
        db = self._connection()
        if db.in_transaction:
            yield db
            return
        with self._transaction(db, "BEGIN"):
            yield db

    def close(self) -> None:
        """Close this process's connections; none may be in use."""
        self._here = _Here()
        for connection in list(self._open):
            connection.close()

    @contextlib.contextmanager
    def _transaction(self, db: sqlite3.Connection, begin: str) -> Iterator[None]:
        db.execute(begin)
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _forget(self) -> None:
        """Begin with no connections: at first, and in a child after a fork."""
        self._lock = threading.Lock()
        self._here = _Here()
        self._open: weakref.WeakSet[_Connection] = weakref.WeakSet()

    def _connection(self) -> sqlite3.Connection:
        if self._here.connection is None:
            self._here.connection = self._connect()
        return self._here.connection

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(
            self.path,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            factory=_Connection,
        )
        self._use_wal(db)
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._open.add(db)
        return db

    def _use_wal(self, db: sqlite3.Connection) -> None:
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

    def _migrate(self) -> None:
        if self._version(self._connection()) == len(MIGRATIONS):
            return
        with self.write() as db:
            version = self._version(db)
            if version > len(MIGRATIONS):
                raise NotReadyError(
                    "a newer version wrote this trace store", self.path, "Update llm-twin"
                )
            for script in MIGRATIONS[version:]:
                for statement in _statements(script):
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def _version(self, db: sqlite3.Connection) -> int:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def _statements(script: str) -> Iterator[str]:
    """A script's statements; those inside of a trigger are a part of it."""
    text = ""
    for part in script.split(";"):
        text += f"{part};"
        if sqlite3.complete_statement(text):
            yield text
            text = ""


_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_held: list[_Connection] = []
_inherited: list[_Connection] = []


def _hold() -> None:
    """Keep connections alive across a fork: a child that closed one could take the WAL away."""
    _held.extend(connection for database in _databases for connection in database._open)


def _begin_anew() -> None:
    _inherited.extend(_held)
    _held.clear()
    for database in _databases:
        database._forget()


os.register_at_fork(before=_hold, after_in_parent=_held.clear, after_in_child=_begin_anew)
