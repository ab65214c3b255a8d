"""Scores, comments, assertions and guardrails: they may come before what they are about."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_calls import PROJECT, Caller, condition, row

from llm_twin.tracing.store.merge import new_id


@pytest.fixture
def store(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


def score(entity: str, name: str = "good", value: float = 1, **more: object) -> dict[str, object]:
    return {"id": entity, "name": name, "value": value, "project_name": PROJECT, **more}


def test_a_score_may_come_before_its_trace(store: Caller) -> None:
    trace = row()
    scores = [score(trace["id"], reason="r", category_name="c", source="sdk")]
    store.do("PUT", "traces/feedback-scores", {"scores": scores})
    store.traces(trace)
    [found] = store.get(f"traces/{trace['id']}")["feedback_scores"]
    assert (found["name"], found["value"], found["reason"], found["category_name"]) == (
        "good",
        1,
        "r",
        "c",
    )


def test_one_name_has_one_value_and_the_later_replaces_the_earlier(store: Caller) -> None:
    trace = row()
    store.traces(trace)
    for value in (1, 0.25):
        scores = {"scores": [score(trace["id"], value=value)]}
        store.do("PUT", "traces/feedback-scores", scores)
    [found] = store.get(f"traces/{trace['id']}")["feedback_scores"]
    assert found["value"] == 0.25


def test_several_authors_are_kept_apart_and_averaged(store: Caller) -> None:
    trace = row()
    store.traces(trace)
    for author, value in (("ann", 1), ("bob", 0)):
        one = score(trace["id"], value=value, author=author)
        store.do("PUT", "traces/feedback-scores", {"scores": [one]})
    [found] = store.get(f"traces/{trace['id']}")["feedback_scores"]
    assert found["value"] == 0.5
    assert {name: one["value"] for name, one in found["value_by_author"].items()} == {
        "ann": 1,
        "bob": 0,
    }
    store.do(
        "POST", f"traces/{trace['id']}/feedback-scores/delete", {"name": "good", "author": "bob"}
    )
    assert store.get(f"traces/{trace['id']}")["feedback_scores"][0]["value"] == 1
    store.do("POST", f"traces/{trace['id']}/feedback-scores/delete", {"name": "good"})
    assert "feedback_scores" not in store.get(f"traces/{trace['id']}")


def test_scores_of_spans_are_averaged_for_their_trace(store: Caller) -> None:
    trace = row()
    spans = [row(trace_id=trace["id"]) for _ in range(2)]
    store.traces(trace)
    store.spans(*spans)
    scores = [score(span["id"], value=value) for span, value in zip(spans, (0, 1), strict=True)]
    store.do("PUT", "spans/feedback-scores", {"scores": scores})
    [found] = store.get(f"traces/{trace['id']}")["span_feedback_scores"]
    assert (found["name"], found["value"]) == ("good", 0.5)
    assert store.get("spans/feedback-scores/names") == {"scores": [{"name": "good"}]}
    assert store.get("traces/feedback-scores/names") == {"scores": []}


def test_a_thread_may_be_scored_before_its_first_trace(store: Caller) -> None:
    one = {"thread_id": "t", "name": "good", "value": 1, "project_name": PROJECT}
    store.do("PUT", "traces/threads/feedback-scores", {"scores": [one]})
    assert store.search("traces/threads") == []
    store.traces(row(thread_id="t"))
    [thread] = store.search("traces/threads")
    assert [found["name"] for found in thread["feedback_scores"]] == ["good"]
    names = {"project_name": PROJECT, "thread_id": "t", "names": ["good"]}
    store.do("POST", "traces/threads/feedback-scores/delete", names)
    [thread] = store.search("traces/threads")
    assert "feedback_scores" not in thread
    store.do("POST", "traces/threads/feedback-scores/delete", {**names, "thread_id": "unknown"})


@pytest.mark.parametrize(
    ("one", "words"),
    [
        ({"name": ""}, "a score's name is a text of 1 to 10000 characters"),
        ({"value": "high"}, "value is no number: high"),
        ({"id": "x"}, "id is no UUID: x"),
    ],
)
def test_a_score_that_is_none_is_refused(store: Caller, one: dict[str, object], words: str) -> None:
    body = {"scores": [score(new_id()) | one]}
    assert store.refusal("PUT", "traces/feedback-scores", body) == f"400 {words}"


def test_a_thread_is_scored_by_a_text(store: Caller) -> None:
    body = {"scores": [{"name": "good", "value": 1}]}
    assert store.refusal("PUT", "traces/threads/feedback-scores", body) == (
        "400 thread_id is a text"
    )


@pytest.mark.parametrize("kind", ["traces", "spans", "traces/threads"])
def test_comments_are_added_read_changed_and_deleted(store: Caller, kind: str) -> None:
    entity = row(thread_id="t")
    store.traces(entity)
    store.spans(entity | {"trace_id": new_id()})
    if kind == "traces/threads":
        entity = {"id": store.search(kind)[0]["thread_model_id"]}
    for text in ("first", "second"):
        answer = store.ask("POST", f"{kind}/{entity['id']}/comments", {"text": text})
        place = answer.headers["location"].removeprefix("/api/v1/private/")
    assert store.get(place)["text"] == "second"
    identity = place.rsplit("/", 1)[1]
    store.do("PATCH", f"{kind}/comments/{identity}", {"text": "changed"})
    [found] = store.search(kind)
    assert [one["text"] for one in found["comments"]] == ["first", "changed"]
    store.do("POST", f"{kind}/comments/delete", {"ids": [identity]})
    assert store.refusal("GET", place).startswith("404 comment not found")
    assert store.refusal("POST", f"{kind}/{entity['id']}/comments", {}).startswith("400")


def test_assertions_and_guardrails(store: Caller) -> None:
    trace, bad = row(), row()
    store.traces(trace, bad)
    results = [{"entity_id": trace["id"], "name": "short", "status": "passed", "reason": "r"}]
    store.do("PUT", "assertion-results", {"entity_type": "TRACE", "assertion_results": results})
    checks = [
        {"entity_id": one["id"], "secondary_id": new_id(), "name": "PII", "result": result}
        for one, result in ((trace, "passed"), (bad, "failed"))
    ]
    store.do("POST", "guardrails", {"guardrails": [*checks, checks[0] | {"secondary_id": None}]})
    [found, *_] = store.get(f"traces/{trace['id']}")["guardrails_validations"]
    assert found["checks"] == [{"name": "PII", "result": "passed"}]
    failed = store.search("traces", condition("guardrails", "=", "failed"))
    assert [one["id"] for one in failed] == [bad["id"]]
