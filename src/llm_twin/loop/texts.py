"""Every text that the state folder knows: what was collected, and the passages made of it.

Collections differ in what they leave behind: files are in the document cache, everything is among
the artifacts of a training run, and what is served is in a bundle's index.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_twin.corpus.document import Chunk, Document, content_id
from llm_twin.corpus.forgotten import named
from llm_twin.model.bundles import MANIFEST
from llm_twin.retrieval.sqlite import SqliteIndex

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Texts:
    """Documents and chunks, in every state that is still known, by the id of their document."""

    documents: dict[str, list[Document]] = field(default_factory=lambda: defaultdict(list))
    chunks: dict[str, dict[str, Chunk]] = field(default_factory=lambda: defaultdict(dict))

    @classmethod
    def known(cls, home: Path) -> Texts:
        """Read the document cache, the artifacts of training, and the bundles' indexes."""
        found = cls()
        for row in (*_cached(home), *_artifacts(home)):
            found.add(row)
        for bundle in bundle_folders(home):
            for chunk in chunks_in(bundle):
                found.chunks[chunk.document_id][chunk.id] = chunk
        return found

    def add(self, row: dict[str, Any]) -> None:
        """Take a document or a chunk as plain data; what is neither is ignored."""
        with contextlib.suppress(TypeError, KeyError):
            if "uri" in row and "text" in row:
                document = Document.from_dict(row)
                if document not in self.documents[document.id]:
                    self.documents[document.id].append(document)
            elif "document_id" in row and "text" in row:
                chunk = Chunk.from_dict(row)
                self.chunks[chunk.document_id][chunk.id] = chunk

    def meant(self, what: str) -> tuple[set[str], str]:
        """Ids of the documents that a word names, and the author's digest if it names one."""
        path = str(Path(what).expanduser().absolute())
        ids = {
            document.id
            for document in self._all()
            if what in (document.id, document.uri, document.link)
            or path.endswith(f"/{document.uri}")
        }
        ids |= {
            key
            for key, own in self.chunks.items()
            if key in (what, content_id(what)) or any(chunk.link == what for chunk in own.values())
        }
        written = {one.id for one in self._all() if one.author and named(one.author) == named(what)}
        return (ids, "") if ids or not written else (written, named(what))

    def others(self, ids: set[str]) -> Iterator[str]:
        """Everything that other documents say, titles and headings included."""
        for document in self._all():
            if document.id not in ids:
                yield f"{document.title}\n{document.text}"
        for key, own in self.chunks.items():
            if key not in ids:
                yield from (chunk.passage for chunk in own.values())

    def _all(self) -> Iterator[Document]:
        return (document for own in self.documents.values() for document in own)


def bundle_folders(home: Path) -> list[Path]:
    """Every version's folder, those that processes were deployed from included."""
    found = [*home.glob(f"models/[!.]*/{MANIFEST}")]
    found += home.glob(f"deployments/*/models/[!.]*/{MANIFEST}")
    return sorted(path.parent for path in found if not path.parent.is_symlink())


def chunks_in(bundle: Path) -> list[Chunk]:
    """The chunks in a bundle's own index; none if it has none."""
    path = bundle / "index.db"
    if not path.is_file():
        return []
    with SqliteIndex.open(path, readonly=True) as index:
        return index.chunks()


def _cached(home: Path) -> Iterator[dict[str, Any]]:
    path = home / "cache" / "documents.db"
    if path.is_file():
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as db:
            yield from (
                json.loads(text) for (text,) in db.execute("SELECT document FROM documents")
            )


def _artifacts(home: Path) -> Iterator[dict[str, Any]]:
    """Rows of the lists among ZenML's artifacts."""
    for path in (home / "zenml" / "local_stores").rglob("data.json"):
        with contextlib.suppress(OSError, ValueError):
            rows = json.loads(path.read_text("utf-8"))
            if isinstance(rows, list):
                yield from (row for row in rows if isinstance(row, dict))
