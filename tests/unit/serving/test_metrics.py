"""Figures as Prometheus reads them."""

from __future__ import annotations

from multiprocessing import get_context
from pathlib import Path

import pytest
from running_service import QUESTION, serving
from starlette.testclient import TestClient

from llm_twin.serving.api import create_app
from llm_twin.serving.metrics import Figures
from llm_twin.serving.twin import Twin
from llm_twin.settings import Settings


def read(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_what_was_asked_is_counted(words_twin: Twin, tmp_path: Path) -> None:
    with TestClient(create_app(Settings(home=tmp_path, api_keys=""), words_twin)) as client:
        client.post("/v1/ask", json={"question": QUESTION})
        client.post("/v1/ask", json={"question": "What is the capital of Mongolia?"})
        client.post("/v1/ask", json={"question": QUESTION, "stream": True})
        client.post("/v1/ask", json={})
        client.post("/v1/ask", content=b"x" * 70_000)
        client.get("/somewhere/else")
        told = client.get("/metrics")

    found = read(told.text)
    assert told.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    requests = 'llm_twin_http_requests_total{path="/v1/ask",status="%s"}'
    assert [found[requests % status] for status in ("200", "413", "422")] == [3, 1, 1]
    assert found['llm_twin_http_requests_total{path="other",status="404"}'] == 1
    assert found['llm_twin_answers_total{mode="extractive",declined="false"}'] == 2
    assert found['llm_twin_answers_total{mode="extractive",declined="true"}'] == 1
    assert found['llm_twin_refusals_total{reason="size"}'] == 1
    assert found['llm_twin_tokens_total{kind="prompt"}'] == 6 + 7 + 6
    assert found['llm_twin_tokens_total{kind="completion"}'] > 50
    assert found["llm_twin_http_requests_in_flight"] == 1


def test_the_histogram_counts_up(words_twin: Twin, tmp_path: Path) -> None:
    figures = Figures()
    for seconds in (0.001, 0.02, 0.02, 3.0, 500.0):
        figures.begin()
        figures.end("/v1/ask", 200, seconds)

    found = read(figures.render())
    name = 'llm_twin_http_request_seconds_bucket{path="/v1/ask",le="%s"}'
    bounds = ("0.005", "0.01", "0.025", "2.5", "5", "60", "+Inf")
    assert [found[name % bound] for bound in bounds] == [1, 1, 3, 3, 4, 4, 5]
    assert found['llm_twin_http_request_seconds_count{path="/v1/ask"}'] == 5
    assert found['llm_twin_http_request_seconds_sum{path="/v1/ask"}'] == pytest.approx(503.041)
    assert found['llm_twin_http_request_seconds_bucket{path="/invocations",le="+Inf"}'] == 0
    assert found["llm_twin_http_requests_in_flight"] == 0


@pytest.mark.parametrize(
    ("path", "status", "series"),
    [
        ("/v1/ask", None, 'path="/v1/ask",status="none"'),
        ("/v1/ask", 418, 'path="/v1/ask",status="other"'),
        ("/v1/ask/../../etc", 404, 'path="other",status="404"'),
    ],
)
def test_what_clients_send_makes_no_new_series(path: str, status: int | None, series: str) -> None:
    figures = Figures()
    before = read(figures.render()).keys()
    figures.end(path, status, 0.1)

    after = read(figures.render())
    assert after.keys() == before
    assert after[f"llm_twin_http_requests_total{{{series}}}"] == 1


def _count(figures: Figures, worker: int) -> None:
    figures.become(worker)
    figures.begin()
    figures.begin()
    figures.end("/v1/ask", 200, 0.1)


def test_workers_are_summed_and_a_new_one_counts_on() -> None:
    figures = Figures(2)
    fork = get_context("fork")
    for worker in (0, 1, 1):
        process = fork.Process(target=_count, args=(figures, worker))
        process.start()
        process.join(60)

    found = read(figures.render())
    assert found['llm_twin_http_requests_total{path="/v1/ask",status="200"}'] == 3
    assert found["llm_twin_http_requests_in_flight"] == 2


def test_the_traces_figures_are_there_when_it_traces(home: Path) -> None:
    with serving(home) as running:
        running.ask()
        traced = running.get("/metrics").text
    with serving(home, TWIN_TRACE="0") as running:
        untraced = running.get("/metrics").text

    assert "llm_twin_traces_stored_total" in traced
    assert "llm_twin_traces" not in untraced
