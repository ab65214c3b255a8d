"""Feedback on answers, read back from the trace store."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_service import QUESTION, Service, serving

from llm_twin.tracing.store.routing import Request
from llm_twin.tracing.store.store import Store

UNKNOWN = "01a208e6-b19a-79cb-ab4e-3d43200bf2f7"


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[Service]:
    with serving(home, "--port", "0", "--workers", "2") as running:
        yield running


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    found = Store(home / "traces")
    yield found
    found.close()


def trace_of(store: Store, identity: str) -> dict[str, Any]:
    answer = store.handle(Request("GET", f"v1/private/traces/{identity}"))
    assert answer.status == 200
    assert isinstance(answer.body, bytes)
    return dict(json.loads(answer.body))


def feedback(service: Service, **body: Any) -> httpx.Response:
    return service.client.post(f"{service.urls[0]}/v1/feedback", json=body)


def scored(store: Store, identity: str, name: str = "feedback") -> dict[str, Any]:
    """The trace, once it has a score of that name."""
    for _ in range(200):
        trace = trace_of(store, identity)
        if name in [score["name"] for score in trace.get("feedback_scores", [])]:
            return trace
        time.sleep(0.05)
    return trace


def test_an_answer_is_a_trace_of_its_conversation(service: Service, store: Store) -> None:
    asked = service.ask(thread="about-bread")
    chat = {"model": "llm-twin", "messages": [{"role": "user", "content": QUESTION}]}
    url = f"{service.urls[0]}/v1/chat/completions"
    named = service.client.post(url, json={**chat, "user": "u-7"})
    other = service.client.post(url, json={**chat, "user": "u-7", "metadata": {"thread_id": "t9"}})

    identity = asked.json()["trace_id"]
    assert asked.headers["X-Trace-Id"] == identity
    threads = {"about-bread": identity}
    threads |= {"u-7": named.json()["trace_id"], "t9": other.json()["trace_id"]}
    for thread, one in threads.items():
        assert feedback(service, trace_id=one, score=1).status_code == 200
        trace = trace_of(store, one)
        assert trace["thread_id"] == thread
        assert trace["input"]["question"] == QUESTION
        assert "pentosans" in json.dumps(trace["output"])
        assert trace["metadata"]["model_version"] == "v1"


@pytest.mark.parametrize(("score", "value"), [("up", 1.0), ("down", 0.0), (0.25, 0.25), (1, 1.0)])
def test_a_score_is_on_the_trace(
    service: Service, store: Store, score: object, value: float
) -> None:
    identity = service.ask().json()["trace_id"]

    told = feedback(service, trace_id=identity, score=score, reason="as I know it")

    assert told.json() == {"trace_id": identity, "name": "feedback", "value": value}
    (kept,) = scored(store, identity)["feedback_scores"]
    assert (kept["name"], kept["value"], kept["reason"]) == ("feedback", value, "as I know it")


def test_a_correction_is_kept_and_private_things_are_not(service: Service, store: Store) -> None:
    identity = service.ask().json()["trace_id"]
    before = trace_of_soon(service, store, identity)["metadata"]

    told = feedback(
        service,
        trace_id=identity,
        score="down",
        name="helpful",
        reason="ask jane.doe@example.org",
        correction="Rye binds water, says jane.doe@example.org.",
    )

    assert told.status_code == 200
    trace = scored(store, identity, "helpful")
    assert trace["metadata"].pop("correction").startswith("Rye binds water, says ")
    assert trace["metadata"] == before
    (kept,) = [score for score in trace["feedback_scores"] if score["name"] == "helpful"]
    assert kept["reason"].startswith("ask ")
    assert "jane.doe" not in json.dumps(trace)


def trace_of_soon(service: Service, store: Store, identity: str) -> dict[str, Any]:
    feedback(service, trace_id=identity, score=1, name="seen")
    return trace_of(store, identity)


def test_an_unknown_trace_is_not_scored(service: Service) -> None:
    refused = feedback(service, trace_id=UNKNOWN, score="up")

    assert refused.status_code == 404
    assert refused.json()["error"] == (
        f"there is no such trace: {UNKNOWN}. Use the trace_id of an answer"
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "Field required"),
        ({"trace_id": "mine", "score": 1}, "trace_id: Input should be a valid UUID"),
        ({"trace_id": UNKNOWN, "score": 1.1}, "score"),
        ({"trace_id": UNKNOWN, "score": "sideways"}, "score"),
        ({"trace_id": UNKNOWN, "score": 1, "name": ""}, "name: String should have at least 1"),
        ({"trace_id": UNKNOWN, "score": 1, "reason": "r" * 2001}, "reason: String should have at"),
    ],
)
def test_feedback_that_is_none_is_told_what_is_wrong(
    service: Service, body: dict[str, Any], said: str
) -> None:
    refused = feedback(service, **body)

    assert refused.status_code == 422
    assert said in refused.json()["error"]
    assert 'Send JSON like {"trace_id": "…", "score": "up"}' in refused.json()["error"]
