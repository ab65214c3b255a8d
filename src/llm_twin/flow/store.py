"""The run history: one SQLite file (WAL), no daemon, safe with any number of processes.

A row is committed before the call returns. A run holds a lock on a file while its process lives and
writes a heartbeat, so that any reader can tell a slow run from a dead one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import time
from typing import TYPE_CHECKING, Any

from llm_twin.errors import BusyError, NotReadyError
from llm_twin.flow.locks import hold, is_held
from llm_twin.flow.records import (
    RUN_COLUMNS,
    STAGE_COLUMNS,
    Attempt,
    Run,
    StageRun,
    run_of,
    stage_run_of,
)
from llm_twin.flow.schema import MIGRATIONS
from llm_twin.flow.states import RUNNING, State, StateType, cancelled, crashed
from llm_twin.sqlite import open_database, transaction, version

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import IO

BEAT_SECONDS = 5.0
SILENT_SECONDS = 60.0


class Store:
    """``runs.db`` in the state folder, and the log files beside it."""

    def __init__(self, home: Path) -> None:
        """Open or create the history in the state folder.

        Raises:
            SpaceError: the folder cannot be written, or the disk is full.
            NotReadyError: a newer version wrote it.

        """
        self.home = home
        self.path = home / "runs.db"
        self.db = open_database(self.path, "the run history", MIGRATIONS)
        self.db.execute("PRAGMA foreign_keys = ON")

    @classmethod
    def read(cls, path: Path) -> Store:
        """Open another history, a file or its folder, to look at only.

        Raises:
            NotReadyError: there is none, or it was written by another version.

        """
        file = path / "runs.db" if path.is_dir() else path
        if not file.is_file():
            raise NotReadyError("no run history is there", path)
        store = cls.__new__(cls)
        store.home, store.path = file.parent, file
        store.db = sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True)
        if version(store.db) != len(MIGRATIONS):
            raise NotReadyError("this run history was written by another version", path)
        return store

    def close(self) -> None:
        """Close the database."""
        self.db.close()

    @contextlib.contextmanager
    def transaction(self, hurried: bool = False) -> Iterator[sqlite3.Connection]:
        """All of a block's statements or none; durable when it ends.

        Args:
            hurried: survive the death of any process, but perhaps not that of the machine: for
                what announces work, where the work's own record is the one that counts.

        """
        self.db.execute(f"PRAGMA synchronous = {'NORMAL' if hurried else 'FULL'}")
        with transaction(self.db):
            yield self.db

    # Writing

    def start(
        self,
        run_id: str,
        flow: str,
        parameters: dict[str, Any],
        stages: Sequence[str],
        source: str,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Record a new run, held already, with its stages pending."""
        now = time.time()
        with self.transaction() as db:
            db.execute(
                "INSERT INTO run (id, flow, parameters, state, state_name, message, created, pid,"
                " source, options, host, heartbeat) VALUES (?, ?, ?, ?, '', '', ?, ?, ?, ?, ?, ?)",
                (
                    run_id, flow, _json(parameters), StateType.RUNNING, now, os.getpid(), source,
                    _json(options or {}), socket.gethostname(), now,
                ),
            )  # fmt: skip
            db.executemany(
                "INSERT INTO stage_run (run, stage, position, state, state_name, message)"
                " VALUES (?, ?, ?, ?, '', '')",
                [(run_id, name, i, StateType.PENDING) for i, name in enumerate(stages)],
            )

    def restart(self, run_id: str) -> None:
        """Record that a run, held already, goes on; what had not completed is pending again."""
        with self.transaction() as db:
            db.execute(
                "UPDATE run SET state = ?, state_name = '', message = '', ended = NULL,"
                " cancel = '', pid = ?, host = ?, heartbeat = ? WHERE id = ?",
                (StateType.RUNNING, os.getpid(), socket.gethostname(), time.time(), run_id),
            )
            db.execute(
                "UPDATE stage_run SET state = ?, state_name = '', message = '', started = NULL,"
                " ended = NULL WHERE run = ? AND state != ?",
                (StateType.PENDING, run_id, StateType.COMPLETED),
            )

    def attempt_started(self, run_id: str, stage: str, number: int, why: Sequence[str]) -> None:
        """Record that an attempt began, before it does."""
        now = time.time()
        with self.transaction(hurried=True) as db:
            db.execute(
                "UPDATE stage_run SET state = ?, state_name = '', message = '', attempts = ?,"
                " why = ?, started = coalesce(started, ?) WHERE run = ? AND stage = ?",
                (RUNNING.type, number, _json(list(why)), now, run_id, stage),
            )
            db.execute(
                "INSERT INTO attempt (run, stage, number, state, state_name, message, started)"
                " VALUES (?, ?, ?, ?, '', '', ?)",
                (run_id, stage, number, RUNNING.type, now),
            )

    def attempt_ended(self, run_id: str, done: Attempt, then: State | None = None) -> None:
        """Record how an attempt ended and, if another will follow, what the stage waits for."""
        with self.transaction() as db:
            self._attempt_ended(db, run_id, done)
            if then:
                db.execute(
                    "UPDATE stage_run SET state = ?, state_name = ?, message = ?"
                    " WHERE run = ? AND stage = ?",
                    (then.type, then.name, then.message, run_id, done.stage),
                )

    def _attempt_ended(self, db: sqlite3.Connection, run_id: str, done: Attempt) -> None:
        db.execute(
            "UPDATE attempt SET state = ?, state_name = ?, message = ?, ended = ?, cpu = ?,"
            " peak_mb = ? WHERE run = ? AND stage = ? AND number = ?",
            (
                done.state.type, done.state.name, done.state.message, done.ended, done.cpu,
                done.peak_mb, run_id, done.stage, done.number,
            ),
        )  # fmt: skip

    def stages_ended(
        self, run_id: str, stages: Sequence[StageRun], attempt: Attempt | None = None
    ) -> None:
        """Record the final states of stages, and of the last attempt, together."""
        with self.transaction() as db:
            if attempt:
                self._attempt_ended(db, run_id, attempt)
            db.executemany(
                "UPDATE stage_run SET state = ?, state_name = ?, message = ?, started = ?,"
                " ended = ?, cpu = ?, peak_mb = ?, parts = ?, result = ?, key = ?, why = ?,"
                " outputs = ?, attempts = ?, evidence = ? WHERE run = ? AND stage = ?",
                [
                    (
                        done.state.type, done.state.name, done.state.message, done.started,
                        done.ended or time.time(), done.cpu, done.peak_mb, _json(done.parts),
                        _json(done.result), done.key, _json(done.why), _json(done.outputs),
                        done.attempts, _json(done.evidence), run_id, done.stage,
                    )
                    for done in stages
                ],
            )  # fmt: skip

    def ended(self, run_id: str, state: State) -> None:
        """Record a run's final state."""
        with self.transaction() as db:
            self._ended(db, run_id, state)

    def _ended(self, db: sqlite3.Connection, run_id: str, state: State) -> None:
        db.execute(
            "UPDATE run SET state = ?, state_name = ?, message = ?, ended = ? WHERE id = ?",
            (state.type, state.name, state.message, time.time(), run_id),
        )

    def beat(self, run_id: str) -> None:
        """Write a sign of life."""
        self.db.execute("UPDATE run SET heartbeat = ? WHERE id = ?", (time.time(), run_id))

    def cancel(self, run_id: str, why: str) -> None:
        """Ask the process of a run to stop; it looks a few times a second."""
        self.db.execute("UPDATE run SET cancel = ? WHERE id = ?", (why, run_id))

    def cancel_asked(self, run_id: str) -> str:
        """Why the run was asked to stop, or ""."""
        row = self.db.execute("SELECT cancel FROM run WHERE id = ?", (run_id,)).fetchone()
        return str(row[0]) if row else "its record was removed"

    def prune(self, before: float) -> list[str]:
        """Delete finished runs created before a time, with their logs; return their ids."""
        old = [
            run_id
            for (run_id,) in self.db.execute(
                "SELECT id FROM run WHERE created < ? AND state != ?", (before, StateType.RUNNING)
            ).fetchall()
        ]
        with self.transaction() as db:
            db.executemany("DELETE FROM run WHERE id = ?", [(run_id,) for run_id in old])
        for run_id in old:
            shutil.rmtree(self.log_folder(run_id), ignore_errors=True)
        return old

    # Life and death

    def hold(self, run_id: str) -> IO[str]:
        """Hold a run for as long as the returned handle stays open.

        Hold a run before it is recorded: one that is recorded and not held counts as dead.

        Raises:
            BusyError: another process holds it.

        """
        handle = hold(self.log_folder(run_id) / "alive")
        if handle is None:
            raise BusyError(
                "this run is going on in another process",
                run_id,
                f"Watch it: invoke runs.logs {run_id}",
            )
        return handle

    def alive(self, run: Run) -> bool:
        """Whether the run's process lives: its lock here, its heartbeat when it is elsewhere."""
        if run.host and run.host != socket.gethostname():
            return time.time() - (run.heartbeat or 0) < SILENT_SECONDS
        return is_held(self.log_folder(run.id) / "alive")

    def reap(self) -> list[str]:
        """Mark runs whose process is gone as Crashed and return their ids."""
        return [run.id for run in self._runs("WHERE state = ?", "Running") if self._reaped(run)]

    def _reaped(self, run: Run) -> bool:
        # Held while it is buried, so that whoever resumes it now comes before or after.
        held = None if self.alive(run) else hold(self.log_folder(run.id) / "alive")
        if held is None:
            return False
        with held:
            dead = self.get(run.id).state.type == StateType.RUNNING
            if dead:
                asked = self.cancel_asked(run.id)
                silent = crashed(f"its process {run.pid} ended without a word")
                self.bury(run.id, cancelled(asked) if asked else silent)
        return dead

    def bury(self, run_id: str, state: State) -> None:
        """Record that a run ended in the middle: what ran has its state, what waited is skipped."""
        with self.transaction() as db:
            for table in ("attempt", "stage_run"):
                db.execute(
                    f"UPDATE {table} SET state = ?, message = ?, ended = ?"  # noqa: S608
                    " WHERE run = ? AND state = ?",
                    (state.type, state.message, time.time(), run_id, StateType.RUNNING),
                )
            db.execute(
                "UPDATE stage_run SET state = ?, state_name = 'Skipped' WHERE run = ?"
                " AND state IN (?, ?)",
                (StateType.CANCELLED, run_id, StateType.PENDING, StateType.SCHEDULED),
            )
            self._ended(db, run_id, state)

    # Reading

    def log_folder(self, run_id: str) -> Path:
        """Where the run's log files are."""
        return self.home / "logs" / run_id

    def log_path(self, run_id: str, stage: str) -> Path:
        """The log file of one stage."""
        return self.log_folder(run_id) / f"{stage}.log"

    def recent(self, limit: int = 20, flow: str = "") -> list[Run]:
        """Return the newest runs, newest first."""
        return self._runs(
            "WHERE ? IN ('', flow) ORDER BY created DESC, rowid DESC LIMIT ?", flow, limit
        )

    def recorded(self, run_id: str) -> bool:
        """Whether there is a run with exactly this id."""
        row = self.db.execute("SELECT 1 FROM run WHERE id = ?", (run_id,)).fetchone()
        return row is not None

    def get(self, run_id: str) -> Run:
        """Return one run with its stages; a unique part of the id's start or end is enough.

        Raises:
            NotReadyError: there is no such run, or the part fits several.

        """
        found = self._runs(
            "WHERE id = ?1 OR substr(id, 1, length(?1)) = ?1 OR substr(id, -length(?1)) = ?1"
            " ORDER BY id = ?1 DESC LIMIT 2",
            run_id,
        )
        if not found or not run_id:
            raise NotReadyError("no such run", run_id, "See which there are: invoke runs")
        if len(found) > 1 and found[0].id != run_id:
            raise NotReadyError(
                "more than one run fits", run_id, "Type more of its id; see: invoke runs"
            )
        return found[0]

    def last_completed(self, stage: str) -> tuple[str, StageRun] | None:
        """Return the newest run of a stage that did the work and completed, after its run's id."""
        return self._newest("stage = ? AND state = 'Completed' AND state_name != 'Cached'", stage)

    def last_with_key(self, stage: str, key: str) -> tuple[str, StageRun] | None:
        """Return the newest run of a stage at this key that failed, completed or was cached."""
        return self._newest(
            "stage = ? AND key = ? AND state IN ('Completed', 'Failed')", stage, key
        )

    def durations(self, stage: str, limit: int = 20) -> list[float]:
        """Seconds that the newest completed runs of a stage took, newest first."""
        rows = self.db.execute(
            "SELECT ended - started FROM stage_run WHERE stage = ? AND state = 'Completed'"
            " AND state_name != 'Cached' AND started IS NOT NULL ORDER BY ended DESC LIMIT ?",
            (stage, limit),
        ).fetchall()
        return [float(row[0]) for row in rows]

    def completed_by_key(self, stage: str, limit: int = 200) -> list[tuple[str, StageRun]]:
        """The newest completed runs of a stage that did the work, newest first."""
        rows = self.db.execute(
            f"SELECT run, {STAGE_COLUMNS} FROM stage_run WHERE stage = ?"  # noqa: S608
            " AND state = 'Completed' AND state_name != 'Cached' ORDER BY ended DESC LIMIT ?",
            (stage, limit),
        ).fetchall()
        return [(str(row[0]), stage_run_of(row[1:])) for row in rows]

    def attempts(self, run_id: str) -> list[Attempt]:
        """Every attempt of a run, in order of time."""
        rows = self.db.execute(
            "SELECT stage, number, state, state_name, message, started, ended, cpu, peak_mb"
            " FROM attempt WHERE run = ? ORDER BY started, number",
            (run_id,),
        ).fetchall()
        return [
            Attempt(row[0], row[1], State(StateType(row[2]), row[3], row[4]), *row[5:])
            for row in rows
        ]

    def _newest(self, where: str, *values: object) -> tuple[str, StageRun] | None:
        row = self.db.execute(
            f"SELECT run, {STAGE_COLUMNS} FROM stage_run WHERE {where}"  # noqa: S608
            " ORDER BY ended DESC LIMIT 1",
            values,
        ).fetchone()
        return (str(row[0]), stage_run_of(row[1:])) if row else None

    def _runs(self, where: str, *values: object) -> list[Run]:
        rows = self.db.execute(f"SELECT {RUN_COLUMNS} FROM run {where}", values).fetchall()  # noqa: S608
        return [self._run(row) for row in rows]

    def _run(self, row: tuple[Any, ...]) -> Run:
        stages = self.db.execute(
            f"SELECT {STAGE_COLUMNS} FROM stage_run WHERE run = ? ORDER BY position",  # noqa: S608
            (row[0],),
        ).fetchall()
        return run_of(row, [stage_run_of(item) for item in stages])


def _json(value: object) -> str:
    return json.dumps(value, default=str)
