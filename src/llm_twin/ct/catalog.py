"""Which documents a corpus holds, without opening the files that are what they were.

A file counts as the same while its size, times and inode are; one that changed less than two
seconds before it was looked at may change again within its clock's tick and is read next time too.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llm_twin.corpus import forgotten
from llm_twin.corpus.cache import EXTRACTOR
from llm_twin.corpus.cleaning import Entry
from llm_twin.corpus.document import Document, content_id
from llm_twin.corpus.files import Files, usable
from llm_twin.corpus.ports import Collected, Skipped
from llm_twin.ct.ledger import Seen
from llm_twin.errors import CorpusError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from llm_twin.corpus.cache import DocumentCache
    from llm_twin.corpus.ports import Source
    from llm_twin.corpus.prepared import Run
    from llm_twin.ct.ledger import Ledger

    Progress = Callable[[str], None]

SETTLED = 2.0
WHOLE = ""
"""In the place of a uri: the stamp of a source that is read as a whole."""


@dataclass
class Catalog:
    """What a corpus holds.

    Attributes:
        source: identifies it, and how it is read.
        entries: its documents, sorted by uri.
        read: the document of the entry at a position.
        skipped: what was left out.
        opened: how many documents were read and not known by their stamp.

    """

    source: str
    entries: list[Entry]
    read: Callable[[int], Document]
    skipped: list[Skipped] = field(default_factory=list)
    opened: int = 0

    @property
    def state(self) -> str:
        """Digest of all that cleaning takes in."""
        return content_id(*(f"{one.uri}\0{one.digest}\0{one.link}" for one in self.entries))


def take(
    source: Source, ledger: Ledger, cache: DocumentCache, home: Path, progress: Progress,
    run: Run = map,
) -> Catalog:  # fmt: skip
    """Bring what is known of a source up to date.

    Raises:
        CorpusError: a document is broken, or none is left.

    """
    identity = _identity(source, home)
    if isinstance(source, Files):
        return _by_file(source, identity, ledger, cache, home, run)
    return _as_a_whole(source, identity, ledger, cache, home, progress)


def stamp(stat: os.stat_result, now: float) -> str:
    """What a file has to be to count as the same; "" for one that is not settled."""
    if now - max(stat.st_mtime, stat.st_ctime) < SETTLED:
        return ""
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


def _identity(source: Source, home: Path) -> str:
    wishes = home / forgotten.FILE
    forgets = wishes.read_text("utf-8") if wishes.exists() else ""
    return content_id(EXTRACTOR, repr(source), str(Path.cwd()), forgets, length=32)


def _by_file(
    source: Files, identity: str, ledger: Ledger, cache: DocumentCache, home: Path, run: Run
) -> Catalog:
    known = ledger.files(identity)
    uris, now = source.inputs(), time.time()
    stamps = {uri: stamp(source.stat(uri), now) for uri in uris}
    changed = [uri for uri in uris if not stamps[uri] or _stamp_of(known.get(uri)) != stamps[uri]]
    is_unwanted = forgotten.unwanted(home)
    fresh: list[Seen] = []
    for found in source.extracted(changed, cache, run):
        fresh.append(_seen(found.uri, stamps[found.uri], found.key, found.content, is_unwanted))
        if len(fresh) % 1000 == 0:
            ledger.see(identity, fresh[-1000:])
    ledger.see(identity, fresh)
    ledger.miss(identity, known.keys() - stamps.keys())
    current = {**known, **{one.uri: one for one in fresh}}
    held = [current[uri] for uri in uris if current[uri].digest]

    def read(at: int) -> Document:
        one = held[at]
        document = cache.get(one.key)
        if document is None:
            content = next(source.extracted([one.uri], cache)).content
            document = content if isinstance(content, Document) else None
        if document is None or document.digest != one.digest:
            raise CorpusError("a document changed while it was read", one.uri, "Type it again")
        return document

    skipped = [Skipped(uri, current[uri].reason) for uri in uris if current[uri].reason]
    return _catalog(source, identity, held, read, skipped, len(changed))


def _as_a_whole(
    source: Source, identity: str, ledger: Ledger, cache: DocumentCache, home: Path,
    progress: Progress,
) -> Catalog:  # fmt: skip
    known, now = ledger.files(identity), time.time()
    stamps = [stamp(path.stat(), now) for path in source.files() if path.exists()]
    mark = "\n".join(stamps) if stamps and all(stamps) else ""
    documents: dict[str, Document] = {}

    def load() -> Collected:
        found = source.read(cache, progress)
        kept, left = forgotten.sift(found.documents, forgotten.unwanted(home))
        documents.update({one.uri: one for one in kept})
        return Collected(kept, [*found.skipped, *left])

    opened, same = 0, bool(mark) and _stamp_of(known.get(WHOLE)) == mark
    if not same:
        found = load()
        opened = len(found.documents)
        fresh = [Seen(one.uri, "", "", one.digest, one.link, "") for one in found.documents]
        fresh += [Seen(one.uri, "", "", "", "", one.reason) for one in found.skipped]
        ledger.miss(identity, known)
        ledger.see(identity, [*fresh, Seen(WHOLE, mark, "", "", "", "")])
        known = {one.uri: one for one in fresh}
    held = sorted((one for one in known.values() if one.digest), key=lambda one: one.uri)

    def read(at: int) -> Document:
        if not documents:
            load()
        return documents[held[at].uri]

    skipped = [Skipped(one.uri, one.reason) for one in known.values() if one.reason]
    return _catalog(source, identity, held, read, skipped, opened)


def _catalog(
    source: Source, identity: str, held: Sequence[Seen], read: Callable[[int], Document],
    skipped: list[Skipped], opened: int,
) -> Catalog:  # fmt: skip
    if not held:
        usable(Collected([], skipped), source.spec)
    entries = [Entry(one.uri, one.digest, one.link) for one in held]
    return Catalog(identity, entries, read, skipped, opened)


def _stamp_of(seen: Seen | None) -> str:
    return seen.stamp if seen else ""


def _seen(
    uri: str, mark: str, key: str, content: Document | Skipped | None,
    is_unwanted: Callable[[Document], bool],
) -> Seen:  # fmt: skip
    if isinstance(content, Document) and not is_unwanted(content):
        return Seen(uri, mark, key, content.digest, content.link, "")
    left = forgotten.REASON if isinstance(content, Document) else ""
    return Seen(uri, mark, key, "", "", content.reason if isinstance(content, Skipped) else left)
