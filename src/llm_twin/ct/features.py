"""Brings an index to exactly a corpus: what changed is cut, embedded and written, no more.

Every step hands on what is ready, so little of a large corpus is in memory at a time. Whatever was
finished when a run is killed is not done again by the next: documents, passages and vectors are
kept, and an index is written a batch of whole documents at a time.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from llm_twin.corpus import DocumentCache, forgotten, open_source
from llm_twin.corpus.cleaning import RULES, Verdict, survey, tidied
from llm_twin.corpus.document import content_id
from llm_twin.corpus.prepared import FILE as PREPARED
from llm_twin.corpus.prepared import Prepared, rules
from llm_twin.ct import catalog, ledger, place, tasks
from llm_twin.ct.scale import Local, Pace
from llm_twin.errors import CorpusError
from llm_twin.retrieval import CachedEmbedder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from llm_twin.corpus.document import Chunk
    from llm_twin.corpus.prepared import Run
    from llm_twin.ct.catalog import Catalog
    from llm_twin.ct.ledger import Ledger
    from llm_twin.ct.scale import Workers
    from llm_twin.retrieval.ports import Embedder, Index, Vectors
    from llm_twin.settings import Settings

    Progress = Callable[[str], None]
    Batch = list[tuple[str, list[Chunk]]]

DOCUMENTS_A_TASK = 16
CHUNKS_A_BATCH = 256


@dataclass
class Work:
    """What one run has at hand.

    Attributes:
        settings: of the run.
        workers: do the work.
        progress: told of it.
        ledger: what is known already.
        prepared: what was made of single documents.
        seconds: spent, by step.

    """

    settings: Settings
    workers: Workers
    progress: Progress
    ledger: Ledger
    prepared: Prepared
    seconds: Counter[str]

    def run(self, what: str, total: int | None = None) -> Run:
        """A ``map`` over documents that says what it does."""

        pace = Pace(what, self.progress, total)

        def run(function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
            for made in self.workers.map(function, items, batch=DOCUMENTS_A_TASK, what=what):
                pace.step()
                yield made

        return run

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Count the time of a block."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] += time.perf_counter() - begun  # type: ignore[assignment]


def bring_up_to_date(
    corpus: str, exclude: Sequence[str], settings: Settings, progress: Progress,
    workers: Workers | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Make the index hold exactly the passages of a corpus.

    Args:
        corpus: folder, file or address.
        exclude: patterns to leave out.
        settings: ``index_url`` names a Qdrant server, else it is ``<home>/features/index.db``.
        progress: told lines of progress.
        workers: who does the work; this process if None.

    Returns:
        ``source``, ``index``, ``embedder``; counts ``documents`` (in the index), ``opened`` (read
        beyond their stamp), ``cleaned``, ``dropped``, ``cut`` (documents), ``embedded`` and
        ``written`` (chunks), ``deleted`` (documents), ``chunks`` (in the index); ``skipped``; and
        ``seconds`` by step.

    Raises:
        CorpusError: the corpus cannot be read, or nothing is left of it.
        BusyError: another process does the same.

    """
    source = open_source(corpus, settings, exclude)
    folder = settings.home / "cache"
    with ExitStack() as stack:
        stack.enter_context(ledger.alone(folder / "features.lock"))
        book = stack.enter_context(closing(ledger.Ledger(folder / ledger.FILE)))
        prepared = stack.enter_context(Prepared(folder / PREPARED))
        work = Work(settings, workers or Local(), progress, book, prepared, Counter())
        unwanted = forgotten.unwanted(settings.home)
        documents = stack.enter_context(DocumentCache(folder / "documents.db", unwanted))
        with work.timed("collect"):
            found = catalog.take(
                source, book, documents, settings.home, progress, work.run("reading")
            )
        with work.timed("clean"):
            verdicts = _verdicts(found, work)
        embedder = tasks.embedder_of(settings)
        index = stack.enter_context(closing(place.open_at(settings, embedder)))
        written = _write(index, embedder, found, verdicts, work)
        kept = sum(not one.reason for one in verdicts)
        return {
            "source": source.name,
            "index": settings.index_url or str(place.path_of(settings)),
            "embedder": embedder.name if embedder else "",
            "documents": kept,
            "opened": found.opened,
            "cleaned": prepared.made["cleaned"],
            "dropped": len(verdicts) - kept,
            "cut": prepared.made["cut"],
            **written,
            "chunks": index.count(),
            "skipped": [[one.uri, one.reason] for one in found.skipped],
            "seconds": {step: round(spent, 2) for step, spent in work.seconds.items()},
        }


def _verdicts(found: Catalog, work: Work) -> list[Verdict]:
    """What cleaning makes of the corpus; nothing is looked at if it is as it was."""
    state = content_id(rules(*RULES), found.state)
    if known := work.ledger.survey(found.source, state):
        verdicts = [Verdict(*one) for one in known]
    else:
        run = work.run("cleaning", len(found.entries))
        verdicts = survey(found.entries, found.read, work.prepared, run)
        work.ledger.keep_survey(found.source, state, verdicts)
    if all(one.reason for one in verdicts):
        raise CorpusError(
            "nothing is left of the corpus after cleaning",
            hint="It needs at least one document with some sentences of prose",
        )
    return verdicts


def _write(
    index: Index, embedder: Embedder | None, found: Catalog, verdicts: Sequence[Verdict], work: Work
) -> dict[str, int]:
    """Delete what is not wanted, and write what is not there; return what was done."""
    where = content_id(work.settings.index_url or str(place.path_of(work.settings)), index.embedder)
    wanted = {
        content_id(entry.uri): (at, tasks.cut_key(verdicts[at].digest, embedder))
        for at, entry in enumerate(found.entries)
        if not verdicts[at].reason
    }
    with work.timed("compare"):
        held, current = index.documents(), _current(index, where, work.ledger)
        fresh = {
            document: at_cut
            for document, at_cut in wanted.items()
            if held.get(document) != verdicts[at_cut[0]].digest
            or current.get(document) != at_cut[1]
        }
        stale = [one for one in held if one in fresh or one not in wanted]
        gone = [one for one in {*held, *current} if one not in wanted]
    if not fresh and not stale:
        work.ledger.set_complete(where, True)
        return {"embedded": 0, "written": 0, "deleted": 0}
    work.ledger.set_complete(where, False)
    with work.timed("delete"):
        work.ledger.unwrite(where, [*stale, *gone])
        index.delete_documents(stale)
    counts = _fill(index, embedder, where, fresh, found, verdicts, work)
    work.ledger.set_complete(where, True)
    return {**counts, "deleted": len([one for one in held if one not in wanted])}


def _current(index: Index, where: str, book: Ledger) -> dict[str, str]:
    """The cut of each document that is wholly in the index, unless another wrote there since."""
    written = book.written(where)
    if book.complete(where) and sum(chunks for _, chunks in written.values()) != index.count():
        return {}
    return {document: cut for document, (cut, _) in written.items()}


def _fill(
    index: Index, embedder: Embedder | None, where: str, fresh: dict[str, tuple[int, str]],
    found: Catalog, verdicts: Sequence[Verdict], work: Work,
) -> dict[str, int]:  # fmt: skip
    """Cut, embed and write documents, a batch at a time."""
    _make_sure(found, verdicts, [at for at, _ in fresh.values()], work)
    counts: Counter[str] = Counter(embedded=0, written=0)
    cuts = _cut(fresh, verdicts, work)
    lots = tasks.batches(cuts, CHUNKS_A_BATCH)
    for lot, vectors in _embedded(lots, embedder, work, counts):
        chunks = [chunk for _, own in lot for chunk in own]
        with work.timed("write"):
            if chunks:
                index.upsert(chunks, vectors)
            work.ledger.write(
                where, [(one, fresh[one][1], len({chunk.id for chunk in own})) for one, own in lot]
            )
        counts["written"] += len(chunks)
    return dict(counts)


def _make_sure(
    found: Catalog, verdicts: Sequence[Verdict], places: Sequence[int], work: Work
) -> None:
    """Clean again if a clean document is not kept any more."""
    if work.prepared.drop_damaged([verdicts[at].key for at in places]):
        survey(found.entries, found.read, work.prepared, work.run("cleaning"))


def _cut(
    fresh: dict[str, tuple[int, str]], verdicts: Sequence[Verdict], work: Work
) -> Iterator[tuple[str, list[Chunk]]]:
    """Yield each document with its passages, their order as it was."""
    places = [at for at, _ in fresh.values()]
    slim = replace(work.settings, corpus="")

    def given(at: int) -> tuple[Settings, Any]:
        return slim, next(tidied([verdicts[places[at]].key], work.prepared))

    keys = (key for _, key in fresh.values())
    run = work.run("cutting", len(fresh))
    rows = iter(work.prepared.rows("cut", keys, tasks.cut, given, run))
    for document in fresh:
        with work.timed("cut"):
            row = next(rows)
        yield document, tasks.chunks_in(row)


def _embedded(
    lots: Iterator[Batch], embedder: Embedder | None, work: Work, counts: Counter[str]
) -> Iterator[tuple[Batch, Vectors | None]]:
    """Yield batches with their vectors, embedding what was never embedded."""
    if embedder is None:
        yield from ((lot, None) for lot in lots)
        return
    path = work.settings.home / "cache" / "embeddings.db"
    waiting: deque[tuple[Batch, list[str], dict[str, Vectors], list[str]]] = deque()
    with CachedEmbedder(embedder, path, work.progress) as cache:

        def ask() -> Iterator[tuple[Settings, list[str]]]:
            for lot in lots:
                texts = [chunk.passage for _, own in lot for chunk in own]
                known = cache.known(texts)
                new = [text for text in dict.fromkeys(texts) if text not in known]
                waiting.append((lot, texts, known, new))
                yield work.settings, new

        made = work.workers.map(
            tasks.embed, ask(), batch=1, what=f"embedding batches of {CHUNKS_A_BATCH}",
            progress=work.progress,
        )  # fmt: skip
        while True:
            cutting, begun = work.seconds["cut"], time.perf_counter()
            vectors = next(made, None)
            spent = time.perf_counter() - begun - (work.seconds["cut"] - cutting)
            work.seconds["embed"] += spent  # type: ignore[assignment]
            if vectors is None:
                return
            lot, texts, known, new = waiting.popleft()
            cache.keep(new, vectors)
            counts["embedded"] += len(new)
            known.update(zip(new, vectors, strict=True))
            rows = [known[text] for text in texts]
            yield lot, np.stack(rows) if rows else vectors
