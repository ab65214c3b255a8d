"""Keeps the trace store within the age and the size that the user set, the oldest first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from llm_twin.tracing.outbox import count, unforwarded
from llm_twin.tracing.sampling import first_id_of
from llm_twin.tracing.store import records
from llm_twin.tracing.store.merge import stamp_of
from llm_twin.tracing.store.routing import MIB

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from llm_twin.settings import Settings
    from llm_twin.tracing.store.store import Store

STEP = 100
"""Traces deleted in one go, so that writers wait only shortly."""


def sweep(store: Store, settings: Settings) -> int:
    """Delete what is older than ``trace_days`` or beyond ``trace_mb``; return how many traces.

    What goes is counted as dropped, by ``age`` or ``size``; a remote keeps its copy.
    """
    dropped = 0
    if settings.trace_days > 0:
        edge = datetime.now(UTC) - timedelta(days=settings.trace_days)
        while some := _drop(store, "age", _older, edge):
            dropped += some
    if settings.trace_mb > 0:
        while size_of(store) > settings.trace_mb * MIB and (some := _drop(store, "size", _oldest)):
            dropped += some
    return dropped


def size_of(store: Store) -> int:
    """Bytes in use: pages of the database that hold something, and attachments."""
    with store.database.read() as db:
        pages, free, page, blobs = (
            db.execute(query).fetchone()[0]
            for query in (
                "PRAGMA page_count",
                "PRAGMA freelist_count",
                "PRAGMA page_size",
                "SELECT coalesce(sum(size), 0) FROM attachment",
            )
        )
    return int((pages - free) * page + blobs)


def _drop(store: Store, reason: str, chosen: Callable[..., list[str]], *values: object) -> int:
    with store.database.write() as db, unforwarded(db):
        gone = chosen(db, *values)
        records.delete(store, db, "trace", gone)
        count(db, "dropped", reason, len(gone))
    return len(gone)


def _older(db: sqlite3.Connection, edge: datetime) -> list[str]:
    """Traces stored before then, or else those that never came though their spans did."""
    sql = "SELECT id FROM trace WHERE created < ? ORDER BY created LIMIT ?"
    return _ids(db, sql, stamp_of(edge)) or _ids(
        db,
        "SELECT DISTINCT trace_id FROM span WHERE id < ? AND trace_id IS NOT NULL"
        " AND NOT EXISTS (SELECT 1 FROM trace WHERE trace.id = trace_id) LIMIT ?",
        first_id_of(edge.timestamp()),
    )


def _oldest(db: sqlite3.Connection) -> list[str]:
    return _ids(db, "SELECT id FROM trace ORDER BY created LIMIT ?")


def _ids(db: sqlite3.Connection, sql: str, *values: object) -> list[str]:
    return [row[0] for row in db.execute(sql, (*values, STEP))]
