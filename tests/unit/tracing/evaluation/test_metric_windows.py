"""The figures of a window beside those of the day before it."""

from datetime import UTC, datetime, timedelta

import pytest
from traced_answers import PROJECT, Traced

from llm_twin.tracing.evaluation import Rule
from llm_twin.tracing.evaluation.windows import Figure, metrics
from llm_twin.tracing.evaluation.worker import Worker
from llm_twin.tracing.store.store import Store

HOUR = 3600.0


def scored(traced: Traced, trace: str, **values: float) -> None:
    rows = [
        {"id": trace, "project_name": PROJECT, "name": name, "value": value, "source": "sdk"}
        for name, value in values.items()
    ]
    traced.send("PUT", "traces/feedback-scores", {"scores": rows})


def test_no_traffic_is_a_figure_too(store: Store) -> None:
    found = metrics(store, project=PROJECT)
    assert found["requests_per_minute"] == Figure(0.0, 0, 0.0, 0)
    for name in ("error_rate", "latency_p50", "latency_p95", "cost_per_hour", "refusal_rate"):
        assert found[name] == Figure(None, 0, None, 0)
    assert found["unscored_per_hour"] == Figure(0.0, 0, 0.0, 0)


def test_the_window_and_the_day_before_it(store: Store, traced: Traced) -> None:
    for seconds in (1.0, 2.0, 3.0, 10.0):
        trace = traced.answer(ago=300, seconds=seconds, cost=0.5)
        scored(traced, trace, groundedness=0.25, answered=float(seconds > 1))
    broken = {"exception_type": "E", "message": "no", "traceback": "at home"}
    traced.answer(ago=310, ended=False, error_info=broken)
    for _ in range(2):
        scored(traced, traced.answer(ago=5 * HOUR, seconds=0.5), groundedness=1.0, answered=1.0)
    traced.answer(ago=30 * HOUR, seconds=99.0)
    found = metrics(store, 10, project=PROJECT)
    assert found["requests_per_minute"] == Figure(0.5, 5, pytest.approx(2 / 1440), 2)
    assert found["error_rate"] == Figure(0.2, 5, 0.0, 2)
    assert found["latency_p50"] == Figure(2.0, 4, 0.5, 2)
    assert found["latency_p95"] == Figure(3.0, 4, 0.5, 2)
    assert found["cost_per_hour"] == Figure(pytest.approx(12.0), 4, None, 0)
    assert found["score.groundedness"] == Figure(0.25, 4, 1.0, 2)
    assert found["refusal_rate"] == Figure(0.25, 4, 0.0, 2)


def test_a_score_that_is_missing_now_still_shows_its_normal(store: Store, traced: Traced) -> None:
    scored(traced, traced.answer(ago=5 * HOUR), helpful=0.5)
    assert metrics(store, project=PROJECT)["score.helpful"] == Figure(None, 0, 0.5, 1)


def test_experiments_and_other_projects_do_not_count(store: Store, traced: Traced) -> None:
    traced.answer(source="experiment", cost=1.0)
    traced.answer(project="another")
    found = metrics(store, project=PROJECT)
    assert found["requests_per_minute"].count == 0
    assert metrics(store, project="another")["requests_per_minute"].count == 1


def test_the_window_may_end_at_any_time(store: Store, traced: Traced) -> None:
    traced.answer(ago=3 * HOUR)
    then = datetime.now(UTC) - timedelta(hours=3) + timedelta(minutes=5)
    assert metrics(store, 15, project=PROJECT, until=then)["requests_per_minute"].count == 1
    assert metrics(store, 15, project=PROJECT)["requests_per_minute"].count == 0


def test_rules_that_fail_show(store: Store, traced: Traced) -> None:
    traced.answer()
    failing = Rule("failing", lambda view: 1 / 0)  # type: ignore[arg-type, return-value]
    Worker(store, [failing], project=PROJECT, quiet=0).once()
    assert metrics(store, 30, project=PROJECT)["unscored_per_hour"] == Figure(2.0, 1, 0.0, 0)


def test_every_figure_is_read_from_an_index_alone(store: Store) -> None:
    statements: list[str] = []
    with store.database.read() as db:
        db.set_trace_callback(statements.append)
        try:
            metrics(store, project=PROJECT)
        finally:
            db.set_trace_callback(None)
        plans = [
            " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}"))
            for sql in statements
            if "FROM traffic" in sql or "FROM span" in sql
        ]
    assert len(plans) == 6
    for plan in plans:
        assert "SCAN" not in plan
        assert "COVERING INDEX traffic_window" in plan or "COVERING INDEX span_cost" in plan
