"""Spans: created in batches or one by one, updated, deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_twin.tracing.store import records
from llm_twin.tracing.store.attachments import embedded
from llm_twin.tracing.store.merge import id_of, ids_of, new_id
from llm_twin.tracing.store.reading import one
from llm_twin.tracing.store.routing import Request, Response, created, json_response, ok, route

if TYPE_CHECKING:
    from llm_twin.tracing.store.store import Store


@route("POST", "v1/private/spans/batch")
def create_many(store: Store, request: Request) -> Response:
    """Store up to 1,000 versions of spans."""
    rows = records.rows_of(request.json(), "spans")
    with store.database.write() as db:
        records.write(db, "span", rows)
    return ok()


@route("PATCH", "v1/private/spans/batch")
def update_many(store: Store, request: Request) -> Response:
    """Change the same fields of many spans."""
    values = request.json()
    with store.database.write() as db:
        records.patch_many(db, "span", values)
    return ok()


@route("POST", "v1/private/spans")
def create(store: Store, request: Request) -> Response:
    """Store one span."""
    row = request.json()
    identity = id_of(row.get("id") or new_id())
    with store.database.write() as db:
        records.write(db, "span", [{**row, "id": identity}])
    return created(f"v1/private/spans/{identity}")


@route("POST", "v1/private/spans/delete")
def delete_many(store: Store, request: Request) -> Response:
    """Delete spans with all that is theirs."""
    ids = ids_of(request.json())
    with store.database.write() as db:
        records.delete(store, db, "span", ids)
    return ok()


@route("GET", "v1/private/spans/{identity}")
def get(store: Store, request: Request, identity: str) -> Response:
    """One span with its scores and comments."""
    with store.database.read() as db:
        row = one(db, "span", identity)
    stripped = request.query.get("strip_attachments") == "true"
    return json_response(row if stripped else embedded(store, "span", row))


@route("PATCH", "v1/private/spans/{identity}")
def update(store: Store, request: Request, identity: str) -> Response:
    """Change some fields of one span."""
    values = request.json()
    with store.database.write() as db:
        records.patch(db, "span", identity, values)
    return ok()


@route("DELETE", "v1/private/spans/{identity}")
def delete(store: Store, request: Request, identity: str) -> Response:
    """Delete one span with all that is its."""
    with store.database.write() as db:
        records.delete(store, db, "span", [id_of(identity)])
    return ok()
