"""The OpenAI API's chat, asked over plain HTTP as its clients do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_service import QUESTION, Endpoint, Service, serving

ASKED = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[Service]:
    with serving(home, TWIN_TRACE="0") as running:
        yield running


def chat(service: Service, **body: Any) -> httpx.Response:
    url = f"{service.urls[0]}/v1/chat/completions"
    return service.client.post(url, json={"model": "llm-twin", "messages": ASKED, **body})


def chunks(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def words_of(found: list[dict[str, Any]]) -> str:
    deltas = [choice["delta"] for chunk in found for choice in chunk["choices"]]
    return "".join(delta.get("content", "") for delta in deltas)


def test_a_completion_is_the_answer(service: Service) -> None:
    whole = service.ask().json()

    got = chat(service).json()

    assert got["object"] == "chat.completion"
    assert got["id"].startswith("chatcmpl-")
    assert got["model"] == "llm-twin"
    (choice,) = got["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == whole["text"]
    assert choice["finish_reason"] == "stop"
    assert got["usage"]["prompt_tokens"] == 6
    assert got["usage"]["total_tokens"] == 6 + got["usage"]["completion_tokens"]
    assert got["twin"]["citations"] == whole["citations"]
    assert got["system_fingerprint"] == "v1"


def test_chunks_are_the_answer(service: Service) -> None:
    found = chunks(chat(service, stream=True, stream_options={"include_usage": True}))

    *_, last, usage = found
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert words_of(found) == chat(service).json()["choices"][0]["message"]["content"]
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["twin"]["citations"]
    assert usage["choices"] == []
    assert usage["usage"] == chat(service).json()["usage"]
    assert {chunk["object"] for chunk in found} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in found}) == 1


@pytest.mark.parametrize(
    ("limits", "text", "reason"),
    [
        ({"max_tokens": 4}, "Rye is rich in", "length"),
        ({"max_completion_tokens": 2}, "Rye is", "length"),
        ({"stop": " in "}, "Rye is rich", "stop"),
        ({"stop": ["nowhere", "", " rich"]}, "Rye is", "stop"),
    ],
)
def test_a_text_ends_where_it_should(
    service: Service, limits: dict[str, Any], text: str, reason: str
) -> None:
    got = chat(service, **limits).json()
    found = chunks(chat(service, stream=True, **limits))

    assert got["choices"][0]["message"]["content"] == words_of(found) == text
    assert got["choices"][0]["finish_reason"] == reason
    assert found[-1]["choices"][0]["finish_reason"] == reason
    assert got["usage"]["completion_tokens"] == len(text.split())


def test_the_last_user_message_is_the_question_in_parts_or_whole(service: Service) -> None:
    parts = [{"type": "text", "text": "Why are rye"}, {"type": "text", "text": "loaves sticky?"}]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How do I feed the sourdough starter?"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": parts},
    ]

    asked = chat(service, messages=messages, temperature=0.1, seed=3, tools=[], n=None).json()

    assert "pentosans" in asked["choices"][0]["message"]["content"]


def test_the_models_are_those_that_answer(service: Service) -> None:
    listed = [model["id"] for model in service.get("/v1/models").json()["data"]]
    missing = service.get("/v1/models/gpt-9")

    assert listed == [
        "llm-twin", "llm-twin-extractive", "llm-twin-local", "llm-twin-openai",
    ]  # fmt: skip
    assert service.get("/v1/models/llm-twin").json()["id"] == "llm-twin"
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("body", "status", "code", "said"),
    [
        ({"model": "gpt-9"}, 404, "model_not_found", "no such model: 'gpt-9'. Known: llm-twin"),
        ({"messages": []}, 400, None, "nothing is asked"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, None, "holds no word"),
        ({"messages": "hello"}, 400, None, "messages: Input should be a valid"),
        ({"n": 2}, 400, None, "n: Input should be 1"),
        ({"max_tokens": 0}, 400, None, "greater than or equal to 1"),
        ({"model": "llm-twin-openai"}, 400, None, "no such LLM: 'openai'"),
        ({"model": "llm-twin-local"}, 400, None, "no such LLM: 'local'"),
        ({"user": "u" * 201}, 400, None, "at most 200"),
        ({"metadata": {"note": "x" * 1_100_000}}, 413, "request_too_large", "1,048,576 bytes"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            400,
            None,
            "Input should be 'text'",
        ),
    ],
)
def test_errors_look_as_the_openai_apis(
    service: Service, body: dict[str, Any], status: int, code: str | None, said: str
) -> None:
    refused = chat(service, **body)

    error = refused.json()["error"]
    assert refused.status_code == status
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert said in error["message"]
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")


def test_a_model_is_heard_and_its_tokens_counted(home: Path, endpoint: Endpoint) -> None:
    endpoint.may_answer.set()
    more = {"stream": True, "stream_options": {"include_usage": True}}
    with serving(home, TWIN_TRACE="0", **endpoint.settings) as running:
        found = chunks(chat(running, model="llm-twin-openai", **more))
        whole = chat(running, model="llm-twin-openai").json()

    assert found[1]["choices"][0]["delta"] == {"content": "Pentosans bind"}
    assert words_of(found) == "Pentosans bind water [1]."
    usage = {"prompt_tokens": 70, "completion_tokens": 5, "total_tokens": 75}
    assert found[-1]["usage"] == whole["usage"] == usage


def test_a_model_that_breaks_off_is_told_in_the_stream(home: Path, endpoint: Endpoint) -> None:
    endpoint.breaks = True
    endpoint.may_answer.set()
    with serving(home, TWIN_TRACE="0", **endpoint.settings) as running:
        told = chat(running, model="llm-twin-openai", stream=True)

    last = json.loads(told.text.strip().splitlines()[-1].removeprefix("data: "))
    assert last["error"]["type"] == "server_error"
    assert last["error"]["message"].startswith("a server that the twin asked")
