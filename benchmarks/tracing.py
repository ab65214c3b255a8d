"""What one traced answer costs its caller: disabled, ours, plain Opik, and with ``--peers`` others.

A traced answer is one trace with two spans and 2 KB of text. CPU is that of the calling thread
alone; everything beside it (batching, sending, storing) is shown as CPU of the process. Plain Opik
sends to a server that reads and answers and does nothing else. Each kind runs in a process of its
own, several times in turn; medians are shown.

::

    python benchmarks/tracing.py [--calls 300] [--rate 50] [--rounds 3] [--peers]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TEXT = ("The starter is fed with fifty grams of rye flour every morning. " * 40)[:2048]
NULL = "TRACING_BENCHMARK_URL"
PEERS = {"langfuse": ["langfuse"], "otel": ["opentelemetry-sdk", "opentelemetry-exporter-otlp"]}

Answer = Callable[[int], object]


def disabled() -> tuple[Answer, Callable[[], object]]:
    """Our decorator while nothing is traced."""
    return _marked(), lambda: None


def ours() -> tuple[Answer, Callable[[], object]]:
    """Our tracing, over a store in a temporary folder."""
    from llm_twin.settings import Settings
    from llm_twin.tracing import client

    tracing = client.start(Settings(home=Path(tempfile.mkdtemp())))
    return _marked(), tracing.stop


def unjournalled() -> tuple[Answer, Callable[[], object]]:
    """The same without redaction and journal: what those cost is the difference."""
    from llm_twin.tracing.intercept import Interceptor

    Interceptor.take = lambda self, streamer, message: True  # type: ignore[method-assign]
    return ours()


def opik() -> tuple[Answer, Callable[[], object]]:
    """Plain Opik, as its documentation says."""
    os.environ |= {
        "OPIK_URL_OVERRIDE": os.environ[NULL],
        "OPIK_SENTRY_ENABLE": "false",
        "OPIK_ANALYTICS_ENABLE": "false",
    }
    import opik

    @opik.track(name="retrieve")
    def retrieve(question: str) -> str:
        return TEXT

    @opik.track(name="generate")
    def generate(question: str) -> str:
        return TEXT

    @opik.track(name="answer")
    def answer(number: int) -> str:
        retrieve(f"question {number}")
        return generate(f"question {number}")

    return answer, opik.flush_tracker


def langfuse() -> tuple[Answer, Callable[[], object]]:
    """Langfuse's decorator."""
    import langfuse

    client = langfuse.Langfuse(
        public_key="pk-lf-1",  # pragma: allowlist secret
        secret_key="sk-lf-1",  # pragma: allowlist secret
        base_url=os.environ[NULL],
    )

    @langfuse.observe(name="retrieve")
    def retrieve(question: str) -> str:
        return TEXT

    @langfuse.observe(name="generate", as_type="generation")
    def generate(question: str) -> str:
        return TEXT

    @langfuse.observe(name="answer")
    def answer(number: int) -> str:
        retrieve(f"question {number}")
        return generate(f"question {number}")

    return answer, client.flush


def otel() -> tuple[Answer, Callable[[], object]]:
    """OpenTelemetry over HTTP, as Phoenix takes it."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    exporter = OTLPSpanExporter(endpoint=f"{os.environ[NULL]}v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("benchmark")

    def answer(number: int) -> str:
        with tracer.start_as_current_span("answer") as span:
            span.set_attribute("input.value", f"question {number}")
            for name in ("retrieve", "generate"):
                with tracer.start_as_current_span(name) as inner:
                    inner.set_attribute("input.value", f"question {number}")
                    inner.set_attribute("output.value", TEXT)
            span.set_attribute("output.value", TEXT)
        return TEXT

    return answer, provider.force_flush


def _marked() -> Answer:
    from llm_twin.tracing.track import traced

    def asked(question: object) -> dict[str, object]:
        return {"input": {"question": question}}

    def told(text: str) -> dict[str, object]:
        return {"output": {"text": text}}

    @traced("retrieve", before=asked, after=told)
    def retrieve(question: str) -> str:
        return TEXT + question

    @traced("generate", before=asked, after=told)
    def generate(question: str) -> str:
        return TEXT + question

    @traced("answer", before=asked, after=told)
    def answer(number: int) -> str:
        retrieve(f"question {number}")
        return generate(f"question {number}")

    return answer


KINDS = {kind.__name__: kind for kind in (disabled, ours, unjournalled, opik, langfuse, otel)}
LABELS = {
    "disabled": "tracing off",
    "ours": "ours: journalled and redacted",
    "unjournalled": "ours without journal and redaction",
    "opik": "plain Opik, null server",
    "langfuse": "Langfuse, null server",
    "otel": "OpenTelemetry (Phoenix), null server",
}


def measure(kind: str, calls: int, rate: float) -> dict[str, float]:
    """Microseconds of one call: CPU and wall time of its thread, CPU of the process."""
    answer, finish = KINDS[kind]()
    for number in range(20):
        answer(number)
    cpu, wall = [], []
    before = _process_cpu()
    for number in range(calls):
        begun, start = time.perf_counter_ns(), time.thread_time_ns()
        answer(number)
        cpu.append(time.thread_time_ns() - start)
        wall.append(time.perf_counter_ns() - begun)
        time.sleep(1 / rate)
    finish()
    wall.sort()
    return {
        "cpu": statistics.median(cpu) / 1000,
        "p50": wall[len(wall) // 2] / 1000,
        "p99": wall[int(len(wall) * 0.99)] / 1000,
        "process": (_process_cpu() - before) / calls * 1e6,
    }


def measure_disabled() -> float:
    """Microseconds that three marked functions cost beside the same ones unmarked."""
    answer, _ = disabled()
    count = 100_000
    start = time.thread_time_ns()
    for _ in range(count):
        answer(1)
    marked = time.thread_time_ns() - start

    def plain(number: int) -> str:
        for _ in range(2):
            text = TEXT + f"question {number}"
        return text

    start = time.thread_time_ns()
    for _ in range(count):
        plain(1)
    return (marked - (time.thread_time_ns() - start)) / count / 1000


def _process_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def null_server() -> Iterator[str]:
    """A server that reads everything and answers 200 to it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_PUT = do_PATCH = do_POST

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def python_of(kind: str, folder: Path) -> str:
    """The interpreter that a kind runs in; a peer's has its own packages."""
    if kind not in PEERS:
        return sys.executable
    subprocess.run(
        [sys.executable, "-m", "uv", "venv", "-q", folder / kind], check=True, timeout=300
    )
    python = str(folder / kind / "bin" / "python")
    install = [sys.executable, "-m", "uv", "pip", "install", "-q", "-p", python, *PEERS[kind]]
    subprocess.run(install, check=True, timeout=600)
    return python


def compare(kinds: list[str], calls: int, rate: float, rounds: int) -> dict[str, dict[str, float]]:
    """The medians over the rounds of each kind, which take turns."""
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    with null_server() as url, tempfile.TemporaryDirectory() as folder:
        pythons = {kind: python_of(kind, Path(folder)) for kind in kinds}
        for _ in range(rounds):
            for kind in kinds:
                given = ["--one", kind, "--calls", str(calls), "--rate", str(rate)]
                done = subprocess.run(
                    [pythons[kind], __file__, *given],
                    capture_output=True,
                    text=True,
                    timeout=600,
                    check=True,
                    env={**os.environ, NULL: url},
                )
                found[kind].append(json.loads(done.stdout.splitlines()[-1]))
    return {
        kind: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for kind, runs in found.items()
    }


def table(found: dict[str, dict[str, float]]) -> Iterator[str]:
    """The figures as a Markdown table, and what the journal costs."""
    yield "| 1 trace, 2 spans, 2 KB | caller CPU µs | wall p50 µs | wall p99 µs | process CPU µs |"
    yield "|---|---:|---:|---:|---:|"
    for kind, run in found.items():
        figures = " | ".join(f"{run[key]:,.0f}" for key in ("cpu", "p50", "p99", "process"))
        yield f"| {LABELS[kind]} | {figures} |"
    yield ""
    journal = found["ours"]["cpu"] - found["unjournalled"]["cpu"]
    yield f"Journal and redaction: {journal:,.0f} µs of the caller's CPU."
    yield f"Off, beside unmarked functions: {measure_disabled():.2f} µs a call."


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--rate", type=float, default=50, help="calls a second")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="install and measure others, too")
    parser.add_argument("--one", choices=KINDS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given.calls, given.rate)))
        return
    kinds = [kind for kind in KINDS if given.peers or kind not in PEERS]
    for line in table(compare(kinds, given.calls, given.rate, given.rounds)):
        print(line)


if __name__ == "__main__":
    main()
