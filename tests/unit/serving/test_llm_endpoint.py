"""An OpenAI-compatible endpoint, spoken to over a real socket on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llm_twin.errors import ConfigError, RemoteError, TwinError
from llm_twin.serving.answer import answer
from llm_twin.serving.llm import LLM, open_llm
from llm_twin.serving.openai import OpenAILLM
from llm_twin.serving.twin import Twin
from llm_twin.settings import Settings

KEY = "sk-very-secret-0123456789"


@dataclass
class Script:
    """What the endpoint says, request after request, and what it was asked."""

    replies: list[tuple[int, str, dict[str, str]]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    silent: bool = False
    released: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def says(self, text: str, status: int = 200, **headers: str) -> None:
        body = {
            "model": "writer-1",
            "choices": [{"message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 120, "completion_tokens": 9},
        }
        self.replies.append((status, json.dumps(body), headers))

    def fails(self, status: int, body: str = "", **headers: str) -> None:
        self.replies.append((status, body, headers))


@contextmanager
def serving(script: Script) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            script.asked.append(
                {"path": self.path, "key": self.headers.get("Authorization"), **body}
            )
            if script.silent:
                script.released.wait(20)
                return
            last = len(script.replies) == 1
            status, text, headers = script.replies[0] if last else script.replies.pop(0)
            if status == 0:
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        script.released.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def script() -> Iterator[Script]:
    found = Script()
    with serving(found) as url:
        found.url = url
        yield found


@pytest.fixture
def settings(script: Script, tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path, llm_url=script.url, llm_model="writer", llm_key=KEY, llm_timeout=10
    )


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def llm(settings: Settings, pauses: list[float]) -> OpenAILLM:
    return replace(OpenAILLM.open(settings), pause=pauses.append)


def refusal(llm: LLM) -> TwinError:
    with pytest.raises(TwinError) as caught:
        llm.complete("system", "user", 10)
    message = str(caught.value)
    assert KEY not in message
    assert "\n" not in message
    return caught.value


def test_a_completion_carries_text_model_and_tokens(script: Script, llm: OpenAILLM) -> None:
    script.says(" Rye is sticky. ")

    found = llm.complete("You are a twin.", "Why rye?", 50)

    assert (found.text, found.model) == ("Rye is sticky.", "writer-1")
    assert (found.prompt_tokens, found.completion_tokens) == (120, 9)
    asked = script.asked[0]
    assert asked["path"] == "/v1/chat/completions"
    assert asked["key"] == f"Bearer {KEY}"
    assert asked["model"] == "writer"
    assert asked["max_tokens"] == 50
    assert [message["content"] for message in asked["messages"]] == ["You are a twin.", "Why rye?"]


def test_without_a_key_none_is_sent(script: Script, settings: Settings) -> None:
    script.says("fine")

    OpenAILLM.open(replace(settings, llm_key="")).complete("s", "u", 5)

    assert script.asked[0]["key"] is None


@pytest.mark.parametrize("status", [429, 500, 502, 503, 0])
def test_a_passing_failure_is_tried_again(
    status: int, script: Script, llm: OpenAILLM, pauses: list[float]
) -> None:
    script.fails(status)
    script.says("second time lucky")

    assert llm.complete("s", "u", 5).text == "second time lucky"
    assert pauses == [0.5]


def test_the_server_may_ask_for_a_longer_pause(
    script: Script, llm: OpenAILLM, pauses: list[float]
) -> None:
    script.fails(429, Retry_After="3")
    script.says("later")

    assert llm.complete("s", "u", 5).text == "later"
    assert pauses == [3.0]


def test_a_very_long_pause_is_not_waited_for(
    script: Script, llm: OpenAILLM, pauses: list[float]
) -> None:
    script.fails(429, Retry_After="3600")

    assert "HTTP 429" in str(refusal(llm))
    assert pauses == []


def test_a_lasting_failure_ends_after_three_attempts(script: Script, llm: OpenAILLM) -> None:
    script.fails(500, json.dumps({"error": {"message": f"out of memory, key {KEY}"}}))

    error = refusal(llm)

    assert isinstance(error, RemoteError)
    assert "out of memory" in str(error)
    assert f"{script.url}/chat/completions (HTTP 500, model writer)" in str(error)
    assert len(script.asked) == 3


@pytest.mark.parametrize(
    ("status", "setting"),
    [(401, "TWIN_LLM_KEY"), (403, "TWIN_LLM_KEY"), (404, "TWIN_LLM_URL")],
)
def test_a_refusal_names_the_setting_at_once(
    status: int, setting: str, script: Script, llm: OpenAILLM
) -> None:
    script.fails(status, json.dumps({"error": {"message": f"Incorrect API key: {KEY}"}}))

    error = refusal(llm)

    assert isinstance(error, ConfigError)
    assert setting in str(error)
    assert len(script.asked) == 1


def test_other_refusals_are_quoted_once(script: Script, llm: OpenAILLM) -> None:
    script.fails(400, json.dumps({"error": {"message": "context length\nexceeded " + "x" * 999}}))

    error = refusal(llm)

    assert "saying “context length exceeded" in str(error)
    assert len(str(error)) < 500
    assert len(script.asked) == 1


@pytest.mark.parametrize(
    "body",
    ["<html>login</html>", "[]", "{}", '{"choices": []}', "null",
     '{"choices": [{"message": {"content": null}}]}', '{"choices": "x"}',
     '{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": "many"}}'],
)  # fmt: skip
def test_an_answer_of_another_shape_is_said_so(body: str, script: Script, llm: OpenAILLM) -> None:
    script.fails(200, body)

    assert "did not answer as the OpenAI API does" in str(refusal(llm))


def test_a_silent_endpoint_is_given_up(script: Script, settings: Settings) -> None:
    script.silent = True
    hasty = OpenAILLM.open(replace(settings, llm_timeout=0.2))

    assert "did not answer within 0.2 s" in str(refusal(hasty))


def test_an_endpoint_that_is_not_there(settings: Settings, pauses: list[float]) -> None:
    away = replace(settings, llm_url="http://user:hunter2@127.0.0.1:9/v1")
    llm = replace(OpenAILLM.open(away), pause=pauses.append)

    error = refusal(llm)

    assert "cannot be reached" in str(error)
    assert "http://127.0.0.1:9/v1" in str(error)
    assert "hunter2" not in str(error)
    assert len(pauses) == 2


@pytest.mark.parametrize("url", ["", "localhost:8000/v1", "ftp://x/v1", "http://", "http://[x/v1"])
def test_a_malformed_address_is_refused(url: str, settings: Settings, words_twin: Twin) -> None:
    with pytest.raises(ConfigError, match="TWIN_LLM_URL"):
        open_llm("openai", replace(settings, llm_url=url), words_twin)


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"llm_model": ""}, "TWIN_LLM_MODEL"),
        ({"llm_timeout": 0.0}, "TWIN_LLM_TIMEOUT"),
        ({"llm_key": "sk-ключ"}, "TWIN_LLM_KEY"),
    ],
)
def test_incomplete_settings_are_refused(
    change: dict[str, Any], setting: str, settings: Settings, words_twin: Twin
) -> None:
    with pytest.raises(ConfigError, match=setting):
        open_llm("openai", replace(settings, **change), words_twin)


def test_an_unknown_llm_is_refused(settings: Settings, words_twin: Twin) -> None:
    with pytest.raises(ConfigError, match="--llm local"):
        open_llm("gpt", settings, words_twin)


@pytest.mark.parametrize("name", ["", "extractive"])
def test_no_llm_means_quotations(name: str, settings: Settings, words_twin: Twin) -> None:
    assert open_llm(name, settings, words_twin) is None


def test_the_key_is_not_in_the_repr(llm: OpenAILLM) -> None:
    assert KEY not in repr(llm)


QUESTION = "Why are rye loaves sticky?"


def test_marks_become_citations(script: Script, llm: OpenAILLM, words_twin: Twin) -> None:
    script.says("It binds water [2][9]. Wet your hands [1, 2]. See [this](x) and [77].")

    found = answer(QUESTION, words_twin, llm)

    assert found.text == "It binds water [1]. Wet your hands [2][1]. See [this](x) and."
    assert len(found.citations) == 2
    assert found.mode == "openai"
    assert found.model == "writer-1"
    assert found.prompt.startswith("answer@")
    assert found.note == ""
    offered = script.asked[0]["messages"][1]["content"]
    first, second = found.citations
    assert f"[2] {first.title}" in offered
    assert f"[1] {second.title}" in offered
    assert first.quote in offered


def test_an_answer_that_cites_nothing_lists_everything_and_says_so(
    script: Script, llm: OpenAILLM, words_twin: Twin
) -> None:
    script.says("Rye is just like that.")

    found = answer(QUESTION, words_twin, llm, k=3)

    assert len(found.citations) == 3
    assert "cited nothing" in found.note


@pytest.mark.parametrize("text", ["I don't know.", "I don’t know", "  "])
def test_a_model_may_decline(text: str, script: Script, llm: OpenAILLM, words_twin: Twin) -> None:
    script.says(text)

    found = answer(QUESTION, words_twin, llm)

    assert found.abstained
    assert found.text.startswith("I don't know: nothing in these texts answers that.")


def test_a_foreign_question_is_declined_without_asking_the_model(
    script: Script, llm: OpenAILLM, words_twin: Twin
) -> None:
    found = answer("What is the capital of Mongolia?", words_twin, llm)

    assert found.abstained
    assert (found.mode, found.model) == ("openai", "writer")
    assert script.asked == []
