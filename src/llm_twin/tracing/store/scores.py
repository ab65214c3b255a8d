"""Feedback scores, assertion results and guardrails; they often come before what they judge."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from llm_twin.tracing.store.merge import LONGEST_TEXT, id_of, new_id, now, number_of
from llm_twin.tracing.store.projects import asked, project_id
from llm_twin.tracing.store.records import chunks, marks, rows_of, touch
from llm_twin.tracing.store.routing import (
    Problem,
    Request,
    Response,
    dumps,
    json_response,
    ok,
    route,
)

if TYPE_CHECKING:
    import sqlite3

    from llm_twin.tracing.store.store import Store

SOMEBODY = "admin"


def scores_of(db: sqlite3.Connection, kind: str, ids: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The scores of entities by id: one a name, its value the mean over its authors."""
    given: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for part in chunks(ids):
        for entity, *score in db.execute(
            "SELECT entity, name, author, value, source, reason, category, queue, created, updated"  # noqa: S608
            f" FROM score WHERE kind = ? AND entity IN ({marks(part)}) ORDER BY updated",
            (kind, *part),
        ):
            names = (
                "name", "author", "value", "source", "reason", "category_name", "source_queue_id",
                "created_at", "last_updated_at",
            )  # fmt: skip
            entry = dict(zip(names, score, strict=True))
            given[entity, entry["name"]].append(entry)
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for (entity, _), entries in given.items():
        found[entity].append(_joined(entries))
    return found


def _joined(entries: list[dict[str, Any]]) -> dict[str, Any]:
    latest = {key: value for key, value in entries[-1].items() if value is not None}
    author = latest.pop("author")
    return latest | {
        "value": sum(entry["value"] for entry in entries) / len(entries),
        "created_by": author,
        "last_updated_by": author,
        "value_by_author": {
            entry["author"]: {
                key: entry[key]
                for key in ("value", "reason", "category_name", "source", "last_updated_at")
            }
            for entry in entries
        },
    }


def comments_of(
    db: sqlite3.Connection, kind: str, ids: list[str]
) -> dict[str, list[dict[str, Any]]]:
    """The comments on entities by id, oldest first."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for part in chunks(ids):
        for entity, identity, body in db.execute(
            f"SELECT entity, id, body FROM comment WHERE kind = ? AND entity IN ({marks(part)})"  # noqa: S608
            " ORDER BY id",
            (kind, *part),
        ):
            found[entity].append({"id": identity, **json.loads(body)})
    return found


def put(db: sqlite3.Connection, kind: str, entity: str, row: dict[str, Any]) -> None:
    """Store what one author says of one entity under one name."""
    name, value = row.get("name"), row.get("value")
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_TEXT:
        raise Problem(400, f"a score's name is a text of 1 to {LONGEST_TEXT} characters")
    moment = now()
    author = str(row.get("author") or row.get("created_by") or SOMEBODY)
    more = [_text(row, key) for key in ("source", "reason", "category_name", "source_queue_id")]
    db.execute(
        "INSERT INTO score VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " value = excluded.value, source = excluded.source, reason = excluded.reason,"
        " category = excluded.category, queue = excluded.queue, updated = excluded.updated",
        (kind, entity, name, author, number_of(value, "value"), *more, moment, moment),
    )


def _text(row: dict[str, Any], key: str) -> str | None:
    value = row.get(key)
    return None if value is None else str(value)[:LONGEST_TEXT]


def drop(
    db: sqlite3.Connection, kind: str, entity: str, names: list[str], author: str | None
) -> None:
    """Delete scores by their names, of one author or of all."""
    db.execute(
        f"DELETE FROM score WHERE kind = ? AND entity = ? AND name IN ({marks(names)})"  # noqa: S608
        " AND ? IN ('', author)",
        (kind, entity, *names, author or ""),
    )


def _put_many(store: Store, request: Request, kind: str) -> Response:
    rows = rows_of(request.json(), "scores")
    with store.database.write() as db:
        for row in rows:
            put(db, kind, id_of(row.get("id")), row)
    return ok()


@route("PUT", "v1/private/traces/feedback-scores")
def put_on_traces(store: Store, request: Request) -> Response:
    """Score traces."""
    return _put_many(store, request, "trace")


@route("PUT", "v1/private/spans/feedback-scores")
def put_on_spans(store: Store, request: Request) -> Response:
    """Score spans."""
    return _put_many(store, request, "span")


@route("PUT", "v1/private/traces/threads/feedback-scores")
def put_on_threads(store: Store, request: Request) -> Response:
    """Score threads, which are named by project and ``thread_id``."""
    rows = rows_of(request.json(), "scores")
    with store.database.write() as db:
        for row in rows:
            name = row.get("thread_id") or row.get("id")
            if not isinstance(name, str):
                raise Problem(400, "thread_id is a text")
            project = row.get("project_id") or project_id(db, row.get("project_name"))
            put(db, "thread", touch(db, str(project), name), row)
    return ok()


@route("POST", "v1/private/traces/threads/feedback-scores/delete")
def drop_from_thread(store: Store, request: Request) -> Response:
    """Take scores from a thread."""
    values = request.json()
    with store.database.write() as db:
        sql = "SELECT id FROM thread WHERE project_id = ? AND name = ?"
        row = db.execute(sql, (asked(db, values), str(values.get("thread_id")))).fetchone()
        if row:
            names = [str(name) for name in values.get("names") or []]
            drop(db, "thread", row[0], names, values.get("author"))
    return ok()


def _route_one(kind: str) -> None:
    @route("PUT", f"v1/private/{kind}s/{{identity}}/feedback-scores")
    def put_one(store: Store, request: Request, identity: str) -> Response:
        row = request.json()
        with store.database.write() as db:
            put(db, kind, id_of(identity), row)
        return ok()

    @route("POST", f"v1/private/{kind}s/{{identity}}/feedback-scores/delete")
    def drop_one(store: Store, request: Request, identity: str) -> Response:
        values = request.json()
        with store.database.write() as db:
            drop(db, kind, id_of(identity), [str(values.get("name"))], values.get("author"))
        return ok()


_route_one("trace")
_route_one("span")


def _names(kind: str, path: str) -> None:
    @route("GET", path)
    def names(store: Store, request: Request) -> Response:
        with store.database.read() as db:
            rows = db.execute(
                "SELECT DISTINCT score.name FROM score"  # noqa: S608
                f" JOIN {kind} ON {kind}.id = score.entity WHERE score.kind = ?"
                f" AND ? IN ('', {kind}.project_id) ORDER BY 1",
                (kind, request.query.get("project_id", "")),
            ).fetchall()
        return json_response({"scores": [{"name": name} for (name,) in rows]})


_names("trace", "v1/private/traces/feedback-scores/names")
_names("span", "v1/private/spans/feedback-scores/names")
_names("thread", "v1/private/traces/threads/feedback-scores/names")


@route("PUT", "v1/private/assertion-results")
def put_assertions(store: Store, request: Request) -> Response:
    """Store which assertions about traces or spans held."""
    values = request.json()
    kind = str(values.get("entity_type", "TRACE")).lower()
    rows = rows_of(values, "assertion_results")
    with store.database.write() as db:
        db.executemany(
            "INSERT OR REPLACE INTO assertion_result VALUES (?, ?, ?, ?)",
            [
                (kind, id_of(row.get("entity_id"), "entity_id"), str(row.get("name")), dumps(row))
                for row in rows
            ],
        )
    return ok()


@route("POST", "v1/private/guardrails")
def put_guardrails(store: Store, request: Request) -> Response:
    """Store what guardrails said of traces."""
    rows = rows_of(request.json(), "guardrails")
    with store.database.write() as db:
        for row in rows:
            trace = id_of(row.get("entity_id"), "entity_id")
            span = row.get("secondary_id")
            db.execute(
                "INSERT OR REPLACE INTO guardrail VALUES (?, ?, ?, ?, ?, ?)",
                (
                    id_of(row.get("id") or new_id()), trace,
                    id_of(span, "secondary_id") if span else None, str(row.get("name")),
                    str(row.get("result")), dumps(row),
                ),
            )  # fmt: skip
    return ok()
