"""Small images that play versions of the service, good and bad, and a load that counts errors."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from llm_twin.delivery.buildkit import Recipe, build
from llm_twin.delivery.context import context_tar
from llm_twin.delivery.deploy.deployments import DeployFailed, deploy
from llm_twin.delivery.deploy.journal import Journal
from llm_twin.delivery.deploy.local import Local
from llm_twin.delivery.engine import Engine
from llm_twin.delivery.push import push
from llm_twin.delivery.reference import Reference
from llm_twin.delivery.registry import Registry
from llm_twin.settings import Settings
from tests.integration.registry_fixtures import docker_registry, free_port

QUESTION = "What is rye?"
CITATION = "notes/rye.md"
DOCKERFILE = """
ARG BASE
FROM ${BASE}
COPY server.py /server.py
ENV PYTHONDONTWRITEBYTECODE=1
ARG VERSION
ARG MODE
ENV VERSION=${VERSION} MODE=${MODE}
USER 10001
ENTRYPOINT ["python3", "-u", "/server.py"]
"""
SERVER = """
import http.server, json, os, re, signal, sys, threading, time

VERSION, MODE = os.environ["VERSION"], os.environ["MODE"]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(503 if MODE == "never" else 200, {"version": VERSION})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["question"]
        if found := re.match(r"wait (\\S+)", asked):
            time.sleep(float(found[1]))
        if MODE == "slow":
            time.sleep(0.6)
        if MODE == "dies":
            print("lost all courage")
            os._exit(4)
        if MODE == "500":
            return self.answer(500, {"error": "the index is gone"})
        link = "notes/wheat.md" if MODE == "wrong" else "notes/rye.md"
        citations = [] if MODE == "uncited" else [{"title": "Rye", "link": link}]
        self.answer(200, {"text": "Rye.", "citations": citations, "version": VERSION,
                          "abstained": MODE == "abstains"})

    def answer(self, status, body):
        body = b"<html>" if MODE == "garbage" and "citations" in body else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Request-ID", self.headers.get("X-Request-ID", "made"))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


if MODE == "crashes":
    sys.exit("no bundle is here")
try:
    open("/written", "w")
    sys.exit("this container may write to its root")
except OSError:
    open("/tmp/written", "w").close()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 100


server = Server(("0.0.0.0", 8000), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
os._exit(0)
"""


def stub_image(
    engine: Engine,
    base: str,
    host: str,
    folder: Path,
    version: str,
    mode: str = "good",
    labelled: bool = True,
) -> str:
    """Build and push a version from an empty folder; its reference by digest."""
    (folder / "Dockerfile").write_text(DOCKERFILE)
    (folder / "server.py").write_text(SERVER)
    ref = Reference.parse(f"{host}/stub:{version}-{mode}")
    labels = {"org.opencontainers.image.version": version}
    if labelled:
        labels |= {"llm-twin.smoke-question": QUESTION, "llm-twin.smoke-citation": CITATION}
    built = build(
        engine,
        context_tar(folder),
        Recipe(
            tags=(str(ref),),
            build_args={"BASE": base, "VERSION": version, "MODE": mode},
            labels=labels,
        ),
    )
    digest = push(engine, built.image_id, ref, Registry.open(host, lambda: None))
    return str(ref.pinned(digest))


class Load:
    """Twenty requests a second, half of them over a connection that is kept.

    Attributes:
        versions: that answered, in the order of their first answer.
        errors: what went wrong.
        answered: how many did not.

    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.versions: list[str] = []
        self.errors: list[str] = []
        self.answered = 0

    def ask(self, post: Callable[..., httpx.Response], question: str = QUESTION) -> None:
        try:
            answer = post(f"{self.url}/v1/ask", json={"question": question}, timeout=30)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            self.errors.append(repr(error))
            return
        self.answered += 1
        if (version := answer.json()["version"]) not in self.versions:
            self.versions.append(version)

    @contextlib.contextmanager
    def running(self) -> Iterator[Load]:
        done = threading.Event()
        with httpx.Client(trust_env=False) as kept:

            def post_anew(*args, **kwargs):
                return httpx.post(*args, trust_env=False, **kwargs)

            def repeat(post):
                began = time.monotonic()
                for number in range(10_000):
                    self.ask(post)
                    if done.wait(max(0, began + number / 10 - time.monotonic())):
                        return

            threads = [threading.Thread(target=repeat, args=[p]) for p in (kept.post, post_anew)]
            for thread in threads:
                thread.start()
            try:
                yield self
            finally:
                done.set()
                for thread in threads:
                    thread.join(30)
        assert self.errors == []
        assert self.answered > 0


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(scope="module")
def image(engine, base_image, registry, tmp_path_factory):
    """Make an image of a version, once."""
    made = {}

    def make(version, mode="good", **more):
        key = (version, mode, *more)
        if key not in made:
            folder = tmp_path_factory.mktemp("context")
            made[key] = stub_image(engine, base_image, registry, folder, version, mode, **more)
        return made[key]

    return make


class Site:
    """A state folder and what is deployed from it."""

    def __init__(self, home, engine):
        self.home = home
        self.engine = engine
        self.journal = Journal(home)
        self.port = free_port()
        self.target = Local(Settings(home=home), engine)
        self.told = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def deploy(self, image, **options):
        options = {"port": str(self.port), "ready": "20"} | options
        digest = image.partition("@")[2]
        return deploy(self.journal, self.target, image, digest, options, self.told.append)

    def fails(self, image, **options):
        with pytest.raises(DeployFailed) as caught:
            self.deploy(image, **options)
        return str(caught.value)

    def version(self):
        answer = httpx.post(f"{self.url}/v1/ask", json={"question": QUESTION}, trust_env=False)
        return answer.json()["version"] if answer.status_code == 200 else answer.status_code

    def containers(self):
        label = {"label": f"llm-twin.home={self.home}"}
        found = self.engine.api.containers(all=True, filters=label)
        return sorted(one["Names"][0].strip("/") for one in found)

    def backends(self):
        return [f"llm-twin-{live.id}" for live in [self.journal.live("local")] if live]
