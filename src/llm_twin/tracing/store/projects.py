"""Projects: made by the first trace that names them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llm_twin.tracing.store.merge import ids_of, new_id, now
from llm_twin.tracing.store.routing import (
    Problem,
    Request,
    Response,
    created,
    dumps,
    json_response,
    ok,
    page,
    page_of,
    route,
)

if TYPE_CHECKING:
    import sqlite3

    from llm_twin.tracing.store.store import Store

DEFAULT = "Default Project"
LONGEST_NAME = 500


def project_id(db: sqlite3.Connection, name: str | None) -> str:
    """The id of the project with a name, made now if there is none; needs a write transaction."""
    name = name or DEFAULT
    if found := find(db, name):
        return found
    if len(name) > LONGEST_NAME:
        raise Problem(400, f"a project's name has at most {LONGEST_NAME} characters")
    identity = new_id()
    _insert(db, identity, name, {})
    return identity


def find(db: sqlite3.Connection, name: str | None) -> str | None:
    """The id of the project with a name, or None."""
    row = db.execute("SELECT id FROM project WHERE name = ?", (name or DEFAULT,)).fetchone()
    return row[0] if row else None


def asked(db: sqlite3.Connection, values: dict[str, Any]) -> str | None:
    """The id of the project that a query or a body names by id or by name, or None."""
    return (
        str(values["project_id"])
        if values.get("project_id")
        else find(db, values.get("project_name"))
    )


def _insert(db: sqlite3.Connection, identity: str, name: str, more: dict[str, Any]) -> None:
    moment = now()
    body = {"created_at": moment, "last_updated_at": moment, "created_by": "admin", **more}
    db.execute("INSERT INTO project VALUES (?, ?, ?)", (identity, name, dumps(body)))


def _public(row: tuple[str, str, str]) -> dict[str, Any]:
    return {"id": row[0], "name": row[1], "visibility": "private", **json.loads(row[2])}


def _get(db: sqlite3.Connection, column: str, value: str) -> dict[str, Any]:
    row = db.execute(
        f"SELECT id, name, body FROM project WHERE {column} = ?",  # noqa: S608
        (value,),
    ).fetchone()
    if row is None:
        raise Problem(404, f"project not found: {value[:100]}")
    latest = db.execute("SELECT max(id) FROM trace WHERE project_id = ?", (row[0],)).fetchone()[0]
    found = _public(row)
    if latest:
        sql = "SELECT updated FROM trace WHERE id = ?"
        found["last_updated_trace_at"] = db.execute(sql, (latest,)).fetchone()[0]
    return found


@route("POST", "v1/private/projects")
def create(store: Store, request: Request) -> Response:
    """Make one; 409 when its name is taken."""
    values = request.json()
    name = _name(values)
    with store.database.write() as db:
        if find(db, name):
            raise Problem(409, f"the project already exists: {name}")
        identity = new_id()
        _insert(db, identity, name, _described(values))
    return created(f"v1/private/projects/{identity}")


@route("GET", "v1/private/projects")
def listed(store: Store, request: Request) -> Response:
    """A page of those whose name has ``name`` in it, newest first."""
    number, size = page_of(request)
    part = request.query.get("name", "")
    where = "FROM project WHERE instr(lower(name), lower(?))"
    with store.database.read() as db:
        total = db.execute(f"SELECT count(*) {where}", (part,)).fetchone()[0]
        rows = db.execute(
            f"SELECT id, name, body {where} ORDER BY id DESC LIMIT ? OFFSET ?",
            (part, size, (number - 1) * size),
        ).fetchall()
    return page([_public(row) for row in rows], total, number, sortableBy=[])


@route("POST", "v1/private/projects/retrieve")
def retrieve(store: Store, request: Request) -> Response:
    """The one with exactly this name."""
    with store.database.read() as db:
        return json_response(_get(db, "name", _name(request.json())))


@route("POST", "v1/private/projects/delete")
def delete_many(store: Store, request: Request) -> Response:
    """Delete some with all that is in them."""
    from llm_twin.tracing.store.records import delete_project

    with store.database.write() as db:
        for identity in ids_of(request.json()):
            delete_project(store, db, identity)
    return ok()


@route("GET", "v1/private/projects/{identity}")
def get(store: Store, request: Request, identity: str) -> Response:
    """One by its id."""
    with store.database.read() as db:
        return json_response(_get(db, "id", identity))


@route("PATCH", "v1/private/projects/{identity}")
def update(store: Store, request: Request, identity: str) -> Response:
    """Change its name or description."""
    values = request.json()
    with store.database.write() as db:
        old = _get(db, "id", identity)
        name = _name(values) if values.get("name") else old["name"]
        if find(db, name) not in (None, identity):
            raise Problem(409, f"the project already exists: {name}")
        kept = {key: old[key] for key in ("created_at", "created_by", "description") if key in old}
        body = kept | _described(values) | {"last_updated_at": now()}
        db.execute(
            "UPDATE project SET name = ?, body = ? WHERE id = ?", (name, dumps(body), identity)
        )
    return ok()


@route("DELETE", "v1/private/projects/{identity}")
def delete(store: Store, request: Request, identity: str) -> Response:
    """Delete one with all that is in it."""
    from llm_twin.tracing.store.records import delete_project

    with store.database.write() as db:
        delete_project(store, db, identity)
    return ok()


def _described(values: dict[str, Any]) -> dict[str, Any]:
    return {key: values[key] for key in ("description", "visibility") if values.get(key)}


def _name(values: dict[str, Any]) -> str:
    name = values.get("name")
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME:
        raise Problem(400, f"name is a text of 1 to {LONGEST_NAME} characters")
    return name
