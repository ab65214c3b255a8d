"""Which traces are kept when not all are: decided when all is known of a trace, never before.

Everything is stored first. Once a trace's time of grace is over, it goes unless chance chose it, it
failed, was slow, got a low score, never ended, or belongs to an experiment. Chance is a digest of
its id: every process and machine chooses the same ones. What goes is counted, so that it is never
taken for lost.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

from llm_twin.tracing.outbox import count, unforwarded
from llm_twin.tracing.store import records
from llm_twin.tracing.store.reading import duration

if TYPE_CHECKING:
    import sqlite3

    from llm_twin.settings import Settings
    from llm_twin.tracing.store.store import Store

TABLES = "CREATE TABLE sampled (id INTEGER PRIMARY KEY CHECK (id = 1), until TEXT NOT NULL)"
REASON = "sampling"
"""Under which `outbox.count` keeps how many were dropped."""

_TELLING = """
SELECT trace_id FROM span
    WHERE trace_id IN ({marks}) AND json_extract(body, '$.error_info') IS NOT NULL
UNION SELECT entity FROM score WHERE kind = 'trace' AND entity IN ({marks}) AND value < ?
UNION SELECT trace_id FROM span JOIN score ON kind = 'span' AND entity = span.id
    WHERE trace_id IN ({marks}) AND value < ?
UNION SELECT trace.id FROM trace
    JOIN thread ON thread.project_id = trace.project_id AND thread.name = trace.thread_id
    JOIN score ON kind = 'thread' AND entity = thread.id
    WHERE trace.id IN ({marks}) AND value < ?
"""


def chosen(trace_id: str, rate: float) -> bool:
    """Tell whether a trace is of the share, from 0 to 1, that is kept by chance."""
    digest = hashlib.sha256(trace_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") < rate * 2**64


def sweep(store: Store, settings: Settings, now: float | None = None) -> int:
    """Delete what sampling does not keep, of the traces whose grace has ended since the last time.

    What was stored before sampling was switched on stays.

    Args:
        store: the trace store.
        settings: ``trace_rate``, ``trace_slow``, ``trace_low_score`` and ``trace_grace``.
        now: Unix time; default: this moment.

    Returns:
        how many traces were dropped.

    """
    until = first_id_of((time.time() if now is None else now) - settings.trace_grace)
    with store.database.read() as db:
        row = db.execute("SELECT until FROM sampled").fetchone()
    if row is None or settings.trace_rate >= 1:
        with store.database.write() as db:
            _reach(db, until)
        return 0
    dropped, since = 0, str(row[0])
    while since < until:
        with store.database.write() as db:
            since, gone = _sweep_some(store, db, since, until, settings)
        dropped += gone
    return dropped


def _sweep_some(
    store: Store, db: sqlite3.Connection, since: str, until: str, settings: Settings
) -> tuple[str, int]:
    rows = db.execute(
        "SELECT id, started, body FROM trace WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
        (since, until, records.CHUNK),
    ).fetchall()
    plain = [
        identity
        for identity, started, body in rows
        if not chosen(identity, settings.trace_rate)
        and not _is_telling(started, json.loads(body), settings)
    ]
    gone = sorted(set(plain) - _telling(db, plain, settings.trace_low_score))
    with unforwarded(db):
        records.delete(store, db, "trace", gone)
    count(db, "dropped", REASON, len(gone))
    # The smallest text that sorts behind an id is the id and one more character.
    reached = rows[-1][0] + "0" if len(rows) == records.CHUNK else until
    _reach(db, reached)
    return reached, len(gone)


def _is_telling(started: str, body: dict[str, Any], settings: Settings) -> bool:
    took = duration(started, body.get("end_time"))
    slow = took is None or took >= settings.trace_slow * 1000
    return slow or bool(body.get("error_info")) or body.get("source", "sdk") != "sdk"


def _telling(db: sqlite3.Connection, ids: list[str], low: float) -> set[str]:
    marks = records.marks(ids)
    found = db.execute(_TELLING.format(marks=marks), (*ids, *ids, low, *ids, low, *ids, low))
    return {str(row[0]) for row in found}


def _reach(db: sqlite3.Connection, until: str) -> None:
    db.execute(
        "INSERT INTO sampled VALUES (1, ?) ON CONFLICT DO UPDATE SET until = max(until, ?)",
        (until, until),
    )


def first_id_of(moment: float) -> str:
    """The first UUIDv7 that can have been made at a Unix time, as its beginning."""
    digits = f"{max(0, int(moment * 1000)):012x}"
    return f"{digits[:8]}-{digits[8:]}"
