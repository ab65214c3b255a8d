"""Datasets: named collections of items, whose every change is a version.

A name is unique within a project; a request that names the wrong project still finds the only
dataset of that name, as Opik does.
"""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, Any

from llm_twin.tracing.store.dataset_versions import latest_version, summary
from llm_twin.tracing.store.listing import Row, answer
from llm_twin.tracing.store.merge import new_id, now
from llm_twin.tracing.store.projects import asked, project_id
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
    from llm_twin.tracing.store.store import Store

TABLES = """
CREATE TABLE dataset (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, project_id TEXT NOT NULL,
    created_at TEXT NOT NULL, last_updated_at TEXT NOT NULL, body TEXT NOT NULL,
    UNIQUE (name, project_id)
)
"""
FIELDS = ("type", "visibility", "tags", "description")
COLUMNS = "id, name, project_id, created_at, last_updated_at, body"


def find_dataset(db: sqlite3.Connection, body: Row) -> Row:
    """The dataset that a request names by ``dataset_id``, or ``dataset_name`` and its project.

    Raises:
        Problem: 404, there is none.

    """
    if body.get("dataset_id"):
        return dataset_by_id(db, body["dataset_id"])
    name = body.get("dataset_name")
    rows = db.execute(f"SELECT {COLUMNS} FROM dataset WHERE name = ? ORDER BY id", (name,))  # noqa: S608
    found = [_row(row) for row in rows]
    if not found:
        raise Problem(404, f"Dataset not found: {name}")
    wanted = asked(db, body)
    return next((row for row in found if row["project_id"] == wanted), found[0])


def dataset_by_id(db: sqlite3.Connection, dataset_id: str) -> Row:
    """One dataset.

    Raises:
        Problem: 404, there is none.

    """
    row = db.execute(f"SELECT {COLUMNS} FROM dataset WHERE id = ?", (dataset_id,)).fetchone()  # noqa: S608
    if row is None:
        raise Problem(404, f"Dataset not found: {dataset_id}")
    return _row(row)


def find_or_create_dataset(db: sqlite3.Connection, body: Row) -> Row:
    """The dataset that a request names, made when it is not there."""
    try:
        return find_dataset(db, body)
    except Problem:
        if not body.get("dataset_name"):
            raise
        return insert_dataset(db, {**body, "name": body["dataset_name"], "id": None})


def insert_dataset(db: sqlite3.Connection, body: Row) -> Row:
    """Make a dataset.

    Raises:
        Problem: 409, the name is taken in this project; 400, there is no name.

    """
    if not body.get("name"):
        raise Problem(400, "A dataset needs a name")
    project, dataset_id, at = project_of(db, body), body.get("id") or new_id(), now()
    kept = dumps({key: body[key] for key in FIELDS if body.get(key) is not None})
    query = f"INSERT INTO dataset ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608
    _write(db, query, dataset_id, body["name"], project, at, at, kept)
    return dataset_by_id(db, dataset_id)


def _write(db: sqlite3.Connection, query: str, *values: str) -> None:
    try:
        db.execute(query, values)
    except sqlite3.IntegrityError:
        raise Problem(409, "A dataset of this name or id already exists") from None


def project_of(db: sqlite3.Connection, body: Row) -> str:
    """Id of the project that a body names, made if there is none of that name."""
    return str(body.get("project_id") or project_id(db, body.get("project_name")))


def _row(row: tuple[Any, ...]) -> Row:
    keys = ("id", "name", "project_id", "created_at", "last_updated_at")
    return {**dict(zip(keys, row, strict=False)), "type": "dataset", **json.loads(row[5])}


def _public(db: sqlite3.Connection, row: Row) -> Row:
    items = "SELECT count(*) FROM dataset_item WHERE dataset = ? AND until IS NULL"
    runs = "SELECT count(*), max(created_at) FROM experiment WHERE dataset_id = ?"
    (count,) = db.execute(items, (row["id"],)).fetchone()
    experiments, newest = db.execute(runs, (row["id"],)).fetchone()
    latest = latest_version(db, row["id"])
    return {
        **row,
        "dataset_items_count": count,
        "experiment_count": experiments,
        "most_recent_experiment_at": newest,
        "last_created_experiment_at": newest,
        "latest_version": summary(latest) if latest else None,
    }


@route("POST", "v1/private/datasets")
def create_dataset(store: Store, request: Request) -> Response:
    """Make a dataset."""
    with store.database.write() as db:
        row = insert_dataset(db, request.json())
    return created(f"v1/private/datasets/{row['id']}")


@route("POST", "v1/private/datasets/retrieve")
def retrieve_dataset(store: Store, request: Request) -> Response:
    """One dataset, by name."""
    with store.database.read() as db:
        return json_response(_public(db, find_dataset(db, request.json())))


@route("GET", "v1/private/datasets/{dataset_id}")
def get_dataset(store: Store, request: Request, dataset_id: str) -> Response:
    """One dataset, by id."""
    with store.database.read() as db:
        return json_response(_public(db, dataset_by_id(db, dataset_id)))


@route("GET", "v1/private/datasets")
def find_datasets(store: Store, request: Request) -> Response:
    """A page of datasets, newest first."""
    query = request.query
    with store.database.read() as db:
        rows = [_row(row) for row in db.execute(f"SELECT {COLUMNS} FROM dataset ORDER BY id DESC")]  # noqa: S608
        name, project = query.get("name", "").lower(), query.get("project_id")
        rows = [
            row
            for row in rows
            if name in row["name"].lower() and project in (None, "", row["project_id"])
        ]
        if query.get("with_experiments_only") == "true":
            used = {one for (one,) in db.execute("SELECT DISTINCT dataset_id FROM experiment")}
            rows = [row for row in rows if row["id"] in used]
        return answer(request, rows, lambda row: _public(db, row))


@route("PUT", "v1/private/datasets/{dataset_id}")
def update_dataset(store: Store, request: Request, dataset_id: str) -> Response:
    """Rename or describe a dataset; what is not named stays."""
    body = request.json()
    with store.database.write() as db:
        row = dataset_by_id(db, dataset_id)
        kept = {key: row[key] for key in FIELDS if key in row}
        kept |= {key: body[key] for key in FIELDS if body.get(key) is not None}
        query = "UPDATE dataset SET name = ?, body = ?, last_updated_at = ? WHERE id = ?"
        _write(db, query, body.get("name") or row["name"], dumps(kept), now(), dataset_id)
    return ok()


@route("DELETE", "v1/private/datasets/{dataset_id}")
def delete_dataset(store: Store, request: Request, dataset_id: str) -> Response:
    """Delete a dataset with its items and versions; its experiments stay."""
    return _deleted(store, [dataset_id])


@route("POST", "v1/private/datasets/delete-batch")
def delete_datasets(store: Store, request: Request) -> Response:
    """Delete several datasets."""
    return _deleted(store, request.json().get("ids") or [])


@route("POST", "v1/private/datasets/delete")
def delete_dataset_by_name(store: Store, request: Request) -> Response:
    """Delete the dataset of a name."""
    with store.database.read() as db:
        row = find_dataset(db, request.json())
    return _deleted(store, [row["id"]])


def _deleted(store: Store, ids: list[str]) -> Response:
    with store.database.write() as db:
        for dataset_id in ids:
            db.execute("DELETE FROM dataset_item WHERE dataset = ?", (dataset_id,))
            db.execute("DELETE FROM dataset_version WHERE dataset = ?", (dataset_id,))
            db.execute("DELETE FROM dataset WHERE id = ?", (dataset_id,))
    return ok()
