"""Items of a dataset: read at any version, written into the version of their batch group."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llm_twin.tracing.store.dataset_versions import (
    IN_VERSION,
    LATEST,
    add_version,
    latest_version,
    open_version,
    public,
    version_by,
)
from llm_twin.tracing.store.datasets import dataset_by_id, find_dataset, find_or_create_dataset
from llm_twin.tracing.store.listing import Row, after, expressions, limit_of, matches
from llm_twin.tracing.store.merge import id_of, new_id, now, retagged
from llm_twin.tracing.store.records import chunks, marks, rows_of
from llm_twin.tracing.store.routing import (
    Problem,
    Request,
    Response,
    dumps,
    json_response,
    ndjson,
    ok,
    page,
    page_of,
    route,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from llm_twin.tracing.store.store import Store

TABLES = """
CREATE TABLE dataset_item (
    dataset TEXT NOT NULL, id TEXT NOT NULL, since INTEGER NOT NULL, until INTEGER,
    created_at TEXT NOT NULL, last_updated_at TEXT NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (dataset, id, since)
);
CREATE INDEX dataset_item_current ON dataset_item (id, dataset) WHERE until IS NULL
"""
FIELDS = (
    "trace_id", "span_id", "source", "data", "description", "tags", "evaluators",
    "execution_policy",
)  # fmt: skip
COLUMNS = "id, dataset, created_at, last_updated_at, body"
STREAM = 2000


def write_items(db: sqlite3.Connection, dataset_id: str, items: list[Row], number: int) -> None:
    """Add items, or replace those with the same id, in one version."""
    rows = {id_of(item["id"]) if item.get("id") else new_id(): _kept(item) for item in items}
    born = _born(db, dataset_id, list(rows))
    remove_items(db, dataset_id, rows, number)
    at = now()
    db.executemany(
        f"INSERT INTO dataset_item (since, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608
        [(number, key, dataset_id, born.get(key, at), at, dumps(row)) for key, row in rows.items()],
    )


def _kept(item: Row) -> Row:
    named = {key: item[key] for key in FIELDS if item.get(key) is not None}
    return {"source": "sdk", "data": {}} | named


def _born(db: sqlite3.Connection, dataset_id: str, ids: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in chunks(ids):
        query = (
            f"SELECT id, created_at FROM dataset_item WHERE dataset = ? AND id IN ({marks(part)})"  # noqa: S608
        )
        found.update(db.execute(query, (dataset_id, *part)).fetchall())
    return found


def remove_items(db: sqlite3.Connection, dataset_id: str, ids: Iterable[str], number: int) -> None:
    """Take items out of a version; older versions keep them."""
    values = [(dataset_id, item_id, number) for item_id in ids]
    where = "WHERE dataset = ?1 AND id = ?2 AND until IS NULL"
    db.executemany(f"DELETE FROM dataset_item {where} AND since = ?3", values)  # noqa: S608
    db.executemany(f"UPDATE dataset_item SET until = ?3 {where}", values)  # noqa: S608


def read_items(
    db: sqlite3.Connection, dataset_id: str, reference: str | None, filters: object = None
) -> list[Row]:
    """The items of a version, the newest id first; without a reference, those of now."""
    where, values = _where(db, dataset_id, reference)
    wanted = expressions(filters)
    rows = (_row(row) for row in _select(db, where, values))
    return [row for row in rows if matches(row, wanted)]


def _where(
    db: sqlite3.Connection, dataset_id: str, reference: str | None
) -> tuple[str, tuple[object, ...]]:
    if not reference or reference == LATEST:
        return "dataset = ? AND until IS NULL", (dataset_id,)
    number = version_by(db, dataset_id, reference)["number"]
    return IN_VERSION, (dataset_id, number, number)


def _select(db: sqlite3.Connection, where: str, values: tuple[object, ...]) -> sqlite3.Cursor:
    query = f"SELECT {COLUMNS} FROM dataset_item WHERE {where} ORDER BY id DESC"  # noqa: S608
    return db.execute(query, values)


def _row(row: tuple[Any, ...]) -> Row:
    item_id, dataset, created_at, updated_at, body = row
    return {
        "id": item_id,
        "dataset_item_id": item_id,
        "dataset_id": dataset,
        "created_at": created_at,
        "last_updated_at": updated_at,
        **json.loads(body),
    }


def items_by_id(db: sqlite3.Connection, dataset_id: str, ids: list[str], number: int) -> list[Row]:
    """These items as a version has them, or as they were last; in the order of the ids."""
    found: dict[str, Row] = {}
    for part in chunks(ids):
        query = (
            f"SELECT {COLUMNS} FROM dataset_item WHERE dataset = ? AND id IN ({marks(part)})"  # noqa: S608
            " ORDER BY since <= ?, since"
        )
        for row in db.execute(query, (dataset_id, *part, number)):
            found[row[0]] = _row(row)
    return [found.get(key) or {"id": key, "source": "sdk", "data": {}} for key in ids]


def _current_items(
    db: sqlite3.Connection, ids: Iterable[str], dataset_id: str = ""
) -> tuple[str, list[Row]]:
    """The dataset that these items are in now, and those of them that are; 400 when it is not one.

    The SDK names no dataset when it deletes, and an id may be in several.
    """
    rows = []
    for item_id in ids:
        rows += [_row(row) for row in _select(db, "id = ? AND until IS NULL", (item_id,))]
    rows = [row for row in rows if dataset_id in ("", row["dataset_id"])]
    datasets = {row["dataset_id"] for row in rows}
    if len(datasets) > 1:
        raise Problem(400, "These items are in more than one dataset; name the dataset_id")
    return next(iter(datasets), dataset_id), rows


@route("PUT", "v1/private/datasets/items")
def put_items(store: Store, request: Request) -> Response:
    """Add or replace items; the dataset is made when it is not there."""
    body = request.json()
    items = rows_of(body, "items")
    with store.database.write() as db:
        dataset = find_or_create_dataset(db, body)
        number = open_version(db, dataset["id"], body.get("batch_group_id"))
        write_items(db, dataset["id"], items, number)
    return ok()


@route("POST", "v1/private/datasets/items/stream")
def stream_items(store: Store, request: Request) -> Response:
    """Items after ``last_retrieved_id``, from the newest id to the oldest."""
    body = request.json()
    limit, last = limit_of(body, STREAM, "steam_limit"), body.get("last_retrieved_id")
    with store.database.read() as db:
        dataset = find_dataset(db, body)
        version = body.get("dataset_version")
        if body.get("filters"):
            rows = after(read_items(db, dataset["id"], version, body["filters"]), last, limit)
        else:
            where, values = _where(db, dataset["id"], version)
            where, values = (f"{where} AND id < ?", (*values, last)) if last else (where, values)
            rows = _page(db, where, values, limit, 0)
    return ndjson(rows)


def _page(
    db: sqlite3.Connection, where: str, values: tuple[object, ...], size: int, offset: int
) -> list[Row]:
    query = f"SELECT {COLUMNS} FROM dataset_item WHERE {where} ORDER BY id DESC LIMIT ? OFFSET ?"  # noqa: S608
    return [_row(row) for row in db.execute(query, (*values, size, offset))]


@route("GET", "v1/private/datasets/{dataset_id}/items")
def list_items(store: Store, request: Request, dataset_id: str) -> Response:
    """A page of the items of a version."""
    number, size = page_of(request)
    filters, version = request.query.get("filters"), request.query.get("version")
    offset = (number - 1) * size
    with store.database.read() as db:
        dataset_by_id(db, dataset_id)
        if expressions(filters):
            rows = read_items(db, dataset_id, version, filters)
            return page(rows[offset : offset + size], len(rows), number, columns=[])
        where, values = _where(db, dataset_id, version)
        query = f"SELECT count(*) FROM dataset_item WHERE {where}"  # noqa: S608
        total = db.execute(query, values).fetchone()[0]
        return page(_page(db, where, values, size, offset), total, number, columns=[])


@route("GET", "v1/private/datasets/items/{item_id}")
def get_item(store: Store, request: Request, item_id: str) -> Response:
    """One item as it is now."""
    with store.database.read() as db:
        return json_response(_current(db, item_id))


def _current(db: sqlite3.Connection, item_id: str, dataset_id: str = "") -> Row:
    _, rows = _current_items(db, [item_id], dataset_id)
    if not rows:
        raise Problem(404, f"Dataset item not found: {item_id}")
    return rows[0]


@route("PATCH", "v1/private/datasets/items/{item_id}")
def patch_item(store: Store, request: Request, item_id: str) -> Response:
    """Change the named fields of one item."""
    with store.database.write() as db:
        row = _current(db, item_id)
        _change(db, row["dataset_id"], [row], request.json())
    return ok()


@route("PATCH", "v1/private/datasets/items/batch")
def patch_items(store: Store, request: Request) -> Response:
    """Change the same fields of several items, named by id or found by filters."""
    body = request.json()
    update = body.get("update") or {}
    if body.get("merge_tags") and update.get("tags"):
        update = {**update, "tags_to_add": update["tags"], "tags": None}
    with store.database.write() as db:
        _change(db, *_chosen(db, body, "ids"), update)
    return ok()


def _change(db: sqlite3.Connection, dataset_id: str, rows: list[Row], update: Row) -> None:
    if rows:
        number = open_version(db, dataset_id, new_id())
        write_items(db, dataset_id, [_changed(row, update) for row in rows], number)


def _changed(row: Row, update: Row) -> Row:
    named = {key: update[key] for key in FIELDS if update.get(key) is not None}
    tags = retagged(row.get("tags") or [], update)
    named |= {} if tags is None else {"tags": tags}
    if update.get("clear_execution_policy"):
        named["execution_policy"] = None
    return row | named


@route("POST", "v1/private/datasets/items/delete")
def delete_items(store: Store, request: Request) -> Response:
    """Delete items, named by id or found by filters; an empty list of filters is all of them."""
    body = request.json()
    with store.database.write() as db:
        dataset_id, rows = _chosen(db, body, "item_ids")
        if rows:
            number = open_version(db, dataset_id, body.get("batch_group_id"))
            remove_items(db, dataset_id, [row["id"] for row in rows], number)
    return ok()


def _chosen(db: sqlite3.Connection, body: Row, ids: str) -> tuple[str, list[Row]]:
    dataset_id, filters = str(body.get("dataset_id") or ""), body.get("filters")
    if isinstance(body.get(ids), list):
        return _current_items(db, body[ids], dataset_id)
    if not dataset_id or filters is None:
        raise Problem(400, f"Name {ids}, or a dataset_id and filters")
    return dataset_by_id(db, dataset_id)["id"], read_items(db, dataset_id, None, filters)


@route("POST", "v1/private/datasets/{dataset_id}/items/changes")
def apply_changes(store: Store, request: Request, dataset_id: str) -> Response:
    """Make a version of additions, edits and deletions; 409 when another came in between."""
    body = request.json()
    with store.database.write() as db:
        dataset_by_id(db, dataset_id)
        latest = latest_version(db, dataset_id)
        stale = (latest or {}).get("id") != body.get("base_version")
        if stale and request.query.get("override") != "true":
            raise Problem(409, "base_version is not the latest version of the dataset")
        edits = [
            _changed(_current(db, str(item.get("id")), dataset_id), item)
            for item in body.get("edited_items") or []
        ]
        number = add_version(db, dataset_id, _version_fields(body))
        write_items(db, dataset_id, (body.get("added_items") or []) + edits, number)
        remove_items(db, dataset_id, body.get("deleted_ids") or [], number)
        return json_response(public(db, version_by(db, dataset_id, f"v{number}")), 201)


def _version_fields(body: Row) -> Row:
    keys = ("change_description", "tags", "metadata", "evaluators", "execution_policy")
    fields = {key: body[key] for key in keys if body.get(key) is not None}
    return fields | ({"execution_policy": {}} if body.get("clear_execution_policy") else {})
