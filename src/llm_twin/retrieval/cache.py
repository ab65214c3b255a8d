"""Keeps vectors over runs, so that an unchanged passage is embedded once."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import threading
import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from llm_twin.retrieval.ports import Embedder, Vectors

BATCH = 64
SAY_EVERY = 2.0
LOOKUP = 500
SCHEMA = """
CREATE TABLE IF NOT EXISTS vectors (
    embedder TEXT NOT NULL, text BLOB NOT NULL, vector BLOB NOT NULL,
    PRIMARY KEY (embedder, text)
) WITHOUT ROWID
"""


class CachedEmbedder:
    """An embedder that remembers, in one SQLite file, by embedder name and SHA-256 of the text.

    A kill loses one batch at most. Only digests are stored, never texts.
    """

    def __init__(
        self, embedder: Embedder, path: Path, progress: Callable[[str], object] = print
    ) -> None:
        self._embedder = embedder
        self._progress = progress
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, timeout=30, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        # A cache: what a power cut takes is embedded again.
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.execute(SCHEMA)
        self.name = embedder.name
        self.window = embedder.window

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._embedder.dimension

    def count_tokens(self, text: str) -> int:
        """Tokens as the embedder counts them."""
        return self._embedder.count_tokens(text)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return float32 vectors of shape (len(texts), dimension), embedding only new texts."""
        keys = [_key(text) for text in texts]
        with self._lock:
            known = self._load(set(keys))
            new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
            known.update(self._make(new))
        if not keys:
            return np.zeros((0, self.dimension), np.float32)
        return np.stack([known[key] for key in keys])

    def known(self, texts: Iterable[str]) -> dict[str, Vectors]:
        """The vectors of those texts that are kept, each of shape (dimension,)."""
        keys = {text: _key(text) for text in texts}
        with self._lock:
            held = self._load(keys.values())
        return {text: held[key] for text, key in keys.items() if key in held}

    def keep(self, texts: Sequence[str], vectors: Vectors) -> None:
        """Keep vectors that were made elsewhere; of shape (len(texts), dimension)."""
        with self._lock:
            self._write([(_key(text), row) for text, row in zip(texts, vectors, strict=True)])

    def close(self) -> None:
        """Release the file."""
        self._database.close()

    def __enter__(self) -> CachedEmbedder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load(self, keys: Iterable[bytes]) -> dict[bytes, Vectors]:
        found: dict[bytes, Vectors] = {}
        wanted = list(keys)
        for start in range(0, len(wanted), LOOKUP):
            some = wanted[start : start + LOOKUP]
            marks = ",".join("?" * len(some))
            query = f"SELECT text, vector FROM vectors WHERE embedder = ? AND text IN ({marks})"  # noqa: S608
            for key, blob in self._database.execute(query, (self.name, *some)):
                found[key] = np.frombuffer(blob, np.float32)
        return found

    def _make(self, new: dict[bytes, str]) -> dict[bytes, Vectors]:
        made: dict[bytes, Vectors] = {}
        said = time.monotonic()
        items = list(new.items())
        for start in range(0, len(items), BATCH):
            batch = items[start : start + BATCH]
            vectors = self._embedder.embed([text for _, text in batch])
            rows = [(key, vector) for (key, _), vector in zip(batch, vectors, strict=True)]
            made.update(rows)
            self._write(rows)
            if time.monotonic() - said >= SAY_EVERY:
                said = time.monotonic()
                self._progress(f"embedded {len(made)}/{len(items)} passages")
        return made

    def _write(self, rows: Sequence[tuple[bytes, Vectors]]) -> None:
        with contextlib.closing(self._database.cursor()) as cursor, self._database:
            cursor.executemany(
                "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)",
                [(self.name, key, vector.tobytes()) for key, vector in rows],
            )


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
