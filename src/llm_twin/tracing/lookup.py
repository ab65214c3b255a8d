"""Finding traces for the command line: by an Opik filter string, by the beginning of an id, as new.

The filter language is that of Opik's ``search_traces``; its own parser would import all of the SDK.
"""

from __future__ import annotations

import heapq
import re
from itertools import islice
from typing import TYPE_CHECKING

from llm_twin.errors import ConfigError, NotReadyError
from llm_twin.tracing.store import reading, search
from llm_twin.tracing.store.filters import FIELDS
from llm_twin.tracing.store.routing import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llm_twin.tracing.store.listing import Row
    from llm_twin.tracing.store.store import Store

CONDITION = re.compile(
    r"""\s*(?P<field>\w+)(?:\.(?:"(?P<quoted>[^"]+)"|(?P<key>[\w.]+)))?
    \s*(?P<operator>!=|>=|<=|=|>|<|(?:not_contains|contains|starts_with|ends_with|not_in|in
    |is_not_empty|is_empty)\b)
    \s*(?P<value>"(?:[^"]|"")*"|'[^']*'|\S+)??\s*(?:(?:\band\b|$)\s*)""",
    re.IGNORECASE | re.VERBOSE,
)
SHORTEST_PREFIX = 4


def conditions(text: str) -> list[Row]:
    """Read a filter string like ``name = "answer" and feedback_scores.groundedness < 0.5``.

    Raises:
        ConfigError: it is none.

    """
    found, at = [], 0
    while text[at:].strip():
        match = CONDITION.match(text, at)
        if match is None:
            raise ConfigError(
                "the filter cannot be read",
                text[at:].strip(),
                'Write it like: name = "answer" and duration > 500',
            )
        found.append(_condition(match))
        at = match.end()
    return found


def _condition(match: re.Match[str]) -> Row:
    field, key = match["field"], match["quoted"] or match["key"] or ""
    if f"{field}.{key}" in FIELDS["trace"]:
        field, key = f"{field}.{key}", ""
    value = match["value"] or ""
    if value[:1] in ("'", '"'):
        value = value[1:-1].replace('""', '"')
    return {"field": field, "key": key, "operator": match["operator"].lower(), "value": value}


def traces(store: Store, project: str = "", filters: str = "") -> Iterator[Row]:
    """Traces of a project, or of all, that a filter string fits: the newest first, all of each.

    Raises:
        ConfigError: the filter names a field or an operator that there is not.
        NotReadyError: there is no such project.

    """
    asked, found = conditions(filters), []
    for one in [_project(store, project)] if project else _projects(store):
        try:
            query = search.Query.of(store, "trace", {"project_id": one, "filters": asked})
        except Problem as problem:
            raise ConfigError(
                "the filter cannot be used", problem.message, f"Fields: {' '.join(FIELDS['trace'])}"
            ) from None
        found.append(search.scan(store, query))
    return heapq.merge(*found, key=lambda row: row["id"], reverse=True)


def _projects(store: Store) -> list[str]:
    with store.database.read() as db:
        return [row[0] for row in db.execute("SELECT id FROM project ORDER BY id")]


def _project(store: Store, name: str) -> str:
    with store.database.read() as db:
        row = db.execute("SELECT id FROM project WHERE name = ?", (name,)).fetchone()
        names = [row[0] for row in db.execute("SELECT name FROM project ORDER BY name")]
    if row is None:
        hint = f"Choose: {', '.join(names)}" if names else 'Trace something: invoke ask "…"'
        raise NotReadyError("no traces were stored in this project", name, hint)
    return str(row[0])


def trace(store: Store, prefix: str) -> tuple[Row, list[Row]]:
    """The trace whose id begins like this, and its spans in order of time.

    Raises:
        NotReadyError: there is none.
        ConfigError: there are several, or what was given is too short.

    """
    prefix = prefix.strip().lower()
    if len(prefix) < SHORTEST_PREFIX:
        raise ConfigError("an id's beginning has at least 4 characters", repr(prefix))
    with store.database.read() as db:
        sql = "SELECT id FROM trace WHERE id >= ? AND id < ? LIMIT 3"
        ids = [row[0] for row in db.execute(sql, (prefix, f"{prefix}~"))]
        if not ids:
            raise NotReadyError("no such trace", prefix, "Type: invoke traces")
        if len(ids) > 1:
            raise ConfigError("several traces begin like that", prefix, f"Like {' and '.join(ids)}")
        found = reading.by_ids(db, "trace", ids)[0]
        sql = "SELECT id FROM span WHERE trace_id = ? ORDER BY started, id"
        spans = [row[0] for row in db.execute(sql, ids)]
        return found, reading.by_ids(db, "span", spans)


def newest(store: Store) -> int:
    """Number of the trace that was stored last; 0 when there is none."""
    with store.database.read() as db:
        return int(db.execute("SELECT coalesce(max(rowid), 0) FROM trace").fetchone()[0])


def since(store: Store, number: int, most: int = 100) -> tuple[int, list[Row]]:
    """Traces stored after a number, oldest first, and the number of the last of them."""
    with store.database.read() as db:
        sql = "SELECT rowid, id FROM trace WHERE rowid > ? ORDER BY rowid LIMIT ?"
        rows = db.execute(sql, (number, most)).fetchall()
        found = reading.by_ids(db, "trace", [row[1] for row in rows])
    return (rows[-1][0] if rows else number), found


def some(store: Store, project: str, filters: str, limit: int) -> list[Row]:
    """Up to ``limit`` traces; 0 is all of them."""
    return list(islice(traces(store, project, filters), limit or None))
