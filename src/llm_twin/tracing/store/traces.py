"""Traces: created in batches or one by one, updated, deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_twin.tracing.store import records
from llm_twin.tracing.store.attachments import embedded
from llm_twin.tracing.store.merge import id_of, ids_of, new_id
from llm_twin.tracing.store.reading import one
from llm_twin.tracing.store.routing import Request, Response, created, json_response, ok, route

if TYPE_CHECKING:
    from llm_twin.tracing.store.store import Store


@route("POST", "v1/private/traces/batch")
def create_many(store: Store, request: Request) -> Response:
    """Store up to 1,000 versions of traces."""
    rows = records.rows_of(request.json(), "traces")
    with store.database.write() as db:
        records.write(db, "trace", rows)
    return ok()


@route("PATCH", "v1/private/traces/batch")
def update_many(store: Store, request: Request) -> Response:
    """Change the same fields of many traces."""
    values = request.json()
    with store.database.write() as db:
        records.patch_many(db, "trace", values)
    return ok()


@route("POST", "v1/private/traces")
def create(store: Store, request: Request) -> Response:
    """Store one trace."""
    row = request.json()
    identity = id_of(row.get("id") or new_id())
    with store.database.write() as db:
        records.write(db, "trace", [{**row, "id": identity}])
    return created(f"v1/private/traces/{identity}")


@route("POST", "v1/private/traces/delete")
def delete_many(store: Store, request: Request) -> Response:
    """Delete traces with all that is theirs."""
    ids = ids_of(request.json())
    with store.database.write() as db:
        records.delete(store, db, "trace", ids)
    return ok()


@route("GET", "v1/private/traces/{identity}")
def get(store: Store, request: Request, identity: str) -> Response:
    """One trace with its figures, scores and comments."""
    with store.database.read() as db:
        row = one(db, "trace", identity)
    stripped = request.query.get("strip_attachments") == "true"
    return json_response(row if stripped else embedded(store, "trace", row))


@route("PATCH", "v1/private/traces/{identity}")
def update(store: Store, request: Request, identity: str) -> Response:
    """Change some fields of one trace."""
    values = request.json()
    with store.database.write() as db:
        records.patch(db, "trace", identity, values)
    return ok()


@route("DELETE", "v1/private/traces/{identity}")
def delete(store: Store, request: Request, identity: str) -> Response:
    """Delete one trace with all that is its."""
    with store.database.write() as db:
        records.delete(store, db, "trace", [id_of(identity)])
    return ok()
