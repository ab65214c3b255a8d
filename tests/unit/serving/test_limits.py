"""What the service does not do: too much at once, for too long, or what is malformed."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from running_service import PATIENCE, QUESTION, WaitingIndex
from starlette.testclient import TestClient

from llm_twin.errors import ConfigError
from llm_twin.serving import boundary, limits
from llm_twin.serving.api import create_app
from llm_twin.serving.twin import Twin
from llm_twin.settings import Settings

ASKED = {"question": QUESTION}


@pytest.fixture
def index() -> Iterator[WaitingIndex]:
    found = WaitingIndex()
    yield found
    found.may_end.set()


def client_of(settings: Settings, index: WaitingIndex) -> TestClient:
    return TestClient(create_app(settings, Twin("v1", index, None)))  # type: ignore[arg-type]


def test_a_few_wait_and_the_others_are_told_to_come_again(
    index: WaitingIndex, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, serve_concurrency=2)
    with client_of(settings, index) as client, ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(client.post, "/v1/ask", json=ASKED) for _ in range(10)]
        refused = []
        while len(refused) < 4:
            refused = [one.result(PATIENCE) for one in asked if one.done()]
        assert [index.searches.acquire(timeout=PATIENCE) for _ in range(2)] == [True] * 2
        assert client.get("/healthz").status_code == 200
        index.may_end.set()
        statuses = sorted(one.result(PATIENCE).status_code for one in asked)
        assert client.post("/v1/ask", json=ASKED).status_code == 200

    assert statuses == [200] * 6 + [429] * 4
    assert {one.headers["retry-after"] for one in refused} == {"1"}
    assert refused[0].json()["error"].startswith("too many questions are being answered")


def test_who_waits_too_long_is_told_so(
    index: WaitingIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "QUEUE_SECONDS", 0.05)
    settings = Settings(home=tmp_path, serve_concurrency=1)
    with client_of(settings, index) as client, ThreadPoolExecutor() as pool:
        first = pool.submit(client.post, "/v1/ask", json=ASKED)
        assert index.searches.acquire(timeout=PATIENCE)
        chat = {"model": "llm-twin", "messages": [{"role": "user", "content": QUESTION}]}
        refused = client.post("/v1/chat/completions", json=chat)
        index.may_end.set()
        assert first.result(PATIENCE).status_code == 200

    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"


def test_a_slow_answer_is_given_up_but_keeps_its_place_until_it_is_done(
    index: WaitingIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "QUEUE_SECONDS", 0.05)
    settings = Settings(home=tmp_path, serve_concurrency=1, serve_timeout=0.1)
    with client_of(settings, index) as client:
        slow = client.post("/v1/ask", json=ASKED)
        full = client.post("/v1/ask", json=ASKED)
        index.may_end.set()
        while (again := client.post("/v1/ask", json=ASKED)).status_code == 429:
            pass

    assert (slow.status_code, slow.json()["kind"]) == (504, "TooSlow")
    assert slow.json()["error"] == "the answer was not done within 0.1 s. Ask again later"
    assert full.status_code == 429
    assert again.status_code == 200


@pytest.mark.parametrize(
    "settings", [{"serve_concurrency": 0}, {"serve_timeout": 0.0}, {"serve_timeout": float("nan")}]
)
def test_limits_that_let_nothing_through_are_refused(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="TWIN_SERVE_"):
        create_app(Settings(home=tmp_path, **settings))


def test_a_body_that_does_not_arrive_is_not_waited_for(
    words_twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boundary, "BODY_SECONDS", 0.05)
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(PATIENCE)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/ask", "raw_path": b"/v1/ask",
        "query_string": b"", "headers": [], "http_version": "1.1", "scheme": "http",
    }  # fmt: skip
    asyncio.run(create_app(Settings(home=tmp_path), words_twin)(scope, receive, send))

    assert sent[0]["status"] == 408
    assert b"did not arrive within" in sent[1]["body"]


SEEDS = [
    {"question": QUESTION, "k": 5, "llm": "", "thread": "t", "stream": True},
    {
        "model": "llm-twin",
        "messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "n": 1,
        "max_tokens": 5,
        "stop": ["a"],
        "user": "u",
        "metadata": {"thread_id": "t"},
    },
    {
        "trace_id": "01a208e6-b19a-79cb-ab4e-3d43200bf2f7",
        "score": "up",
        "name": "n",
        "reason": "r",
        "correction": "c",
    },
]
STRANGE = [
    None, True, -1, 0, 10**400, 1.5, "", "x", "\x00", "\ud800", "�\u202e", [], [[]], {}, {"": {}},
    "up", "9" * 5000, [None] * 50, {"$ref": "#"}, "NaN", "01a208e6", ["x", {"type": "text"}],
]  # fmt: skip
RAW = [
    b"", b"null", b"[" * 20_000, b'{"question":' * 5000, b"\xff\xfe", b"{" + b" " * 9000,
    b'{"question": NaN}', b'{"score": Infinity}', b'"\\ud800"', b'{"a":1,"a":2}', b"1e999",
    b'{"question": "\\u0000\\ud83d"}', b"x=1&y=2", b"--b\r\nContent-Disposition: form-data\r\n",
]  # fmt: skip


def mutated(seed: Any, random_: random.Random) -> Any:
    """One value somewhere inside, replaced, dropped or added."""
    body = json.loads(json.dumps(seed))
    place: Any = body
    while True:
        key = random_.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not isinstance(place[key], dict | list) or not place[key] or random_.random() < 0.4:
            break
        place = place[key]
    choice = random_.random()
    if choice < 0.15:
        del place[key]
    elif choice < 0.3 and isinstance(place, dict):
        place[random_.choice(["", "extra", "k\x00"])] = random_.choice(STRANGE)
    else:
        place[key] = random_.choice(STRANGE)
    return body


@pytest.mark.parametrize(
    "path", ["/v1/ask", "/invocations", "/v1/chat/completions", "/v1/feedback"]
)
def test_hundreds_of_malformed_bodies_are_never_the_services_fault(
    words_twin: Twin, tmp_path: Path, path: str
) -> None:
    """Its fault would be a 500; a 503 says that it does not trace."""
    random_ = random.Random(path)
    bodies = [json.dumps(mutated(random_.choice(SEEDS), random_)).encode() for _ in range(200)]
    cut = [body[: random_.randrange(len(body))] for body in bodies[:60]]
    statuses: dict[int, int] = {}
    with TestClient(create_app(Settings(home=tmp_path), words_twin)) as client:
        for body in [*bodies, *cut, *RAW]:
            told = client.post(path, content=body)
            statuses[told.status_code] = statuses.get(told.status_code, 0) + 1
            assert told.status_code < 500 or told.status_code == 503, (body[:200], told.text)

    assert statuses[422 if "chat" not in path else 400] > 100
