"""Extracted documents by the digest of their bytes, so that only changed ones are read again."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING

from llm_twin.corpus.document import Document, content_id
from llm_twin.errors import SpaceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

EXTRACTOR = "1"
"""Part of every key: raise it when extraction changes, and old entries are no longer found."""

KEPT = 1_000_000
"""Entries kept; the oldest go first. A corpus with more of them would never find its own."""


def document_key(uri: str, data: bytes) -> str:
    """Return the key of a document: where it is, its bytes, and this version of the extractors."""
    return content_id(EXTRACTOR, uri, data.decode("latin-1"), length=40)


class DocumentCache:
    """A small SQLite file (WAL); several processes may use it at once.

    Args:
        path: of the file.
        unwanted: documents that are not kept.

    Raises:
        SpaceError: the file cannot be opened or written.

    """

    def __init__(
        self, path: Path, unwanted: Callable[[Document], bool] = lambda document: False
    ) -> None:
        self.path = path
        self._unwanted = unwanted
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            # A cache: what a power cut takes is read again. FULL would cost a sync a document.
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS documents (key TEXT UNIQUE, document TEXT NOT NULL)"
            )
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def get(self, key: str) -> Document | None:
        """Return the document stored under the key, or None."""
        row = self._db.execute("SELECT document FROM documents WHERE key = ?", (key,)).fetchone()
        return Document.from_dict(json.loads(row[0])) if row else None

    def put(self, key: str, document: Document) -> None:
        """Store a document, unless it is unwanted; a kill after this returns does not lose it."""
        if self._unwanted(document):
            return
        text = json.dumps(document.to_dict())
        try:
            self._db.execute("INSERT OR REPLACE INTO documents VALUES (?, ?)", (key, text))
            self._db.execute(
                "DELETE FROM documents WHERE rowid <= (SELECT max(rowid) FROM documents) - ?",
                (KEPT,),
            )
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def __enter__(self) -> DocumentCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _unusable(self, error: Exception) -> SpaceError:
        what = "the document cache cannot be written"
        return SpaceError(
            f"{what} ({error})", self.path, "Free some space, delete the file, or set TWIN_HOME"
        )
