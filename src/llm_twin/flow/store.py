"""The run history: one SQLite file (WAL), no daemon, safe with any number of processes.

A row is committed before the call returns. A run holds a lock on a file while its process lives, so
that any reader can tell a slow run from a dead one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import sqlite3
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llm_twin.errors import BusyError, NotReadyError, SpaceError
from llm_twin.flow.key import digest_file
from llm_twin.flow.states import PENDING, RUNNING, State, StateType, crashed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import IO

MIGRATIONS = (
    """
    CREATE TABLE run (
        id TEXT PRIMARY KEY, flow TEXT NOT NULL, parameters TEXT NOT NULL,
        state TEXT NOT NULL, state_name TEXT NOT NULL, message TEXT NOT NULL,
        created REAL NOT NULL, ended REAL, pid INTEGER NOT NULL, source TEXT NOT NULL
    );
    CREATE TABLE stage_run (
        run TEXT NOT NULL REFERENCES run ON DELETE CASCADE, stage TEXT NOT NULL,
        position INTEGER NOT NULL, state TEXT NOT NULL, state_name TEXT NOT NULL,
        message TEXT NOT NULL, started REAL, ended REAL, cpu REAL, peak_mb REAL,
        parts TEXT, result TEXT, PRIMARY KEY (run, stage)
    );
    CREATE INDEX stage_run_by_stage ON stage_run (stage, state, ended);
    CREATE INDEX run_by_time ON run (created);
    CREATE TABLE file_digest (
        path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
        digest TEXT NOT NULL
    );
    """,
)


@dataclass
class StageRun:
    """One stage of one run; times in seconds since the epoch, cpu in seconds, peak_mb in MiB."""

    stage: str
    state: State = PENDING
    started: float | None = None
    ended: float | None = None
    cpu: float | None = None
    peak_mb: float | None = None
    parts: dict[str, str] | None = None
    result: Any = None


@dataclass
class Run:
    """One run of one flow."""

    id: str
    flow: str
    parameters: dict[str, Any]
    state: State
    created: float
    ended: float | None
    pid: int
    source: str
    stages: list[StageRun] = field(default_factory=list)


def new_run_id() -> str:
    """Return an id that sorts by time: ``260131-142502-9f3c``."""
    return f"{time.strftime('%y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


class Store:
    """``runs.db`` in the state folder, and the log files beside it."""

    def __init__(self, home: Path) -> None:
        """Open or create the history in the state folder.

        Raises:
            SpaceError: the folder cannot be written, or the disk is full.

        """
        self.home = home
        self.path = home / "runs.db"
        try:
            home.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._migrate()
        except (OSError, sqlite3.OperationalError) as error:
            raise SpaceError(
                f"the run history cannot be written ({error})",
                self.path,
                "Free space or make it writable, or type: export TWIN_HOME=/another/folder",
            ) from None

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _migrate(self) -> None:
        if self._version() >= len(MIGRATIONS):
            return
        with self._transaction():
            for number in range(self._version(), len(MIGRATIONS)):
                for statement in MIGRATIONS[number].split(";"):
                    self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    # Writing

    def start(
        self, run_id: str, flow: str, parameters: dict[str, Any], stages: list[str], source: str
    ) -> None:
        """Record a new run, held already, with its stages pending."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO run VALUES (?, ?, ?, ?, '', '', ?, NULL, ?, ?)",
                (
                    run_id,
                    flow,
                    json.dumps(parameters, default=str),
                    StateType.RUNNING,
                    time.time(),
                    os.getpid(),
                    source,
                ),
            )
            self._db.executemany(
                "INSERT INTO stage_run (run, stage, position, state, state_name, message)"
                " VALUES (?, ?, ?, ?, '', '')",
                [(run_id, name, i, StateType.PENDING) for i, name in enumerate(stages)],
            )

    def stage_started(self, run_id: str, stage: str) -> None:
        """Record that a stage began."""
        self._db.execute(
            "UPDATE stage_run SET state = ?, started = ? WHERE run = ? AND stage = ?",
            (RUNNING.type, time.time(), run_id, stage),
        )

    def stage_ended(self, run_id: str, done: StageRun) -> None:
        """Record a stage's final state and what it left."""
        self._db.execute(
            "UPDATE stage_run SET state = ?, state_name = ?, message = ?, ended = ?, cpu = ?,"
            " peak_mb = ?, parts = ?, result = ? WHERE run = ? AND stage = ?",
            (
                done.state.type,
                done.state.name,
                done.state.message,
                time.time(),
                done.cpu,
                done.peak_mb,
                json.dumps(done.parts),
                json.dumps(done.result, default=str),
                run_id,
                done.stage,
            ),
        )

    def ended(self, run_id: str, state: State) -> None:
        """Record a run's final state."""
        self._db.execute(
            "UPDATE run SET state = ?, state_name = ?, message = ?, ended = ? WHERE id = ?",
            (state.type, state.name, state.message, time.time(), run_id),
        )

    def digest(self, path: Path) -> str:
        """Digest of a file, read again only when its size or time of change moved."""
        try:
            stat = path.stat()
        except OSError:
            return digest_file(path)
        row = self._db.execute(
            "SELECT digest FROM file_digest WHERE path = ? AND size = ? AND mtime_ns = ?",
            (str(path), stat.st_size, stat.st_mtime_ns),
        ).fetchone()
        if row:
            return str(row[0])
        digest = digest_file(path)
        self._db.execute(
            "INSERT OR REPLACE INTO file_digest VALUES (?, ?, ?, ?)",
            (str(path), stat.st_size, stat.st_mtime_ns, digest),
        )
        return digest

    # Life and death

    def hold(self, run_id: str) -> IO[str]:
        """Lock the run's own file for as long as the returned handle stays open.

        Hold a run before it is recorded: one that is recorded and not held counts as dead.
        """
        folder = self.log_folder(run_id)
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / "alive").open("w")
        fcntl.flock(handle, fcntl.LOCK_EX)
        return handle

    def claim(self, name: str) -> IO[str]:
        """Lock a name for this process: at most one holder at a time on this store.

        Raises:
            BusyError: another process holds it; the message says which.

        """
        folder = self.home / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / name).open("a+")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            handle.close()
            raise BusyError(
                f"invoke {name} is running already",
                holder,
                f"Wait for it, or watch it: invoke runs.logs {holder.split()[-1]}",
            ) from None
        return handle

    def reap(self) -> list[str]:
        """Mark runs whose process is gone as Crashed and return their ids."""
        dead = [
            (run_id, pid)
            for run_id, pid in self._db.execute(
                "SELECT id, pid FROM run WHERE state = ?", (StateType.RUNNING,)
            ).fetchall()
            if not self._alive(run_id)
        ]
        for run_id, pid in dead:
            state = crashed(f"its process {pid} ended without a word")
            with self._transaction():
                self._db.execute(
                    "UPDATE stage_run SET state = ?, message = ?, ended = ?"
                    " WHERE run = ? AND state = ?",
                    (state.type, state.message, time.time(), run_id, StateType.RUNNING),
                )
                self._db.execute(
                    "UPDATE stage_run SET state = ?, state_name = 'Skipped' WHERE run = ?"
                    " AND state = ?",
                    (StateType.CANCELLED, run_id, StateType.PENDING),
                )
                self.ended(run_id, state)
        return [run_id for run_id, _ in dead]

    def _alive(self, run_id: str) -> bool:
        try:
            with (self.log_folder(run_id) / "alive").open() as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    # Reading

    def log_folder(self, run_id: str) -> Path:
        """Where the run's log files are."""
        return self.home / "logs" / run_id

    def log_path(self, run_id: str, stage: str) -> Path:
        """The log file of one stage."""
        return self.log_folder(run_id) / f"{stage}.log"

    def recent(self, limit: int = 20, flow: str = "") -> list[Run]:
        """Return the newest runs, newest first."""
        rows = self._db.execute(
            "SELECT * FROM run WHERE ? IN ('', flow) ORDER BY created DESC LIMIT ?", (flow, limit)
        ).fetchall()
        return [self._run(row) for row in rows]

    def get(self, run_id: str) -> Run:
        """Return one run with its stages; a unique part of the id's start or end is enough.

        Raises:
            NotReadyError: there is no such run, or the part fits several.

        """
        rows = self._db.execute(
            "SELECT * FROM run WHERE id = ?1 OR substr(id, 1, length(?1)) = ?1"
            " OR substr(id, -length(?1)) = ?1 ORDER BY id = ?1 DESC LIMIT 2",
            (run_id,),
        ).fetchall()
        if not rows or not run_id:
            raise NotReadyError("no such run", run_id, "See which there are: invoke runs")
        if len(rows) > 1 and rows[0][0] != run_id:
            raise NotReadyError(
                "more than one run fits", run_id, "Type more of its id; see: invoke runs"
            )
        return self._run(rows[0])

    def last_completed(self, stage: str) -> tuple[str, StageRun] | None:
        """Return the newest run of a stage that did the work and completed, after its run's id."""
        row = self._db.execute(
            "SELECT run, stage, state, state_name, message, started, ended, cpu, peak_mb, parts,"
            " result FROM stage_run WHERE stage = ? AND state = ? AND state_name != 'Cached'"
            " ORDER BY ended DESC LIMIT 1",
            (stage, StateType.COMPLETED),
        ).fetchone()
        return (str(row[0]), _stage_run(row[1:])) if row else None

    def _run(self, row: tuple[Any, ...]) -> Run:
        run_id, flow, parameters, state, name, message, created, ended, pid, source = row
        stages = self._db.execute(
            "SELECT stage, state, state_name, message, started, ended, cpu, peak_mb, parts, result"
            " FROM stage_run WHERE run = ? ORDER BY position",
            (run_id,),
        ).fetchall()
        return Run(
            run_id,
            flow,
            json.loads(parameters),
            State(StateType(state), name, message),
            created,
            ended,
            pid,
            source,
            [_stage_run(item) for item in stages],
        )


def _stage_run(row: tuple[Any, ...]) -> StageRun:
    stage, state, name, message, started, ended, cpu, peak_mb, parts, result = row
    return StageRun(
        stage,
        State(StateType(state), name, message),
        started,
        ended,
        cpu,
        peak_mb,
        json.loads(parts) if parts else None,
        json.loads(result) if result else None,
    )
