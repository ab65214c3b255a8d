"""The service under load while its workers are killed: whoever got an answer has a whole trace."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_twin.corpus import Document, chunk
from llm_twin.model.bundles import Bundles
from llm_twin.retrieval import open_index
from llm_twin.settings import Settings
from llm_twin.tracing.client import recover
from llm_twin.tracing.store.routing import Request
from llm_twin.tracing.store.store import Store

ROOT = Path(__file__).resolve().parents[2]
TEXT = "# Rye\n\n## Why rye loaves are sticky\n\nRye is rich in pentosans, which bind water.\n"
QUESTION = "Why are rye loaves sticky?"
PATIENCE = 60


@dataclass
class Running:
    """The service as a process."""

    process: subprocess.Popen[str]
    url: str

    def workers(self) -> list[int]:
        pid = self.process.pid
        path = Path(f"/proc/{pid}/task/{pid}/children")
        return [int(number) for number in path.read_text().split()]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path, embedder="words", embedder_home=tmp_path)
    bundles = Bundles(tmp_path / "models")
    building = bundles.stage()
    index = open_index(settings, building / "index.db", "v1", "")
    document = Document(uri="rye", title="Rye", text=TEXT, link="https://blog.example/rye")
    index.upsert(list(chunk(document, lambda text: len(text.split()), 160)), None)
    index.close()
    bundles.commit(building, "v1", {"embedder": ""})
    bundles.promote("v1")
    return settings


@pytest.fixture
def service(settings: Settings) -> Iterator[Running]:
    command = [sys.executable, "-m", "llm_twin.serving", "--port", "0", "--workers", "2"]
    env = {**os.environ, "TWIN_HOME": str(settings.home), "TWIN_EMBEDDER": "words"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        try:
            yield Running(process, json.loads(first)["urls"][0])
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE)


def ask(url: str, number: int) -> dict[str, Any] | None:
    """Ask on a connection of its own; None when a worker was killed meanwhile."""
    body = {"question": QUESTION, "thread": f"reader-{number}"}
    try:
        asked = httpx.post(f"{url}/v1/ask", json=body, timeout=PATIENCE)
    except httpx.TransportError:
        return None
    assert asked.status_code in (200, 429), asked.text
    return dict(asked.json()) if asked.status_code == 200 else None


def read(store: Store, path: str) -> dict[str, Any]:
    path, _, query = path.partition("?")
    pairs = dict(part.split("=") for part in query.split("&") if part)
    answer = store.handle(Request("GET", path, pairs))
    assert answer.status == 200, path
    assert isinstance(answer.body, bytes)
    return dict(json.loads(answer.body))


def test_killed_workers_lose_no_trace_of_an_answer_that_was_given(
    service: Running, settings: Settings
) -> None:
    random_ = random.Random(5)
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(ask, service.url, number) for number in range(120)]
        for _ in range(4):
            time.sleep(random_.uniform(0.3, 0.8))
            if workers := service.workers():
                os.kill(random_.choice(workers), signal.SIGKILL)
        answers = [answer for one in asked if (answer := one.result(PATIENCE))]
    service.process.terminate()
    service.process.communicate(timeout=PATIENCE)

    store = Store(settings.traces, settings)
    recover(settings, store)
    assert service.process.returncode == 0
    assert len(answers) > 20
    for answer in answers:
        identity = answer["trace_id"]
        trace = read(store, f"v1/private/traces/{identity}")
        assert trace["output"]["text"] == answer["text"]
        assert trace["thread_id"].startswith("reader-")
        assert trace["end_time"]
        found = read(store, f"v1/private/spans?trace_id={identity}&project_name=llm-twin&size=50")
        names = sorted(span["name"] for span in found["content"])
        assert {"answer", "retrieve", "generate", "cite"} <= set(names)
        assert len(names) == len(set(names))
    store.close()


def test_more_than_it_can_do_is_refused_and_the_rest_answered(service: Running) -> None:
    limits = httpx.Limits(max_connections=100)
    with (
        httpx.Client(timeout=PATIENCE, limits=limits) as client,
        ThreadPoolExecutor(80) as pool,
    ):
        url, body = f"{service.url}/v1/ask", {"question": QUESTION}
        asked = list(pool.map(lambda _: client.post(url, json=body), range(240)))
        statuses = {one.status_code for one in asked}
        assert client.get(f"{service.url}/healthz").status_code == 200
        text = client.get(f"{service.url}/metrics").text

    answered = [one for one in asked if one.status_code == 200]
    refused = [one for one in asked if one.status_code == 429]
    assert statuses <= {200, 429}
    assert len({one.json()["trace_id"] for one in answered}) == len(answered)
    counts = 'llm_twin_http_requests_total{path="/v1/ask",status="%d"} %d'
    for status, number in ((200, len(answered)), (429, len(refused))):
        assert counts % (status, number) in text
