"""The journal of deployments: one SQLite file (WAL); each step is in it before it is done.

A deployment holds a lock while its process lives, which the kernel drops when that dies, however it
dies: an unfinished deployment whose lock can be taken was cut short.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import time
from typing import TYPE_CHECKING, Any

from llm_twin.delivery.deploy.steps import COMPLETED, RUNNING, Deployment
from llm_twin.errors import BusyError, NotReadyError
from llm_twin.sqlite import named_errors, open_database, transaction

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TITLE = "the journal of deployments"
MIGRATIONS = (
    """
    CREATE TABLE deployment (
        id TEXT PRIMARY KEY, target TEXT NOT NULL, image TEXT NOT NULL, digest TEXT NOT NULL,
        kind TEXT NOT NULL, state TEXT NOT NULL, previous TEXT NOT NULL, options TEXT NOT NULL,
        facts TEXT NOT NULL, began REAL NOT NULL, ended REAL, reason TEXT NOT NULL
    );
    CREATE UNIQUE INDEX one_unfinished ON deployment (target) WHERE ended IS NULL;
    CREATE TABLE step (
        deployment TEXT NOT NULL REFERENCES deployment, name TEXT NOT NULL,
        began REAL NOT NULL, ended REAL, PRIMARY KEY (deployment, name)
    );
    """,
)
"""Append, never edit. Each is applied once, by whoever opens the journal first."""

COLUMNS = "id, target, image, digest, kind, state, previous, options, facts, began, ended, reason"


class Journal:
    """``deployments.db`` in the state folder.

    Attributes:
        folder: ``<home>/deployments``: locks, and what targets keep there.

    """

    def __init__(self, home: Path) -> None:
        """Open or create the journal.

        Raises:
            SpaceError: the state folder cannot be written.
            NotReadyError: a newer version wrote it.

        """
        self.folder = home / "deployments"
        self.path = home / "deployments.db"
        with named_errors(TITLE, self.path):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._db = open_database(self.path, TITLE, MIGRATIONS)
        self._db.execute("PRAGMA foreign_keys = ON")

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    @contextlib.contextmanager
    def hold(self, target: str, purpose: str) -> Iterator[None]:
        """Be the only one who deploys to a target.

        Raises:
            BusyError: another process does; the message names what it does and where.

        """
        with (self.folder / f"{target}.lock").open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                running = self.unfinished(target)
                holder = f"{running.label}, " if running else ""
                raise BusyError(
                    f"a deployment to {target} is running",
                    holder + (handle.read() or "begun just now"),
                    "Wait until it is done",
                ) from None
            handle.truncate(0)
            handle.write(f"{purpose} by process {os.getpid()} on {socket.gethostname()}")
            handle.flush()
            yield

    def begin(
        self, target: str, kind: str, image: str, digest: str, options: dict[str, str]
    ) -> Deployment:
        """Write down a new deployment.

        Raises:
            BusyError: an earlier one to this target is not finished.

        """
        if unfinished := self.unfinished(target):
            raise BusyError(
                "an earlier deployment was cut short",
                f"{unfinished.label}, {unfinished.kind} to {target}",
                "Finish or undo it: invoke recover",
            )
        live = self.live(target)
        now = time.time()
        stamp = time.strftime("%y%m%d-%H%M%S", time.localtime(now))
        deployment = Deployment(
            f"{stamp}-{secrets.token_hex(3)}", target, image, digest, kind, RUNNING,
            live.id if live else "", dict(options), {}, now,
        )  # fmt: skip
        self._write(
            f"INSERT INTO deployment ({COLUMNS}) VALUES ({', '.join('?' * 12)})",  # noqa: S608
            _row(deployment),
        )
        return deployment

    def save(self, deployment: Deployment) -> None:
        """Write a deployment's state, facts, end and reason."""
        self._write(
            "UPDATE deployment SET state = ?, facts = ?, ended = ?, reason = ? WHERE id = ?",
            (deployment.state, json.dumps(deployment.facts), deployment.ended, deployment.reason,
             deployment.id),
        )  # fmt: skip

    def begin_step(self, deployment: Deployment, name: str) -> None:
        """Write down that a step is about to be done."""
        self._write(
            "INSERT OR IGNORE INTO step VALUES (?, ?, ?, NULL)",
            (deployment.id, name, time.time()),
        )

    def end_step(self, deployment: Deployment, name: str) -> None:
        """Write down that a step is done, and the facts that it added."""
        with transaction(self._db):
            self.save(deployment)
            self._write(
                "UPDATE step SET ended = ? WHERE deployment = ? AND name = ?",
                (time.time(), deployment.id, name),
            )

    def steps(self, deployment: Deployment) -> dict[str, bool]:
        """Names of the steps that have begun, in order, and whether each is done."""
        rows = self._db.execute(
            "SELECT name, ended IS NOT NULL FROM step WHERE deployment = ? ORDER BY rowid",
            (deployment.id,),
        )
        return {name: bool(done) for name, done in rows}

    def history(self, target: str = "") -> list[Deployment]:
        """All deployments, or those to one target, newest first."""
        return self._select("? IN ('', target)", target)

    def get(self, deployment_id: str) -> Deployment | None:
        """The deployment with that id, if there is one."""
        return next(iter(self._select("id = ?", deployment_id)), None)

    def unfinished(self, target: str) -> Deployment | None:
        """The deployment to a target that has not come to its end."""
        return next(iter(self._select("ended IS NULL AND target = ?", target)), None)

    def live(self, target: str) -> Deployment | None:
        """The deployment that serves at a target."""
        found = self._select(f"state = '{COMPLETED}' AND target = ?", target)
        return found[0] if found and found[0].kind != "undeploy" else None

    def find(self, target: str, start: str) -> Deployment:
        """The one deployment that was live at a target and whose id begins so.

        Raises:
            NotReadyError: there is none, or more than one.

        """
        found = [
            one
            for one in self._select(f"state = '{COMPLETED}' AND target = ?", target)
            if one.id.startswith(start) and one.kind != "undeploy"
        ]
        if len(found) != 1:
            many = "more than one deployment has" if found else "no deployment that was live has"
            raise NotReadyError(f"{many} this id", start, "Choose from: invoke deployments")
        return found[0]

    def _select(self, where: str, *values: str) -> list[Deployment]:
        rows = self._db.execute(
            f"SELECT {COLUMNS} FROM deployment WHERE {where} ORDER BY rowid DESC",  # noqa: S608
            values,
        )
        return [_deployment(row) for row in rows]

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        with named_errors(TITLE, self.path):
            self._db.execute(statement, values)


def _row(one: Deployment) -> tuple[Any, ...]:
    options, facts = json.dumps(one.options), json.dumps(one.facts)
    return (one.id, one.target, one.image, one.digest, one.kind, one.state, one.previous,
            options, facts, one.began, one.ended, one.reason)  # fmt: skip


def _deployment(row: tuple[Any, ...]) -> Deployment:
    fields = dict(zip(COLUMNS.split(", "), row, strict=True))
    fields |= {name: json.loads(fields[name]) for name in ("options", "facts")}
    return Deployment(**fields)
