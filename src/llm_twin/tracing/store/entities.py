"""Traces and spans: created in batches or one by one, updated, deleted; the same paths for both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_twin.tracing.store import records
from llm_twin.tracing.store.attachments import embedded
from llm_twin.tracing.store.merge import id_of, ids_of, new_id
from llm_twin.tracing.store.reading import one
from llm_twin.tracing.store.routing import Request, Response, created, json_response, ok, route

if TYPE_CHECKING:
    from llm_twin.tracing.store.store import Store


def _serve(kind: str) -> None:
    kinds = f"{kind}s"
    base = f"v1/private/{kinds}"

    @route("POST", f"{base}/batch")
    def create_many(store: Store, request: Request) -> Response:
        """Store up to 1,000 versions of them."""
        rows = records.rows_of(request.json(), kinds)
        with store.database.write() as db:
            records.write(db, kind, rows)
        return ok()

    @route("PATCH", f"{base}/batch")
    def update_many(store: Store, request: Request) -> Response:
        """Change the same fields of many."""
        values = request.json()
        with store.database.write() as db:
            records.patch_many(db, kind, values)
        return ok()

    @route("POST", base)
    def create(store: Store, request: Request) -> Response:
        """Store one."""
        row = request.json()
        identity = id_of(row.get("id") or new_id())
        with store.database.write() as db:
            records.write(db, kind, [{**row, "id": identity}])
        return created(f"{base}/{identity}")

    @route("POST", f"{base}/delete")
    def delete_many(store: Store, request: Request) -> Response:
        """Delete some with all that is theirs."""
        ids = ids_of(request.json())
        with store.database.write() as db:
            records.delete(store, db, kind, ids)
        return ok()

    @route("GET", f"{base}/{{identity}}")
    def get(store: Store, request: Request, identity: str) -> Response:
        """One with its scores and comments, and a trace's figures."""
        with store.database.read() as db:
            row = one(db, kind, identity)
        stripped = request.query.get("strip_attachments") == "true"
        return json_response(row if stripped else embedded(store, kind, row))

    @route("PATCH", f"{base}/{{identity}}")
    def update(store: Store, request: Request, identity: str) -> Response:
        """Change some fields of one."""
        values = request.json()
        with store.database.write() as db:
            records.patch(db, kind, identity, values)
        return ok()

    @route("DELETE", f"{base}/{{identity}}")
    def delete(store: Store, request: Request, identity: str) -> Response:
        """Delete one with all that is its."""
        with store.database.write() as db:
            records.delete(store, db, kind, [id_of(identity)])
        return ok()


for _kind in ("trace", "span"):
    _serve(_kind)
