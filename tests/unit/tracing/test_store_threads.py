"""Threads: what their traces say of them, opening and closing, tags, deleting."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_calls import LATE, PROJECT, START, Caller, condition, row

from llm_twin.tracing.store.merge import new_id


@pytest.fixture
def store(tmp_path: Path) -> Caller:
    store = Caller(tmp_path)
    first = row(thread_id="t", input={"q": 1}, output={"a": 1}, start_time=START)
    last = row(thread_id="t", input={"q": 2}, output={"a": 2}, start_time=LATE)
    ended = "2026-11-23T10:00:05Z"
    store.traces(last | {"end_time": ended, "environment": "prod"}, first, row())
    store.spans(row(trace_id=last["id"], usage={"total_tokens": 5}, total_estimated_cost=0.1))
    return store


NAMED = {"project_name": PROJECT, "thread_id": "t"}


def test_a_thread_is_what_its_traces_say(store: Caller) -> None:
    thread = store.do("POST", "traces/threads/retrieve", NAMED)
    assert (thread["id"], thread["status"], thread["number_of_messages"]) == ("t", "active", 4)
    assert (thread["first_message"], thread["last_message"]) == ({"q": 1}, {"a": 2})
    assert (thread["start_time"], thread["duration"]) == (START, 5000)
    assert (thread["usage"], thread["total_estimated_cost"]) == ({"total_tokens": 5}, 0.1)
    assert thread["environment"] == "prod"


def test_a_closed_thread_is_opened_by_a_call_or_by_a_new_trace(store: Caller) -> None:
    def status() -> str:
        return str(store.search("traces/threads")[0]["status"])

    store.do("PUT", "traces/threads/close", {"project_name": PROJECT, "thread_ids": ["t"]})
    assert status() == "inactive"
    store.do("PUT", "traces/threads/open", NAMED)
    assert status() == "active"
    store.do("PUT", "traces/threads/close", NAMED)
    store.traces(row(thread_id="t"))
    assert status() == "active"
    unknown = {"project_name": PROJECT, "thread_id": "unknown"}
    assert store.refusal("PUT", "traces/threads/close", unknown) == "404 thread not found"


def test_threads_are_tagged(store: Caller) -> None:
    identity = store.search("traces/threads")[0]["thread_model_id"]
    store.do("PATCH", f"traces/threads/{identity}", {"tags": ["a"]})
    batch = {"ids": [identity], "update": {"tags": ["b"]}, "merge_tags": True}
    store.do("PATCH", "traces/threads/batch", batch)
    assert store.search("traces/threads", condition("tags", "contains", "b"))[0]["tags"] == [
        "a",
        "b",
    ]
    missing = new_id()
    assert store.refusal("PATCH", f"traces/threads/{missing}", {"tags": []}).startswith("404")
    assert store.refusal("PATCH", "traces/threads/batch", {"update": 3}).startswith("400")


def test_threads_are_filtered_listed_and_ordered(store: Caller) -> None:
    store.traces(row(thread_id="u", input={"q": "other"}))
    assert [one["id"] for one in store.search("traces/threads", condition("id", "=", "T"))] == ["t"]
    late = condition("start_time", ">", "2020-01-01T00:00:00Z")
    assert [one["id"] for one in store.search("traces/threads", late)] == ["u", "t"]
    many = condition("number_of_messages", ">", 2)
    assert [one["id"] for one in store.search("traces/threads", many)] == ["t"]
    sorting = '[{"field": "number_of_messages", "direction": "DESC"}]'
    listed = store.get("traces/threads", project_name=PROJECT, sorting=sorting)
    assert [one["id"] for one in listed["content"]] == ["t", "u"]
    assert store.get("traces/threads", project_name=PROJECT, size=1)["total"] == 2
    assert store.search("traces/threads", search="OTHER")[0]["id"] == "u"
    cursor = store.search("traces/threads")[0]["thread_model_id"]
    rest = store.search("traces/threads", last_retrieved_thread_model_id=cursor)
    assert [one["id"] for one in rest] == ["t"]


def test_deleting_a_thread_deletes_its_traces(store: Caller) -> None:
    store.do("POST", "traces/threads/delete", {"project_name": PROJECT, "thread_ids": ["t"]})
    assert store.search("traces/threads") == []
    assert len(store.search("traces")) == 1
    assert store.refusal("POST", "traces/threads/retrieve", NAMED) == "404 thread not found"
    assert store.refusal("POST", "traces/threads/retrieve", {"thread_ids": 3}).startswith("400")
