"""The proxy behind the stable port: a real process between real clients and real backends."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from llm_twin.delivery.deploy.detached import Detached
from llm_twin.delivery.deploy.front import Front
from llm_twin.delivery.deploy.proxy import Proxy
from llm_twin.errors import BusyError, ConfigError, RemoteError


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/cut":
            self.close_connection = True
            return
        if self.path == "/stream":
            self.stream()
            return
        length = int(self.headers.get("Content-Length", 0))
        body = (
            self.read_chunks() if "Transfer-Encoding" in self.headers else self.rfile.read(length)
        )
        if self.path.startswith("/wait"):
            self.server.reached.set()
            self.server.go_on.wait(30)
        said = {
            "server": self.server.name,
            "method": self.command,
            "path": self.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body": body.decode(),
        }
        self.server.seen.append(self.command)
        content = json.dumps(said).encode()
        self.send_response(418 if self.path == "/teapot" else 200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Set-Cookie", "a=1")
        self.send_header("Set-Cookie", "b=2")
        self.send_header("Connection", "X-Private")
        self.send_header("X-Private", "for one connection")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_POST = do_PUT = do_HEAD = do_GET

    def read_chunks(self):
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def stream(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in (b"first", b"second"):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.flush()
            self.server.go_on.wait(30)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *args):
        pass


class Backend(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, name):
        super().__init__(("127.0.0.1", 0), Handler)
        self.name = name
        self.seen = []
        self.reached, self.go_on = threading.Event(), threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def end(self):
        self.shutdown()
        self.server_close()


@pytest.fixture
def backend():
    made = []

    def make(name="one"):
        made.append(Backend(name))
        return made[-1]

    yield make
    for one in made:
        one.go_on.set()
        with contextlib.suppress(OSError):
            one.end()


@pytest.fixture
def front(tmp_path):
    """The proxy, started without the front's help so that its coverage is measured."""
    found = Front(tmp_path / "front")
    found.folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        (found.folder / "port").write_text(str(listening.getsockname()[1]))
        process = subprocess.Popen(
            [sys.executable, "-m", "llm_twin.delivery.deploy.proxy", str(found.folder),
             str(listening.fileno())],
            pass_fds=[listening.fileno()], stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert json.loads(process.stdout.readline())["event"] == "listening"
    yield found
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)


@pytest.fixture
def client(front):
    with httpx.Client(base_url=front.url, trust_env=False, timeout=30) as made:
        yield made


def test_a_request_arrives_as_it_was_sent_and_so_does_its_answer(front, client, backend):
    front.point(backend().url)
    answer = client.put(
        "/a%20b/ü?q=1&q=%2F",
        content=b"body",
        headers={"X-Request-ID": "r-1", "Connection": "X-Hop", "X-Hop": "no", "TE": "trailers"},
    )
    said = answer.json()
    assert (said["method"], said["path"], said["body"]) == (
        "PUT",
        "/a%20b/%C3%BC?q=1&q=%2F",
        "body",
    )
    assert said["headers"]["x-request-id"] == "r-1"
    assert said["headers"]["host"] == f"127.0.0.1:{front.port}"
    assert not {"x-hop", "te"} & set(said["headers"])
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert "x-private" not in answer.headers
    assert client.get("/teapot").status_code == 418
    assert client.head("/").status_code == 200


def test_bodies_are_passed_on_in_pieces_as_they_come(front, client, backend):
    one = backend()
    front.point(one.url)
    with client.stream("GET", "/stream") as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"first"
        one.go_on.set()
        assert b"".join(pieces) == b"second"
    said = client.post("/", content=iter([b"in ", b"pieces"])).json()
    assert said["body"] == "in pieces"


def test_each_request_goes_to_the_backend_of_its_moment_on_one_kept_connection(front, backend):
    old, new = backend("old"), backend("new")
    front.point(old.url)
    connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=30)
    with contextlib.closing(connection):
        names = []
        for _ in range(2):
            connection.request("POST", "/", b"x")
            names.append(json.load(connection.getresponse())["server"])
            kept = connection.sock
            front.point(new.url)
            old.end() if len(names) == 1 else None
        assert names == ["old", "new"]
        assert connection.sock is kept


def test_requests_under_way_are_counted_and_waited_for(front, client, backend):
    old = backend("old")
    front.point(old.url)
    answers = []
    asking = threading.Thread(target=lambda: answers.append(client.get("/wait").json()))
    asking.start()
    assert old.reached.wait(30)
    assert front.status()["in_flight"] == {old.url: 1}
    front.point(backend("new").url)
    waiting = threading.Thread(target=front.drain, args=[old.url])
    waiting.start()
    time.sleep(0.2)
    assert waiting.is_alive()
    old.go_on.set()
    waiting.join(30)
    asking.join(30)
    assert answers[0]["server"] == "old"
    assert front.status()["in_flight"] == {}


def test_without_a_backend_the_answer_says_so(front, client):
    answer = client.post("/v1/ask", json={}, headers={"X-Request-ID": "r-2"})
    assert answer.status_code == 502
    said = {"error": "no twin is deployed here", "kind": "NotReadyError", "request_id": "r-2"}
    assert answer.json() == said
    assert answer.headers["x-request-id"] == "r-2"
    front.point("http://127.0.0.1:1")
    answer = client.get("/")
    assert (answer.status_code, answer.json()["error"]) == (502, "the twin does not run")
    assert len(answer.headers["x-request-id"]) == 32


def test_a_request_that_reached_a_backend_is_not_sent_again(front, client, backend):
    front.point(backend().url)
    answer = client.post("/cut", content=b"x")
    assert answer.status_code == 502
    assert answer.json()["error"] == "the twin gave no answer (RemoteProtocolError)"


def test_a_request_that_found_nobody_goes_to_the_one_who_came_meanwhile(tmp_path, backend):
    places = ["http://127.0.0.1:1", backend("new").url]

    class Moving(Proxy):
        def backend(self):
            return places.pop(0)

    async def ask():
        transport = httpx.ASGITransport(Moving(tmp_path))
        async with httpx.AsyncClient(transport=transport, base_url="http://front") as client:
            return await client.post("/", content=b"x")

    said = asyncio.run(ask()).json()
    assert (said["server"], said["body"], places) == ("new", "x", [])


def test_a_client_that_goes_away_disturbs_nobody(front, client, backend):
    one = backend()
    front.point(one.url)
    with socket.create_connection(("127.0.0.1", front.port)) as leaving:
        leaving.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        assert leaving.recv(10)
    with socket.create_connection(("127.0.0.1", front.port)) as leaving:
        leaving.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
    one.go_on.set()
    assert client.get("/").status_code == 200


def test_many_at_once_are_all_answered(front, backend):
    front.point(backend().url)
    statuses = []

    def ask():
        with httpx.Client(trust_env=False, timeout=30) as client:
            statuses.extend(client.get(front.url).status_code for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 200


def test_a_front_is_started_once_and_found_again_and_removed(tmp_path, backend):
    front = Front(tmp_path / "front")
    assert (front.port, front.status()) == (0, {})
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    front.start(port)
    try:
        pid = front.status()["pid"]
        front.start()
        front.start(port)
        assert front.status()["pid"] == pid
        front.point(backend().url)
        assert httpx.get(front.url, trust_env=False).json()["server"] == "one"
        with pytest.raises(ConfigError, match=f"has another port already: {port}"):
            front.start(port - 1)
        os.kill(pid, signal.SIGKILL)
        while Detached(front.folder).runs():
            time.sleep(0.01)
        front.start()
        assert front.port == port
        assert httpx.get(front.url, trust_env=False).json()["server"] == "one"
    finally:
        front.remove()
    assert not front.folder.exists()
    front.remove()


def test_a_port_that_cannot_be_had(tmp_path):
    front = Front(tmp_path / "front")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BusyError, match=rf"the port is taken: 127.0.0.1:{port}.*--port"):
            front.start(port)
    with pytest.raises(ConfigError, match=r"ports end at 65535.*70000"):
        front.start(70000)
    assert not front.folder.exists()


def test_a_proxy_that_cannot_start_says_why(tmp_path, monkeypatch):
    front = Front(tmp_path / "front")
    monkeypatch.setattr("llm_twin.delivery.deploy.front.MODULE", "llm_twin.nowhere")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(RemoteError, match=r"does not answer \(.*No module named llm_twin.nowhere"):
        front.start(port)


def test_what_is_no_front_is_not_taken_for_one(tmp_path, backend):
    front = Front(tmp_path)
    (tmp_path / "port").write_text(backend().url.rpartition(":")[2])
    assert front.status() == {}
