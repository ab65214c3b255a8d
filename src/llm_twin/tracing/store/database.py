"""The traces' SQLite file: WAL, one writer at a time, committed to the disk before an answer."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from typing import TYPE_CHECKING

from llm_twin.sqlite import connect, migrate, named_errors, transaction
from llm_twin.tracing.store.schema import MIGRATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TITLE = "the trace store"
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
        with named_errors(TITLE, path):
            path.parent.mkdir(parents=True, exist_ok=True)
            migrate(self._connection(), MIGRATIONS, TITLE, path)

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
            with self._lock, transaction(db):
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
        with transaction(db, "BEGIN"):
            yield db

    def close(self) -> None:
        """Close this process's connections; none may be in use."""
        self._here = _Here()
        for connection in list(self._open):
            connection.close()

    def _forget(self) -> None:
        """Begin with no connections: at first, and in a child after a fork."""
        self._lock = threading.Lock()
        self._here = _Here()
        self._open: weakref.WeakSet[sqlite3.Connection] = weakref.WeakSet()

    def _connection(self) -> sqlite3.Connection:
        if self._here.connection is None:
            self._here.connection = self._connect()
        return self._here.connection

    def _connect(self) -> sqlite3.Connection:
        db = connect(self.path, check_same_thread=False, factory=_Connection)
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._open.add(db)
        return db


_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_held: list[sqlite3.Connection] = []
_inherited: list[sqlite3.Connection] = []


def _hold() -> None:
    """Keep connections alive across a fork: a child that closed one could take the WAL away."""
    _held.extend(connection for database in _databases for connection in database._open)


def _begin_anew() -> None:
    _inherited.extend(_held)
    _held.clear()
    for database in _databases:
        database._forget()


os.register_at_fork(before=_hold, after_in_parent=_held.clear, after_in_child=_begin_anew)
