"""The embedded index: one SQLite file with chunks, an FTS5 table over them, and their vectors.

Several processes may read and write it at once. The vectors are kept as one matrix in memory and
read again when the file's change counter has moved.
"""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_twin.corpus.document import Chunk
from llm_twin.errors import ConfigError, NotReadyError
from llm_twin.retrieval.fusion import distinct, fuse
from llm_twin.retrieval.ports import Hit
from llm_twin.retrieval.sqlite_file import blamed, for_writing, open_file
from llm_twin.retrieval.sqlite_rows import Rows, allowed_rows, best, evidence_for, speaking
from llm_twin.retrieval.terms import TOKENIZER, question_terms

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from llm_twin.retrieval.ports import Vectors

FORMAT = "1"
MARGIN = 4
COLUMNS = "document_id, document_digest, title, headings, text, link, position"
SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE chunks (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    document_id TEXT NOT NULL,
    document_digest TEXT NOT NULL,
    title TEXT NOT NULL,
    headings TEXT NOT NULL,
    path TEXT NOT NULL,
    text TEXT NOT NULL,
    link TEXT NOT NULL,
    position INTEGER NOT NULL,
    vector BLOB
);
CREATE INDEX chunks_by_document ON chunks (document_id, document_digest);
CREATE VIRTUAL TABLE words USING fts5(
    title, path, text, content='chunks', content_rowid='number', tokenize='{TOKENIZER}'
);
CREATE TRIGGER chunk_added AFTER INSERT ON chunks BEGIN
    INSERT INTO words (rowid, title, path, text)
    VALUES (new.number, new.title, new.path, new.text);
END;
CREATE TRIGGER chunk_removed AFTER DELETE ON chunks BEGIN
    INSERT INTO words (words, rowid, title, path, text)
    VALUES ('delete', old.number, old.title, old.path, old.text);
END;
INSERT INTO meta VALUES ('format', '{FORMAT}'), ('changes', '0');
"""  # noqa: S608


class SqliteIndex:
    """An Index in one file. Use open or create; close it, or use it as a context manager."""

    def __init__(self, database: sqlite3.Connection, path: Path) -> None:
        self._database = database
        self._path = path
        self._lock = threading.RLock()
        self._rows = Rows()
        meta = self._meta()
        if meta.get("format") != FORMAT:
            raise ConfigError(
                "The index was made by another version of llm-twin", path, "Run invoke ct --force"
            )
        self.embedder = meta["embedder"]

    @classmethod
    def create(cls, path: Path, version: str, embedder: str) -> SqliteIndex:
        """Make a new, empty index; a file in its place is an error.

        Raises:
            ConfigError: the file exists.
            SpaceError: it cannot be written.

        """
        if path.exists():
            raise ConfigError("There is an index already", path, "Open it, or delete it first")
        with blamed(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            database = for_writing(f"{path.absolute().as_uri()}?mode=rwc")
            database.execute("PRAGMA journal_mode=WAL")
            database.executescript(SCHEMA)
            database.executemany(
                "INSERT INTO meta VALUES (?, ?)", [("version", version), ("embedder", embedder)]
            )
            database.execute("COMMIT")
            return cls(database, path)

    @classmethod
    def open(cls, path: Path, readonly: bool = False) -> SqliteIndex:
        """Open an index, for answering alone when readonly (then also on read-only media).

        Raises:
            NotReadyError: there is no such file.
            ConfigError: it is not an index.

        """
        if not path.is_file():
            raise NotReadyError("There is no index", path, "Run invoke ct to make one")
        with blamed(path):
            return cls(open_file(path, readonly), path)

    @property
    def version(self) -> str:
        """The version its content stands for."""
        return self._meta()["version"]

    def upsert(self, chunks: Sequence[Chunk], vectors: Vectors | None) -> None:
        """Add or replace chunks by id; vectors of shape (len(chunks), dimension), or None."""
        blobs: Sequence[bytes | None] = [None] * len(chunks)
        if vectors is not None:
            if len(vectors) != len(chunks):
                raise ValueError(f"{len(vectors)} vectors for {len(chunks)} chunks")
            blobs = [row.tobytes() for row in np.asarray(vectors, np.float32)]
        rows = {chunk.id: (*_row(chunk), blob) for chunk, blob in zip(chunks, blobs, strict=True)}
        with self._writing() as database:
            database.executemany("DELETE FROM chunks WHERE id = ?", [(key,) for key in rows])
            database.executemany(
                "INSERT INTO chunks VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows.values(),
            )

    def delete_document(self, document_id: str) -> int:
        """Remove every chunk of a document, bytes included, and return how many there were."""
        return self.delete_documents([document_id])

    def delete_documents(self, document_ids: Iterable[str]) -> int:
        """Remove every chunk of many documents, bytes included; return how many there were."""
        with self._writing() as database:
            gone = database.executemany(
                "DELETE FROM chunks WHERE document_id = ?", [(one,) for one in document_ids]
            ).rowcount
            if gone > 0:
                # FTS5 only marks words as deleted until its segments are merged.
                database.execute("INSERT INTO words (words) VALUES ('optimize')")
        if gone > 0:
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return max(gone, 0)

    def documents(self) -> dict[str, str]:
        """Document ids held, each with the digest its chunks were made from."""
        with self._reading() as database:
            return dict(
                database.execute("SELECT DISTINCT document_id, document_digest FROM chunks")
            )

    def search(
        self,
        text: str,
        vector: Vectors | None,
        k: int = 5,
        where: Mapping[str, str] | None = None,
    ) -> list[Hit]:
        """Return the k best chunks for a question, best first; see Index.search."""
        terms = question_terms(text)
        if k < 1 or (not terms and vector is None):
            return []
        with self._reading() as database:
            rows = self._rows.refresh(database, self._changes())
            evidence = evidence_for(database, rows, list(terms.values()), vector)
            allowed = allowed_rows(database, rows, where or {})
            scores = fuse(evidence)
            order = best(scores, allowed & speaking(evidence), MARGIN + MARGIN * k)
            query = f"SELECT {COLUMNS} FROM chunks WHERE number = ?"  # noqa: S608
            chunks = [
                _chunk(database.execute(query, (number,)).fetchone())
                for number in rows.numbers[order].tolist()
            ]
        hits = (
            Hit(
                chunk=chunk,
                score=float(scores[row]),
                words=float(evidence.coverage[row]),
                cosine=float(evidence.cosine[row]),
            )
            for chunk, row in zip(chunks, order, strict=True)
        )
        return distinct(hits, k)

    def count(self) -> int:
        """How many chunks are held."""
        with self._reading() as database:
            return int(database.execute("SELECT count(*) FROM chunks").fetchone()[0])

    def chunks(self) -> list[Chunk]:
        """Every chunk held, in the order of document and position."""
        with self._reading() as database:
            return [
                _chunk(row)
                for row in database.execute(
                    f"SELECT {COLUMNS} FROM chunks ORDER BY document_id, position"  # noqa: S608
                )
            ]

    def promote(self, version: str) -> None:
        """Make this content stand for that version, atomically."""
        with self._writing() as database:
            database.execute("UPDATE meta SET value = ? WHERE key = 'version'", (version,))

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._database.close()

    def __enter__(self) -> SqliteIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _meta(self) -> dict[str, str]:
        with self._lock, blamed(self._path):
            return dict(self._database.execute("SELECT key, value FROM meta"))

    def _changes(self) -> str:
        row = self._database.execute("SELECT value FROM meta WHERE key = 'changes'").fetchone()
        return str(row[0])

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One snapshot of the file, whatever other processes write meanwhile."""
        with self._lock, blamed(self._path):
            self._database.execute("BEGIN")
            try:
                yield self._database
            finally:
                self._database.execute("COMMIT")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and durable when it ends."""
        with self._lock, blamed(self._path):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute(
                    "UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'changes'"
                )
                self._database.execute("COMMIT")
            except BaseException:
                self._database.rollback()
                raise


def _chunk(row: tuple[Any, ...]) -> Chunk:
    document, digest, title, headings, text, link, position = row
    return Chunk(document, digest, title, tuple(json.loads(headings)), text, link, position)


def _row(chunk: Chunk) -> tuple[Any, ...]:
    headings = json.dumps(chunk.headings, ensure_ascii=False)
    path = " > ".join(chunk.headings)
    place = (chunk.link, chunk.position)
    identity = (chunk.id, chunk.document_id, chunk.document_digest)
    return (*identity, chunk.title, headings, path, chunk.text, *place)
