"""Choosing an embedder, remembering vectors, and the OpenAI endpoint over a real socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_twin.errors import ConfigError, NotReadyError, RemoteError
from llm_twin.retrieval import CachedEmbedder, open_embedder
from llm_twin.retrieval.minilm import MiniLM
from llm_twin.retrieval.openai import ATTEMPTS, OpenAIEmbedder
from llm_twin.retrieval.sentence_transformer import SentenceTransformerEmbedder
from llm_twin.settings import Settings


def test_each_kind_opens(embedder_home: Path) -> None:
    assert open_embedder(Settings(embedder="words")) is None
    minilm = open_embedder(Settings(embedder="minilm", embedder_home=embedder_home))
    assert isinstance(minilm, MiniLM)
    remote = open_embedder(Settings(embedder="openai:small:v2", embedder_key="secret"))
    assert remote is not None
    assert (remote.name, remote.window) == ("openai:small:v2", 8191)


@pytest.mark.parametrize(
    "name", ["", "nothing", "minilm:large", "words:x", "openai", "openai:", "sentence-transformers"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"TWIN_EMBEDDER is not an embedder.*Use minilm, words"):
        open_embedder(Settings(embedder=name))


def test_sentence_transformers_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NotReadyError, match="Run: pip install sentence-transformers"):
        open_embedder(Settings(embedder="sentence-transformers:all-mpnet-base-v2"))


def test_sentence_transformers_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is no dependency; a module of its name stands in with the calls we make."""
    (tmp_path / "sentence_transformers.py").write_text(
        "import numpy as np\n"
        "class SentenceTransformer:\n"
        "    max_seq_length = 384\n"
        "    def __init__(self, name): self.tokenizer = self; self.name = name\n"
        "    def get_sentence_embedding_dimension(self): return 2\n"
        "    def encode(self, texts, normalize_embeddings=False, show_progress_bar=True):\n"
        "        if isinstance(texts, str): return texts.split()\n"
        "        return np.array([[1.0, 0.0] for _ in texts])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    embedder = open_embedder(Settings(embedder="sentence-transformers:a/b"))
    assert isinstance(embedder, SentenceTransformerEmbedder)
    assert (embedder.name, embedder.dimension, embedder.window) == (
        "sentence-transformers:a/b",
        2,
        384,
    )
    assert embedder.count_tokens("one two three") == 3
    assert embedder.embed(["a", "b"]).tolist() == [[1, 0], [1, 0]]
    assert embedder.embed(["a"]).dtype == np.float32
    assert embedder.embed([]).shape == (0, 2)


class Counting:
    """An embedder that says how often it was asked."""

    name, dimension, window = "counting", 2, 8

    def __init__(self, fail_at: int = 0) -> None:
        self.asked: list[str] = []
        self.fail_at = fail_at

    def count_tokens(self, text: str) -> int:
        return len(text)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        if self.fail_at and len(self.asked) >= self.fail_at:
            raise RuntimeError("power cut")
        return np.array([[float(text), 1.0] for text in texts], np.float32)


def test_cache_embeds_a_text_once(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "vectors.db"
    first, second = Counting(), Counting()
    with CachedEmbedder(first, path) as cached:
        assert cached.embed(["1", "2", "1"]).tolist() == [[1, 1], [2, 1], [1, 1]]
        assert (cached.name, cached.dimension, cached.window) == ("counting", 2, 8)
        assert cached.count_tokens("abc") == 3
        assert cached.embed([]).shape == (0, 2)
    with CachedEmbedder(second, path) as cached:
        assert cached.embed(["3", "2"]).tolist() == [[3, 1], [2, 1]]
    assert (first.asked, second.asked) == (["1", "2"], ["3"])
    second.name = "other"
    with CachedEmbedder(second, path) as cached:
        cached.embed(["2"])
    assert second.asked == ["3", "2"], "another embedder's vectors are not mixed in"


def test_cache_keeps_no_text(tmp_path: Path) -> None:
    with CachedEmbedder(Counting(), tmp_path / "vectors.db") as cached:
        cached.embed(["123456789"])
    assert b"123456789" not in (tmp_path / "vectors.db").read_bytes()


def test_cache_goes_on_after_a_crash(tmp_path: Path) -> None:
    texts = [str(number) for number in range(150)]
    with (
        CachedEmbedder(Counting(fail_at=100), tmp_path / "vectors.db") as cached,
        pytest.raises(RuntimeError, match="power cut"),
    ):
        cached.embed(texts)
    after = Counting()
    with CachedEmbedder(after, tmp_path / "vectors.db") as cached:
        assert cached.embed(texts)[:, 0].tolist() == list(range(150))
    assert after.asked == texts[64:]


def test_cache_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_twin.retrieval.cache.SAY_EVERY", 0)
    lines: list[str] = []
    with CachedEmbedder(Counting(), tmp_path / "vectors.db", lines.append) as cached:
        cached.embed([str(number) for number in range(100)])
        cached.embed([str(number) for number in range(100)])
    assert lines == ["embedded 64/100 passages", "embedded 100/100 passages"]


Answer = tuple[int, Any]


class Server:
    """An OpenAI-compatible endpoint on a real socket; ``answers`` come first, then vectors."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                key = self.headers.get("Authorization", "")
                server.requests.append((self.path, key, body))
                status, content = server.answers.pop(0) if server.answers else vectors(body)
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


def vectors(body: dict[str, Any]) -> Answer:
    """Answer out of order, as servers may."""
    rows = [
        {"index": row, "embedding": [3.0 * len(text), 4.0 * len(text), 0.0]}
        for row, text in enumerate(body["input"])
    ]
    rows[0]["embedding"] = [0.0, 0.0, 2.0]
    return 200, {"data": rows[::-1]}


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    thread = threading.Thread(target=started.http.serve_forever, daemon=True)
    thread.start()
    yield started
    started.http.shutdown()
    started.http.server_close()
    thread.join()


@pytest.fixture
def remote(server: Server) -> Callable[..., OpenAIEmbedder]:
    return lambda key="sk-secret": OpenAIEmbedder(f"{server.url}/", "small", key, wait=0.001)


def test_openai_vectors(server: Server, remote: Callable[..., OpenAIEmbedder]) -> None:
    embedder = remote()
    found = embedder.embed(["one", "", "three"])
    assert np.allclose(found, [[0, 0, 1], [0.6, 0.8, 0], [0.6, 0.8, 0]])
    assert found.dtype == np.float32
    path, key, body = server.requests[0]
    assert (path, key) == ("/v1/embeddings", "Bearer sk-secret")
    assert body == {"model": "small", "input": ["one", " ", "three"]}
    assert embedder.dimension == 3
    assert embedder.embed([]).shape == (0, 3)


def test_openai_sends_batches(server: Server, remote: Callable[..., OpenAIEmbedder]) -> None:
    assert remote("").embed(["x"] * 150).shape == (150, 3)
    assert [len(body["input"]) for _, _, body in server.requests] == [64, 64, 22]
    assert server.requests[0][1] == ""


def test_openai_counts_too_many_rather_than_too_few() -> None:
    embedder = OpenAIEmbedder("http://127.0.0.1:9/v1", "small")
    assert embedder.count_tokens("internationalisation of words") >= 9
    assert embedder.count_tokens("日本語の文章") >= 6


@pytest.mark.parametrize("status", [429, 500, 503])
def test_openai_tries_again(
    server: Server, remote: Callable[..., OpenAIEmbedder], status: int
) -> None:
    server.answers = [(status, {"error": "busy"})] * (ATTEMPTS - 1)
    assert remote().embed(["one"]).shape == (1, 3)
    assert len(server.requests) == ATTEMPTS


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((429, {}), RemoteError, r"failed 5 times \(HTTP 429\).*TWIN_EMBEDDER=minilm"),
        ((401, {}), ConfigError, r"refuses the key \(HTTP 401\).*Set TWIN_EMBEDDER_KEY"),
        ((404, {}), ConfigError, r"refuses model 'small' \(HTTP 404\).*TWIN_EMBEDDER_URL"),
        ((200, b"<html>"), RemoteError, "holds no vectors.*Check TWIN_EMBEDDER_URL"),
        ((200, {"data": []}), RemoteError, "holds no vectors"),
        ((200, ["x"]), RemoteError, "holds no vectors"),
        ((200, {"data": [{"index": 0, "embedding": ["a"]}]}), RemoteError, "holds no vectors"),
        ((200, {"data": [{"index": 0, "embedding": [None]}]}), RemoteError, "holds no vectors"),
    ],
)
def test_openai_failures_are_one_line(
    server: Server,
    remote: Callable[..., OpenAIEmbedder],
    answer: Answer,
    error: type[Exception],
    message: str,
) -> None:
    server.answers = [answer] * ATTEMPTS
    with pytest.raises(error, match=message) as caught:
        remote().embed(["one"])
    assert server.url in str(caught.value)
    assert "sk-secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_openai_server_that_is_away() -> None:
    embedder = OpenAIEmbedder("http://127.0.0.1:9/v1", "small", wait=0.001)
    with pytest.raises(RemoteError, match=r"failed 5 times \(ConnectError\)"):
        embedder.embed(["one"])


@pytest.mark.parametrize("url", ["no address", "ftp://127.0.0.1/v1"])
def test_openai_url_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match=r"Not an address.*Set TWIN_EMBEDDER_URL"):
        OpenAIEmbedder(url, "small", wait=0.001).embed(["one"])


def test_vectors_made_elsewhere_are_kept(tmp_path: Path, minilm: MiniLM) -> None:
    with CachedEmbedder(minilm, tmp_path / "e.db") as cache:
        vectors = minilm.embed(["one", "two"])
        assert cache.known(["one"]) == {}
        cache.keep(["one", "two"], vectors)
        assert cache.known(["two", "three"]).keys() == {"two"}
        assert np.array_equal(cache.known(["two"])["two"], vectors[1])
