"""What a traced answer leaves in the trace store: every step, and where the twin comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_llm_endpoint import Script, serving

from llm_twin.errors import RemoteError, UserError
from llm_twin.serving.answer import answer
from llm_twin.serving.openai import OpenAILLM
from llm_twin.serving.twin import Twin
from llm_twin.settings import Settings
from llm_twin.tracing import client
from llm_twin.tracing.client import Tracing
from llm_twin.tracing.store.routing import Request

STARTER = "How do I feed my starter?"
DETAILS = {"dataset": "d1", "commit": "c0ffee", "run": "run-7", "embedder": "words"}


@pytest.fixture
def tracing(tmp_path: Path) -> Iterator[Tracing]:
    tracing = client.start(Settings(home=tmp_path))
    yield tracing
    tracing.stop()


@pytest.fixture
def twin(baker_twin: Twin) -> Twin:
    return replace(baker_twin, manifest={"details": DETAILS})


def _rows(tracing: Tracing, kind: str) -> list[dict[str, Any]]:
    assert tracing.flush(10)
    answered = tracing.store.handle(
        Request("GET", f"v1/private/{kind}", {"project_name": "llm-twin", "size": "100"})
    )
    assert isinstance(answered.body, bytes)
    return list(json.loads(answered.body)["content"])


def _spans(tracing: Tracing) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in _rows(tracing, "spans")}


def test_a_quoted_answer_shows_what_was_found_and_cited(tracing: Tracing, twin: Twin) -> None:
    found = answer(STARTER, twin, k=3, thread="talk-1")

    (trace,) = _rows(tracing, "traces")
    assert (trace["name"], trace["thread_id"]) == ("answer", "talk-1")
    assert trace["input"] == {"question": STARTER, "k": 3}
    assert trace["output"]["text"] == found.text
    assert trace["metadata"] == {
        "model_version": "v1",
        "dataset_digest": "d1",
        "commit": "c0ffee",
        "run_id": "run-7",
    }
    spans = _spans(tracing)
    assert set(spans) == {"answer", "retrieve", "generate", "cite"}
    assert spans["retrieve"]["input"] == {"query": STARTER, "k": 3}
    chunks = spans["retrieve"]["output"]["chunks"]
    assert found.citations[0].quote in chunks[0]["text"]
    assert chunks[0]["score"] >= chunks[-1]["score"]
    assert len({chunk["id"] for chunk in chunks}) == len(chunks)
    assert spans["cite"]["output"]["citations"][0]["quote"] == found.citations[0].quote
    assert {row.get("parent_span_id") for row in spans.values()} == {None, spans["answer"]["id"]}


def test_a_written_answer_shows_prompt_model_tokens_and_time(tracing: Tracing, twin: Twin) -> None:
    script = Script()
    script.says("Rye flour and water [1].")
    with serving(script) as url:
        found = answer(STARTER, twin, OpenAILLM(url, "writer-1"), k=2)

    spans = _spans(tracing)
    assert set(spans) == {"answer", "retrieve", "prompt", "generate", "cite"}
    asked = spans["prompt"]["input"]
    assert f"{asked['template']}@{asked['version']}" == found.prompt
    assert STARTER in spans["prompt"]["output"]["user"]
    generate = spans["generate"]
    assert (generate["type"], generate["model"], generate["provider"]) == (
        "llm",
        "writer-1",
        "openai",
    )
    assert generate["usage"] == {
        "prompt_tokens": 120,
        "completion_tokens": 9,
        "total_tokens": 129,
    } | {key: value for key, value in generate["usage"].items() if key.startswith("original")}
    assert generate["ttft"] > 0
    assert spans["cite"]["output"]["text"] == "Rye flour and water [1]."


def test_a_declined_question_and_an_error_are_traced_too(tracing: Tracing, twin: Twin) -> None:
    answer("Who sang Bohemian Rhapsody?", twin)
    script = Script()
    script.fails(500)
    with serving(script) as url, pytest.raises(RemoteError):
        answer(STARTER, twin, OpenAILLM(url, "writer-1", pause=lambda seconds: None))
    with pytest.raises(UserError):
        answer("???", twin)

    empty, failed, declined = _rows(tracing, "traces")
    assert declined["output"]["abstained"] is True
    assert failed["error_info"]["exception_type"] == "RemoteError"
    assert empty["error_info"]["exception_type"] == "UserError"
    assert "error_info" in _spans(tracing)["generate"]


def test_a_twin_without_details_has_a_version(baker_twin: Twin) -> None:
    assert baker_twin.provenance == {"model_version": "v1"}
