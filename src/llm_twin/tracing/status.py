"""What became of everything that was traced, in figures: for people and for Prometheus."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llm_twin.tracing.delivery import REFUSED
from llm_twin.tracing.outbox import SOURCES

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from llm_twin.tracing.store.store import Store

Figures = dict[str, int]
MOST_PARKED = 20
SHOWN = ("trace", "span", "score")
"""Kinds that are named even when there are none."""
METRICS = {
    "stored_total": ("counter", "kind", "Traces and spans stored since the beginning."),
    "kept": ("gauge", "kind", "Entities in the store now."),
    "forwarded_total": ("counter", "kind", "Changes of entities that the remote has taken."),
    "queued": ("gauge", "kind", "Entities with a change that the remote has not got yet."),
    "parked": ("gauge", "kind", "Entities that the remote refused."),
    "dropped_total": ("counter", "reason", "Traces deleted by a limit that the user set."),
    "journal_bytes": ("gauge", "", "Bytes that are journalled and not in the store yet."),
    "refused_records": ("gauge", "", "Records that the store itself refused."),
    "queued_seconds": ("gauge", "", "Age of the oldest change that waits to be forwarded."),
    "forwarding_failed": ("gauge", "", "1 while the remote does not take anything."),
}


@dataclass(frozen=True)
class Status:
    """Figures by kind of entity; what is 0 may be missing.

    Attributes:
        remote: address of the Opik that is forwarded to; "": none.
        stored: traces and spans stored since the beginning, also those deleted since.
        kept: what is there now.
        forwarded: changes that the remote has taken; an entity that changes later counts again.
        queued: entities with a change that it has not got.
        parked: entities that it refused.
        refusals: of those, some with kind, key, status and reason.
        dropped: traces deleted by a limit that the user set, by ``age``, ``size``, ``sampling``.
        journal_bytes: journalled and not in the store yet.
        refused_records: records that the store itself refused.
        queued_seconds: age of the oldest change in the queue.
        error: what the remote answered last, if it did not take it.
        error_at: when, in Unix time.
        halted: whether nothing is sent until the settings change.

    """

    remote: str = ""
    stored: Figures = field(default_factory=dict)
    kept: Figures = field(default_factory=dict)
    forwarded: Figures = field(default_factory=dict)
    queued: Figures = field(default_factory=dict)
    parked: Figures = field(default_factory=dict)
    refusals: list[dict[str, object]] = field(default_factory=list)
    dropped: Figures = field(default_factory=dict)
    journal_bytes: int = 0
    refused_records: int = 0
    queued_seconds: int = 0
    error: str = ""
    error_at: int | None = None
    halted: bool = False


def status(store: Store) -> Status:
    """Read the figures; costs some milliseconds."""
    journal = store.database.path.parent / "journal"
    with store.database.read() as db:
        kept = {source.kind: _number(db, source.table) for source in SOURCES}
        gone = _tally(db, "deleted")
        remote = db.execute("SELECT url, error, error_at, halted FROM remote").fetchone()
        url, error, error_at, halted = remote or ("", "", None, "")
        (oldest,) = db.execute("SELECT since FROM outbox ORDER BY seq LIMIT 1").fetchone() or (0,)
        return Status(
            remote=url,
            stored={kind: kept[kind] + gone.get(kind, 0) for kind in ("trace", "span")},
            kept={kind: number for kind, number in kept.items() if number or kind in SHOWN},
            forwarded=_tally(db, "forwarded"),
            queued=_by_kind(db, "outbox"),
            parked=_by_kind(db, "parked"),
            refusals=_refusals(db),
            dropped=_tally(db, "dropped"),
            journal_bytes=_waiting(journal),
            refused_records=_lines(journal / REFUSED),
            queued_seconds=max(0, int(time.time()) - oldest) if oldest else 0,
            error=error,
            error_at=error_at,
            halted=bool(halted),
        )


def metrics(store: Store) -> str:
    """The same figures in Prometheus' text format."""
    found = status(store)
    values = {**vars(found), "forwarding_failed": int(bool(found.error))}
    lines = []
    for name, (kind, label, help_) in METRICS.items():
        full, value = f"llm_twin_traces_{name}", values[name.removesuffix("_total")]
        lines += [f"# HELP {full} {help_}", f"# TYPE {full} {kind}"]
        several = value.items() if isinstance(value, dict) else ()
        lines += [f'{full}{{{label}="{key}"}} {number}' for key, number in several]
        lines += [] if label else [f"{full} {value}"]
    return "\n".join([*lines, ""])


def _number(db: sqlite3.Connection, table: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608


def _tally(db: sqlite3.Connection, name: str) -> Figures:
    return dict(db.execute("SELECT what, number FROM tally WHERE name = ?", (name,)).fetchall())


def _by_kind(db: sqlite3.Connection, table: str) -> Figures:
    return dict(db.execute(f"SELECT kind, count(*) FROM {table} GROUP BY kind").fetchall())  # noqa: S608


def _refusals(db: sqlite3.Connection) -> list[dict[str, object]]:
    rows = db.execute(
        "SELECT kind, entity, status, reason FROM parked ORDER BY since DESC LIMIT ?",
        (MOST_PARKED,),
    )
    return [dict(zip(("kind", "key", "status", "reason"), row, strict=True)) for row in rows]


def _waiting(journal: Path) -> int:
    """Bytes of the journals; a living process empties its own within milliseconds."""
    total = 0
    for path in journal.glob("*.journal"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _lines(path: Path) -> int:
    """Lines that `forget` did not blot out."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        return sum(1 for line in file if line.strip())
    return 0
