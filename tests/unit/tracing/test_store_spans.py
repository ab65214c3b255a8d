"""Spans: as traces, and found by the trace that they belong to."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_calls import EARLY, LATE, PROJECT, Caller, row

from llm_twin.tracing.store.merge import new_id


@pytest.fixture
def store(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


def test_both_versions_of_a_span_may_be_in_one_body(store: Caller) -> None:
    start = row(trace_id=new_id(), type="llm", last_updated_at=EARLY)
    end = {**start, "output": {"a": 1}, "model": "m", "last_updated_at": LATE}
    store.spans(end, start)
    found = store.get(f"spans/{start['id']}")
    assert (found["output"], found["model"], found["type"]) == ({"a": 1}, "m", "llm")
    assert found["trace_id"] == start["trace_id"]


def test_a_span_keeps_what_an_update_does_not_name(store: Caller) -> None:
    span = row(trace_id=new_id(), output={"o": 1}, input={"i": 1})
    store.spans(span)
    change = {"project_name": PROJECT, "trace_id": span["trace_id"], "input": {"i": 2}}
    store.do("PATCH", f"spans/{span['id']}", change)
    store.do("PATCH", "spans/batch", {"ids": [span["id"]], "update": {"tags": ["t"]}})
    found = store.get(f"spans/{span['id']}")
    assert (found["input"], found["output"], found["tags"]) == ({"i": 2}, {"o": 1}, ["t"])
    assert store.refusal("PATCH", "spans/batch", {"ids": [], "update": 3}).startswith("400")


def test_spans_of_a_trace_are_found_without_naming_their_project(store: Caller) -> None:
    trace = new_id()
    spans = [row(trace_id=trace, parent_span_id=None), row(trace_id=new_id())]
    store.spans(*spans)
    assert [one["id"] for one in store.get("spans", trace_id=trace)["content"]] == [spans[0]["id"]]
    by_project = store.get("spans", trace_id=trace, project_name=PROJECT)["content"]
    assert [one["id"] for one in by_project] == [spans[0]["id"]]
    assert store.get("spans", trace_id=trace, project_name="other")["content"] == []


def test_a_span_alone_is_made_and_deleted(store: Caller) -> None:
    one, two = row(trace_id=new_id()), row(trace_id=new_id())
    assert store.ask("POST", "spans", one).headers["location"].endswith(one["id"])
    store.spans(two)
    store.do("DELETE", f"spans/{one['id']}")
    store.do("POST", "spans/delete", {"ids": [two["id"]]})
    assert store.search("spans") == []
    assert store.refusal("GET", f"spans/{one['id']}").startswith("404 span not found")
    assert "no list of texts" in store.refusal("POST", "spans/delete", {"ids": 7})


def test_costs_and_times_are_numbers(store: Caller) -> None:
    span = row(trace_id=new_id(), total_estimated_cost=1)
    store.spans(span)
    assert store.get(f"spans/{span['id']}")["total_estimated_cost"] == 1.0
    huge = row(trace_id=new_id(), total_estimated_cost=10**400)
    assert "total_estimated_cost is no number" in store.refusal(
        "POST", "spans/batch", {"spans": [huge]}
    )
