"""What happened and what fired, in the run history: committed before anything is done about it.

Events are numbered in the order of their commits, so a reader that remembers a number misses none.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.flow.automation.triggers import Event
from llm_twin.flow.automation.words import numbers
from llm_twin.flow.records import new_run_id

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from llm_twin.flow.automation.declare import Automation
    from llm_twin.flow.automation.triggers import Occurrence, State
    from llm_twin.flow.store import Store

PENDING, RUNNING = "Pending", "Running"
EVENT = "id, kind, name, at, data, key"
FIRING = (
    "id, automation, occurrence, due, fired, reason, state, message, attempts, again, ended,"
    " payload"
)
RUN_KEY = "'run:' || run.id || ':' || run.ended"


@dataclass
class Firing:
    """One occurrence that an automation acts on; its id is also that of the run it starts.

    Attributes:
        due: when it should have fired, ``fired`` when it was recorded; seconds since the epoch.
        state: ``Pending``, ``Running``, or final: a run's state, or ``Skipped``.
        attempts: that did not succeed.
        again: not tried again before this time.

    """

    id: str
    automation: str
    occurrence: str
    due: float
    fired: float
    reason: str
    state: str
    message: str
    attempts: int
    again: float
    ended: float | None
    payload: dict[str, Any]


# Events


def emit(
    store: Store,
    name: str,
    data: dict[str, Any] | None = None,
    *,
    kind: str = "event",
    key: str = "",
    at: float | None = None,
) -> bool:
    """Tell that something happened, for the trigger ``event(NAME)``; durable on return.

    Args:
        store: the run history.
        name: of the event.
        data: plain JSON types; its numbers are metrics called ``NAME.key``.
        kind: see ``Event``.
        key: says that it is the same as one told before; default: it is another one.
        at: seconds since the epoch; default: now.

    Returns:
        False if it was known already.

    """
    row = Event(kind, name, time.time() if at is None else at, data or {}, key)
    return bool(_insert(store.db, [row]))


def _insert(db: sqlite3.Connection, events: list[Event]) -> int:
    made = 0
    for item in events:
        key = item.key or f"{item.kind}:{os.urandom(16).hex()}"
        made += db.execute(
            "INSERT INTO event (key, kind, name, at, data) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (key) DO NOTHING",
            (key, item.kind, item.name, item.at, json.dumps(item.data, default=str)),
        ).rowcount
    return made


def note_runs(store: Store) -> None:
    """Make an event of each run that ended and has none yet."""
    if _unnoted(store.db):
        with store.transaction() as db:
            _insert(db, _unnoted(db))


def _unnoted(db: sqlite3.Connection) -> list[Event]:
    rows = db.execute(
        f"SELECT id, flow, state, state_name, message, parameters, ended, {RUN_KEY} FROM run"  # noqa: S608
        f" WHERE ended IS NOT NULL AND NOT EXISTS (SELECT 1 FROM event WHERE key = {RUN_KEY})"
        " ORDER BY ended"
    ).fetchall()
    return [_run_event(db, *row) for row in rows]


def _run_event(
    db: sqlite3.Connection,
    run: str,
    flow: str,
    state: str,
    state_name: str,
    message: str,
    parameters: str,
    ended: float,
    key: str,
) -> Event:
    results = db.execute(
        "SELECT stage, result FROM stage_run WHERE run = ? AND state = 'Completed'"
        " AND state_name != 'Cached' AND result IS NOT NULL",
        (run,),
    ).fetchall()
    data = {
        "run": run,
        "flow": flow,
        "state": f"{state}({state_name})" if state_name and state_name != state else state,
        "message": message,
        "parameters": json.loads(parameters),
        "metrics": numbers({stage: json.loads(result) for stage, result in results}),
    }
    return Event("run", flow, ended, data, key)


def events_after(db: sqlite3.Connection, number: int) -> list[Event]:
    """The events that were recorded after this one, oldest first."""
    rows = db.execute(f"SELECT {EVENT} FROM event WHERE id > ? ORDER BY id", (number,))  # noqa: S608
    return [_event(row) for row in rows.fetchall()]


def recorded(store: Store) -> list[Event]:
    """All that is known to have happened, in order of time, without changing anything."""
    return sorted([*events_after(store.db, 0), *_unnoted(store.db)], key=lambda item: item.at)


def last_event(store: Store, kind: str, name: str) -> Event | None:
    """The newest event of a kind and name."""
    row = store.db.execute(
        f"SELECT {EVENT} FROM event WHERE kind = ? AND name = ? ORDER BY id DESC LIMIT 1",  # noqa: S608
        (kind, name),
    ).fetchone()
    return _event(row) if row else None


def _event(row: tuple[Any, ...]) -> Event:
    number, kind, name, at, data, key = row
    return Event(kind, name, at, json.loads(data), key, number)


def prune(store: Store, before: float) -> None:
    """Delete events and finished firings from before a time; prune the runs first."""
    with store.transaction() as db:
        db.execute("DELETE FROM event WHERE at < ? AND kind != 'contents'", (before,))
        db.execute("DELETE FROM firing WHERE ended < ?", (before,))


# Automations: what each has seen


def sync(store: Store, automations: Iterable[Automation], now: float) -> None:
    """Start the state of new automations, and of those with another trigger, at this moment."""
    with store.transaction() as db:
        newest = db.execute("SELECT coalesce(max(id), 0) FROM event").fetchone()[0]
        known = dict(db.execute("SELECT name, trigger FROM automation").fetchall())
        for item in automations:
            if known.pop(item.name, None) != repr(item.when):
                db.execute(
                    "INSERT OR REPLACE INTO automation VALUES (?, ?, ?, ?)",
                    (item.name, repr(item.when), newest, json.dumps(item.when.start(now))),
                )
        db.executemany("DELETE FROM automation WHERE name = ?", [(name,) for name in known])


def states(
    db: sqlite3.Connection, automations: Iterable[Automation]
) -> dict[str, tuple[int, State]]:
    """For each automation that was seen before, the last event it saw, and its trigger's state."""
    triggers = {item.name: repr(item.when) for item in automations}
    rows = db.execute("SELECT name, event, state, trigger FROM automation").fetchall()
    return {
        name: (number, json.loads(state))
        for name, number, state, trigger in rows
        if triggers.get(name) == trigger
    }


def save_state(db: sqlite3.Connection, name: str, number: int, state: State) -> None:
    """Remember what an automation saw, in the transaction that records what came of it."""
    db.execute(
        "UPDATE automation SET event = ?, state = ? WHERE name = ?",
        (number, json.dumps(state), name),
    )


# Firings


def fire(db: sqlite3.Connection, automation: str, found: Occurrence, now: float) -> str:
    """Record a firing and return its id, or "" when this occurrence fired before."""
    firing = new_run_id() + os.urandom(3).hex()
    made = db.execute(
        "INSERT INTO firing (id, automation, occurrence, due, fired, reason, payload, state)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (automation, occurrence) DO NOTHING",
        (
            firing, automation, found.key, found.at, now, found.reason,
            json.dumps(found.payload, default=str), PENDING,
        ),
    )  # fmt: skip
    return firing if made.rowcount else ""


def unfinished(db: sqlite3.Connection) -> list[Firing]:
    """The firings whose action has not ended, oldest first."""
    return _firings(db, "ended IS NULL ORDER BY rowid")


def last_firing(db: sqlite3.Connection, automation: str) -> Firing | None:
    """The newest firing of an automation."""
    found = _firings(db, "automation = ? ORDER BY rowid DESC LIMIT 1", automation)
    return found[0] if found else None


def _firings(db: sqlite3.Connection, where: str, *values: object) -> list[Firing]:
    rows = db.execute(f"SELECT {FIRING} FROM firing WHERE {where}", values).fetchall()  # noqa: S608
    return [Firing(*(*row[:-1], json.loads(row[-1]))) for row in rows]


def save_firing(db: sqlite3.Connection, firing: Firing) -> None:
    """Write what became of a firing."""
    db.execute(
        "UPDATE firing SET state = ?, message = ?, attempts = ?, again = ?, ended = ? WHERE id = ?",
        (firing.state, firing.message, firing.attempts, firing.again, firing.ended, firing.id),
    )


def run_state(db: sqlite3.Connection, run: str) -> tuple[str, str] | None:
    """State type and message of a run; None when there is no such run."""
    row = db.execute("SELECT state, message FROM run WHERE id = ?", (run,)).fetchone()
    return (row[0], row[1]) if row else None
