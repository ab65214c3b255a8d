"""Experiments: runs of a task over one version of a dataset, and what their traces came to."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from llm_twin.tracing.store.dataset_versions import latest_version, summary, version_by_id
from llm_twin.tracing.store.datasets import find_or_create_dataset, project_of
from llm_twin.tracing.store.listing import Row, after, answer, limit_of
from llm_twin.tracing.store.merge import id_of, new_id, now, retagged
from llm_twin.tracing.store.projects import find
from llm_twin.tracing.store.records import chunks, marks
from llm_twin.tracing.store.routing import (
    Problem,
    Request,
    Response,
    created,
    dumps,
    json_response,
    ndjson,
    ok,
    route,
)
from llm_twin.tracing.store.trace_results import (
    PASSED,
    assertion_averages,
    averages,
    results_of,
    status,
    totals,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from llm_twin.tracing.store.store import Store

TABLES = """
CREATE TABLE experiment (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, dataset_id TEXT NOT NULL, project_id TEXT NOT NULL,
    created_at TEXT NOT NULL, last_updated_at TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX experiment_dataset ON experiment (dataset_id);
CREATE INDEX experiment_name ON experiment (name)
"""
COLUMNS = "id, name, dataset_id, project_id, created_at, last_updated_at, body"
SELECT = (
    "SELECT experiment.id, experiment.name, dataset_id, project_id, created_at, last_updated_at,"
    " experiment.body, project.name FROM experiment LEFT JOIN project ON project.id = project_id"
)
FIELDS = (
    "metadata", "tags", "type", "evaluation_method", "optimization_id", "status",
    "experiment_scores", "prompt_versions", "dataset_version_id",
)  # fmt: skip
CHANGEABLE = ("metadata", "tags", "type", "status", "experiment_scores")
SUITE = "evaluation_suite"
STREAM = 500


def experiment_by_id(db: sqlite3.Connection, experiment_id: str) -> Row:
    """One experiment as it is stored.

    Raises:
        Problem: 404, there is none.

    """
    rows = _select(db, "experiment.id = ?", experiment_id)
    if not rows:
        raise Problem(404, f"Experiment not found: {experiment_id}")
    return rows[0]


def experiments_named(db: sqlite3.Connection, name: str, project: str | None = None) -> list[Row]:
    """The experiments of this name, the newest first; those of a project when one is named."""
    rows = _select(db, "experiment.name = ?", name)
    wanted = find(db, project) if project else None
    return [row for row in rows if not project or row["project_id"] == wanted]


def insert_experiment(db: sqlite3.Connection, body: Row) -> Row:
    """Record an experiment over a version of its dataset; the same id again changes nothing."""
    experiment_id = id_of(body["id"]) if body.get("id") else new_id()
    if known := _select(db, "experiment.id = ?", experiment_id):
        return known[0]
    dataset, at = find_or_create_dataset(db, body), now()
    latest = latest_version(db, dataset["id"])
    kept: Row = {"type": "regular", "evaluation_method": "dataset", "status": "running"}
    kept |= {"dataset_name": dataset["name"]}
    kept |= {"dataset_version_id": latest["id"]} if latest else {}
    kept |= {key: body[key] for key in FIELDS if body.get(key) is not None}
    if body.get("prompt_version") and not body.get("prompt_versions"):
        kept["prompt_versions"] = [body["prompt_version"]]
    name = body.get("name") or f"experiment-{experiment_id[-8:]}"
    values = (experiment_id, name, dataset["id"], project_of(db, body), at, at, dumps(kept))
    db.execute(f"INSERT INTO experiment ({COLUMNS}) VALUES ({marks(values)})", values)  # noqa: S608
    return experiment_by_id(db, experiment_id)


def _select(db: sqlite3.Connection, where: str, *values: object) -> list[Row]:
    query = f"{SELECT} WHERE {where} ORDER BY experiment.id DESC"
    return [_row(row) for row in db.execute(query, values).fetchall()]


def _row(row: tuple[Any, ...]) -> Row:
    keys = ("id", "name", "dataset_id", "project_id", "created_at", "last_updated_at")
    return {
        **dict(zip(keys, row, strict=False)),
        "project_name": row[7],
        **json.loads(row[6]),
    }


def _public(db: sqlite3.Connection, row: Row) -> Row:
    items = db.execute(
        "SELECT dataset_item_id, trace_id, policy FROM experiment_item WHERE experiment_id = ?",
        (row["id"],),
    ).fetchall()
    found = results_of(db, [trace_id for _, trace_id, _ in items])
    results = list(found.values())
    version = version_by_id(db, row.get("dataset_version_id") or "")
    links = _links(db, row)
    public = {
        **row,
        "trace_count": len(items),
        "dataset_item_count": len({item_id for item_id, _, _ in items}),
        "feedback_scores": averages(results) or None,
        "dataset_version_summary": summary(version) if version else None,
        "prompt_versions": links or None,
        "prompt_version": links[0] if links else None,
        **totals(results),
    }
    if row["evaluation_method"] == SUITE:
        public |= _passed(items, found) | {"assertion_scores": assertion_averages(results)}
    return public


def _links(db: sqlite3.Connection, row: Row) -> list[Row]:
    return [_link(db, link) for link in row.get("prompt_versions") or []]


def _link(db: sqlite3.Connection, link: Row) -> Row:
    query = (
        "SELECT prompt_version.id, commit_id, prompt_id, name FROM prompt_version"
        " JOIN prompt ON prompt.id = prompt_id WHERE prompt_version.id = ?"
    )
    row = db.execute(query, (link.get("id") or link.get("prompt_version_id"),)).fetchone()
    keys = ("prompt_version_id", "commit", "prompt_id", "prompt_name")
    return {"id": row[0], **dict(zip(keys, row, strict=True))} if row else link


def _passed(items: list[tuple[str, str, str | None]], found: dict[str, Row]) -> Row:
    statuses: dict[str, list[str]] = defaultdict(list)
    policies: dict[str, list[Row]] = defaultdict(list)
    for item_id, trace_id, policy in items:
        statuses[item_id].append(found.get(trace_id, {}).get("status", PASSED))
        policies[item_id] += [json.loads(policy)] if policy else []
    runs = [suite_runs(each, policies[item_id]) for item_id, each in statuses.items()]
    count, total = sum(run["status"] == PASSED for run in runs), len(runs)
    rate = count / total if total else None
    return {"passed_count": count, "total_count": total, "pass_rate": rate}


def suite_runs(statuses: list[str], policies: list[Row]) -> Row:
    """Whether enough runs of one item passed, by the policy they ran under."""
    passed = statuses.count(PASSED)
    needed = (policies[0].get("pass_threshold") if policies else None) or 1
    return {
        "passed_runs": passed,
        "total_runs": len(statuses),
        "status": status([passed >= needed]),
    }


@route("POST", "v1/private/experiments")
def create_experiment(store: Store, request: Request) -> Response:
    """Begin an experiment."""
    with store.database.write() as db:
        row = insert_experiment(db, request.json())
    return created(f"v1/private/experiments/{row['id']}")


@route("GET", "v1/private/experiments")
def find_experiments(store: Store, request: Request) -> Response:
    """A page of experiments, newest first."""
    query = request.query
    wanted = {
        "dataset_id": query.get("datasetId"),
        "project_id": query.get("project_id"),
        "optimization_id": query.get("optimization_id"),
    }
    name, types = query.get("name", "").lower(), listed(query, "types")
    ids, prompt = listed(query, "experiment_ids"), query.get("prompt_id")
    with store.database.read() as db:
        rows = [
            row
            for row in _select(db, "1")
            if all(value in (None, "", row.get(key)) for key, value in wanted.items())
            and name in row["name"].lower()
            and (not types or row["type"] in types)
            and (not ids or row["id"] in ids)
        ]
        if prompt:
            rows = [
                row for row in rows if prompt in [link.get("prompt_id") for link in _links(db, row)]
            ]
        return answer(request, rows, lambda row: _public(db, row))


@route("POST", "v1/private/experiments/stream")
def stream_experiments(store: Store, request: Request) -> Response:
    """Experiments with a text in their name, after ``last_retrieved_id``.

    The SDK always names a project, its own by default; when that has none, those of exactly this
    name are found wherever they are, as datasets are.
    """
    body = request.json()
    name, project = str(body.get("name") or ""), body.get("project_name")
    with store.database.read() as db:
        wanted = find(db, project) if project else None
        rows = [
            row
            for row in _select(db, "instr(lower(experiment.name), lower(?))", name)
            if not project or row["project_id"] == wanted
        ] or experiments_named(db, name)
        rows = after(rows, body.get("last_retrieved_id"), limit_of(body, STREAM))
        rows = [_public(db, row) for row in rows]
    return ndjson(rows)


@route("GET", "v1/private/experiments/{experiment_id}")
def get_experiment(store: Store, request: Request, experiment_id: str) -> Response:
    """One experiment."""
    with store.database.read() as db:
        return json_response(_public(db, experiment_by_id(db, experiment_id)))


@route("PATCH", "v1/private/experiments/{experiment_id}")
def update_experiment(store: Store, request: Request, experiment_id: str) -> Response:
    """Change the named fields of an experiment."""
    with store.database.write() as db:
        update(db, experiment_by_id(db, experiment_id), request.json())
    return ok()


@route("PATCH", "v1/private/experiments/batch")
def update_experiments(store: Store, request: Request) -> Response:
    """Change the same fields of several experiments."""
    body = request.json()
    change = body.get("update") or {}
    if body.get("merge_tags") and change.get("tags"):
        change = {**change, "tags_to_add": change["tags"], "tags": None}
    with store.database.write() as db:
        for experiment_id in body.get("ids") or []:
            update(db, experiment_by_id(db, experiment_id), change)
    return ok()


def update(db: sqlite3.Connection, row: Row, change: Row) -> None:
    """Store the named fields of an experiment."""
    named = {key: change[key] for key in CHANGEABLE if change.get(key) is not None}
    tags = retagged(row.get("tags") or [], change)
    named |= {} if tags is None else {"tags": tags}
    kept = {key: row[key] for key in (*FIELDS, "dataset_name", "finished_at") if key in row}
    finished = {"finished_at": change["finished_at"]} if "finished_at" in change else {}
    db.execute(
        "UPDATE experiment SET name = ?, body = ?, last_updated_at = ? WHERE id = ?",
        (change.get("name") or row["name"], dumps(kept | named | finished), now(), row["id"]),
    )


@route("POST", "v1/private/experiments/finish")
def finish_experiments(store: Store, request: Request) -> Response:
    """Mark experiments as completed."""
    return _ended(store, request, "completed")


@route("PUT", "v1/private/experiments/cancel")
def cancel_experiments(store: Store, request: Request) -> Response:
    """Mark experiments as cancelled; their runs are the SDK's own to stop."""
    return _ended(store, request, "cancelled")


def _ended(store: Store, request: Request, status: str) -> Response:
    with store.database.write() as db:
        for experiment_id in request.json().get("ids") or []:
            change = {"status": status, "finished_at": now()}
            update(db, experiment_by_id(db, experiment_id), change)
    return ok()


@route("POST", "v1/private/experiments/delete")
def delete_experiments(store: Store, request: Request) -> Response:
    """Delete experiments with their items; their traces stay."""
    with store.database.write() as db:
        for part in chunks(request.json().get("ids") or []):
            items = f"DELETE FROM experiment_item WHERE experiment_id IN ({marks(part)})"  # noqa: S608
            db.execute(items, part)
            db.execute(f"DELETE FROM experiment WHERE id IN ({marks(part)})", part)  # noqa: S608
    return ok()


@route("GET", "v1/private/experiments/feedback-scores/names")
def score_names(store: Store, request: Request) -> Response:
    """Names of the scores that some experiments have."""
    ids = listed(request.query, "experiment_ids")
    chosen = f"experiment_id IN ({marks(ids)})" if ids else "1"
    traces = f"SELECT trace_id FROM experiment_item WHERE {chosen}"  # noqa: S608
    query = f"SELECT DISTINCT name FROM score WHERE kind = 'trace' AND entity IN ({traces})"  # noqa: S608
    with store.database.read() as db:
        names = sorted(name for (name,) in db.execute(query, ids))
    return json_response({"scores": [{"name": name} for name in names]})


def listed(query: Mapping[str, str], name: str) -> list[str]:
    """The texts of a JSON list in a query; 400 when it is none."""
    try:
        values = json.loads(query.get(name) or "[]")
    except ValueError:
        values = None
    if not isinstance(values, list):
        raise Problem(400, f"{name} is no JSON list")
    return [str(value) for value in values]
