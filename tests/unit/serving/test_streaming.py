"""Answers as events: what a client that reads them line by line sees."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_service import PATIENCE, QUESTION, Endpoint, Service, WaitingIndex, serving
from starlette.testclient import TestClient

from llm_twin.serving import streaming
from llm_twin.serving.api import create_app
from llm_twin.serving.streaming import pieces
from llm_twin.serving.twin import Twin
from llm_twin.settings import Settings

Event = tuple[str, Any]


def events(response: httpx.Response) -> Iterator[Event]:
    """Yield name and data of each event; comments are named ":"."""
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
        elif line.startswith(":"):
            yield ":", line


def streamed(service: Service, **body: Any) -> list[Event]:
    body = {"question": QUESTION, "stream": True, **body}
    with service.client.stream("POST", f"{service.urls[0]}/v1/ask", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(events(response))


def text_of(found: list[Event]) -> str:
    return "".join(data["text"] for name, data in found if name == "token")


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[Service]:
    with serving(home, TWIN_TRACE="0") as running:
        yield running


def test_the_events_are_the_answer(service: Service) -> None:
    whole = service.ask().json()

    found = streamed(service)

    names = [name for name, _ in found]
    assert names == [":", *["token"] * names.count("token"), "citation", "done"]
    assert names.count("token") > 3
    assert text_of(found) == whole["text"]
    assert found[-2][1] == {"number": 1, **whole["citations"][0]}
    same = ("text", "citations", "confidence", "mode", "version")
    assert {key: found[-1][1][key] for key in same} == {key: whole[key] for key in same}


def test_the_accept_header_asks_for_events_too(service: Service) -> None:
    headers = {"Accept": "text/event-stream"}
    url = f"{service.urls[0]}/v1/ask"
    asked = service.client.post(url, json={"question": QUESTION}, headers=headers)

    assert list(events(asked))[-1][0] == "done"
    assert asked.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("body", "status"), [({"question": "?!"}, 400), ({"k": 0}, 400), ({"llm": "openai"}, 400)]
)
def test_what_is_wrong_at_once_is_told_by_the_status(
    service: Service, body: dict[str, Any], status: int
) -> None:
    assert service.ask(**{"question": QUESTION, "stream": True, **body}).status_code == status


def test_a_model_is_heard_while_it_writes(home: Path, endpoint: Endpoint) -> None:
    with serving(home, **endpoint.settings) as running:
        body = {"question": QUESTION, "stream": True, "llm": "openai"}
        with running.client.stream("POST", f"{running.urls[0]}/v1/ask", json=body) as response:
            found = []
            for one in events(response):
                found.append(one)
                if one[0] == "token":
                    endpoint.may_answer.set()

    assert found[1] == ("token", {"text": "Pentosans bind"})
    assert text_of(found) == found[-1][1]["text"] == "Pentosans bind water [1]."
    assert found[-1][1]["completion_tokens"] == 5
    assert [name for name, _ in found[-2:]] == ["citation", "done"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("See [", "2", "] and", " [1", "]. ", "More [9].", " End"), "See [1] and [2]. More. End"),
        (("An [unusual", " bracket", " (yes) [1]"), "An [unusual bracket (yes) [1]"),
        (("I", " don’t think so", " [2]."), "I don’t think so [1]."),
    ],
)
def test_marks_are_numbered_as_in_the_answer(
    home: Path, endpoint: Endpoint, words: tuple[str, ...], told: str
) -> None:
    endpoint.words = words
    endpoint.may_answer.set()
    with serving(home, TWIN_TRACE="0", **endpoint.settings) as running:
        found = streamed(running, llm="openai")

    assert text_of(found) == found[-1][1]["text"] == told


def test_a_model_that_does_not_know_declines(home: Path, endpoint: Endpoint) -> None:
    endpoint.words = ("I don", "'t", " know", ".")
    endpoint.may_answer.set()
    with serving(home, TWIN_TRACE="0", **endpoint.settings) as running:
        found = streamed(running, llm="openai")

    assert text_of(found).startswith("I don't know: nothing in these texts")
    assert found[-1][1]["abstained"] is True


def test_a_model_that_breaks_off_is_told_as_an_event(home: Path, endpoint: Endpoint) -> None:
    endpoint.breaks = True
    with serving(home, **endpoint.settings) as running:
        body = {"question": QUESTION, "stream": True, "llm": "openai"}
        with running.client.stream("POST", f"{running.urls[0]}/v1/ask", json=body) as response:
            found = []
            for one in events(response):
                found.append(one)
                endpoint.may_answer.set()
        log = running.stop()

    assert found[1] == ("token", {"text": "Pentosans bind"})
    name, data = found[-1]
    assert (name, data["status"], data["kind"]) == ("error", 502, "RemoteError")
    line = next(entry for entry in log if entry.get("path") == "/v1/ask")
    assert (line["status"], line["error"]) == (200, "RemoteError")
    assert data["request_id"] == line["request_id"]


def test_a_stream_is_finished_at_the_end_and_nothing_new_is_ready(
    home: Path, endpoint: Endpoint
) -> None:
    body = {"question": QUESTION, "stream": True, "llm": "openai"}
    with serving(home, **endpoint.settings) as running:
        url = f"{running.urls[0]}/v1/ask"
        with httpx.Client(timeout=PATIENCE) as other, other.stream("POST", url, json=body) as open_:
            found = events(open_)
            assert [next(found)[0], next(found)[0]] == [":", "token"]
            assert running.get("/readyz").status_code == 200
            running.process.send_signal(signal.SIGTERM)
            while (ready := running.get("/readyz")).status_code == 200:
                pass
            assert (ready.status_code, ready.json()["kind"]) == (503, "NotReadyError")
            endpoint.may_answer.set()
            assert list(found)[-1][1]["text"] == "Pentosans bind water [1]."
        assert running.log()[-1]["event"] == "stopped"

    assert running.process.returncode == 0


def test_a_client_that_leaves_a_stream_harms_nobody(home: Path, endpoint: Endpoint) -> None:
    body = {"question": QUESTION, "stream": True, "llm": "openai"}
    with serving(home, **endpoint.settings) as running:
        with httpx.Client() as rude, rude.stream("POST", f"{running.urls[0]}/v1/ask", json=body):
            assert endpoint.asked.wait(PATIENCE)
        endpoint.may_answer.set()
        assert running.ask().status_code == 200
        running.stop()

    assert running.process.returncode == 0


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[tuple[WaitingIndex, Settings]]:
    index = WaitingIndex()
    yield index, Settings(home=tmp_path, serve_timeout=0.4)
    index.may_end.set()


def test_a_silent_stream_is_kept_open_until_its_time_is_over(
    slow: tuple[WaitingIndex, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, settings = slow
    monkeypatch.setattr(streaming, "HEARTBEAT", 0.05)
    twin = Twin("v1", index, None)  # type: ignore[arg-type]
    with TestClient(create_app(settings, twin)) as client:
        asked = client.post("/v1/ask", json={"question": QUESTION, "stream": True})

    *waiting, (name, data) = events(asked)
    assert len(waiting) > 2
    assert {name for name, _ in waiting} == {":"}
    assert (name, data["status"], data["kind"]) == ("error", 504, "TooSlow")
    assert "within 0.4 s" in data["error"]


def test_a_crash_in_a_stream_is_told_without_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words_twin: Twin
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("words of a stranger")

    monkeypatch.setattr(streaming, "pieces", broken)
    with TestClient(create_app(Settings(home=tmp_path), words_twin)) as client:
        asked = client.post("/v1/ask", json={"question": QUESTION, "stream": True})

    name, data = list(events(asked))[-1]
    assert (name, data["kind"]) == ("error", "InternalError")
    assert "stranger" not in asked.text


@pytest.mark.parametrize(
    "text",
    ["", "word", "  led by blanks", "a b c d e f g h", "ends\n", "\n\n", "ä\u2003b\n\n- c"],
)
def test_pieces_are_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text
