"""The service as a process, and an OpenAI-compatible endpoint that it may ask."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from small_corpora import settings_for

from llm_twin.corpus.document import Chunk
from llm_twin.model.bundles import Bundles
from llm_twin.retrieval import open_index
from llm_twin.retrieval.minilm import MiniLM

ROOT = Path(__file__).resolve().parents[3]
QUESTION = "Why are rye loaves sticky?"
PATIENCE = 60


def promote(home: Path, chunks: list[Chunk], version: str, embedder: MiniLM | None = None) -> Path:
    bundles = Bundles(home / "models")
    building = bundles.stage()
    name = embedder.name if embedder else ""
    index = open_index(settings_for(home), building / "index.db", version, name)
    index.upsert(chunks, embedder.embed([c.passage for c in chunks]) if embedder else None)
    index.close()
    path = bundles.commit(building, version, {"embedder": name})
    bundles.promote(version)
    return path


@dataclass
class Service:
    process: subprocess.Popen[str]
    urls: list[str]
    client: httpx.Client

    def ask(self, question: str = QUESTION, **more: Any) -> httpx.Response:
        url = f"{self.urls[0]}/v1/ask"
        return self.client.post(url, json={"question": question, **more})

    def get(self, path: str) -> httpx.Response:
        return self.client.get(self.urls[0] + path)

    def stop(self) -> list[dict[str, Any]]:
        """Stop it as a platform does; return its log."""
        self.process.send_signal(signal.SIGTERM)
        return self.log()

    def log(self) -> list[dict[str, Any]]:
        # Not communicate(), which forgets the lines that came with the first one.
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        stuck = threading.Timer(PATIENCE, self.process.kill)
        stuck.start()
        out, err = self.process.stdout.read(), self.process.stderr.read()
        self.process.wait(PATIENCE)
        stuck.cancel()
        assert err == ""
        return [json.loads(line) for line in out.splitlines()]


def command(home: Path, *flags: str, code: str = "", **env: str) -> subprocess.Popen[str]:
    line = ["-c", code] if code else ["-m", "llm_twin.serving"]
    settings = {"TWIN_HOME": str(home), "TWIN_EMBEDDER": "words", **env}
    return subprocess.Popen(
        [sys.executable, *line, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **settings},
    )


@contextmanager
def serving(home: Path, *flags: str, code: str = "", **env: str) -> Iterator[Service]:
    with command(home, *(flags or ("--port", "0")), code=code, **env) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first, process.stderr and process.stderr.read()
            with httpx.Client(timeout=PATIENCE) as client:
                yield Service(process, json.loads(first)["urls"], client)
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()


class WaitingIndex:
    """An index whose searches end when they are let."""

    def __init__(self) -> None:
        self.searches, self.may_end = threading.Semaphore(0), threading.Event()

    def search(self, *_: object) -> list[Any]:
        self.searches.release()
        self.may_end.wait(PATIENCE)
        return []


class Endpoint(ThreadingHTTPServer):
    """An OpenAI-compatible endpoint that answers when it is let."""

    daemon_threads = True
    status = 200
    words = ("Pentosans bind", " water [", "1].")
    breaks = False
    """Hang up after the first words."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Chat)
        self.asked, self.may_answer = threading.Event(), threading.Event()
        self.settings = {
            "TWIN_LLM_URL": f"http://127.0.0.1:{self.server_port}/v1",
            "TWIN_LLM_MODEL": "stand-in",
            "TWIN_LLM_KEY": "key-of-the-endpoint",
        }


class Chat(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.set()
        if asked.get("stream"):
            self.send_response(self.server.status)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.stream()
            return
        self.server.may_answer.wait(PATIENCE)
        body = {
            "model": "stand-in",
            "choices": [{"message": {"content": "".join(self.server.words)}}],
            "usage": {"prompt_tokens": 70, "completion_tokens": 5},
            "error": {"message": "words of a stranger"},
        }
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def stream(self) -> None:
        """Say the first words at once, and the others when it is let."""
        self.say({"model": "stand-in", "choices": [{"delta": {"role": "assistant"}}]})
        for number, words in enumerate(self.server.words):
            if number == 1:
                self.server.may_answer.wait(PATIENCE)
                if self.server.breaks:
                    return
            self.say({"choices": [{"delta": {"content": words}}]})
        self.say({"choices": [], "usage": {"prompt_tokens": 70, "completion_tokens": 5}})
        self.wfile.write(b"data: [DONE]\n\n")

    def say(self, data: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""
