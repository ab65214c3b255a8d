"""What an experiment's traces came to: outputs, scores, cost, whether their assertions held."""

from __future__ import annotations

import json
from statistics import mean, quantiles
from typing import TYPE_CHECKING

from llm_twin.tracing.store.reading import by_ids
from llm_twin.tracing.store.records import chunks, marks

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from llm_twin.tracing.store.listing import Row

DIGITS = 9
PASSED = "passed"
FIELDS = (
    "input", "output", "feedback_scores", "comments", "total_estimated_cost", "duration", "usage",
)  # fmt: skip


def results_of(db: sqlite3.Connection, trace_ids: Sequence[str]) -> dict[str, Row]:
    """Results by trace id; a trace that has not come yet is not there."""
    found: dict[str, Row] = {}
    for trace in by_ids(db, "trace", list(trace_ids)):
        kept = {key: trace[key] for key in FIELDS if trace.get(key) is not None}
        found[trace["id"]] = kept | {"trace_metadata": trace.get("metadata")}
    for part in chunks(trace_ids):
        query = f"SELECT entity, name, body FROM assertion_result WHERE entity IN ({marks(part)})"  # noqa: S608
        for trace_id, name, body in db.execute(query, part):
            held = found.setdefault(trace_id, {}).setdefault("assertion_results", [])
            row = json.loads(body)
            passed = row.get("status") == PASSED
            held.append({"value": name, "passed": passed, "reason": row.get("reason")})
    for result in found.values():
        if held := result.get("assertion_results"):
            result["status"] = status(one["passed"] for one in held)
    return found


def status(passed: Iterable[bool]) -> str:
    """``passed`` when all did."""
    return PASSED if all(passed) else "failed"


def averages(results: Iterable[Row]) -> list[Row]:
    """The mean of each feedback score, by name."""
    values: dict[str, list[float]] = {}
    for result in results:
        for score in result.get("feedback_scores", []):
            values.setdefault(score["name"], []).append(score["value"])
    return _means(values)


def assertion_averages(results: Iterable[Row]) -> list[Row]:
    """How often each assertion held, from 0 to 1."""
    values: dict[str, list[float]] = {}
    for result in results:
        for one in result.get("assertion_results", []):
            values.setdefault(one["value"], []).append(float(one["passed"]))
    return _means(values)


def _means(values: dict[str, list[float]]) -> list[Row]:
    return [{"name": name, "value": _number(mean(values[name]))} for name in sorted(values)]


def _number(value: float) -> float:
    return round(float(value), DIGITS)


def totals(results: Sequence[Row]) -> Row:
    """Duration percentiles, mean token usage and cost over traces."""
    durations = [row["duration"] for row in results if row.get("duration") is not None]
    costs = [row["total_estimated_cost"] for row in results if "total_estimated_cost" in row]
    usage: dict[str, list[float]] = {}
    for row in results:
        for name, count in row.get("usage", {}).items():
            usage.setdefault(name, []).append(count)
    return {
        "duration": _percentiles(durations) if durations else None,
        "usage": {name: mean(counts) for name, counts in usage.items()} or None,
        "total_estimated_cost": sum(costs) if costs else None,
        "total_estimated_cost_avg": mean(costs) if costs else None,
    }


def _percentiles(values: list[float]) -> Row:
    cuts = quantiles(values * 2 if len(values) == 1 else values, n=100, method="inclusive")
    return {"p50": cuts[49], "p90": cuts[89], "p99": cuts[98]}
