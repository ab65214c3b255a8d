"""How well the right article is found, on the same passages: plain BM25, vectors, RRF, and ours.

``words`` is what we do without an embedder, ``ours`` with one.

Run: ``python benchmarks/retrieval.py CORPUS.json [QUESTIONS.json]``. A question counts as answered
at k when its article is among the first k articles; MRR is over the article's rank.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from llm_twin.corpus.chunks import chunk
from llm_twin.corpus.cleaning import clean
from llm_twin.corpus.sources import open_source
from llm_twin.retrieval import CachedEmbedder, Embedder, Hit, open_embedder
from llm_twin.retrieval.sqlite import SqliteIndex
from llm_twin.settings import Settings

DEPTH = 200
QUESTIONS = Path(__file__).with_name("questions_handbook.json")
Ranking = dict[str, list[str]]


def build(spec: str, settings: Settings, embedder: Embedder, path: Path) -> SqliteIndex:
    """Index a corpus at the path, with vectors cached under the home folder."""
    documents = clean(open_source(spec, settings).read(None, lambda line: None).documents).documents
    window = min(embedder.window, 256)
    chunks = [part for one in documents for part in chunk(one, embedder.count_tokens, window)]
    started = time.process_time()
    with CachedEmbedder(embedder, settings.home / "cache" / "vectors.db") as cached:
        vectors = cached.embed([one.passage for one in chunks])
    spent = time.process_time() - started
    index = SqliteIndex.create(path, "benchmark", embedder.name)
    index.upsert(chunks, vectors)
    print(f"{len(documents)} documents, {len(chunks)} passages, embedded in {spent:.1f} CPU s")
    return index


def by_article(hits: list[Hit], key: str = "score") -> list[str]:
    """Links in the order of their best passage."""
    ordered = sorted(hits, key=lambda hit: -float(getattr(hit, key)))
    return list(dict.fromkeys(hit.chunk.link for hit in ordered))


def reciprocal(*rankings: list[Hit]) -> list[str]:
    """Reciprocal rank fusion of passages, with its usual constant 60."""
    scores: dict[str, float] = defaultdict(float)
    links = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking):
            scores[hit.chunk.id] += 1 / (61 + rank)
            links[hit.chunk.id] = hit.chunk.link
    return list(dict.fromkeys(links[one] for one in sorted(scores, key=lambda one: -scores[one])))


def plain_bm25(path: Path, question: str) -> list[str]:
    """FTS5's own order over the same passages, every word of the question asked for."""
    words = " OR ".join(f'"{word}"' for word in dict.fromkeys(re.findall(r"\w+", question)))
    with contextlib.closing(sqlite3.connect(path)) as database:
        rows = database.execute(
            "SELECT link FROM words JOIN chunks ON chunks.number = words.rowid WHERE words MATCH ?"
            " ORDER BY bm25(words, 2.0, 1.5, 1.0)",
            (words,),
        ).fetchall()
    return list(dict.fromkeys(link for (link,) in rows))


def rankings(index: SqliteIndex, embedder: Embedder, path: Path, question: str) -> Ranking:
    """Each way's articles for one question, best first."""
    vector = embedder.embed([question])[0]
    words = index.search(question, None, DEPTH)
    vectors = index.search("", vector, DEPTH)
    vectors.sort(key=lambda hit: -hit.cosine)
    return {
        "bm25": plain_bm25(path, question),
        "words": by_article(words),
        "vectors": by_article(vectors, "cosine"),
        "rrf": reciprocal(words, vectors),
        "ours": by_article(index.search(question, vector, DEPTH)),
    }


def report(rows: list[dict[str, str]], found: list[Ranking]) -> None:
    """Print hit@1 / hit@5 / MRR by way and kind of question."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    print("way      " + "".join(f"{kind:>26}" for kind in kinds))
    for way in found[0]:
        cells = ""
        for kind in kinds:
            ranks = np.array(
                [
                    ranking[way].index(row["link"]) + 1 if row["link"] in ranking[way] else np.inf
                    for row, ranking in zip(rows, found, strict=True)
                    if row["kind"] == kind
                ]
            )
            hit1, hit5, mrr = (ranks == 1).mean(), (ranks <= 5).mean(), (1 / ranks).mean()
            cells += f"{hit1:>12.3f} {hit5:.3f} {mrr:.3f} "
        print(f"{way:8} {cells}")


def main(arguments: list[str]) -> int:
    """Build the index in a temporary folder, ask every question, print the table."""
    settings = Settings.load()
    embedder = open_embedder(settings)
    if not arguments or embedder is None:
        print(__doc__)
        return 2
    rows = json.loads(Path(arguments[1] if arguments[1:] else QUESTIONS).read_text("utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.db"
        index = build(arguments[0], settings, embedder, path)
        report(rows, [rankings(index, embedder, path, row["question"]) for row in rows])
        started = time.process_time()
        for row in rows:
            index.search(row["question"], embedder.embed([row["question"]])[0], 5)
        spent = (time.process_time() - started) / len(rows) * 1000
        print(f"one question, embedded and searched: {spent:.1f} CPU ms on average")
        index.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
