"""Traces and spans as Opik's readers see them: what was stored, and the figures about it."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from llm_twin.tracing.store.merge import id_of
from llm_twin.tracing.store.records import chunks, marks
from llm_twin.tracing.store.routing import Problem
from llm_twin.tracing.store.scores import comments_of, scores_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

COLUMNS = "id, project_id, started, updated, created, body"
Row = tuple[str, str, str, str, str, str]
IMAGE = re.compile(r"data:image/[\w.+-]+;base64,[A-Za-z0-9+/=]{100,}")
SHOWN_TEXT = 10_000


def base(kind: str, row: Row) -> dict[str, Any]:
    """A row without what other tables say of it."""
    identity, project, started, updated, created, body = row
    public = {"id": identity, "project_id": project, **json.loads(body), "start_time": started}
    if kind == "trace":
        public.pop("project_name", None)
    public |= {
        "created_at": created, "last_updated_at": updated, "created_by": "admin",
        "last_updated_by": "admin", "duration": duration(started, public.get("end_time")),
    }  # fmt: skip
    return public


def duration(start: str, end: str | None) -> float | None:
    """Milliseconds between two stored times."""
    if not end:
        return None
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() * 1000


def enrich(db: sqlite3.Connection, kind: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add scores, comments and, to traces, the sums over their spans."""
    ids = [row["id"] for row in rows]
    scores, comments = scores_of(db, kind, ids), comments_of(db, kind, ids)
    for row in rows:
        row["feedback_scores"] = scores.get(row["id"])
        row["comments"] = comments.get(row["id"])
    if kind == "trace":
        figures, averages, checks = sums(db, ids), _span_scores(db, ids), _guardrails(db, ids)
        experiments = _experiments(db, ids)
        for row in rows:
            row |= figures[row["id"]]
            row["span_feedback_scores"] = averages.get(row["id"])
            row["guardrails_validations"] = checks.get(row["id"])
            row["experiment"] = experiments.get(row["id"])
    return rows


def sums(db: sqlite3.Connection, traces: list[str]) -> dict[str, dict[str, Any]]:
    """What the spans of traces add up to, by trace."""
    spans: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for part in chunks(traces):
        for trace, *span in db.execute(
            "SELECT trace_id, type, cost, provider, usage FROM span"  # noqa: S608
            f" WHERE trace_id IN ({marks(part)})",
            part,
        ):
            spans[trace].append(tuple(span))
    return {trace: _sum(spans.get(trace, [])) for trace in traces}


def _sum(spans: list[tuple[Any, ...]]) -> dict[str, Any]:
    kinds = [kind for kind, *_ in spans]
    return {
        "span_count": len(spans),
        "llm_span_count": kinds.count("llm"),
        "has_tool_spans": "tool" in kinds,
        "providers": sorted({provider for _, _, provider, _ in spans if provider}) or None,
        "total_estimated_cost": sum(cost or 0 for _, cost, _, _ in spans) or None,
        "usage": added(json.loads(usage) for *_, usage in spans if usage),
    }


def added(usages: Iterable[dict[str, int] | None]) -> dict[str, int] | None:
    """Counts of tokens summed by name; None when there are none."""
    total: dict[str, int] = defaultdict(int)
    for usage in usages:
        for name, count in (usage or {}).items():
            total[name] += count
    return dict(total) or None


def _span_scores(db: sqlite3.Connection, traces: list[str]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for part in chunks(traces):
        for trace, name, value in db.execute(
            "SELECT span.trace_id, score.name, avg(score.value) FROM span JOIN score"  # noqa: S608
            f" ON score.kind = 'span' AND score.entity = span.id"
            f" WHERE span.trace_id IN ({marks(part)}) GROUP BY 1, 2",
            part,
        ):
            found[trace].append({"name": name, "value": value, "source": "sdk"})
    return found


def _guardrails(db: sqlite3.Connection, traces: list[str]) -> dict[str, list[dict[str, Any]]]:
    checks: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for part in chunks(traces):
        for trace, span, name, result in db.execute(
            "SELECT trace_id, span_id, name, result FROM guardrail"  # noqa: S608
            f" WHERE trace_id IN ({marks(part)})",
            part,
        ):
            checks[trace, span].append({"name": name, "result": result})
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for (trace, span), made in checks.items():
        found[trace].append({"span_id": span, "checks": made})
    return found


def _experiments(db: sqlite3.Connection, traces: list[str]) -> dict[str, dict[str, Any]]:
    names = ("id", "name", "dataset_id", "dataset_item_id")
    found = {}
    for part in chunks(traces):
        for trace, *values in db.execute(
            "SELECT trace_id, experiment.id, name, dataset_id, dataset_item_id"  # noqa: S608
            " FROM experiment_item JOIN experiment ON experiment.id = experiment_id"
            f" WHERE trace_id IN ({marks(part)})",
            part,
        ):
            found[trace] = dict(zip(names, values, strict=True))
    return found


def one(db: sqlite3.Connection, kind: str, identity: str) -> dict[str, Any]:
    """One trace or span by its id; 404 when there is none."""
    row = db.execute(
        f"SELECT {COLUMNS} FROM {kind} WHERE id = ?",  # noqa: S608
        (id_of(identity),),
    ).fetchone()
    if row is None:
        raise Problem(404, f"{kind} not found: {identity}")
    return without_nulls(enrich(db, kind, [base(kind, row)])[0])


def by_ids(db: sqlite3.Connection, kind: str, ids: list[str]) -> list[dict[str, Any]]:
    """Traces or spans in the order of their ids as given."""
    found = {}
    for part in chunks(ids):
        sql = f"SELECT {COLUMNS} FROM {kind} WHERE id IN ({marks(part)})"  # noqa: S608
        found.update({row[0]: base(kind, row) for row in db.execute(sql, part)})
    return enrich(db, kind, [found[identity] for identity in ids if identity in found])


def without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the fields that say nothing."""
    return {field: value for field, value in row.items() if value is not None}


def shown(row: dict[str, Any], truncate: bool, exclude: Sequence[str] = ()) -> dict[str, Any]:
    """A row as a list answers it: images and long texts cut when asked, some fields left out."""
    row = {key: value for key, value in without_nulls(row).items() if key not in exclude}
    if truncate:
        for key in row.keys() & {"input", "output", "metadata", "first_message", "last_message"}:
            row[key] = _cut(row[key])
    return row


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return IMAGE.sub("[image]", value)[:SHOWN_TEXT]
    if isinstance(value, list):
        return [_cut(item) for item in value]
    if isinstance(value, dict):
        return {key: _cut(item) for key, item in value.items()}
    return value
