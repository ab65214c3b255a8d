"""What was asked in a stretch of time, as numbers: vectors of the questions, scores of the answers.

The texts stay in the trace store. Kept apart from it, for the time when a version was trained, are
vectors alone, in ``drift/VERSION.npz``: the store may delete its traces before the version goes.
"""

from __future__ import annotations

import contextlib
import os
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zlib import crc32

from llm_twin.errors import TwinError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from llm_twin.settings import Settings
    from llm_twin.tracing.store.store import Store

    Vectors = NDArray[np.float32]
    Embed = Callable[[Sequence[str]], Vectors]

FOLDER = "drift"
MOST = 400
"""Questions of a window that are embedded, drawn at random where there were more."""
MOST_SCORED = 1000
WORDS = 1024
"""Dimensions of hashed words, where there is no embedder."""
HASHED = f"words {WORDS}"


@dataclass(frozen=True)
class Asked:
    """Questions of a window.

    Attributes:
        vectors: of shape (n, dimension), each of length 1.
        threads: the conversation that each belongs to.
        best: score of the best passage that was found for each that something was found for.
        texts: as they are stored, redacted; empty where only vectors were kept.

    """

    vectors: Vectors
    threads: list[str]
    best: list[float]
    texts: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.threads)


Rows = list[tuple[str, str]]


def traffic(store: Store, project: str, begin: float, end: float) -> Rows:
    """Trace and conversation of each question in a window of time, experiments left out.

    Args:
        store: of the traces.
        project: Opik's name of the project.
        begin: seconds since the epoch.
        end: likewise; not part of the window.

    """
    from llm_twin.tracing.store.merge import stamp_of
    from llm_twin.tracing.store.projects import find

    span = [stamp_of(datetime.fromtimestamp(at, UTC)) for at in (max(0.0, begin), end)]
    with store.database.read() as db:
        rows = db.execute(
            "SELECT trace.id, coalesce(thread_id, trace.id) FROM traffic"
            " JOIN trace ON trace.id = traffic.trace WHERE traffic.project_id = ? AND live = 1"
            " AND traffic.started >= ? AND traffic.started < ? ORDER BY traffic.started, trace.id",
            (find(db, project) or "", *span),
        )
        return [(str(trace), str(thread)) for trace, thread in rows]


def questions(store: Store, rows: Rows, embed: Embed, seed: int = 0) -> Asked:
    """Read and embed the questions of some traces; traces without one are left out.

    Args:
        store: of the traces.
        rows: as ``traffic`` returns them.
        embed: texts to unit vectors.
        seed: of the draw, where there are too many.

    """
    from llm_twin.tracing.evaluation.view import views

    thread_of = dict(_drawn(rows, MOST, seed))
    with store.database.read() as db:
        seen = [one for one in views(db, list(thread_of)) if one.question.strip()]
    texts = [one.question for one in seen]
    best = [one.passages[0].score for one in seen if one.passages]
    return Asked(embed(texts), [thread_of[one.id] for one in seen], best, texts)


def scores(
    store: Store, rows: Rows, ignored: Sequence[str] = (), seed: int = 0
) -> dict[str, dict[str, list[float]]]:
    """The values of each score of some traces, by conversation.

    Args:
        store: of the traces.
        rows: as ``traffic`` returns them.
        ignored: names that say nothing about the text.
        seed: of the draw, where there are too many.

    """
    found: dict[str, dict[str, list[float]]] = {}
    thread_of = dict(_drawn(rows, MOST_SCORED, seed))
    with store.database.read() as db:
        for trace, name, value in _values(db, list(thread_of)):
            if name not in ignored:
                found.setdefault(name, {}).setdefault(thread_of[trace], []).append(value)
    return found


def _drawn(rows: Rows, most: int, seed: int) -> Rows:
    return rows if len(rows) <= most else sorted(random.Random(seed).sample(rows, most))


def _values(db: sqlite3.Connection, traces: Sequence[str]) -> Iterator[tuple[str, str, float]]:
    from llm_twin.tracing.store.records import marks

    yield from db.execute(
        "SELECT entity, name, avg(value) FROM score WHERE kind = 'trace'"  # noqa: S608
        f" AND entity IN ({marks(traces)}) GROUP BY entity, name",
        list(traces),
    )


# Vectors


@contextlib.contextmanager
def embedding(
    settings: Settings, say: Callable[[str], object] = print
) -> Iterator[tuple[str, Embed]]:
    """The name of the vectors' space, and what embeds; hashed words where no embedder is at hand.

    Vectors are kept in the cache that training uses, which knows texts by their digests alone.
    """
    from llm_twin.retrieval import CachedEmbedder, open_embedder

    try:
        embedder = open_embedder(settings, say)
    except TwinError as error:
        say(f"compared by words alone: {error}")
        embedder = None
    if embedder is None:
        yield HASHED, hashed
        return
    with CachedEmbedder(embedder, settings.home / "cache" / "embeddings.db", say) as cached:
        yield cached.name, cached.embed


def hashed(texts: Sequence[str]) -> Vectors:
    """Bags of word stems, hashed to unit vectors of shape (len(texts), 1024)."""
    import numpy as np

    from llm_twin.retrieval.terms import question_terms

    rows = np.zeros((len(texts), WORDS), np.float32)
    for row, text in zip(rows, texts, strict=True):
        for stem in question_terms(text):
            row[crc32(stem.encode()) % WORDS] += 1
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(lengths > 0, lengths, 1)
    return rows


# What was asked before a version was trained


def keep(home: Path, version: str, space: str, asked: Asked) -> None:
    """Keep the vectors of a version's reference, in the place of any other version's."""
    import numpy as np

    # A conversation may be named after a person: numbers do as well.
    number = {name: str(index) for index, name in enumerate(dict.fromkeys(asked.threads))}
    folder = home / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    building = folder / f".{version}.{os.getpid()}.npz"
    with building.open("wb") as file:
        np.savez_compressed(
            file,
            space=np.array(space),
            vectors=asked.vectors,
            threads=np.array([number[name] for name in asked.threads]),
            best=np.array(asked.best, np.float64),
        )
    building.replace(folder / f"{version}.npz")
    for other in folder.glob("*.npz"):
        if other.name != f"{version}.npz":
            other.unlink(missing_ok=True)


def kept(home: Path, version: str, space: str) -> Asked | None:
    """The reference of a version; None where there is none in this space of vectors."""
    import numpy as np

    try:
        with np.load(home / FOLDER / f"{version}.npz", allow_pickle=False) as file:
            if str(file["space"]) != space:
                return None
            best = [float(value) for value in file["best"]]
            return Asked(file["vectors"], [str(one) for one in file["threads"]], best)
    except (OSError, ValueError, KeyError, EOFError):
        return None
