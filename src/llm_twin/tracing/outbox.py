"""What a real Opik has not got yet: the keys of changed entities, in the order of their changes.

SQLite's triggers fill it inside the transaction of the change itself, once a remote is named, so
nothing can be stored and not be queued. A row says only *that* something changed; the forwarder
sends what it is by then, or its deletion. A later change replaces the row by one with a higher
number, so that finishing the older one does not lose it.
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from llm_twin.errors import ConfigError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator

    from llm_twin.settings import Settings
    from llm_twin.tracing.store.store import Store


class Source(NamedTuple):
    """A table whose rows are forwarded, and the columns that name one of them."""

    kind: str
    table: str
    key: tuple[str, ...]
    """One column: its value; more: a JSON array of their values."""
    deleted: str = ""
    """Which deletions are forwarded: a condition on ``OLD``; "": none."""


PARENT = (
    "EXISTS (SELECT 1 FROM trace WHERE id = OLD.entity)"
    " OR EXISTS (SELECT 1 FROM span WHERE id = OLD.entity)"
    " OR EXISTS (SELECT 1 FROM thread WHERE id = OLD.entity)"
)
"""What belongs to something goes with it; alone its deletion has to be told."""
SOURCES = (
    Source("prompt", "prompt", ("id",), "1"),
    Source("prompt_version", "prompt_version", ("id",)),
    Source("dataset", "dataset", ("id",), "1"),
    Source("dataset_item", "dataset_item", ("dataset", "id"), "1"),
    Source("trace", "trace", ("id",), "1"),
    Source("span", "span", ("id",), "1"),
    Source("guardrail", "guardrail", ("id",)),
    Source("experiment", "experiment", ("id",), "1"),
    Source("experiment_item", "experiment_item", ("id",), "1"),
    Source("score", "score", ("kind", "entity", "name", "author"), PARENT),
    Source("assertion", "assertion_result", ("kind", "entity", "name")),
    Source("comment", "comment", ("kind", "entity", "id"), PARENT),
    Source("attachment", "attachment", ("kind", "entity", "name"), PARENT),
)
"""In the order in which they are sent: what exists before what is said about it."""
ORDER = {source.kind: place for place, source in enumerate(SOURCES)}

_TABLES = """
CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, entity TEXT NOT NULL,
    since INTEGER NOT NULL DEFAULT (CAST(strftime('%s', 'now') AS INTEGER)), passed INTEGER,
    UNIQUE (kind, entity)
);
CREATE TABLE parked (
    kind TEXT NOT NULL, entity TEXT NOT NULL, status INTEGER NOT NULL, reason TEXT NOT NULL,
    since INTEGER NOT NULL DEFAULT (CAST(strftime('%s', 'now') AS INTEGER)),
    PRIMARY KEY (kind, entity)
) WITHOUT ROWID;
CREATE TABLE remote (
    id INTEGER PRIMARY KEY CHECK (id = 1), url TEXT NOT NULL, workspace TEXT NOT NULL,
    halted TEXT NOT NULL DEFAULT '', error TEXT NOT NULL DEFAULT '', error_at INTEGER
);
CREATE TABLE tally (
    name TEXT NOT NULL, what TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (name, what)
) WITHOUT ROWID;
CREATE TRIGGER trace_gone AFTER DELETE ON trace BEGIN
    INSERT INTO tally VALUES ('deleted', 'trace', 1)
    ON CONFLICT DO UPDATE SET number = number + 1;
END;
CREATE TRIGGER span_gone AFTER DELETE ON span BEGIN
    INSERT INTO tally VALUES ('deleted', 'span', 1)
    ON CONFLICT DO UPDATE SET number = number + 1;
END;
"""
# DELETE and INSERT, not OR REPLACE: the statement that fires a trigger overrides its OR clauses.
_TRIGGER = """
CREATE TRIGGER {table}_{event} AFTER {event} ON {table} WHEN EXISTS (SELECT 1 FROM remote){when}
BEGIN
    DELETE FROM outbox WHERE kind = '{kind}' AND entity = {key};
    INSERT INTO outbox (kind, entity) VALUES ('{kind}', {key});
END;
"""


def _key(source: Source, row: str) -> str:
    columns = ", ".join(f"{row}{name}" for name in source.key)
    return columns if len(source.key) == 1 else f"json_array({columns})"


def _trigger(source: Source, event: str, row: str, when: str = "") -> str:
    names = {"table": source.table, "kind": source.kind, "key": _key(source, row)}
    return _TRIGGER.format(event=event, when=when, **names)


def _triggers(source: Source) -> str:
    script = _trigger(source, "INSERT", "NEW.") + _trigger(source, "UPDATE", "NEW.")
    if source.deleted:
        script += _trigger(source, "DELETE", "OLD.", f" AND ({source.deleted})")
    return script


TABLES = _TABLES + "".join(_triggers(source) for source in SOURCES)


class Queued(NamedTuple):
    """One entity that waits to be sent."""

    seq: int
    kind: str
    key: tuple[str, ...]
    entity: str


def address(settings: Settings) -> str:
    """The remote's API, with a slash at its end; "" when there is none.

    Raises:
        ConfigError: it is no address.

    """
    url = settings.opik_url.strip()
    if url and not url.startswith(("http://", "https://")):
        raise ConfigError(
            "TWIN_OPIK_URL is no address", repr(url), "Set it like https://www.comet.com/opik/api/"
        )
    return f"{url.rstrip('/')}/" if url else ""


def aim(store: Store, settings: Settings) -> bool:
    """See that changes are queued for the remote of the settings; False when they name none.

    A remote that is new gets everything that is stored.

    Raises:
        ConfigError: the remote's address is none.

    """
    url, workspace = address(settings), settings.opik_workspace
    if not url:
        return False
    with store.database.read() as db:
        known = db.execute("SELECT url, workspace FROM remote").fetchone()
    if known != (url, workspace):
        with store.database.write() as db:
            for table in ("outbox", "parked", "remote"):
                db.execute(f"DELETE FROM {table}")  # noqa: S608
            db.execute("INSERT INTO remote (id, url, workspace) VALUES (1, ?, ?)", (url, workspace))
            for source in SOURCES:
                db.execute(
                    "INSERT INTO outbox (kind, entity)"  # noqa: S608
                    f" SELECT DISTINCT '{source.kind}', {_key(source, '')} FROM {source.table}"
                )
    return True


def head(store: Store, limit: int, before: float | None = None) -> list[Queued]:
    """The entities that wait longest; with ``before`` (Unix time) only those since before then."""
    with store.database.read() as db:
        query = "SELECT seq, kind, entity, since FROM outbox ORDER BY seq LIMIT ?"
        rows = db.execute(query, (limit,)).fetchall()
    return [
        Queued(seq, kind, _parts(kind, entity), entity)
        for seq, kind, entity, since in rows
        if before is None or since <= before
    ]


def _parts(kind: str, entity: str) -> tuple[str, ...]:
    return tuple(json.loads(entity)) if len(SOURCES[ORDER[kind]].key) > 1 else (entity,)


def count(db: sqlite3.Connection, name: str, what: str, number: int) -> None:
    """Add to a figure that is kept: ``forwarded`` by kind, ``dropped`` by reason."""
    if number:
        db.execute(
            "INSERT INTO tally VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET number = number + excluded.number",
            (name, what, number),
        )


def done(store: Store, sent: Iterable[Queued], *, told: bool = True) -> None:
    """Take out what the remote has; what changed since then stays in as a newer change.

    Args:
        store: the store.
        sent: what was sent.
        told: whether the remote was told anything, so that it counts as forwarded.

    """
    with store.database.write() as db:
        for one in sent:
            db.execute("DELETE FROM outbox WHERE seq = ?", (one.seq,))
            db.execute("DELETE FROM parked WHERE kind = ? AND entity = ?", (one.kind, one.entity))
            count(db, "forwarded", one.kind, int(told))
        db.execute("UPDATE remote SET halted = '', error = '', error_at = NULL")


def park(store: Store, one: Queued, status: int, reason: str) -> None:
    """Put aside what the remote will not take; a later change queues it again."""
    with store.database.write() as db:
        db.execute("DELETE FROM outbox WHERE seq = ?", (one.seq,))
        db.execute(
            "INSERT OR REPLACE INTO parked (kind, entity, status, reason) VALUES (?, ?, ?, ?)",
            (one.kind, one.entity, status, reason),
        )


def unpark(store: Store) -> int:
    """Queue everything that was put aside again; return how many that were."""
    with store.database.write() as db:
        db.execute(
            "INSERT INTO outbox (kind, entity) SELECT kind, entity FROM parked WHERE 1"
            " ON CONFLICT DO NOTHING"
        )
        return db.execute("DELETE FROM parked").rowcount


def pass_over(store: Store, one: Queued) -> bool:
    """Move to the end what the remote fails at; False when others got through since it was before.

    So an entity that breaks the remote is told from a remote that is broken.
    """
    with store.database.write() as db:
        row = db.execute("SELECT passed FROM outbox WHERE seq = ?", (one.seq,)).fetchone()
        total = forwarded(db)
        if row and row[0] is not None and row[0] < total:
            return False
        db.execute("DELETE FROM outbox WHERE seq = ?", (one.seq,))
        db.execute(
            "INSERT INTO outbox (kind, entity, passed) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (one.kind, one.entity, total),
        )
    return True


def forwarded(db: sqlite3.Connection) -> int:
    """How many changes of entities the remote has got."""
    query = "SELECT coalesce(sum(number), 0) FROM tally WHERE name = 'forwarded'"
    return int(db.execute(query).fetchone()[0])


def tell(store: Store, error: str, halted: str = "") -> None:
    """Keep what went wrong last; ``halted`` is the settings with which not to try again."""
    with store.database.write() as db:
        db.execute(
            "UPDATE remote SET error = ?, halted = ?, error_at = ?",
            (error, halted, int(time.time())),
        )


def halted(store: Store) -> tuple[str, str]:
    """The settings with which not to try again, and why."""
    with store.database.read() as db:
        row: Any = db.execute("SELECT halted, error FROM remote").fetchone()
    return row or ("", "")


@contextlib.contextmanager
def unforwarded(db: sqlite3.Connection) -> Iterator[None]:
    """Queue nothing for the remote of what a block of a ``write`` deletes: it keeps its copy."""
    (last,) = db.execute("SELECT coalesce(max(seq), 0) FROM outbox").fetchone()
    yield
    db.execute("DELETE FROM outbox WHERE seq > ?", (last,))
