"""The trace store beside Arize Phoenix: time to ready, memory, durable spans, what a kill loses.

Run: ``python benchmarks/trace_store.py [--spans 10000] [--phoenix]``. Every span carries 2 KB of
text; 1,000 go in a request, over four connections, each packed as its own client packs it (gzip
for Opik's, plain protobuf for OpenTelemetry's). A span counts when it is in the database. With
``--phoenix`` Phoenix is installed by uv into an environment of its own and measured as well.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from llm_twin.tracing.store.merge import new_id, now

BATCH, TEXT, CONNECTIONS, DEADLINE = 1000, 1000, 4, 600.0
TICK = os.sysconf("SC_CLK_TCK")
OURS = """
import pathlib, sys
from llm_twin.settings import Settings
from llm_twin.tracing.serve import serve
home = pathlib.Path(sys.argv[1])
serve(Settings.load({"TWIN_HOME": sys.argv[1]}, root=home), port=int(sys.argv[2]))
"""
PHOENIX_BODIES = """
import json, os, pathlib, sys, time
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
texts = json.load(sys.stdin)
folder, batch = pathlib.Path(sys.argv[1]), int(sys.argv[2])
for start in range(0, len(texts), batch):
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for question, answer in texts[start : start + batch]:
        span = spans.add(trace_id=os.urandom(16), span_id=os.urandom(8), name="generate")
        span.start_time_unix_nano = time.time_ns()
        span.end_time_unix_nano = span.start_time_unix_nano + 10**9
        for key, value in (("openinference.span.kind", "LLM"), ("input.value", question),
                           ("output.value", answer)):
            span.attributes.add(key=key).value.string_value = value
    (folder / f"{start:09}").write_bytes(request.SerializeToString())
"""


@dataclass
class Product:
    """A server that spans are sent to.

    Attributes:
        name: as the table shows it.
        command: starts it, given its folder and its port.
        ready: path that answers 200 as soon as it can be used.
        post: path that takes spans.
        headers: of such a request.
        database: its SQLite file below the folder.
        table: the table of spans.
        bodies: makes the requests' bodies from pairs of texts.

    """

    name: str
    command: Callable[[Path, int], list[str]]
    ready: str
    post: str
    headers: dict[str, str]
    database: str
    table: str
    bodies: Callable[[list[tuple[str, str]]], list[bytes]]


class Running:
    """One start of a product in an empty folder."""

    def __init__(self, product: Product, home: Path) -> None:
        """Start it and wait until it is ready."""
        self.product, self.home = product, home
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        env = {**os.environ, "PHOENIX_WORKING_DIR": str(home), "PHOENIX_PORT": str(port)}
        env |= {"PHOENIX_GRPC_PORT": "0", "PHOENIX_TELEMETRY_ENABLED": "false"}
        began = time.perf_counter()
        self.process = subprocess.Popen(
            product.command(home, port), env=env, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        while not self._is_ready():
            if self.process.poll() is not None or time.perf_counter() - began > DEADLINE:
                raise SystemExit(f"{product.name} did not start")
            time.sleep(0.005)
        self.ready = time.perf_counter() - began

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + self.product.ready, timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def send(self, body: bytes) -> None:
        """Send one body; anything but a 2xx ends the run."""
        request = urllib.request.Request(
            self.url + self.product.post, body, self.product.headers, method="POST"
        )
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            answer.read()

    def stored(self) -> int:
        """How many spans are in the database."""
        path = self.home / self.product.database
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as db:
                return int(db.execute(f"SELECT count(*) FROM {self.product.table}").fetchone()[0])
        except sqlite3.OperationalError:
            return 0

    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def megabytes(self) -> float:
        """What it holds in memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def kill(self) -> None:
        """End it as a power cut would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def measured(product: Product, texts: list[tuple[str, str]]) -> list[str]:
    """One row of the table."""
    bodies = product.bodies(texts)
    with tempfile.TemporaryDirectory() as folder:
        running = Running(product, Path(folder))
        time.sleep(2)
        idle, cpu, began = running.megabytes(), running.cpu(), time.perf_counter()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(running.send, bodies))
        acknowledged = time.perf_counter() - began
        while running.stored() < len(texts) and time.perf_counter() - began < DEADLINE:
            time.sleep(0.05)
        durable, spent = time.perf_counter() - began, running.cpu() - cpu
        busy = running.megabytes()
        running.kill()
    with tempfile.TemporaryDirectory() as folder:
        again = Running(product, Path(folder))
        few = bodies[: max(1, 2000 // BATCH)]
        for body in few:
            again.send(body)
        again.kill()
        lost = len(few) * BATCH - again.stored()
    return [
        product.name, f"{running.ready:.2f} s", f"{idle:.0f} MB", f"{busy:.0f} MB",
        f"{len(texts) / acknowledged:,.0f}", f"{len(texts) / durable:,.0f}",
        f"{spent / len(texts) * 1000:.2f} ms", f"{lost:,} of {len(few) * BATCH:,}",
    ]  # fmt: skip


def opik_bodies(texts: list[tuple[str, str]]) -> list[bytes]:
    """Batches of spans as Opik's SDK sends them."""
    spans = [
        {
            "id": new_id(), "trace_id": new_id(), "project_name": "benchmark", "name": "generate",
            "type": "llm", "start_time": now(), "end_time": now(), "last_updated_at": now(),
            "input": {"prompt": question}, "output": {"answer": answer}, "model": "m",
            "usage": {"prompt_tokens": 200, "completion_tokens": 180, "total_tokens": 380},
        }
        for question, answer in texts
    ]  # fmt: skip
    batches = (spans[start : start + BATCH] for start in range(0, len(spans), BATCH))
    return [gzip.compress(json.dumps({"spans": batch}).encode(), 6) for batch in batches]


def ours() -> Product:
    """The trace store of this repository."""
    return Product(
        "llm-twin",
        lambda home, port: [sys.executable, "-c", OURS, str(home), str(port)],
        "/api/is-alive/ping",
        "/api/v1/private/spans/batch",
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        "traces/traces.db",
        "span",
        opik_bodies,
    )


def phoenix(folder: Path) -> Product:
    """Arize Phoenix, installed into the folder."""
    python = folder / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, folder], check=True)
    subprocess.run([*uv, "pip", "install", "-q", "-p", python, "arize-phoenix"], check=True)

    def bodies(texts: list[tuple[str, str]]) -> list[bytes]:
        with tempfile.TemporaryDirectory() as made:
            command = [python, "-c", PHOENIX_BODIES, made, str(BATCH)]
            subprocess.run(command, input=json.dumps(texts).encode(), check=True)
            return [path.read_bytes() for path in sorted(Path(made).iterdir())]

    return Product(
        "Arize Phoenix",
        lambda home, port: [str(folder / "bin" / "phoenix"), "serve"],
        "/healthz",
        "/v1/traces",
        {"Content-Type": "application/x-protobuf"},
        "phoenix.db",
        "spans",
        bodies,
    )


def prose(number: int) -> list[tuple[str, str]]:
    """Pairs of texts from this repository's own documents."""
    words = " ".join(path.read_text() for path in sorted(Path("docs").rglob("*.md"))).split()
    chosen = random.Random(1)

    def text() -> str:
        at = chosen.randrange(len(words) - TEXT)
        return " ".join(words[at : at + TEXT])[:TEXT]

    return [(text(), text()) for _ in range(number)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spans", type=int, default=10_000)
    parser.add_argument("--phoenix", action="store_true")
    options = parser.parse_args()
    texts = prose(options.spans)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measured(ours(), texts)]
        if options.phoenix:
            rows.append(measured(phoenix(Path(folder) / "phoenix"), texts))
    heads = ["", "ready", "idle", "after", "acknowledged/s", "durable/s", "CPU a span", "lost"]
    for row in [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
