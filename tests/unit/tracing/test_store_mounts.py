"""The two ways in: a transport in this process and a server of its own, with and without a key."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from store_calls import PROJECT, row

from llm_twin.errors import BusyError, ConfigError
from llm_twin.settings import Settings
from llm_twin.tracing.serve import serve
from llm_twin.tracing.store.mounts import transport
from llm_twin.tracing.store.store import Store

KEY = "key-of-the-store"  # pragma: allowlist secret
PROGRAM = """
import pathlib, sys
from llm_twin.settings import Settings
from llm_twin.tracing.serve import serve
env = {"TWIN_HOME": sys.argv[1], "TWIN_TRACE_KEY": sys.argv[3]}
serve(Settings.load(env, root=pathlib.Path(sys.argv[1])), host=sys.argv[2], port=0)
"""


class Server:
    """The store in a process of its own."""

    def __init__(self, home: Path, host: str = "127.0.0.1", key: str = "") -> None:
        arguments = [sys.executable, "-c", PROGRAM, str(home), host, key]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        self.url = line.removeprefix("OPIK_URL_OVERRIDE=")
        port = httpx.URL(self.url).port
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/", timeout=30)

    def end(self, how: int = signal.SIGTERM) -> int:
        """Stop it; return its exit status."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.end()


@pytest.fixture(params=["transport", "server"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[httpx.Client]:
    if request.param == "server":
        yield request.getfixturevalue("server").client
        return
    store = Store(tmp_path)
    with httpx.Client(transport=transport(store), base_url="http://localhost/api/") as client:
        yield client
    store.close()


def test_both_mounts_answer_the_same(client: httpx.Client) -> None:
    assert client.get("is-alive/ping").status_code == 200
    trace = row(input={"q": "grüß"})
    assert client.post("v1/private/traces/batch", json={"traces": [trace]}).status_code == 204
    stream = client.post("v1/private/traces/search", json={"project_name": PROJECT})
    assert [json.loads(line)["id"] for line in stream.iter_lines()] == [trace["id"]]
    page = client.get("v1/private/traces", params={"project_name": PROJECT, "search": "grüß"})
    assert page.json()["total"] == 1
    missing = client.get("v1/private/nowhere")
    assert (missing.status_code, missing.json()["code"]) == (404, 404)
    outside = client.get(client.base_url.copy_with(path="/nowhere"))
    assert (outside.status_code, outside.json()["message"]) == (
        404,
        "no such path: /nowhere; the API is below /api/",
    )


def test_a_body_may_come_in_chunks_and_no_more_than_allowed(server: Server) -> None:
    chunks = (b" " * 1024**2 for _ in range(65))
    answer = server.client.post("v1/private/traces/batch", content=chunks)
    assert answer.status_code == 413
    few = (part for part in (b'{"traces"', b": []}"))
    assert server.client.post("v1/private/traces/batch", content=few).status_code == 204


def test_what_was_acknowledged_over_http_survives_a_kill(tmp_path: Path) -> None:
    server = Server(tmp_path)
    kept: list[str] = []

    def write() -> None:
        with httpx.Client(base_url=server.client.base_url, timeout=30) as client:
            while True:
                rows = [row() for _ in range(20)]
                try:
                    answer = client.post("v1/private/traces/batch", json={"traces": rows})
                except httpx.HTTPError:
                    return
                assert answer.status_code == 204
                kept.extend(one["id"] for one in rows)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for one in writers:
        one.start()
    while len(kept) < 400 and any(one.is_alive() for one in writers):
        writers[0].join(0.01)
    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    for one in writers:
        one.join(20)
    assert len(kept) >= 400
    store = Store(tmp_path / "traces")
    with store.database.read() as db:
        stored = {identity for (identity,) in db.execute("SELECT id FROM trace")}
    assert set(kept) <= stored


def test_web_pages_and_names_of_others_are_kept_out(server: Server) -> None:
    def status(**headers: str) -> int:
        return server.client.get("is-alive/ping", headers=headers).status_code

    assert status() == 200
    assert status(Host="localhost:1") == 200
    assert status(Host="evil.example:5173") == 403
    assert status(Host="[::1") == 403
    assert status(Origin="http://evil.example") == 403
    assert status(Origin=str(server.client.base_url.copy_with(path="/")).rstrip("/")) == 200


def test_beyond_this_machine_a_key_is_asked_for(tmp_path: Path) -> None:
    server = Server(tmp_path, "0.0.0.0", KEY)
    try:
        assert server.url.startswith("http://0.0.0.0:")
        for headers in ({}, {"Authorization": "wrong"}, {"Authorization": b"k\xe9y"}):
            answer = server.client.get("is-alive/ping", headers=headers)
            assert answer.status_code == 401
            assert "OPIK_API_KEY" in answer.json()["message"]
        for given in (KEY, f"Bearer {KEY}"):
            headers = {"Authorization": given, "Host": "store.example"}
            assert server.client.get("is-alive/ping", headers=headers).status_code == 200
    finally:
        server.end()
    with pytest.raises(ConfigError, match=r"needs an access key: 0\.0\.0\.0\. Set TWIN_TRACE_KEY"):
        serve(Settings(home=tmp_path), "0.0.0.0", 0)


def test_an_address_that_cannot_be_had_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BusyError, match=f"the port is taken: 127.0.0.1:{port}"):
            serve(Settings(home=tmp_path), port=port)


def test_it_ends_when_it_is_interrupted_and_listens_at_ipv6_too(tmp_path: Path) -> None:
    server = Server(tmp_path, "::1")
    assert server.url.startswith("http://[::1]:")
    assert httpx.get(f"{server.url}is-alive/ping").status_code == 200
    assert server.end(signal.SIGINT) == 0
