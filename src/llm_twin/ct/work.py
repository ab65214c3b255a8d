"""The work of each pipeline step, free of ZenML: plain data and folders in, the same out.

A step of the pipeline wraps one function of this module; tests call them directly.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_twin.corpus import Chunk, Document, DocumentCache, clean, forgotten, open_source
from llm_twin.corpus.prepared import FILE as PREPARED
from llm_twin.corpus.prepared import Prepared
from llm_twin.ct import tasks
from llm_twin.errors import CorpusError
from llm_twin.model.questions import withhold_headings
from llm_twin.retrieval import CachedEmbedder, Retriever, open_embedder, open_index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llm_twin.corpus.prepared import Row
    from llm_twin.model.bundles import Bundle
    from llm_twin.model.dataset import Dataset
    from llm_twin.retrieval.ports import Embedder, Index
    from llm_twin.settings import Settings

    Progress = Callable[[str], None]
    Rows = list[dict[str, Any]]

WORDS = ""
CHUNKS_A_BATCH = 1024
CANDIDATES = 20


def collect(
    corpus: str, exclude: Sequence[str], settings: Settings, progress: Progress
) -> tuple[Rows, dict[str, Any]]:
    """Read the corpus; return its documents and a report."""
    source = open_source(corpus, settings, exclude)
    unwanted = forgotten.unwanted(settings.home)
    cache = DocumentCache(settings.home / "cache" / "documents.db", unwanted)
    found = source.read(cache, progress)
    kept, left = forgotten.sift(found.documents, unwanted)
    if left:  # A clone would keep them.
        shutil.rmtree(settings.home / "cache" / "git", ignore_errors=True)
    report = {
        "source": source.name,
        "documents": len(kept),
        "reused": found.reused,
        "skipped": [asdict(item) for item in (*found.skipped, *left)],
    }
    return [document.to_dict() for document in kept], report


def tidy(rows: Rows, settings: Settings | None = None) -> tuple[Rows, dict[str, Any]]:
    """Remove boilerplate and duplicates; return clean documents and a report.

    Args:
        rows: documents.
        settings: whose cache knows what was cleaned before; without them nothing is kept.

    Raises:
        CorpusError: nothing is left.

    """
    path = settings.home / "cache" / PREPARED if settings else None
    with Prepared(path) as prepared:
        cleaned = clean([Document.from_dict(row) for row in rows], prepared)
    if not cleaned.documents:
        raise CorpusError(
            "nothing is left of the corpus after cleaning",
            hint="It needs at least one document with some sentences of prose",
        )
    report = {
        "documents": len(cleaned.documents),
        "characters": sum(len(document.text) for document in cleaned.documents),
        "dropped": [asdict(item) for item in cleaned.dropped],
    }
    return [document.to_dict() for document in cleaned.documents], report


def split(rows: Rows, settings: Settings, progress: Progress) -> Rows:
    """Chunk documents so that every chunk fits the embedder's window; known ones are not cut."""
    documents = [Document.from_dict(row) for row in rows]
    with Prepared(settings.home / "cache" / PREPARED) as prepared:
        cut = tasks.cut_all(documents, settings, prepared)
        return [{**row, "headings": tuple(row["headings"])} for row in _flat(cut)]


def _flat(cut: Iterator[Row]) -> Iterator[dict[str, Any]]:
    for text, _, _ in cut:
        yield from json.loads(text)


def build_index(
    rows: Rows, previous: Path | None, path: Path, version: str, settings: Settings,
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Make the index at ``path`` hold exactly these chunks, starting from the previous one.

    Documents whose chunks are all the same keep their rows; the others are removed and added anew,
    be it that their text changed or the way it is cut.
    """
    embedder = cached_embedder(settings, progress)
    name = embedder.name if embedder else WORDS
    chunks = [Chunk.from_dict(row) for row in rows]
    index = _start_index(previous, path, version, name, settings)
    held, wanted = _by_document(index.chunks()), _by_document(chunks)
    stale = [key for key, own in held.items() if wanted.get(key) != own]
    if stale:
        index.delete_documents(stale)
    kept = held.keys() - set(stale)
    fresh = {key: list(own.values()) for key, own in wanted.items() if key not in kept}
    for lot in tasks.batches(iter(fresh.items()), CHUNKS_A_BATCH):
        some = [item for _, own in lot for item in own]
        index.upsert(some, embedder.embed([item.passage for item in some]) if embedder else None)
    total = index.count()
    index.close()
    return {
        "chunks": total,
        "indexed": sum(map(len, fresh.values())),
        "kept_documents": len(kept),
        "removed_documents": len(held.keys() - wanted.keys()),
        "embedder": name,
    }


def _by_document(chunks: Sequence[Chunk]) -> dict[str, dict[str, Chunk]]:
    """Chunks by document and id; of two with one id the last counts, as in an index."""
    found: dict[str, dict[str, Chunk]] = {}
    for item in chunks:
        found.setdefault(item.document_id, {})[item.id] = item
    return found


def _start_index(
    previous: Path | None, path: Path, version: str, embedder: str, settings: Settings
) -> Index:
    """A copy of the previous index when its vectors fit, else an empty one."""
    if previous is not None and previous.exists() and not settings.index_url:
        shutil.copyfile(previous, path)
        index = open_index(settings, path, version, embedder)
        if index.embedder == embedder:
            return index
        index.close()
        path.unlink()
    return open_index(settings, path, version, embedder)


def cached_embedder(settings: Settings, progress: Progress) -> Embedder | None:
    """The configured embedder, remembering vectors in ``<home>/cache/embeddings.db``."""
    embedder = open_embedder(settings, progress)
    if embedder is None:
        return None
    return CachedEmbedder(embedder, settings.home / "cache" / "embeddings.db", progress)


def evaluate(
    model: Path, chunks: Sequence[Chunk], dataset: Dataset, settings: Settings, progress: Progress
) -> dict[str, Any]:
    """Score a model on the held-out passages and its chunks on the questions."""
    from llm_twin.model.evaluation import evaluate_language, evaluate_retrieval
    from llm_twin.model.language_model import LocalModel

    progress(f"scoring {len(dataset.heldout_texts)} held-out passages")
    language = evaluate_language(LocalModel.load(model), dataset)
    progress(f"asking {len(dataset.questions)} questions")
    with searching(withhold_headings(chunks, dataset.questions), settings, progress) as retriever:

        def search(text: str, k: int) -> list[str]:
            return [hit.chunk.document_id for hit in retriever.search(text, max(k, CANDIDATES))]

        retrieval = evaluate_retrieval(dataset.questions, search)
    return {"language": language, "retrieval": retrieval}


@contextmanager
def searching(
    chunks: Sequence[Chunk], settings: Settings, progress: Progress
) -> Iterator[Retriever]:
    """Search over these chunks in a temporary index."""
    embedder = cached_embedder(settings, progress)
    with tempfile.TemporaryDirectory(prefix="llm-twin-") as folder:
        local = replace(settings, index_url="")
        path = Path(folder) / "index.db"
        index = open_index(local, path, "evaluation", embedder.name if embedder else WORDS)
        index.upsert(
            chunks, embedder.embed([item.passage for item in chunks]) if embedder else None
        )
        try:
            yield Retriever(index, embedder)
        finally:
            index.close()


def chunks_of(bundle: Bundle, settings: Settings) -> list[Chunk]:
    """Every chunk that a promoted bundle's index holds, in its own file or on the server.

    Raises:
        NotReadyError: its index is on a server that is no longer named, or that lost it.

    """
    embedder = str(bundle.manifest["details"]["embedder"])
    if bundle.index_path.exists():
        settings = replace(settings, index_url="")
    index = open_index(settings, bundle.index_path, bundle.version, embedder, readonly=True)
    try:
        return index.chunks()
    finally:
        index.close()
