"""Versions of a dataset: v1, v2, …, each one group of changes to its items.

An item's row carries the number of the version it came with and of the one it went with, so a
version costs what changed in it and every older one can still be read.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llm_twin.tracing.store.merge import new_id, now
from llm_twin.tracing.store.routing import (
    Problem,
    Request,
    Response,
    dumps,
    json_response,
    ok,
    page,
    page_of,
    route,
)

if TYPE_CHECKING:
    import sqlite3

    from llm_twin.tracing.store.listing import Row
    from llm_twin.tracing.store.store import Store

TABLES = """
CREATE TABLE dataset_version (
    dataset TEXT NOT NULL, number INTEGER NOT NULL, id TEXT NOT NULL UNIQUE, batch_group TEXT,
    created_at TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (dataset, number)
)
"""
LATEST = "latest"
COLUMNS = "dataset, number, id, created_at, body"
# Rows of a version: those that came with it or before it and had not gone by then.
IN_VERSION = "dataset = ? AND since <= ? AND (until IS NULL OR until > ?)"
CARRIED = ("evaluators", "execution_policy")
PLACE = "v1/private/datasets/{dataset_id}/versions"


def open_version(db: sqlite3.Connection, dataset_id: str, group: str | None) -> int:
    """Number of the version that a change belongs to.

    Changes of one batch group share a version for as long as it is the latest; a change without a
    group goes into the latest, as Opik has it.
    """
    latest = latest_version(db, dataset_id)
    if latest and (not group or group == _group(db, latest)):
        return int(latest["number"])
    return add_version(db, dataset_id, {}, group)


def add_version(
    db: sqlite3.Connection, dataset_id: str, body: Row, group: str | None = None
) -> int:
    """Make the next version and return its number; evaluators and policy carry over."""
    latest = latest_version(db, dataset_id)
    number = int(latest["number"]) + 1 if latest else 1
    carried = {key: latest[key] for key in CARRIED if latest and latest.get(key)}
    body = carried | {key: value for key, value in body.items() if value is not None}
    db.execute(
        "INSERT INTO dataset_version (dataset, number, id, batch_group, created_at, body)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (dataset_id, number, new_id(), group, now(), dumps(body)),
    )
    return number


def latest_version(db: sqlite3.Connection, dataset_id: str) -> Row | None:
    """The newest version, or None before the first change."""
    rows = _versions(db, "dataset = ? ORDER BY number DESC LIMIT 1", dataset_id)
    return {**rows[0], "is_latest": True} if rows else None


def version_by(db: sqlite3.Connection, dataset_id: str, reference: str) -> Row:
    """The version with this hash, tag, name (``v3``) or id.

    Raises:
        Problem: 404, there is none.

    """
    if reference == LATEST and (latest := latest_version(db, dataset_id)):
        return latest
    for row in _versions(db, "dataset = ? ORDER BY number DESC", dataset_id):
        names = (row["version_hash"], row["version_name"], row["id"], *row.get("tags", []))
        if reference in names:
            return row
    raise Problem(404, f"Dataset version not found: {reference}")


def version_by_id(db: sqlite3.Connection, version_id: str) -> Row | None:
    """The version with this id, whatever its dataset."""
    return next(iter(_versions(db, "id = ?", version_id)), None)


def summary(version: Row) -> Row:
    """What a dataset or an experiment says of its version."""
    keys = ("id", "version_hash", "version_name", "change_description", "tags")
    return {key: version.get(key) for key in keys}


def _versions(db: sqlite3.Connection, where: str, *values: object) -> list[Row]:
    rows = db.execute(f"SELECT {COLUMNS} FROM dataset_version WHERE {where}", values)  # noqa: S608
    return [_row(row) for row in rows.fetchall()]


def _row(row: tuple[Any, ...]) -> Row:
    dataset, number, version_id, at, body = row
    return {
        "id": version_id,
        "dataset_id": dataset,
        "number": number,
        "version_hash": version_id.replace("-", "")[-8:],
        "version_name": f"v{number}",
        "created_at": at,
        "last_updated_at": at,
        **json.loads(body),
    }


def _group(db: sqlite3.Connection, version: Row) -> str | None:
    query = "SELECT batch_group FROM dataset_version WHERE id = ?"
    group: str | None = db.execute(query, (version["id"],)).fetchone()[0]
    return group


def public(db: sqlite3.Connection, version: Row) -> Row:
    """A version as Opik answers it, with what it changed against the one before."""
    dataset, number = version["dataset_id"], version["number"]
    latest = latest_version(db, dataset)
    is_latest = latest is not None and latest["number"] == number
    total = f"SELECT count(*) FROM dataset_item WHERE {IN_VERSION}"  # noqa: S608
    added, modified, deleted, _ = difference(db, dataset, number - 1, number)
    return {
        **{key: value for key, value in version.items() if key != "number"},
        "is_latest": is_latest,
        "tags": [*version.get("tags", []), *([LATEST] if is_latest else [])],
        "items_total": db.execute(total, (dataset, number, number)).fetchone()[0],
        "items_added": added,
        "items_modified": modified,
        "items_deleted": deleted,
    }


def difference(
    db: sqlite3.Connection, dataset_id: str, first: int, second: int
) -> tuple[int, int, int, int]:
    """How many items were added, modified, deleted and left alone between two versions."""
    query = f"""
        WITH a AS (SELECT id, since FROM dataset_item WHERE {IN_VERSION}),
             b AS (SELECT id, since FROM dataset_item WHERE {IN_VERSION})
        SELECT (SELECT count(*) FROM b WHERE id NOT IN (SELECT id FROM a)),
               (SELECT count(*) FROM a JOIN b USING (id) WHERE a.since != b.since),
               (SELECT count(*) FROM a WHERE id NOT IN (SELECT id FROM b)),
               (SELECT count(*) FROM a JOIN b USING (id) WHERE a.since = b.since)
    """  # noqa: S608
    values = (dataset_id, first, first, dataset_id, second, second)
    added, modified, deleted, unchanged = db.execute(query, values).fetchone()
    return added, modified, deleted, unchanged


@route("GET", PLACE)
def list_versions(store: Store, request: Request, dataset_id: str) -> Response:
    """A page of versions, newest first."""
    number, size = page_of(request)
    with store.database.read() as db:
        rows = _versions(
            db,
            "dataset = ? ORDER BY number DESC LIMIT ? OFFSET ?",
            dataset_id,
            size,
            (number - 1) * size,
        )
        latest = latest_version(db, dataset_id)
        total = latest["number"] if latest else 0
        return page([public(db, row) for row in rows], total, number)


@route("POST", PLACE + "/retrieve")
def retrieve_version(store: Store, request: Request, dataset_id: str) -> Response:
    """One version, by its name."""
    return _one(store, dataset_id, request.json().get("version_name") or "")


@route("GET", PLACE + "/hash/{version_hash}")
def get_version(store: Store, request: Request, dataset_id: str, version_hash: str) -> Response:
    """One version, by its hash."""
    return _one(store, dataset_id, version_hash)


def _one(store: Store, dataset_id: str, reference: str) -> Response:
    with store.database.read() as db:
        return json_response(public(db, version_by(db, dataset_id, reference)))


@route("GET", PLACE + "/diff")
def compare_versions(store: Store, request: Request, dataset_id: str) -> Response:
    """What changed between two versions; without names, between the last two."""
    query = request.query
    with store.database.read() as db:
        second = version_by(db, dataset_id, query.get("toHashOrTag") or LATEST)
        before = query.get("fromHashOrTag") or f"v{max(1, second['number'] - 1)}"
        first = version_by(db, dataset_id, before)
        counts = difference(db, dataset_id, first["number"], second["number"])
    names = ("itemsAdded", "itemsModified", "itemsDeleted", "itemsUnchanged")
    return json_response(
        {
            "from_version": first["version_hash"],
            "to_version": second["version_hash"],
            "statistics": dict(zip(names, counts, strict=True)),
        }
    )


@route("PATCH", PLACE + "/hash/{version_hash}")
def update_version(store: Store, request: Request, dataset_id: str, version_hash: str) -> Response:
    """Describe or tag a version; its items never change."""
    body = request.json()
    with store.database.write() as db:
        version = version_by(db, dataset_id, version_hash)
        for tag in body.get("tags_to_add") or []:
            version = _tagged(db, version, tag)
        if body.get("change_description") is not None:
            version["change_description"] = body["change_description"]
        _save(db, version)
        return json_response(public(db, version))


@route("POST", PLACE + "/hash/{version_hash}/tags")
def add_tag(store: Store, request: Request, dataset_id: str, version_hash: str) -> Response:
    """Give a version a tag, which no other version of the dataset may have."""
    with store.database.write() as db:
        tag = request.json().get("tag") or ""
        _save(db, _tagged(db, version_by(db, dataset_id, version_hash), tag))
    return ok()


@route("DELETE", PLACE + "/{version_hash}/tags/{tag}")
def remove_tag(
    store: Store, request: Request, dataset_id: str, version_hash: str, tag: str
) -> Response:
    """Take a tag from a version."""
    with store.database.write() as db:
        version = version_by(db, dataset_id, version_hash)
        _save(db, version | {"tags": [one for one in version.get("tags", []) if one != tag]})
    return ok()


def _tagged(db: sqlite3.Connection, version: Row, tag: str) -> Row:
    if not tag or tag == LATEST:
        raise Problem(400, f"Not a tag for a version: {tag or 'none given'}")
    taken = [row for row in _versions(db, "dataset = ?", version["dataset_id"])
             if tag in row.get("tags", [])]  # fmt: skip
    if taken:
        raise Problem(409, f"Tag already in use: {tag} of {taken[0]['version_name']}")
    return version | {"tags": [*version.get("tags", []), tag]}


def _save(db: sqlite3.Connection, version: Row) -> None:
    kept = ("tags", "change_description", "metadata", *CARRIED)
    body = dumps({key: version[key] for key in kept if version.get(key) is not None})
    db.execute("UPDATE dataset_version SET body = ? WHERE id = ?", (body, version["id"]))


@route("POST", PLACE + "/restore")
def restore_version(store: Store, request: Request, dataset_id: str) -> Response:
    """Make the latest version hold what an older one held; the latest itself stays as it is."""
    with store.database.write() as db:
        old = version_by(db, dataset_id, request.json().get("version_ref") or "")
        latest = latest_version(db, dataset_id) or old
        if old["number"] == latest["number"]:
            return json_response(public(db, latest))
        description = f"Restored from {old['version_name']}"
        number = add_version(db, dataset_id, {"change_description": description})
        _restore_items(db, dataset_id, old["number"], number)
        return json_response(public(db, version_by(db, dataset_id, f"v{number}")))


def _restore_items(db: sqlite3.Connection, dataset_id: str, old: int, number: int) -> None:
    then = f"SELECT id, since FROM dataset_item WHERE {IN_VERSION}"  # noqa: S608
    values = (dataset_id, old, old)
    close = f"""
        UPDATE dataset_item SET until = ? WHERE dataset = ? AND until IS NULL
        AND (id, since) NOT IN ({then})
    """  # noqa: S608
    reopen = f"""
        INSERT INTO dataset_item (dataset, id, since, created_at, last_updated_at, body)
        SELECT dataset, id, ?, created_at, ?, body FROM dataset_item
        WHERE {IN_VERSION} AND until IS NOT NULL
    """  # noqa: S608
    db.execute(close, (number, dataset_id, *values))
    db.execute(reopen, (number, now(), *values))
