"""Environments: names like ``production`` that a version of a prompt may own."""

from __future__ import annotations

import json
import re
import sqlite3
from typing import TYPE_CHECKING, Any

from llm_twin.tracing.store.merge import id_of, new_id, now
from llm_twin.tracing.store.routing import (
    Problem,
    Request,
    Response,
    created,
    dumps,
    json_response,
    ok,
    page,
    route,
)

if TYPE_CHECKING:
    from llm_twin.tracing.store.listing import Row
    from llm_twin.tracing.store.store import Store

TABLES = """
CREATE TABLE environment (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, body TEXT NOT NULL)
"""
NAME = re.compile(r"[\w-]{1,150}")
FIELDS = ("description", "color", "position")


def registered(db: sqlite3.Connection, name: str) -> bool:
    """Whether there is an environment of this name."""
    return bool(db.execute("SELECT 1 FROM environment WHERE name = ?", (name,)).fetchone())


def register(db: sqlite3.Connection, name: str) -> None:
    """Make an environment if there is none of this name."""
    if not registered(db, name):
        _insert(db, {"name": name})


def _insert(db: sqlite3.Connection, body: Row) -> str:
    environment_id = id_of(body["id"]) if body.get("id") else new_id()
    kept = {key: body.get(key) for key in FIELDS} | {"created_at": now(), "created_by": "admin"}
    _save(db, environment_id, _name(body), kept)
    return environment_id


def _row(row: tuple[Any, ...]) -> Row:
    return {"id": row[0], "name": row[1], **json.loads(row[2])}


def _get(db: sqlite3.Connection, environment_id: str) -> Row:
    row = db.execute("SELECT * FROM environment WHERE id = ?", (environment_id,)).fetchone()
    if row is None:
        raise Problem(404, f"Environment not found: {environment_id}")
    return _row(row)


def _name(body: Row) -> str:
    name = str(body.get("name") or "")
    if not NAME.fullmatch(name):
        raise Problem(400, "name has 1 to 150 letters, digits, dashes or underscores")
    return name


@route("GET", "v1/private/environments")
def find_environments(store: Store, request: Request) -> Response:
    """All of them, in the order in which they were made."""
    with store.database.read() as db:
        rows = [_row(row) for row in db.execute("SELECT * FROM environment ORDER BY rowid")]
    return page(rows, len(rows), 1)


@route("POST", "v1/private/environments")
def create_environment(store: Store, request: Request) -> Response:
    """Make one; 409 when its name is taken."""
    with store.database.write() as db:
        environment_id = _insert(db, request.json())
    return created(f"v1/private/environments/{environment_id}")


@route("GET", "v1/private/environments/{environment_id}")
def get_environment(store: Store, request: Request, environment_id: str) -> Response:
    """One by its id."""
    with store.database.read() as db:
        return json_response(_get(db, environment_id))


@route("PATCH", "v1/private/environments/{environment_id}")
def update_environment(store: Store, request: Request, environment_id: str) -> Response:
    """Change what is named; versions keep owning it under its new name."""
    body = request.json()
    with store.database.write() as db:
        old = _get(db, environment_id)
        new = old | {key: body[key] for key in ("name", *FIELDS) if body.get(key) is not None}
        kept = {key: new[key] for key in new if key not in ("id", "name")}
        _save(db, environment_id, _name(new), kept | {"last_updated_at": now()})
        db.execute(
            "UPDATE prompt_environment SET environment = ? WHERE environment = ?",
            (new["name"], old["name"]),
        )
    return ok()


@route("POST", "v1/private/environments/delete")
def delete_environments(store: Store, request: Request) -> Response:
    """Delete some; no version of a prompt owns them any more."""
    with store.database.write() as db:
        for environment_id in request.json().get("ids") or []:
            owned = "environment = (SELECT name FROM environment WHERE id = ?)"
            db.execute(f"DELETE FROM prompt_environment WHERE {owned}", (environment_id,))  # noqa: S608
            db.execute("DELETE FROM environment WHERE id = ?", (environment_id,))
    return ok()


def _save(db: sqlite3.Connection, environment_id: str, name: str, kept: Row) -> None:
    try:
        db.execute(
            "INSERT INTO environment VALUES (?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET name = excluded.name, body = excluded.body",
            (environment_id, name, dumps(kept)),
        )
    except sqlite3.IntegrityError:
        raise Problem(409, f"Environment already exists: {name}") from None
