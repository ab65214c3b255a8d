"""Traces and spans on their way into the tables and out: written merged, deleted with theirs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.tracing.store.merge import (
    checked,
    id_of,
    ids_of,
    merged,
    new_id,
    now,
    retagged,
    started_of,
    time_of,
)
from llm_twin.tracing.store.projects import project_id
from llm_twin.tracing.store.routing import Problem, dumps

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from llm_twin.tracing.store.store import Store

MOST_ROWS = 1000
# A thread may be scored before its first trace comes.
SPOKEN = (
    "EXISTS (SELECT 1 FROM trace WHERE trace.project_id = thread.project_id"
    " AND trace.thread_id = thread.name)"
)
CHUNK = 500
SPAN_COLUMNS = ["trace_id", "type", "cost", "provider", "usage"]


@dataclass
class Stored:
    """A row of the table ``trace`` or ``span``."""

    body: dict[str, Any]
    updated: str = ""
    newer: dict[str, str] | None = None
    created: str = ""
    known: bool = False


def chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """Parts of a list that fit into one statement."""
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]


def marks(values: Sequence[object]) -> str:
    """As many ``?`` as there are values."""
    return ",".join("?" * len(values))


def rows_of(values: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The rows of a batch; 400 when they are none, or more than 1,000."""
    rows = values.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Problem(400, f"{name} is a list of objects")
    if len(rows) > MOST_ROWS:
        raise Problem(400, f"{name} has more than {MOST_ROWS} rows")
    return rows


def write(db: sqlite3.Connection, kind: str, rows: list[dict[str, Any]]) -> None:
    """Store versions of traces or spans, in any order and as often as they come."""
    arrived = now()
    incoming = [(id_of(row.get("id")), row, checked(kind, row)) for row in rows]
    stored = _stored(db, kind, list({identity for identity, _, _ in incoming}))
    for identity, row, fields in incoming:
        one = stored.setdefault(identity, Stored({}, created=arrived))
        tags = retagged(one.body.get("tags", []), row)
        if tags is not None:
            fields["tags"] = tags
        at = row.get("last_updated_at")
        # What has no stamp is an update: it is newer than what is there, whatever the clocks say.
        stamp = time_of(at, "last_updated_at") if at else max(arrived, one.updated)
        one.body, one.updated, one.newer = merged(
            one.body, one.updated, one.newer or {}, fields, stamp
        )
    projects = {name: project_id(db, name) for name in {_project(s) for s in stored.values()}}
    _save(db, kind, stored, projects)
    if kind == "trace":
        for one in stored.values():
            if thread := one.body.get("thread_id"):
                touch(db, projects[_project(one)], thread, reopen=not one.known)


def _project(one: Stored) -> str:
    return str(one.body.get("project_name", ""))


def _stored(db: sqlite3.Connection, kind: str, ids: list[str]) -> dict[str, Stored]:
    found = {}
    for part in chunks(ids):
        for identity, updated, newer, created, body in db.execute(
            f"SELECT id, updated, newer, created, body FROM {kind}"  # noqa: S608
            f" WHERE id IN ({marks(part)})",
            part,
        ):
            found[identity] = Stored(json.loads(body), updated, json.loads(newer), created, True)
    return found


def _save(
    db: sqlite3.Connection, kind: str, stored: dict[str, Stored], projects: dict[str, str]
) -> None:
    columns = ["id", "project_id", "started", "updated", "newer", "created", "body"]
    columns += ["thread_id"] if kind == "trace" else SPAN_COLUMNS
    rows = []
    for identity, one in stored.items():
        body = one.body
        row = [
            identity, projects[_project(one)], body.get("start_time") or started_of(identity),
            one.updated, dumps(one.newer) if one.newer else "{}", one.created, dumps(body),
        ]  # fmt: skip
        if kind == "trace":
            row.append(body.get("thread_id"))
        else:
            usage = body.get("usage")
            row += [body.get(key) for key in ("trace_id", "type", "total_estimated_cost")]
            row += [body.get("provider"), dumps(usage) if usage else None]
        rows.append(row)
    changes = ",".join(f"{name} = excluded.{name}" for name in columns[1:] if name != "created")
    db.executemany(
        f"INSERT INTO {kind} ({','.join(columns)}) VALUES ({marks(columns)})"  # noqa: S608
        f" ON CONFLICT (id) DO UPDATE SET {changes}",
        rows,
    )


def patch(db: sqlite3.Connection, kind: str, identity: str, values: dict[str, Any]) -> None:
    """Change some fields of one trace or span, which may come only later."""
    if (project := values.get("project_id")) and not values.get("project_name"):
        row = db.execute("SELECT name FROM project WHERE id = ?", (str(project),)).fetchone()
        values = {**values, "project_name": row[0] if row else None}
    write(db, kind, [{**values, "id": identity}])


def patch_many(db: sqlite3.Connection, kind: str, values: dict[str, Any]) -> None:
    """Change the same fields of many; ``merge_tags`` adds to their tags."""
    update = values.get("update") or {}
    if values.get("merge_tags") and update.get("tags"):
        update = {**update, "tags_to_add": update["tags"], "tags": None}
    write(db, kind, [{**update, "id": identity} for identity in ids_of(values)])


def delete(store: Store, db: sqlite3.Connection, kind: str, ids: list[str]) -> None:
    """Delete traces with their spans, or spans; with their scores, comments and attachments."""
    for part in chunks(ids):
        spoken = []
        if kind == "trace":
            spoken = db.execute(
                "SELECT DISTINCT thread.id FROM trace JOIN thread ON name = thread_id"  # noqa: S608
                f" AND thread.project_id = trace.project_id WHERE trace.id IN ({marks(part)})",
                part,
            ).fetchall()
            spans = db.execute(f"SELECT id FROM span WHERE trace_id IN ({marks(part)})", part)  # noqa: S608
            delete(store, db, "span", [row[0] for row in spans.fetchall()])
            db.execute(f"DELETE FROM guardrail WHERE trace_id IN ({marks(part)})", part)  # noqa: S608
        db.execute(f"DELETE FROM {kind} WHERE id IN ({marks(part)})", part)  # noqa: S608
        forget(store, db, kind, part)
        _delete_silent(store, db, [row[0] for row in spoken])


def _delete_silent(store: Store, db: sqlite3.Connection, threads: list[str]) -> None:
    """Delete those of some threads that have no traces left."""
    for part in chunks(threads):
        silent = db.execute(
            f"SELECT id FROM thread WHERE id IN ({marks(part)}) AND NOT {SPOKEN}",  # noqa: S608
            part,
        ).fetchall()
        delete(store, db, "thread", [row[0] for row in silent])


def touch(db: sqlite3.Connection, project: str, name: str, reopen: bool = False) -> str:
    """The id of a project's thread, made now if there is none; a new trace opens it again."""
    moment = now()
    db.execute(
        "INSERT INTO thread VALUES (?, ?, ?, 'active', '[]', ?, ?) ON CONFLICT DO NOTHING",
        (new_id(), project, name, moment, moment),
    )
    sql = "SELECT id, status FROM thread WHERE project_id = ? AND name = ?"
    identity, status = db.execute(sql, (project, name)).fetchone()
    if reopen and status != "active":
        db.execute("UPDATE thread SET status = 'active' WHERE id = ?", (identity,))
    return str(identity)


def forget(store: Store, db: sqlite3.Connection, kind: str, entities: Sequence[str]) -> None:
    """Delete the scores, comments and attachments of some traces, spans or threads."""
    where = f"kind = ? AND entity IN ({marks(entities)})"
    for (blob,) in db.execute(f"SELECT blob FROM attachment WHERE {where}", (kind, *entities)):  # noqa: S608
        store.discard(blob)
    for table in ("score", "comment", "attachment", "assertion_result"):
        db.execute(f"DELETE FROM {table} WHERE {where}", (kind, *entities))  # noqa: S608


def delete_project(store: Store, db: sqlite3.Connection, identity: str) -> None:
    """Delete a project with all that is in it."""
    for kind in ("span", "trace", "thread"):
        sql = f"SELECT id FROM {kind} WHERE project_id = ?"  # noqa: S608
        delete(store, db, kind, [row[0] for row in db.execute(sql, (identity,)).fetchall()])
    db.execute("DELETE FROM project WHERE id = ?", (identity,))
