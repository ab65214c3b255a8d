"""What is sent to a real Opik for each kind of entity: as it is stored now, or its deletion."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from llm_twin.tracing.store import datasets, experiments, prompts
from llm_twin.tracing.store.dataset_items import FIELDS as ITEM_FIELDS
from llm_twin.tracing.store.projects import DEFAULT
from llm_twin.tracing.store.prompt_versions import version_by_id
from llm_twin.tracing.store.reading import without_nulls
from llm_twin.tracing.store.routing import Problem
from llm_twin.tracing.store.scores import SOMEBODY

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable


class Call(NamedTuple):
    """One request, or one item of a request that carries many.

    Attributes:
        method: of the request.
        path: below ``/api/``.
        body: its JSON, or the item.
        listed: the name of the list that the item goes into; "": it goes alone.
        shared: what the request says besides of all its items, as pairs.
        fine: refusals that mean that there is nothing left to do.

    """

    method: str
    path: str
    body: Any
    listed: str = ""
    shared: tuple[tuple[str, str], ...] = ()
    fine: tuple[int, ...] = ()

    @property
    def kin(self) -> tuple[object, ...]:
        """Items for which this is equal may share a request."""
        return self.method, self.path, self.listed, self.shared


def calls(db: sqlite3.Connection, kind: str, key: tuple[str, ...]) -> list[Call]:
    """What tells the remote of an entity, in order; [] when there is nothing to tell."""
    return _CALLS[kind](db, *key)


def record(db: sqlite3.Connection, kind: str, identity: str) -> dict[str, Any] | None:
    """A trace or span as a batch carries it, or None when there is none."""
    row = db.execute(
        f"SELECT {kind}.body, started, updated, project.name"  # noqa: S608
        f" FROM {kind} LEFT JOIN project ON project.id = project_id WHERE {kind}.id = ?",
        (identity,),
    ).fetchone()
    if row is None:
        return None
    body, started, updated, project = row
    known = {"start_time": started, **json.loads(body)}
    return known | {"id": identity, "project_name": project, "last_updated_at": updated}


def _trace(db: sqlite3.Connection, identity: str) -> list[Call]:
    if found := record(db, "trace", identity):
        return [Call("POST", "v1/private/traces/batch", found, "traces")]
    return [Call("POST", "v1/private/traces/delete", identity, "ids", fine=(404,))]


def _span(db: sqlite3.Connection, identity: str) -> list[Call]:
    found = record(db, "span", identity)
    return [Call("POST", "v1/private/spans/batch", found, "spans")] if found else []


def _place(db: sqlite3.Connection, kind: str, entity: str) -> dict[str, Any] | None:
    """How a score names what it judges."""
    if kind == "thread":
        sql = "SELECT thread.name, project.name FROM thread JOIN project ON project.id = project_id"
        row = db.execute(f"{sql} WHERE thread.id = ?", (entity,)).fetchone()
        return {"thread_id": row[0], "project_name": row[1]} if row else None
    sql = f"SELECT project.name FROM {kind} JOIN project ON project.id = project_id"  # noqa: S608
    row = db.execute(f"{sql} WHERE {kind}.id = ?", (entity,)).fetchone()
    return {"id": entity, "project_name": row[0]} if row else None


def _score(db: sqlite3.Connection, kind: str, entity: str, name: str, author: str) -> list[Call]:
    root = "v1/private/traces/threads" if kind == "thread" else f"v1/private/{kind}s"
    place = _place(db, kind, entity)
    by = {} if author == SOMEBODY else {"author": author}
    row = db.execute(
        "SELECT value, source, reason, category FROM score"
        " WHERE kind = ? AND entity = ? AND name = ? AND author = ?",
        (kind, entity, name, author),
    ).fetchone()
    if row:
        values = dict(zip(("value", "source", "reason", "category_name"), row, strict=True))
        body = (place or {"id": entity, "project_name": DEFAULT}) | {"name": name} | by | values
        path = f"{root}/feedback-scores"
        return [Call("PUT", path, without_nulls(body), "scores")]
    if place is None:
        return []
    if kind == "thread":
        body, path = place | {"names": [name]} | by, f"{root}/feedback-scores/delete"
    else:
        body, path = {"name": name} | by, f"{root}/{entity}/feedback-scores/delete"
    return [Call("POST", path, body, fine=(404,))]


def _assertion(db: sqlite3.Connection, kind: str, entity: str, name: str) -> list[Call]:
    sql = "SELECT body FROM assertion_result WHERE kind = ? AND entity = ? AND name = ?"
    row = db.execute(sql, (kind, entity, name)).fetchone()
    path, shared = "v1/private/assertion-results", (("entity_type", kind.upper()),)
    return [Call("PUT", path, json.loads(row[0]), "assertion_results", shared)] if row else []


def _guardrail(db: sqlite3.Connection, identity: str) -> list[Call]:
    row = db.execute("SELECT body FROM guardrail WHERE id = ?", (identity,)).fetchone()
    if row is None:
        return []
    body = json.loads(row[0]) | {"id": identity}
    return [Call("POST", "v1/private/guardrails", body, "guardrails")]


def _comment(db: sqlite3.Connection, kind: str, entity: str, identity: str) -> list[Call]:
    if kind == "thread":
        return []
    root = f"v1/private/{kind}s"
    row = db.execute("SELECT body FROM comment WHERE id = ?", (identity,)).fetchone()
    if row is None:
        return [Call("POST", f"{root}/comments/delete", identity, "ids", fine=(404,))]
    text = {"text": json.loads(row[0])["text"]}
    return [
        Call("POST", f"{root}/{entity}/comments", {"id": identity, **text}, fine=(409,)),
        Call("PATCH", f"{root}/comments/{identity}", text, fine=(404,)),
    ]


def _attachment(db: sqlite3.Connection, kind: str, entity: str, name: str) -> list[Call]:
    sql = "SELECT mime, size, blob FROM attachment WHERE kind = ? AND entity = ? AND name = ?"
    row = db.execute(sql, (kind, entity, name)).fetchone()
    about = {"entity_type": kind, "entity_id": entity, "file_name": name}
    if row is None:
        names = {"entity_type": kind, "entity_id": entity, "file_names": [name]}
        return [Call("POST", "v1/private/attachment/delete", names, fine=(404,))]
    about |= {"project_name": (_place(db, kind, entity) or {}).get("project_name", DEFAULT)}
    return [Call("UPLOAD", row[2], about | {"mime_type": row[0], "file_size": row[1]})]


def _prompt(db: sqlite3.Connection, identity: str) -> list[Call]:
    path = f"v1/private/prompts/{identity}"
    try:
        row = prompts.get_prompt(db, "id", identity)
    except Problem:
        return [Call("DELETE", path, {}, fine=(404,))]
    said = {key: row[key] for key in ("name", "description", "tags") if row.get(key) is not None}
    owner = {"id": identity, "template_structure": row["template_structure"]}
    owner |= {"project_name": _project(db, row["project_id"])}
    return [
        Call("POST", "v1/private/prompts", owner | said, fine=(409,)),
        Call("PUT", path, said, fine=(404,)),
    ]


def _prompt_version(db: sqlite3.Connection, identity: str) -> list[Call]:
    try:
        row = version_by_id(db, identity)
        owner = prompts.get_prompt(db, "id", row["prompt_id"])
    except Problem:
        return []
    keys = ("id", "commit", "template", "metadata", "type", "change_description", "tags")
    version = {key: row[key] for key in (*keys, "version_type") if row.get(key) is not None}
    body = {"name": owner["name"], "template_structure": owner["template_structure"]}
    body |= {"project_name": _project(db, owner["project_id"]), "version": version}
    found = [Call("POST", "v1/private/prompts/versions", body, fine=(409,))]
    if row["tags"]:
        tagged = {"ids": [identity], "update": {"tags": row["tags"]}}
        found.append(Call("PATCH", "v1/private/prompts/versions", tagged, fine=(404,)))
    return found


def _dataset(db: sqlite3.Connection, identity: str) -> list[Call]:
    try:
        row = datasets.dataset_by_id(db, identity)
    except Problem:
        return [Call("DELETE", f"v1/private/datasets/{identity}", {}, fine=(404,))]
    said = {key: row[key] for key in ("name", *datasets.FIELDS) if row.get(key) is not None}
    owner = {"id": identity, "project_name": _project(db, row["project_id"])}
    change = {key: value for key, value in said.items() if key != "type"}
    return [
        Call("POST", "v1/private/datasets", owner | said, fine=(409,)),
        Call("PUT", f"v1/private/datasets/{identity}", change, fine=(404,)),
    ]


def _project(db: sqlite3.Connection, identity: str) -> str:
    row = db.execute("SELECT name FROM project WHERE id = ?", (identity,)).fetchone()
    return row[0] if row else DEFAULT


def _dataset_item(db: sqlite3.Connection, dataset: str, identity: str) -> list[Call]:
    owner = db.execute("SELECT name, project_id FROM dataset WHERE id = ?", (dataset,)).fetchone()
    if owner is None:
        return []
    row = db.execute(
        "SELECT dataset_item.body, dataset_version.id FROM dataset_item JOIN dataset_version"
        " ON dataset_version.dataset = dataset_item.dataset AND number = since"
        " WHERE dataset_item.dataset = ? AND dataset_item.id = ? AND until IS NULL",
        (dataset, identity),
    ).fetchone()
    if row is None:
        return [Call("POST", "v1/private/datasets/items/delete", identity, "item_ids", fine=(404,))]
    body = {key: value for key, value in json.loads(row[0]).items() if key in ITEM_FIELDS}
    shared = (
        ("dataset_name", owner[0]),
        ("project_name", _project(db, owner[1])),
        # The items of one version here become one version there.
        ("batch_group_id", row[1]),
    )
    return [Call("PUT", "v1/private/datasets/items", body | {"id": identity}, "items", shared)]


def _experiment(db: sqlite3.Connection, identity: str) -> list[Call]:
    try:
        row = experiments.experiment_by_id(db, identity)
    except Problem:
        return [Call("POST", "v1/private/experiments/delete", identity, "ids", fine=(404,))]
    created = ("id", "name", "dataset_name", "project_name", *experiments.FIELDS)
    body = {key: row[key] for key in created if row.get(key) is not None}
    # The remote numbers the versions of its datasets itself.
    body.pop("dataset_version_id", None)
    change = {key: body[key] for key in ("name", *experiments.CHANGEABLE) if key in body}
    return [
        Call("POST", "v1/private/experiments", body, fine=(409,)),
        Call("PATCH", f"v1/private/experiments/{identity}", change),
    ]


def _experiment_item(db: sqlite3.Connection, identity: str) -> list[Call]:
    row = db.execute(
        "SELECT experiment_id, dataset_item_id, trace_id, policy FROM experiment_item WHERE id = ?",
        (identity,),
    ).fetchone()
    if row is None:
        return [Call("POST", "v1/private/experiments/items/delete", identity, "ids", fine=(404,))]
    keys = ("experiment_id", "dataset_item_id", "trace_id")
    body = {"id": identity, **dict(zip(keys, row, strict=False))}
    body |= {"execution_policy": json.loads(row[3])} if row[3] else {}
    return [Call("POST", "v1/private/experiments/items", body, "experiment_items")]


_CALLS: dict[str, Callable[..., list[Call]]] = {
    "prompt": _prompt,
    "prompt_version": _prompt_version,
    "trace": _trace,
    "span": _span,
    "score": _score,
    "assertion": _assertion,
    "guardrail": _guardrail,
    "comment": _comment,
    "attachment": _attachment,
    "dataset": _dataset,
    "dataset_item": _dataset_item,
    "experiment": _experiment,
    "experiment_item": _experiment_item,
}
