"""Comments on traces, spans and threads: three times the same routes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llm_twin.tracing.store.merge import LONGEST_TEXT, id_of, ids_of, new_id, now
from llm_twin.tracing.store.records import chunks, marks
from llm_twin.tracing.store.routing import (
    Problem,
    Request,
    Response,
    created,
    dumps,
    json_response,
    ok,
    route,
)

if TYPE_CHECKING:
    import sqlite3

    from llm_twin.tracing.store.store import Store


def _text(values: dict[str, Any]) -> str:
    text = values.get("text")
    if not isinstance(text, str) or not 0 < len(text) <= LONGEST_TEXT:
        raise Problem(400, f"text is a text of 1 to {LONGEST_TEXT} characters")
    return text


def _body(db: sqlite3.Connection, kind: str, identity: str) -> dict[str, Any]:
    sql = "SELECT body FROM comment WHERE kind = ? AND id = ?"
    row = db.execute(sql, (kind, identity)).fetchone()
    if row is None:
        raise Problem(404, f"comment not found: {identity}")
    body: dict[str, Any] = json.loads(row[0])
    return body


def _route(kind: str, path: str) -> None:
    @route("POST", f"{path}/{{entity}}/comments")
    def add(store: Store, request: Request, entity: str) -> Response:
        values, about = request.json(), id_of(entity)
        identity, moment = id_of(values.get("id") or new_id()), now()
        body = {
            "text": _text(values), "created_at": moment, "last_updated_at": moment,
            "created_by": "admin", "last_updated_by": "admin",
        }  # fmt: skip
        with store.database.write() as db:
            db.execute(
                "INSERT INTO comment VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (identity, kind, about, dumps(body)),
            )
        return created(f"{path}/{about}/comments/{identity}")

    @route("GET", f"{path}/{{entity}}/comments/{{identity}}")
    def get(store: Store, request: Request, entity: str, identity: str) -> Response:
        with store.database.read() as db:
            return json_response({"id": identity, **_body(db, kind, identity)})

    @route("PATCH", f"{path}/comments/{{identity}}")
    def update(store: Store, request: Request, identity: str) -> Response:
        text = _text(request.json())
        with store.database.write() as db:
            body = _body(db, kind, identity) | {"text": text, "last_updated_at": now()}
            db.execute("UPDATE comment SET body = ? WHERE id = ?", (dumps(body), identity))
        return ok()

    @route("POST", f"{path}/comments/delete")
    def delete(store: Store, request: Request) -> Response:
        ids = ids_of(request.json())
        with store.database.write() as db:
            for part in chunks(ids):
                db.execute(
                    f"DELETE FROM comment WHERE kind = ? AND id IN ({marks(part)})",  # noqa: S608
                    (kind, *part),
                )
        return ok()


_route("thread", "v1/private/traces/threads")
_route("trace", "v1/private/traces")
_route("span", "v1/private/spans")
