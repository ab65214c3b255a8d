"""Threads: the traces of one project that share a ``thread_id``, seen as a conversation."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from llm_twin.tracing.store import records
from llm_twin.tracing.store.merge import ids_of, now, retagged, tags_of
from llm_twin.tracing.store.projects import asked
from llm_twin.tracing.store.reading import added, duration, sums
from llm_twin.tracing.store.records import SPOKEN, chunks, marks
from llm_twin.tracing.store.routing import (
    Problem,
    Request,
    Response,
    dumps,
    json_response,
    ok,
    route,
)
from llm_twin.tracing.store.scores import comments_of, scores_of

if TYPE_CHECKING:
    import sqlite3

    from llm_twin.tracing.store.store import Store

COLUMNS = "id, project_id, name, status, tags, created, updated"
Row = tuple[str, str, str, str, str, str, str]


def publics(db: sqlite3.Connection, rows: list[Row]) -> list[dict[str, Any]]:
    """Threads of one project with what their traces, scores and comments say of them."""
    if not rows:
        return []
    traces = _traces(db, rows[0][1], [row[2] for row in rows])
    ids = [row[0] for row in rows]
    scores, comments = scores_of(db, "thread", ids), comments_of(db, "thread", ids)
    figures = sums(db, [trace["id"] for some in traces.values() for trace in some])
    found = []
    for identity, project, name, status, tags, created, updated in rows:
        own = traces.get(name, [])
        totals = [figures[trace["id"]] for trace in own]
        found.append({
            "id": name, "thread_model_id": identity, "project_id": project, "status": status,
            "tags": json.loads(tags), "created_at": created,
            "last_updated_at": max([updated, *(trace["updated"] for trace in own)]),
            "created_by": "admin", "last_updated_by": "admin",
            "feedback_scores": scores.get(identity), "comments": comments.get(identity),
            "number_of_messages": 2 * len(own), "usage": added(one["usage"] for one in totals),
            "total_estimated_cost": sum(one["total_estimated_cost"] or 0 for one in totals) or None,
            **(_span_of(db, own) if own else {}),
        })  # fmt: skip
    return found


def _traces(
    db: sqlite3.Connection, project: str, names: list[str]
) -> dict[str, list[dict[str, Any]]]:
    """The traces of threads by name, in order of time, without what was said."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for part in chunks(names):
        for name, *values in db.execute(
            "SELECT thread_id, id, started, updated, json_extract(body, '$.end_time'),"  # noqa: S608
            " json_extract(body, '$.environment') FROM trace"
            f" WHERE project_id = ? AND thread_id IN ({marks(part)}) ORDER BY started, id",
            (project, *part),
        ):
            keys = ("id", "started", "updated", "ended", "environment")
            found[name].append(dict(zip(keys, values, strict=True)))
    return found


def _span_of(db: sqlite3.Connection, traces: list[dict[str, Any]]) -> dict[str, Any]:
    ends = [trace["ended"] for trace in traces if trace["ended"]]
    first, last = _said(db, traces[0]["id"]), _said(db, traces[-1]["id"])
    return {
        "start_time": traces[0]["started"],
        "end_time": max(ends, default=None),
        "duration": duration(traces[0]["started"], max(ends, default=None)),
        "first_message": first.get("input"),
        "last_message": last.get("output"),
        "environment": traces[-1]["environment"],
    }


def _said(db: sqlite3.Connection, trace: str) -> dict[str, Any]:
    row = db.execute("SELECT body FROM trace WHERE id = ?", (trace,)).fetchone()
    body: dict[str, Any] = json.loads(row[0])
    return body


def _names(values: dict[str, Any]) -> list[str]:
    names = values.get("thread_ids") or [values.get("thread_id")]
    if not all(isinstance(name, str) for name in names):
        raise Problem(400, "thread_id is a text")
    return names


def _found(db: sqlite3.Connection, values: dict[str, Any]) -> list[Row]:
    project, found = asked(db, values), []
    for part in chunks(_names(values)):
        sql = (
            f"SELECT {COLUMNS} FROM thread WHERE project_id = ?"  # noqa: S608
            f" AND name IN ({marks(part)}) AND {SPOKEN}"
        )
        found += db.execute(sql, (project, *part)).fetchall()
    return found


def _set_status(store: Store, request: Request, status: str) -> Response:
    with store.database.write() as db:
        rows = _found(db, request.json())
        if not rows:
            raise Problem(404, "thread not found")
        db.executemany(
            "UPDATE thread SET status = ?, updated = ? WHERE id = ?",
            [(status, now(), row[0]) for row in rows],
        )
    return ok()


@route("PUT", "v1/private/traces/threads/open")
def open_again(store: Store, request: Request) -> Response:
    """Open a thread."""
    return _set_status(store, request, "active")


@route("PUT", "v1/private/traces/threads/close")
def close(store: Store, request: Request) -> Response:
    """Close threads; a new trace opens one again."""
    return _set_status(store, request, "inactive")


@route("POST", "v1/private/traces/threads/retrieve")
def retrieve(store: Store, request: Request) -> Response:
    """One thread by its project and name."""
    with store.database.read() as db:
        rows = publics(db, _found(db, request.json()))
    if not rows:
        raise Problem(404, "thread not found")
    return json_response({key: value for key, value in rows[0].items() if value is not None})


@route("POST", "v1/private/traces/threads/delete")
def delete(store: Store, request: Request) -> Response:
    """Delete threads with their traces."""
    with store.database.write() as db:
        for _, project, name, *_ in _found(db, request.json()):
            sql = "SELECT id FROM trace WHERE project_id = ? AND thread_id = ?"
            traces = [row[0] for row in db.execute(sql, (project, name)).fetchall()]
            records.delete(store, db, "trace", traces)
    return ok()


def _retag(db: sqlite3.Connection, identity: str, update: dict[str, Any]) -> None:
    row = db.execute("SELECT tags FROM thread WHERE id = ?", (identity,)).fetchone()
    if row is None:
        raise Problem(404, f"thread not found: {identity}")
    tags = retagged(json.loads(row[0]), update)
    if tags is None:
        tags = tags_of(update)
    db.execute(
        "UPDATE thread SET tags = ?, updated = ? WHERE id = ?", (dumps(tags), now(), identity)
    )


@route("PATCH", "v1/private/traces/threads/batch")
def update_many(store: Store, request: Request) -> Response:
    """Change the tags of many threads; ``merge_tags`` adds to them."""
    values = request.json()
    update = values.get("update") or {}
    if values.get("merge_tags"):
        update = {"tags_to_add": update.get("tags")}
    with store.database.write() as db:
        for identity in ids_of(values):
            _retag(db, identity, update)
    return ok()


@route("PATCH", "v1/private/traces/threads/{identity}")
def update(store: Store, request: Request, identity: str) -> Response:
    """Change the tags of one thread."""
    values = request.json()
    with store.database.write() as db:
        _retag(db, identity, values)
    return ok()
