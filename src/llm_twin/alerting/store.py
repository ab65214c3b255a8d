"""``alerts.db``: what happened, what is wrong because of it, and what has to be said about it.

Everything is committed to the disk before a call returns. ``record`` and ``resolve`` are for
whoever has something to report; they open the file, write and close it, so that they work in any
process, forked ones too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import sqlite3
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llm_twin.alerting import outbox
from llm_twin.alerting.privacy import Privacy
from llm_twin.alerting.schema import MIGRATIONS
from llm_twin.errors import NotReadyError, TwinError
from llm_twin.sqlite import MEMORY, open_database, transaction

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

PENDING, FIRING, ACKNOWLEDGED, RESOLVED = "pending", "firing", "acknowledged", "resolved"
MOST_SUBJECTS = 20


@dataclass(frozen=True)
class Event:
    """Something that happened, at a time in seconds since the epoch.

    Attributes:
        kind: like ``ct.failed``; ``run`` is a run of a flow that ended.
        subject: what it happened to: the id of a run, a deployment, a model's version.
        data: plain JSON types; ``run`` is the id of a run, ``message`` says what went wrong.

    """

    kind: str
    subject: str
    at: float
    data: dict[str, Any] = field(default_factory=dict)
    key: str = ""


@dataclass
class Alert:
    """One problem, from when it began until it ended; times in seconds since the epoch.

    Attributes:
        about: which one of the rule's problems, by the names that the rule groups by.
        began: when it began; ``last``: when it happened last.
        count: how often it happened; ``told_count``: of that, what the last message said.
        told: when the last message about it was made; None: nobody was told. ``fired``: the first.
        hush: nothing is said before this time, because it was resolved only just before.
        subjects: ids of the runs and other things it is about, with the kind of event each.
        measured: how bad it is against normal, in words.
        by: the run or person that resolved or acknowledged it.

    """

    rule: str
    about: dict[str, str]
    severity: str
    began: float
    last: float
    id: str = field(default_factory=lambda: secrets.token_hex(4))
    state: str = PENDING
    text: str = ""
    look: str = ""
    detail: str = ""
    measured: str = ""
    count: int = 0
    told: float | None = None
    fired: float | None = None
    told_count: int = 0
    hush: float = 0.0
    escalated: float | None = None
    acknowledged: float | None = None
    ended: float | None = None
    by: str = ""
    note: str = ""
    to: list[str] = field(default_factory=list)
    escalate_to: list[str] = field(default_factory=list)
    subjects: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> tuple[str, str]:
        """Which rule's alert it is, and about what: at most one of each is open."""
        return self.rule, json.dumps(self.about, sort_keys=True)

    def happened(self, event: Event) -> None:
        """Count an event in; one thing seen in two ways counts once, and is told as seen first."""
        self.last = max(self.last, event.at)
        name = str(event.data.get("run") or event.subject)
        if self.subjects.get(name, event.kind) == event.kind:
            self.count += 1
            self.detail = str(event.data.get("message", "")) or self.detail
        if name:
            self.subjects.setdefault(name, event.kind)
            while len(self.subjects) > MOST_SUBJECTS:
                del self.subjects[next(iter(self.subjects))]


class Store:
    """The connection to ``alerts.db``, for one thread."""

    def __init__(self, home: Path | None) -> None:
        """Open or create it in the state folder; None: one in memory.

        Raises:
            SpaceError: the folder cannot be written, or the disk is full.
            NotReadyError: a newer version wrote it.

        """
        self.path = home / "alerts.db" if home else MEMORY
        self.db = open_database(self.path, "the alerts", MIGRATIONS)

    def close(self) -> None:
        """Close the database."""
        self.db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of a block's statements or none; durable when it ends."""
        with transaction(self.db):
            yield self.db

    # Events

    def add(self, events: Iterable[Event]) -> None:
        """Keep events, redacted already; one whose key is known is kept once."""
        with self.transaction() as db:
            db.executemany(
                "INSERT OR IGNORE INTO event (key, kind, subject, at, data) VALUES (?, ?, ?, ?, ?)",
                (
                    (
                        one.key or os.urandom(12).hex(),
                        one.kind,
                        one.subject,
                        one.at,
                        _json(one.data),
                    )
                    for one in events
                ),
            )

    def events(self, after: int = 0) -> tuple[list[Event], int]:
        """The events that were recorded after this number, and the last one's number."""
        rows = self.db.execute(
            "SELECT kind, subject, at, data, key, id FROM event WHERE id > ? ORDER BY id", (after,)
        ).fetchall()
        found = [
            Event(kind, subject, at, json.loads(data), key)
            for kind, subject, at, data, key, _ in rows
        ]
        return found, rows[-1][5] if rows else after

    def position(self, source: str) -> int | None:
        """How far a source was read; None: never."""
        row = self.db.execute("SELECT number FROM position WHERE source = ?", (source,)).fetchone()
        return int(row[0]) if row else None

    def forget(self, before: float) -> None:
        """Delete what is over since before a time, and who was told of it."""
        with self.transaction() as db:
            db.execute("DELETE FROM event WHERE at < ?", (before,))
            db.execute("DELETE FROM alert WHERE ended < ?", (before,))
            db.execute(
                "DELETE FROM message WHERE made < ?"
                " AND alert NOT IN (SELECT id FROM alert WHERE ended IS NULL)",
                (before,),
            )
            db.execute("DELETE FROM delivery WHERE message NOT IN (SELECT id FROM message)")

    def read_to(self, source: str, number: int) -> None:
        """Remember how far a source was read, in the transaction that acts on what it said."""
        self.db.execute("INSERT OR REPLACE INTO position VALUES (?, ?)", (source, number))

    # Alerts

    def open_alerts(self) -> list[Alert]:
        """Everything that has not ended, oldest first, what only may become an alert included."""
        return self._alerts("ended IS NULL ORDER BY began, id")

    def recent(self, limit: int = 20) -> list[Alert]:
        """What is open, then what ended last."""
        return self._alerts(
            "1 ORDER BY ended IS NOT NULL, coalesce(ended, began) DESC LIMIT ?", limit
        )

    def find(self, name: str) -> Alert:
        """One alert by its id or how that begins.

        Raises:
            NotReadyError: there is none, or several fit.

        """
        found = self._alerts("id = ?1 OR substr(id, 1, length(?1)) = ?1 LIMIT 2", name)
        if len(found) != 1 or not name:
            what = "more than one alert fits" if len(found) > 1 else "no such alert"
            raise NotReadyError(what, name, "See which there are: invoke alerts")
        return found[0]

    def last_ended(self, alert: Alert) -> float | None:
        """When the alert before this one, of the same rule and about the same, ended."""
        row = self.db.execute(
            "SELECT max(ended) FROM alert WHERE rule = ? AND about = ?", alert.place
        ).fetchone()
        return None if row[0] is None else float(row[0])

    def save(self, alert: Alert) -> None:
        """Write an alert as it is now."""
        rule, about = alert.place
        self.db.execute(
            "INSERT OR REPLACE INTO alert VALUES (?, ?, ?, ?, ?, ?)",
            (alert.id, rule, about, alert.began, alert.ended, _json(dataclasses.asdict(alert))),
        )

    def drop(self, alert: Alert) -> None:
        """Forget something that never became an alert."""
        self.db.execute("DELETE FROM alert WHERE id = ?", (alert.id,))

    def end(self, alert: Alert, now: float, by: str = "") -> None:
        """Resolve an alert, and tell whoever was told of it; inside a transaction."""
        alert.state, alert.ended, alert.by = RESOLVED, now, by
        if alert.told is not None:
            outbox.tell(self, alert, "resolved", now)
        self.save(alert)

    def _alerts(self, where: str, *values: object) -> list[Alert]:
        rows = self.db.execute(f"SELECT data FROM alert WHERE {where}", values)  # noqa: S608
        return [Alert(**json.loads(data)) for (data,) in rows.fetchall()]


def record(home: Path, kind: str, subject: str, data: Mapping[str, Any], key: str = "") -> None:
    """Tell that something happened; durable on return, redacted before it is written.

    It never raises into the work that it reports on: what cannot be kept is said on stderr.

    Args:
        home: the state folder.
        kind: like ``ct.failed`` or ``deploy.rolled_back``; what rules wait for.
        subject: what it happened to, like the id of a run.
        data: plain JSON types; ``run``, ``message`` and what else a rule's text names. Parameters
            and tracebacks are not kept.
        key: says that it is the same as one told before; default: it is another one.

    """
    try:
        privacy = Privacy.of(home)
        event = privacy.event(Event(kind, subject, time.time(), dict(data), key))
        with contextlib.closing(Store(home)) as store:
            store.add([event])
    except (OSError, sqlite3.Error, TwinError, TypeError, ValueError) as error:
        print(f"error: an event could not be kept ({kind} {subject}): {error}", file=sys.stderr)


def resolve(home: Path, name: str, by: str = "") -> list[str]:
    """End what is open of a rule, or one alert by its id; return the ids of what ended.

    Args:
        home: the state folder.
        name: of a rule, or an alert's id.
        by: the run, or whoever else, that put it right; the message names it.

    Raises:
        SpaceError: it cannot be written.

    """
    ended = []
    with contextlib.closing(Store(home)) as store, store.transaction():
        for alert in store.open_alerts():
            if name in (alert.rule, alert.id) and alert.state != PENDING:
                store.end(alert, time.time(), by)
                ended.append(alert.id)
    return ended


def _json(value: object) -> str:
    return json.dumps(value, default=str)
