"""Items of an experiment: which trace answered which item of the dataset, and how well.

Two experiments over one dataset are compared here item by item.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llm_twin.tracing.store.dataset_items import items_by_id
from llm_twin.tracing.store.dataset_versions import version_by_id
from llm_twin.tracing.store.datasets import dataset_by_id
from llm_twin.tracing.store.experiments import (
    STREAM,
    SUITE,
    experiment_by_id,
    experiments_named,
    insert_experiment,
    listed,
    suite_runs,
)
from llm_twin.tracing.store.listing import Row, after, expressions, in_order, limit_of, matches
from llm_twin.tracing.store.merge import id_of, new_id, now
from llm_twin.tracing.store.reading import shown
from llm_twin.tracing.store.records import chunks, marks, rows_of, write
from llm_twin.tracing.store.routing import (
    MIB,
    Problem,
    Request,
    Response,
    json_response,
    ndjson,
    ok,
    page,
    page_of,
    route,
)
from llm_twin.tracing.store.scores import put
from llm_twin.tracing.store.trace_results import PASSED, averages, results_of

if TYPE_CHECKING:
    import sqlite3

    from llm_twin.tracing.store.store import Store

TABLES = """
CREATE TABLE experiment_item (
    id TEXT PRIMARY KEY, experiment_id TEXT NOT NULL, dataset_item_id TEXT NOT NULL,
    trace_id TEXT NOT NULL, created_at TEXT NOT NULL, policy TEXT
);
CREATE INDEX experiment_item_experiment ON experiment_item (experiment_id, dataset_item_id, id);
CREATE INDEX experiment_item_trace ON experiment_item (trace_id)
"""
COLUMNS = "id, experiment_id, dataset_item_id, trace_id, created_at, policy"
# Opik's own limit of one request; the SDK halves what a 413 refuses.
BULK = 4 * MIB
COMPARED = "v1/private/datasets/{dataset_id}/items/experiments/items"


def insert_items(db: sqlite3.Connection, rows: list[Row]) -> None:
    """Link traces to the items of datasets; the same id again is replaced."""
    at = now()
    values = [
        (
            id_of(row.get("id") or new_id()),
            *(id_of(row.get(key), key) for key in ("experiment_id", "dataset_item_id", "trace_id")),
            at,
            json.dumps(row["execution_policy"]) if row.get("execution_policy") else None,
        )
        for row in rows
    ]
    query = f"INSERT OR REPLACE INTO experiment_item ({COLUMNS}) VALUES ({marks(COLUMNS.split())})"  # noqa: S608
    db.executemany(query, values)


def _items(db: sqlite3.Connection, where: str, values: list[str]) -> list[Row]:
    query = f"SELECT {COLUMNS} FROM experiment_item WHERE {where} ORDER BY id DESC"  # noqa: S608
    return [_row(row) for row in db.execute(query, values).fetchall()]


def _row(row: tuple[Any, ...]) -> Row:
    keys = ("id", "experiment_id", "dataset_item_id", "trace_id", "created_at")
    policy = {"execution_policy": json.loads(row[5])} if row[5] else {}
    return {**dict(zip(keys, row, strict=False)), "last_updated_at": row[4], **policy}


def _with_results(db: sqlite3.Connection, rows: list[Row], truncate: bool) -> list[Row]:
    found = results_of(db, [row["trace_id"] for row in rows])
    return [row | shown(found.get(row["trace_id"], {}), truncate) for row in rows]


@route("POST", "v1/private/experiments/items")
def create_items(store: Store, request: Request) -> Response:
    """Link traces to the items of a dataset."""
    with store.database.write() as db:
        insert_items(db, rows_of(request.json(), "experiment_items"))
    return ok()


@route("POST", "v1/private/experiments/items/delete")
def delete_items(store: Store, request: Request) -> Response:
    """Delete items of experiments; their traces stay."""
    with store.database.write() as db:
        for part in chunks(request.json().get("ids") or []):
            db.execute(f"DELETE FROM experiment_item WHERE id IN ({marks(part)})", part)  # noqa: S608
    return ok()


@route("GET", "v1/private/experiments/items/{item_id}")
def get_item(store: Store, request: Request, item_id: str) -> Response:
    """One item."""
    with store.database.read() as db:
        rows = _items(db, "id = ?", [item_id])
    if not rows:
        raise Problem(404, f"Experiment item not found: {item_id}")
    return json_response(rows[0])


@route("POST", "v1/private/experiments/items/stream")
def stream_items(store: Store, request: Request) -> Response:
    """Items of the experiments of a name, with their results, after ``last_retrieved_id``."""
    body = request.json()
    with store.database.read() as db:
        runs = experiments_named(db, body.get("experiment_name") or "", body.get("project_name"))
        ids = [run["id"] for run in runs]
        rows = _items(db, f"experiment_id IN ({marks(ids)})", ids)
        rows = after(rows, body.get("last_retrieved_id"), limit_of(body, STREAM))
        rows = _with_results(db, rows, bool(body.get("truncate")))
    return ndjson(rows)


@route("PUT", "v1/private/experiments/items/bulk")
def create_in_bulk(store: Store, request: Request) -> Response:
    """Record items together with their traces, spans and scores, all or none."""
    request.limit = min(request.limit, BULK)
    body = request.json()
    records = rows_of(body, "items")
    with store.database.write() as db:
        run = _run_of_bulk(db, body)
        project = body.get("project_name") or run["project_name"]
        insert_items(db, [_record(db, record, run["id"], project) for record in records])
    return ok()


def _run_of_bulk(db: sqlite3.Connection, body: Row) -> Row:
    named = {**body, "name": body.get("experiment_name"), "id": body.get("experiment_id")}
    if not body.get("experiment_id"):
        known = experiments_named(db, named["name"] or "", body.get("project_name"))
        if known and known[0]["dataset_name"] == body.get("dataset_name"):
            return known[0]
    run = insert_experiment(db, named)
    if body.get("dataset_name") not in (None, run["dataset_name"]):
        raise Problem(409, f"The experiment is over another dataset: {run['dataset_name']}")
    return run


def _record(db: sqlite3.Connection, record: Row, experiment_id: str, project: str) -> Row:
    trace, result = record.get("trace"), record.get("evaluate_task_result")
    if (trace is None) == (result is None):
        raise Problem(400, "An item needs either evaluate_task_result or trace")
    if trace is None:
        at = now()
        output = result if isinstance(result, dict) else {"output": result}
        trace = {"name": "evaluation_task", "start_time": at, "end_time": at, "output": output}
    trace_id = id_of(trace.get("id") or new_id())
    own = {"project_name": trace.get("project_name") or project}
    write(db, "trace", [{"source": "experiment", **trace, **own, "id": trace_id}])
    spans = [
        {**own, **span, "id": span.get("id") or new_id(), "trace_id": trace_id}
        for span in record.get("spans") or []
    ]
    write(db, "span", spans)
    for score in record.get("feedback_scores") or []:
        put(db, "trace", trace_id, {"source": "sdk", **score})
    item_id = record.get("dataset_item_id")
    return {"experiment_id": experiment_id, "dataset_item_id": item_id, "trace_id": trace_id}


@route("GET", COMPARED)
def compare(store: Store, request: Request, dataset_id: str) -> Response:
    """A page of dataset items, each with what the experiments made of it."""
    query = request.query
    number, size = page_of(request)
    filters, search = expressions(query.get("filters")), query.get("search", "").lower()
    with store.database.read() as db:
        dataset_by_id(db, dataset_id)
        runs = [experiment_by_id(db, one) for one in listed(query, "experiment_ids")]
        ids = _item_ids(db, runs)
        start, stop = (number - 1) * size, number * size
        if not (filters or search or query.get("sorting")):
            rows = _compared(db, dataset_id, runs, ids[start:stop], query)
            return page(rows, len(ids), number, columns=[])
        rows = _compared(db, dataset_id, runs, ids, query)
    rows = [found for row in rows if (found := _filtered(row, filters, search))]
    rows = in_order(rows, query.get("sorting"))
    return page(rows[start:stop], len(rows), number, columns=[])


def _item_ids(db: sqlite3.Connection, runs: list[Row]) -> list[str]:
    where = f"experiment_id IN ({marks(runs)}) ORDER BY dataset_item_id DESC"
    query = f"SELECT DISTINCT dataset_item_id FROM experiment_item WHERE {where}"  # noqa: S608
    return [item_id for (item_id,) in db.execute(query, [run["id"] for run in runs])]


def _compared(
    db: sqlite3.Connection, dataset_id: str, runs: list[Row], ids: list[str], query: Any
) -> list[Row]:
    version = version_by_id(db, runs[0].get("dataset_version_id") or "") if runs else None
    rows = items_by_id(db, dataset_id, ids, version["number"] if version else 0)
    links: list[Row] = []
    for part in chunks(ids):
        marked = f"experiment_id IN ({marks(runs)}) AND dataset_item_id IN ({marks(part)})"
        links += _items(db, marked, [*(run["id"] for run in runs), *part])
    by_item: dict[str, list[Row]] = {}
    for link in _with_results(db, links, query.get("truncate") == "true"):
        by_item.setdefault(link["dataset_item_id"], []).append(link)
    return [_summed(row | {"experiment_items": by_item[row["id"]]}, runs) for row in rows]


def _summed(row: Row, runs: list[Row]) -> Row:
    found: Row = {}
    for run in (run for run in runs if run["evaluation_method"] == SUITE):
        mine = [one for one in row["experiment_items"] if one["experiment_id"] == run["id"]]
        for one in mine:
            one.setdefault("status", PASSED)
        policies = [one["execution_policy"] for one in mine if "execution_policy" in one]
        found[run["id"]] = suite_runs([one["status"] for one in mine], policies)
    return row | ({"run_summaries_by_experiment": found} if found else {})


def _filtered(row: Row, filters: list[Row], search: str) -> Row | None:
    """The row with those of its experiment items that fit, or None when none does."""
    if search and search not in json.dumps(row, ensure_ascii=False).lower():
        return None
    fitting = [one for one in row["experiment_items"] if matches({**row, **one}, filters)]
    return row | {"experiment_items": fitting} if fitting else None


@route("GET", COMPARED + "/stats")
def compared_stats(store: Store, request: Request, dataset_id: str) -> Response:
    """Figures over the compared items: how many traces, and the mean of each score."""
    with store.database.read() as db:
        ids = listed(request.query, "experiment_ids")
        links = _items(db, f"experiment_id IN ({marks(ids)})", ids)
        found = results_of(db, [link["trace_id"] for link in links])
    stats = [{"name": "trace_count", "type": "COUNT", "value": len(links)}]
    for score in averages(found.values()):
        name = f"feedback_scores.{score['name']}"
        stats.append({"name": name, "type": "AVG", "value": score["value"]})
    return json_response({"stats": stats})
