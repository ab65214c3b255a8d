"""Searching: every field and operator, cursors, pages, orders, cuts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from store_calls import LATE, PROJECT, START, Caller, condition, row

from llm_twin.tracing.store.merge import new_id

USAGE = {"total_tokens": 10, "prompt_tokens": 7, "completion_tokens": 3}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Caller:
    """A trace with everything and one with nothing."""
    store = Caller(tmp_path_factory.mktemp("store"))
    full = row(
        name="full",
        end_time=LATE,
        input={"question": "Why ECR?", "deep": {"list": [{"x": 4}]}},
        output={"answer": "Because."},
        metadata={"model": {"version": "v2"}, "score": 12},
        tags=["Alpha", "beta"],
        thread_id="thread-1",
        environment="prod",
        source="sdk",
        ttft=20,
        error_info={"exception_type": "E", "traceback": "t"},
    )
    span = row(
        trace_id=full["id"],
        name="full",
        type="llm",
        usage=USAGE,
        total_estimated_cost=0.5,
        model="gpt",
        provider="openai",
        parent_span_id=new_id(),
    )
    store.traces(full, row(name="empty", start_time="2026-11-24T10:00:00Z"))
    store.spans(span, row(name="empty", trace_id=new_id(), start_time="2026-11-24T10:00:00Z"))
    for kind, entity in (("traces", full), ("spans", span)):
        one = {"id": entity["id"], "name": "Good", "value": 0.75}
        store.do("PUT", f"{kind}/feedback-scores", {"scores": [one]})
    dataset, experiment = new_id(), new_id()
    store.do("POST", "datasets", {"id": dataset, "name": "d", "project_name": PROJECT})
    more = {"name": "e", "dataset_name": "d", "project_name": PROJECT}
    store.do("POST", "experiments", {"id": experiment, **more})
    link = {"experiment_id": experiment, "dataset_item_id": new_id(), "trace_id": full["id"]}
    store.do("POST", "experiments/items", {"experiment_items": [link]})
    store.do("POST", "guardrails", {"guardrails": [
        {"entity_id": full["id"], "name": "PII", "result": "failed"}
    ]})  # fmt: skip
    return store


ONLY_FULL = [
    condition("name", "=", "FULL"),
    condition("name", "!=", "empty"),
    condition("name", "contains", "ul"),
    condition("name", "not_contains", "mp"),
    condition("name", "starts_with", "fu"),
    condition("name", "ends_with", "ll"),
    condition("name", "in", "full,other"),
    condition("name", "not_in", ["empty"]),
    condition("name", ">", "f"),
    condition("name", "in", '["full"]'),
    condition("start_time", "<", "2026-11-23T12:00:00Z"),
    condition("start_time", "=", START),
    condition("end_time", ">=", LATE),
    condition("duration", ">", 1999),
    condition("duration", "is_not_empty"),
    condition("input", "contains", "why ecr"),
    condition("output", "is_not_empty"),
    condition("input_json", "=", "why ecr?", "question"),
    condition("input_json", "=", 4, "deep.list[0].x"),
    condition("output_json", "starts_with", "because", "answer"),
    condition("metadata", "=", "v2", "model.version"),
    condition("metadata", ">", 11, "score"),
    condition("metadata", "is_not_empty", "", "score"),
    condition("metadata", "contains", "version"),
    condition("tags", "contains", "alph"),
    condition("tags", "in", "alpha,gamma"),
    condition("tags", "=", "beta"),
    condition("tags", "is_not_empty"),
    condition("error_info", "is_not_empty"),
    condition("environment", "=", "prod"),
    condition("source", "=", "sdk"),
    condition("ttft", "<", 21),
    condition("usage.total_tokens", "=", 10),
    condition("usage.prompt_tokens", ">", 6),
    condition("usage.completion_tokens", "<=", 3) | {"operator": ">="},
    condition("usage", ">", 9, "total_tokens"),
    condition("total_estimated_cost", ">", 0),
    condition("feedback_scores", ">=", 0.75, "good"),
    condition("feedback_scores", "is_not_empty", "", "Good"),
    condition("feedback_scores", "is_not_empty"),
]
TRACES = [
    condition("llm_span_count", "=", 1),
    condition("span_count", ">=", 1),
    condition("span_feedback_scores", "=", 0.75, "Good"),
    condition("thread_id", "=", "thread-1"),
    condition("thread_id", "contains", "read-1"),
    condition("guardrails", "=", "failed"),
    condition("experiment_id", "is_not_empty"),
    condition("providers", "contains", "openai"),
]
SPANS = [
    condition("model", "=", "gpt"),
    condition("provider", "=", "openai"),
    condition("type", "=", "llm"),
    condition("parent_span_id", "is_not_empty"),
    condition("trace_id", "is_not_empty") | {"operator": "!=", "value": "x"},
]
OF_TRACES_ONLY = {"end_time", "duration", "input", "output", "input_json", "output_json",
                  "metadata", "tags", "error_info", "environment", "source", "ttft"}  # fmt: skip


@pytest.mark.parametrize(
    "one", ONLY_FULL + TRACES, ids=lambda one: " ".join(map(str, one.values()))
)
def test_a_filter_finds_the_trace_that_has_it(store: Caller, one: dict[str, object]) -> None:
    assert [found["name"] for found in store.search("traces", one)] == ["full"]


@pytest.mark.parametrize(
    "one",
    [one for one in ONLY_FULL if one["field"] not in OF_TRACES_ONLY] + SPANS[:-1],
    ids=str,
)
def test_a_filter_finds_the_span_that_has_it(store: Caller, one: dict[str, object]) -> None:
    assert [found["name"] for found in store.search("spans", one)] == ["full"]


def test_filters_are_met_together_and_can_be_negative(store: Caller) -> None:
    both = [condition("name", "contains", "l"), condition("tags", "not_contains", "alpha")]
    assert store.search("traces", *both) == []
    for one in (
        condition("tags", "is_empty"),
        condition("error_info", "is_empty"),
        condition("tags", "not_in", "alpha"),
        condition("tags", "!=", "beta"),
        condition("feedback_scores", "is_empty", "", "Good"),
        condition("total_estimated_cost", "=", 0),
        condition("metadata", "is_empty", "", "score"),
        condition("guardrails", "!=", "failed"),
    ):
        assert [found["name"] for found in store.search("traces", one)] == ["empty"], one
    assert store.search("traces", condition("annotation_queue_ids", "contains", "x")) == []
    assert store.search("traces", condition("metadata", ">", "abc", "score")) == []


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (condition("colour", "=", "red"), "traces have no field to filter by: colour"),
        (condition("name", "like", "x"), "name cannot be compared by: like"),
        (condition("duration", ">", "long"), "duration is compared with a number, not: long"),
        (condition("start_time", ">", "noon"), "start_time is no ISO 8601 time: noon"),
        (condition("feedback_scores", ">", 1), "feedback_scores needs the name of a score"),
        (condition("name", "in", "[1"), "the value is no JSON list: [1"),
    ],
)
def test_a_filter_that_is_none_is_refused_in_words(
    store: Caller, one: dict[str, object], words: str
) -> None:
    assert words in store.refusal("POST", "traces/search", {"filters": [one]})


def test_a_search_that_is_none_is_refused_in_words(store: Caller) -> None:
    assert "list of objects" in store.refusal("POST", "traces/search", {"filters": 3})
    assert "no JSON list" in store.refusal("GET", "traces", filters="[")
    assert "from 1 to 2000" in store.refusal("POST", "traces/search", {"limit": 5000})
    assert "whole numbers" in store.refusal("GET", "traces", page="x")
    assert "size from 1 to" in store.refusal("GET", "traces", size=9999999)
    assert "page is from 1" in store.refusal("GET", "traces", page=10**30)
    assert "sorted by: colour" in store.refusal("GET", "traces", sorting='[{"field": "colour"}]')
    assert "sorting is no JSON list" in store.refusal("GET", "traces", sorting="[")


def test_a_cursor_reads_on_where_the_last_page_ended(tmp_path: Path) -> None:
    store = Caller(tmp_path)
    rows = [row(name=f"n{number}", input={"n": number % 2}) for number in range(450)]
    store.traces(*rows)
    newest_first = [one["id"] for one in reversed(rows)]
    first = store.search("traces", limit=300)
    rest = store.search("traces", limit=300, last_retrieved_id=first[-1]["id"])
    assert [one["id"] for one in first + rest] == newest_first
    odd = store.search("traces", condition("input", "contains", '"n":1'), limit=100)
    assert [one["id"] for one in odd] == newest_first[::2][:100]
    assert store.search("traces", project_name="nowhere") == []


def test_pages_and_their_order(store: Caller) -> None:
    rows = {"project_name": PROJECT, "size": 1}
    first, second = (store.get("traces", page=number, **rows) for number in (1, 2))
    assert (first["total"], first["size"], first["page"]) == (2, 1, 1)
    assert [one["content"][0]["name"] for one in (first, second)] == ["empty", "full"]
    for field, names in {
        "total_estimated_cost": ["full", "empty"],
        "feedback_scores.Good": ["full", "empty"],
        "usage.total_tokens": ["full", "empty"],
        "name": ["full", "empty"],
        "tags": ["full", "empty"],
    }.items():
        sorting = json.dumps([{"field": field, "direction": "DESC"}])
        page = store.get("traces", project_name=PROJECT, sorting=sorting)
        assert [one["name"] for one in page["content"]] == names
    sorting = json.dumps([{"field": "start_time", "direction": "ASC"}])
    filters = json.dumps([condition("name", "!=", "x")])
    page = store.get("traces", project_name=PROJECT, sorting=sorting, filters=filters)
    assert [one["name"] for one in page["content"]] == ["full", "empty"]
    assert "start_time" in page["sortableBy"]


def test_a_time_and_a_text_narrow_a_search(store: Caller) -> None:
    assert [one["name"] for one in store.search("traces", to_time=LATE)] == ["full"]
    assert [one["name"] for one in store.search("traces", from_time=LATE)] == ["empty"]
    assert [one["name"] for one in store.search("traces", search="ECR")] == ["full"]
    assert [one["name"] for one in store.search("spans", type="llm")] == ["full"]


def test_whether_there_is_anything(store: Caller) -> None:
    assert store.get("traces/exists") == {"exists": True}
    assert store.get("traces/exists", project_name=PROJECT, source="sdk") == {"exists": True}
    assert store.get("traces/exists", source="experiment") == {"exists": False}
    assert store.get("traces/exists", thread_only="true") == {"exists": True}
    assert store.get("spans/exists", project_name="nowhere") == {"exists": False}


def test_images_and_long_texts_are_cut_and_fields_left_out_when_asked(tmp_path: Path) -> None:
    store = Caller(tmp_path)
    image = "data:image/png;base64," + "A" * 200
    trace = row(input={"image": image, "parts": ["x" * 20_000]}, output={"a": 1})
    store.traces(trace)
    [cut] = store.search("traces", truncate=True, exclude=["output"])
    assert cut["input"] == {"image": "[image]", "parts": ["x" * 10_000]}
    assert "output" not in cut
    [whole] = store.search("traces")
    assert whole["input"] == trace["input"]
    [listed] = store.get("traces", project_name=PROJECT, truncate="true")["content"]
    assert listed["input"]["image"] == "[image]"


def test_a_thread_named_after_a_person_is_found_by_that_name(tmp_path: Path) -> None:
    store = Caller(tmp_path)
    store.traces(row(thread_id="jane.roe@example.org"), row(thread_id="john@example.org"))
    [trace] = store.search("traces", condition("thread_id", "=", "jane.roe@example.org"))
    assert trace["thread_id"].startswith("[EMAIL-")
    [thread] = store.search("traces/threads", condition("id", "=", "jane.roe@example.org"))
    assert thread["id"] == trace["thread_id"]
