"""The HTTP service: a real process over a real bundle, asked as clients and platforms ask."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from running_service import PATIENCE, QUESTION, Endpoint, Service, command, promote, serving
from small_corpora import settings_for

from llm_twin.corpus.document import Chunk
from llm_twin.errors import SpaceError
from llm_twin.retrieval.minilm import MiniLM
from llm_twin.serving.answer import answer
from llm_twin.serving.api import create_app
from llm_twin.serving.llm import Completion
from llm_twin.serving.production import OpenTwin, Production
from llm_twin.serving.twin import Twin, open_production
from llm_twin.settings import Settings

QUESTIONS = [QUESTION, "How do I feed the sourdough starter?", "How long does rye bread keep?"]
TASK = """
from invoke import Collection, Program
from ci.serve import serve
Program(namespace=Collection(serve)).run()
"""


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[Service]:
    with serving(home, "serve", "--port", "0,0") as running:
        yield running


def test_it_answers_as_the_command_does(service: Service, home: Path) -> None:
    twin = open_production(settings_for(home))
    expected = answer(QUESTION, twin, k=3).to_dict()
    twin.close()

    got = service.ask(k=3).json()

    assert got["version"] == "v1"
    assert got["request_id"]
    assert got["timings"].keys() == expected["timings"].keys()
    for field in ("text", "citations", "abstained", "confidence", "mode", "model", "note"):
        assert got[field] == expected[field]
    assert "pentosans" in got["text"]


def test_it_declines_what_the_texts_do_not_say(service: Service) -> None:
    got = service.ask("What is the capital of Mongolia?").json()

    assert got["abstained"] is True
    assert got["citations"] == []


def test_sagemakers_contract_is_answered_too_and_on_every_port(service: Service) -> None:
    assert len(service.urls) == 2
    for url in service.urls:
        assert service.client.get(f"{url}/ping").status_code == 200
        asked = service.client.post(f"{url}/invocations", json={"question": QUESTION})
        assert asked.json()["text"] == service.ask().json()["text"]


def test_health_and_readiness(service: Service) -> None:
    assert service.get("/healthz").json() == {"status": "alive"}
    assert service.get("/readyz").json() == {"status": "ready", "version": "v1"}


def test_the_body_is_described(service: Service) -> None:
    described = service.get("/openapi.json").json()["paths"]["/v1/ask"]["post"]
    schema = described["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["question"]


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", None])
def test_a_body_is_json_whatever_it_is_called(service: Service, kind: str | None) -> None:
    """As ``curl -d`` sends it, and as SageMaker does without a ContentType."""
    headers = {"Content-Type": kind} if kind else {}
    body = json.dumps({"question": QUESTION}).encode()
    asked = service.client.post(f"{service.urls[0]}/v1/ask", content=body, headers=headers)
    assert asked.status_code == 200


def raw(service: Service, body: bytes) -> httpx.Response:
    return service.client.post(f"{service.urls[0]}/v1/ask", content=body)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 422, "it is not a JSON object"),
        (b'{"question":', 422, "it is not a JSON object"),
        (b"[]", 422, "it is not a JSON object"),
        (b'{"question": "\xff"}', 422, "it is not a JSON object"),
        (b"{}", 422, 'question: Field required. Send JSON like {"question": "What is'),
        (b'{"question": 1}', 422, "question: Input should be a valid string"),
        (b'{"question": "x", "k": "many"}', 422, "k: Input should be a valid integer"),
        (b'{"question": "x", "kk": 1}', 422, "kk: Extra inputs are not permitted"),
        (b'{"question": "x", "llm": "gpt"}', 422, "llm: Input should be"),
        (b'{"question": " ?! "}', 400, "the question holds no word"),
        (b'{"question": "x", "k": 0}', 400, "k is out of range: 0. Ask for 1 to 50 passages"),
        (json.dumps({"question": "w" * 4001}).encode(), 400, "the question is too long"),
        (b"x" * 65_537, 413, "larger than 65,536 bytes"),
        (b"x" * 1_000_000, 413, "larger than 65,536 bytes"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(
    service: Service, body: bytes, status: int, said: str
) -> None:
    refused = raw(service, body)

    assert refused.status_code == status
    assert said in refused.json()["error"]
    assert refused.json()["kind"] == "UserError"
    assert refused.json()["request_id"] == refused.headers["X-Request-ID"]


def test_the_longest_question_fits_however_it_is_escaped(service: Service) -> None:
    body = json.dumps({"question": "\N{MATHEMATICAL BOLD CAPITAL A}" * 4000}).encode()
    assert raw(service, body).status_code == 200


def test_other_addresses_and_methods(service: Service) -> None:
    missing, wrong = service.get("/nothing"), service.get("/v1/ask")

    assert (missing.status_code, missing.json()["error"]) == (404, "there is nothing here")
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")


def test_a_request_id_is_passed_through_or_made(service: Service) -> None:
    def asked_with(given: str) -> str:
        headers = {"X-Request-ID": given}
        return service.client.get(f"{service.urls[0]}/healthz", headers=headers).headers[
            "X-Request-ID"
        ]

    assert asked_with("build-42.a:b_c") == "build-42.a:b_c"
    for bad in ("", "two words", "x" * 200, '"}'):
        assert asked_with(bad) not in ("", bad)
    assert asked_with("") != asked_with("")


def test_many_at_once_get_what_each_would_get_alone(
    baker: list[Chunk], minilm: MiniLM, embedder_home: Path, tmp_path: Path
) -> None:
    promote(tmp_path, baker, "v1", minilm)
    env = {"TWIN_EMBEDDER": "minilm", "TWIN_EMBEDDER_HOME": str(embedder_home)}
    with serving(tmp_path, **env) as running:
        alone = {question: running.ask(question).json()["text"] for question in QUESTIONS}
        with ThreadPoolExecutor(12) as pool:
            asked = list(pool.map(running.ask, QUESTIONS * 12))
        assert [one.status_code for one in asked] == [200] * 36
        assert [one.json()["text"] for one in asked] == [alone[q] for q in QUESTIONS * 12]
        assert len({one.json()["request_id"] for one in asked}) == 36


def test_a_twin_promoted_later_answers_without_a_restart_or_a_lost_request(
    baker: list[Chunk], notes: list[Chunk], tmp_path: Path
) -> None:
    promote(tmp_path, baker, "v1")
    with serving(tmp_path) as running:
        done = threading.Event()

        def keep_asking(_: int) -> list[tuple[int, str]]:
            seen = []
            while not done.is_set():
                asked = running.ask()
                seen.append((asked.status_code, asked.json()["version"]))
            return seen

        with ThreadPoolExecutor(4) as pool:
            loads = [pool.submit(keep_asking, number) for number in range(4)]
            try:
                assert running.ask().json()["version"] == "v1"
                for version in ("v2", "v3"):
                    promote(tmp_path, [*baker, *notes], version)
                    # While one request opens it, the others are answered by the one before.
                    until = time.monotonic() + PATIENCE
                    while (ready := running.get("/readyz").json()["version"]) != version:
                        assert time.monotonic() < until, ready
            finally:
                done.set()
            seen = [one for load in loads for one in load.result(PATIENCE)]

        assert {status for status, _ in seen} == {200}
        assert running.ask("When do swallows fly low?").json()["citations"]


def test_a_damaged_twin_is_refused_and_the_one_before_goes_on(
    baker: list[Chunk], tmp_path: Path
) -> None:
    promote(tmp_path, baker, "v1")
    with serving(tmp_path) as running:
        assert running.ask().json()["version"] == "v1"
        (promote(tmp_path, baker, "v2") / "index.db").write_bytes(b"half")
        assert [running.ask().json()["version"] for _ in range(3)] == ["v1"] * 3
        promote(tmp_path, baker, "v3")
        assert running.ask().json()["version"] == "v3"
        refused = [entry for entry in running.stop() if entry.get("event") == "refused"]

    assert len(refused) == 1
    assert "The bundle is damaged" in refused[0]["reason"]


def test_deleting_the_state_folder_does_not_stop_it(baker: list[Chunk], tmp_path: Path) -> None:
    promote(tmp_path, baker, "v1")
    with serving(tmp_path) as running:
        (tmp_path / "models" / "production").unlink()
        assert running.ask().status_code == 200


def test_an_llm_writes_the_answer(home: Path, endpoint: Endpoint) -> None:
    endpoint.may_answer.set()
    with serving(home, TWIN_LLM="openai", **endpoint.settings) as running:
        got = running.ask().json()
        quoted = running.ask(llm="extractive").json()

    assert (got["mode"], got["text"]) == ("openai", "Pentosans bind water [1].")
    assert quoted["mode"] == "extractive"


def test_a_failing_llm_is_a_bad_gateway_without_its_words(home: Path, endpoint: Endpoint) -> None:
    endpoint.may_answer.set()
    endpoint.status = 400
    with serving(home, **endpoint.settings) as running:
        failed = running.ask(llm="openai")
        log = running.stop()

    assert failed.status_code == 502
    assert failed.json()["kind"] == "RemoteError"
    assert failed.json()["error"] == "a server that the twin asked did not answer as it should"
    line = next(entry for entry in log if entry.get("status") == 502)
    assert line["request_id"] == failed.json()["request_id"]
    assert "HTTP 400" in line["where"]
    for private in ("stranger", "key-of-the-endpoint", QUESTION):
        assert private not in failed.text + json.dumps(log)


@pytest.mark.parametrize("llm", ["openai", "local"])
def test_an_llm_that_the_service_was_not_given_cannot_be_asked_for(
    service: Service, llm: str
) -> None:
    refused = service.ask(llm=llm)

    assert (refused.status_code, refused.json()["kind"]) == (400, "UserError")
    assert refused.json()["error"] == f"this service has no such LLM: '{llm}'. Leave it out"


def test_the_log_is_a_line_a_request_and_never_what_was_asked(home: Path) -> None:
    with serving(home) as running:
        for question in (QUESTION, "?" * 30, "rye " * 2000):
            running.ask(question)
        running.client.get(f"{running.urls[0]}/readyz?q=rye+loaves")
        log = running.stop()

    *requests, last = log
    assert last["event"] == "stopped"
    assert [entry["status"] for entry in requests] == [200, 400, 400, 200]
    assert requests[0]["version"] == "v1"
    assert requests[0]["abstained"] is False
    assert {"time", "request_id", "method", "path", "status", "ms"} <= requests[3].keys()
    assert "rye" not in json.dumps(log)
    assert "???" not in json.dumps(log)


def test_a_client_that_hangs_up_harms_nobody(home: Path) -> None:
    with serving(home) as running:
        port = httpx.URL(running.urls[0]).port
        with socket.create_connection(("127.0.0.1", port)) as rude:
            rude.sendall(b"POST /v1/ask HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{")
            running.get("/healthz")
        assert running.ask().status_code == 200
        log = running.stop()

    assert [entry["error"] for entry in log if "error" in entry] == ["ClientDisconnect"]


def test_a_running_request_is_finished_at_the_end(home: Path, endpoint: Endpoint) -> None:
    with serving(home, **endpoint.settings) as running, ThreadPoolExecutor() as pool:
        asked = pool.submit(running.ask, llm="openai")
        assert endpoint.asked.wait(PATIENCE)
        running.process.send_signal(signal.SIGTERM)
        wait_until_refused(running.urls[0])
        endpoint.may_answer.set()
        assert asked.result(PATIENCE).json()["text"] == "Pentosans bind water [1]."
        assert running.log()[-1]["event"] == "stopped"

    assert running.process.returncode == 0


def test_the_end_is_bounded(home: Path, endpoint: Endpoint) -> None:
    flags = ("--port", "0", "--grace", "0.3")
    with serving(home, *flags, **endpoint.settings) as running, ThreadPoolExecutor() as pool:
        asked = pool.submit(running.ask, llm="openai")
        assert endpoint.asked.wait(PATIENCE)
        assert running.stop()[-1]["error"] == "requests that still ran were cut off"
        assert isinstance(asked.exception(PATIENCE), httpx.TransportError)

    assert running.process.returncode == 1


def wait_until_refused(url: str) -> None:
    for _ in range(1000):
        try:
            socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0)).close()
        except ConnectionRefusedError:
            return
        threading.Event().wait(0.02)
    pytest.fail("it still takes connections")


def test_ctrl_c_ends_it_too(home: Path) -> None:
    with serving(home) as running:
        running.process.send_signal(signal.SIGINT)
        running.log()

    assert running.process.returncode == 0


def test_it_writes_nothing_outside(home: Path, tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    with serving(home, PYTHONDONTWRITEBYTECODE="1", **env) as running:
        running.ask()
        running.stop()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", ["", TASK])
def test_without_a_twin_it_says_how_to_make_one(tmp_path: Path, code: str) -> None:
    flags = ("serve",) if code else ()
    with command(tmp_path, *flags, code=code) as process:
        out, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 2
    assert err.startswith("error: there is no twin yet")
    assert "invoke ct" in err
    assert out == ""


def test_invoke_serve(home: Path) -> None:
    with serving(home, "serve", "--port", "0", code=TASK) as running:
        assert running.urls[0].startswith("http://127.0.0.1:")
        assert running.ask().status_code == 200
        running.stop()

    assert running.process.returncode == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--port", "70000"), "cannot listen there (ports end at 65535)"),
        (("--host", "192.0.2.1", "--port", "0"), "cannot listen there ("),
        (("--host", "no host", "--port", "0"), "cannot listen there ("),
    ],
)
def test_an_address_that_cannot_be(home: Path, flags: tuple[str, ...], said: str) -> None:
    with command(home, *flags) as process:
        _, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 2
    assert err.startswith(f"error: {said}")


def test_a_port_that_is_taken(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        with command(home, TWIN_PORTS=f"0,{port}") as process:
            _, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 2
    assert err == (
        f"error: the port is taken: 127.0.0.1:{port}. Set --host and --port; port 0 is a free one\n"
    )


def test_an_llm_that_every_request_would_need_is_checked_at_the_start(home: Path) -> None:
    with command(home, TWIN_LLM="openai", TWIN_LLM_MODEL="") as process:
        _, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 2
    assert "no model is named for the LLM endpoint" in err


async def asked(app: Any, method: str, path: str, **more: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://twin") as client:
        return await client.request(method, path, **more)


@pytest.mark.anyio
async def test_an_app_without_a_twin_lives_but_is_not_ready(tmp_path: Path) -> None:
    app = create_app(settings_for(tmp_path))

    ready = await asked(app, "GET", "/readyz")
    refused = await asked(app, "POST", "/v1/ask", json={"question": QUESTION})

    assert (await asked(app, "GET", "/healthz")).status_code == 200
    assert (ready.status_code, refused.status_code) == (503, 503)
    assert ready.json()["error"].endswith("Make one: invoke ct; if the gate refused it, see why: "
                                          "invoke runs")  # fmt: skip


@pytest.mark.anyio
async def test_an_app_over_a_given_twin_stays_with_it(
    words_twin: Twin, notes: list[Chunk], tmp_path: Path
) -> None:
    promote(tmp_path, notes, "v9")
    app = create_app(settings_for(tmp_path), words_twin)

    got = await asked(app, "POST", "/v1/ask", json={"question": QUESTION})

    assert got.json()["version"] == words_twin.version
    assert "pentosans" in got.json()["text"]


@pytest.mark.anyio
async def test_another_asgi_server_may_open_and_close_it(tmp_path: Path) -> None:
    told = [{"type": "lifespan.shutdown"}, {"type": "lifespan.startup"}]
    heard: list[str] = []

    async def receive() -> Any:
        return told.pop()

    async def send(message: Any) -> None:
        heard.append(message["type"])

    await create_app(settings_for(tmp_path))({"type": "lifespan"}, receive, send)

    assert heard == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


class Broken:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def search(self, *_: object) -> None:
        raise self.error

    embedder = "words"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (RuntimeError("words of a stranger"), 500, "something went wrong here"),
        (SpaceError("the disk is full", "words of a stranger"), 503, "the twin is not ready"),
    ],
)
async def test_a_crash_is_told_without_its_words(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, error: Exception, status: int, said: str
) -> None:
    twin = Twin("v1", Broken(error), None)  # type: ignore[arg-type]
    app = create_app(settings_for(tmp_path), twin)

    crashed = await asked(app, "POST", "/v1/ask", json={"question": QUESTION})

    line = json.loads(capsys.readouterr().out)
    assert crashed.status_code == status
    assert crashed.json()["error"].startswith(said)
    assert "stranger" not in crashed.text
    assert line["request_id"] == crashed.headers["X-Request-ID"]
    assert line["error"] == type(error).__name__
    if status == 500:
        assert line["at"][-1].endswith(" search")
        assert "stranger" not in json.dumps(line)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_an_old_twin_is_closed_when_its_last_request_is_done(
    baker: list[Chunk], tmp_path: Path
) -> None:
    promote(tmp_path, baker, "v1")
    production = Production(settings_for(tmp_path), None, print)
    running = production.current()
    index = running.twin.index
    promote(tmp_path, baker, "v2")

    assert production.current().twin.version == "v2"
    assert not running.answer(QUESTION, 5).abstained
    del running
    with pytest.raises(Exception, match=r"closed|not an index"):
        index.count()


def test_the_small_model_answers_one_at_a_time(
    words_twin: Twin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    at_once: list[int] = []
    inside: list[int] = []

    def complete(*_: object) -> Completion:
        inside.append(1)
        at_once.append(len(inside))
        inside.pop()
        return Completion("Rye [1].", "small")

    small = SimpleNamespace(mode="local", model="small", prompt="local", note="", complete=complete)
    opened = OpenTwin(words_twin, Settings(home=tmp_path, llm="local"))
    monkeypatch.setattr("llm_twin.serving.production.open_llm", lambda *_: small)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: opened.answer(QUESTION, 5), range(24)))

    assert {one.text for one in found} == {"Rye [1]."}
    assert set(at_once) == {1}
