"""What the SQLite index computes over all its chunks at once: cosines, word scores, filters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llm_twin.errors import ConfigError
from llm_twin.retrieval.fusion import Evidence, rarity

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from llm_twin.retrieval.fusion import Scores
    from llm_twin.retrieval.ports import Vectors

FIELD_WEIGHTS = (2.0, 1.5, 1.0)
FILTERS = ("document_id", "title", "link")


class Rows:
    """All chunks as arrays, one row each: number, document, vector; and the documents' vectors."""

    def __init__(self) -> None:
        self._changes = ""
        self.numbers: NDArray[np.int64] = np.zeros(0, np.int64)
        self.documents: NDArray[np.int64] = np.zeros(0, np.int64)
        self.vectors: Vectors = np.zeros((0, 0), np.float32)
        self.means: Vectors = np.zeros((0, 0), np.float32)

    def refresh(self, database: sqlite3.Connection, changes: str) -> Rows:
        """Read the file again if it has changed; numbers ascend."""
        if changes != self._changes:
            found = database.execute(
                "SELECT number, document_id, vector FROM chunks ORDER BY number"
            ).fetchall()
            size = max((len(blob) for _, _, blob in found if blob), default=0)
            empty = bytes(size)
            packed = b"".join(blob or empty for _, _, blob in found)
            places: dict[str, int] = {}
            self.numbers = np.array([number for number, _, _ in found], np.int64)
            self.documents = np.array(
                [places.setdefault(document, len(places)) for _, document, _ in found], np.int64
            )
            self.vectors = np.frombuffer(packed, np.float32).reshape(len(found), size // 4)
            self.means = _means(self.vectors, self.documents, len(places))
            self._changes = changes
        return self


def _means(vectors: Vectors, documents: NDArray[np.int64], count: int) -> Vectors:
    """Mean direction of each document's passages, shape (count, dimension)."""
    sums = np.zeros((count, vectors.shape[1]), np.float32)
    np.add.at(sums, documents, vectors)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.asarray(sums / np.maximum(lengths, 1e-12), np.float32)


def evidence_for(
    database: sqlite3.Connection, rows: Rows, words: Sequence[str], vector: Vectors | None
) -> Evidence:
    """Ask FTS5 for each word by itself, so that coverage is known beside BM25."""
    count, documents = len(rows.numbers), len(rows.means)
    bm25, coverage, document_coverage = np.zeros(count), np.zeros(count), np.zeros(documents)
    total = document_total = 1e-12
    weights = ", ".join(map(str, FIELD_WEIGHTS))
    query = f"SELECT rowid, -bm25(words, {weights}) FROM words WHERE words MATCH ?"  # noqa: S608
    for word in words:
        found = np.array(database.execute(query, (f'"{word}"',)).fetchall()).reshape(-1, 2)
        places = np.searchsorted(rows.numbers, found[:, 0].astype(np.int64))
        holders = np.unique(rows.documents[places])
        weight, document_weight = rarity(count, len(places)), rarity(documents, len(holders))
        bm25[places] += found[:, 1]
        coverage[places] += weight
        document_coverage[holders] += document_weight
        total += weight
        document_total += document_weight
    cosine, document_cosine = np.zeros(count), np.zeros(documents)
    if vector is not None and rows.vectors.size:
        cosine = (rows.vectors @ np.asarray(vector, np.float32)).astype(np.float64)
        document_cosine = (rows.means @ np.asarray(vector, np.float32)).astype(np.float64)
    return Evidence(
        bm25=bm25,
        coverage=coverage / total,
        cosine=cosine,
        document_coverage=(document_coverage / document_total)[rows.documents],
        document_cosine=document_cosine[rows.documents],
    )


def speaking(evidence: Evidence) -> NDArray[np.bool_]:
    """Rows that have something to say themselves, not only their document."""
    return np.asarray((evidence.bm25 > 0) | (evidence.cosine != 0), np.bool_)


def best(scores: Scores, allowed: NDArray[np.bool_], most: int) -> NDArray[np.intp]:
    """Allowed rows, best score first; ties in the order they were written."""
    rows = np.flatnonzero(allowed)
    if len(rows) > most:
        rows = np.sort(rows[np.argpartition(-scores[rows], most)[:most]])
    return rows[np.argsort(-scores[rows], kind="stable")]


def allowed_rows(
    database: sqlite3.Connection, rows: Rows, where: Mapping[str, str]
) -> NDArray[np.bool_]:
    """Rows that pass the equality filter.

    Raises:
        ConfigError: there is no such field.

    """
    if not where:
        return np.ones(len(rows.numbers), np.bool_)
    for key in where:
        if key not in FILTERS:
            raise ConfigError("Not a field to filter by", repr(key), f"Use {', '.join(FILTERS)}")
    test = " AND ".join(f"{key} = ?" for key in where)
    found = database.execute(f"SELECT number FROM chunks WHERE {test}", tuple(where.values()))  # noqa: S608
    return np.isin(rows.numbers, [number for (number,) in found])
