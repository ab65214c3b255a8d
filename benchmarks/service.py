"""What the service does under load: tracing on and off, and built as the handbook builds its own.

Run: ``python benchmarks/service.py [--home .twin] [--seconds 5] [--rounds 3] [--clients 8]``. It
needs a promoted twin in the home folder (``invoke ct``). Each round asks the same questions of each
service in turn, with ``wrk`` where it is installed and a loop of our own elsewhere; the table has
each figure's median over the rounds. State goes to a temporary folder.

The handbook's endpoint is an ``async def`` that opens its retriever for every request and blocks
the loop while it answers; here it does so over our index, our embedder (opened once, as there) and
our answer path.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from llm_twin.serving.api import Ask
from llm_twin.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS = Path(__file__).with_name("questions_handbook.json")
SCRIPT = """
local bodies = { %s }
local at = 0
request = function()
  at = at %% #bodies + 1
  return wrk.format("POST", "/v1/ask", { ["Content-Type"] = "application/json" }, bodies[at])
end
done = function(summary, latency)
  local failed = summary.errors.status + summary.errors.timeout + summary.errors.connect
  local p = function(n) return latency:percentile(n) / 1000 end
  io.write(string.format('{"requests": %%d, "seconds": %%f, "failed": %%d, "p50": %%f, "p95": %%f,'
    .. ' "p99": %%f}\\n', summary.requests, summary.duration / 1e6, failed, p(50), p(95), p(99)))
end
"""
Figures = dict[str, float]


def handbook_shaped(settings: Settings) -> object:
    """An application whose one endpoint opens its retriever for every request."""
    import fastapi

    from llm_twin.model.bundles import Bundle
    from llm_twin.retrieval import open_embedder, open_index
    from llm_twin.serving.abstention import Calibration
    from llm_twin.serving.answer import answer
    from llm_twin.serving.twin import Twin

    app = fastapi.FastAPI()
    path = settings.home / "models" / "production"
    name = str(Bundle.open(path).manifest["details"].get("embedder", "words"))
    embedder = None if name == "words" else open_embedder(settings, lambda line: None)

    @app.post("/v1/ask")
    async def ask(asked: Ask) -> dict[str, object]:
        bundle = Bundle.open(path)
        index = open_index(settings, bundle.index_path, bundle.version, name, readonly=True)
        details = bundle.manifest["details"]
        calibration = Calibration.from_dict(details.get("calibration") or {})
        twin = Twin(bundle.version, index, embedder, calibration)
        try:
            return answer(asked.question, twin, k=asked.k).to_dict()
        finally:
            index.close()

    return app


def serve_handbook_shaped() -> None:
    """Serve it as its Dockerfile does: uvicorn, one worker."""
    import socket

    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"urls": [f"http://127.0.0.1:{listener.getsockname()[1]}"]}), flush=True)
    config = uvicorn.Config(handbook_shaped(Settings.load()), log_level="error")  # type: ignore[arg-type]
    uvicorn.Server(config).run([listener])


@contextmanager
def running(command: list[str], home: Path, **env: str) -> Iterator[tuple[str, int]]:
    """Yield the address and the process id of a service, once it answers."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w") as log:
        (Path(folder) / "models").symlink_to(home / "models")
        more = {"TWIN_HOME": folder, "TWIN_EMBEDDER_HOME": str(home / "embedder"), **env}
        process = subprocess.Popen(
            [sys.executable, *command], stdout=log, cwd=ROOT, env={**os.environ, **more}
        )
        try:
            yield wait_for(Path(folder) / "log", process), process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def wait_for(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Return the address that a service's first line names, once a question is answered there."""
    for _ in range(600):
        line = log.read_text().partition("\n")[0]
        if line:
            url = str(json.loads(line)["urls"][0])
            httpx.post(f"{url}/v1/ask", json={"question": "Are you ready?"}, timeout=60)
            return url
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit(f"the service did not start: exit code {process.poll()}")


def cpu_of(pid: int) -> float:
    """CPU seconds of a process and the workers that it forked."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = 0
    for one in [str(pid), *children]:
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def load(url: str, bodies: list[str], seconds: float, clients: int) -> Figures:
    """Ask for some seconds; return what was answered and how quickly, in milliseconds."""
    if shutil.which("wrk") is None:
        return asyncio.run(own_load(url, bodies, seconds, clients))
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT % ", ".join(json.dumps(body) for body in bodies))
        script.flush()
        threads = min(2, clients)
        command = [
            "wrk", f"-t{threads}", f"-c{clients}", f"-d{seconds:g}s", "--timeout", "30s", "-s",
            script.name, url,
        ]  # fmt: skip
        told = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
    return dict(json.loads(told.stdout.strip().splitlines()[-1]))


async def own_load(url: str, bodies: list[str], seconds: float, clients: int) -> Figures:
    """As ``wrk``, at more CPU a request."""
    took: list[float] = []
    failed = 0
    ends = time.perf_counter() + seconds
    turn = itertools.cycle(bodies)

    async def client() -> None:
        nonlocal failed
        async with httpx.AsyncClient(timeout=30) as session:
            while (began := time.perf_counter()) < ends:
                answer = await session.post(f"{url}/v1/ask", content=next(turn))
                failed += answer.status_code != 200
                took.append((time.perf_counter() - began) * 1000)

    await asyncio.gather(*(client() for _ in range(clients)))
    p = statistics.quantiles(took, n=100)
    figures = {"p50": p[49], "p95": p[94], "p99": p[98]}
    return {"requests": len(took), "seconds": seconds, "failed": failed, **figures}


def measure(services: dict[str, tuple[str, int]], options: argparse.Namespace) -> None:
    """Ask each service in turn, and print the table."""
    asked = [str(one["question"]) for one in json.loads(QUESTIONS.read_text())]
    bodies = [json.dumps({"question": question}) for question in asked]
    rounds: dict[str, list[Figures]] = {name: [] for name in services}
    for _ in range(options.rounds):
        for name, (url, pid) in services.items():
            before = cpu_of(pid)
            found = load(url, bodies, options.seconds, options.clients)
            found["rate"] = found["requests"] / found["seconds"]
            found["cpu"] = (cpu_of(pid) - before) * 1000 / max(found["requests"], 1)
            rounds[name].append(found)
    keys = ("rate", "p50", "p95", "p99", "cpu")
    middle = {
        name: {key: statistics.median(one[key] for one in found) for key in keys}
        for name, found in rounds.items()
    }
    print("| service | requests/s | p50 ms | p95 ms | p99 ms | CPU ms a request | failed |")
    print("|---|---|---|---|---|---|---|")
    for name, one in middle.items():
        failed = sum(found["failed"] for found in rounds[name])
        numbers = " | ".join(f"{one[key]:.1f}" for key in keys)
        print(f"| {name} | {numbers} | {failed:.0f} |")
    traced, untraced, theirs = middle.values()
    print(f"\ntracing on / off at p50: {traced['p50'] / untraced['p50']:.2f}")
    print(f"requests/s, traced / handbook's shape: {traced['rate'] / theirs['rate']:.1f}")


def main() -> None:
    """Start the three services and ask them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--home", type=Path, default=ROOT / ".twin")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--handbook-shaped", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.handbook_shaped:
        serve_handbook_shaped()
        return
    home = options.home.absolute()
    ours = ["-m", "llm_twin.serving", "--port", "0", "--workers", str(options.workers)]
    theirs = [str(Path(__file__)), "--handbook-shaped"]
    with (
        running(ours, home, TWIN_TRACE="1") as traced,
        running(ours, home, TWIN_TRACE="0") as untraced,
        running(theirs, home) as handbook,
    ):
        names = (f"{options.workers} workers, traced", f"{options.workers} workers", "handbook's")
        measure(dict(zip(names, (traced, untraced, handbook), strict=True)), options)


if __name__ == "__main__":
    main()
