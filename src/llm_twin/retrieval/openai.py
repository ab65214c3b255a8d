"""An OpenAI-compatible embeddings endpoint (Ollama, vLLM, a gateway) as the embedder."""

from __future__ import annotations

import time
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from llm_twin.errors import ConfigError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from httpx import Client, Response

    from llm_twin.retrieval.ports import Vectors

BATCH = 64
WINDOW = 8191
BYTES_PER_TOKEN = 3
ATTEMPTS = 5
TIMEOUT = 60.0
RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})


class OpenAIEmbedder:
    """Asks ``<url>/embeddings``; tries again with growing waits when the server is busy or away.

    Attributes:
        window: what OpenAI's own models take. Tokens are counted approximately, one for every
            three bytes of UTF-8, which is more than any of them makes of prose.

    """

    window = WINDOW

    def __init__(self, url: str, model: str, key: str = "", wait: float = 0.5) -> None:
        self.name = f"openai:{model}"
        self._url = f"{url.rstrip('/')}/embeddings"
        self._model = model
        self._key = key
        self._wait = wait

    @cached_property
    def dimension(self) -> int:
        """Length of a vector, learnt from the first answer."""
        return int(self._ask(["dimension"]).shape[1])

    def count_tokens(self, text: str) -> int:
        """About how many tokens the text has, rather too many than too few."""
        return len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN + 2

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return float32 vectors of shape (len(texts), dimension), each of length 1.

        Raises:
            RemoteError: the server gave no vectors, or went on failing.
            ConfigError: it refuses the key or does not know the model or address.

        """
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        vectors = np.concatenate([self._ask(batch) for batch in batches])
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)

    @cached_property
    def _client(self) -> Client:
        import httpx

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return httpx.Client(headers=headers, timeout=TIMEOUT)

    def _ask(self, texts: Sequence[str]) -> Vectors:
        # The endpoint refuses empty strings.
        body = {"model": self._model, "input": [text.strip() or " " for text in texts]}
        answer = self._post(body)
        try:
            rows = sorted(answer.json()["data"], key=lambda row: int(row["index"]))
            vectors = np.array([row["embedding"] for row in rows], np.float32)
        except (ValueError, KeyError, TypeError):
            vectors = np.zeros((0, 0), np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise RemoteError(
                "The server's answer holds no vectors", self._url, "Check TWIN_EMBEDDER_URL"
            )
        return vectors

    def _post(self, body: Mapping[str, object]) -> Response:
        import httpx

        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(self._wait * 2 ** (attempt - 1))
            try:
                answer = self._client.post(self._url, json=body)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol):
                raise ConfigError("Not an address", self._url, "Set TWIN_EMBEDDER_URL") from None
            except httpx.TransportError as error:
                problem = type(error).__name__
                continue
            if answer.status_code not in RETRIED:
                return self._accepted(answer)
            problem = f"HTTP {answer.status_code}"
        raise RemoteError(
            f"The embeddings server failed {ATTEMPTS} times ({problem})",
            self._url,
            "Check that it runs, or set TWIN_EMBEDDER=minilm",
        )

    def _accepted(self, answer: Response) -> Response:
        status = answer.status_code
        if status in (401, 403):
            raise ConfigError(
                f"The embeddings server refuses the key (HTTP {status})",
                self._url,
                "Set TWIN_EMBEDDER_KEY",
            )
        if status != 200:
            raise ConfigError(
                f"The embeddings server refuses model {self._model!r} (HTTP {status})",
                self._url,
                "Check TWIN_EMBEDDER and TWIN_EMBEDDER_URL (it ends with /v1)",
            )
        return answer
