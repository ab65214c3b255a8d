"""What every source of documents offers, and what it hands over.

Kept apart from the sources themselves so that each of them, and whoever only needs the shapes,
can import these without the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llm_twin.corpus.cache import DocumentCache
    from llm_twin.corpus.document import Document

    Progress = Callable[[str], None]


@dataclass(frozen=True)
class Skipped:
    """A document that was left out.

    Attributes:
        uri: which one.
        reason: why, as a phrase for the summary.

    """

    uri: str
    reason: str


@dataclass
class Collected:
    """What a source held.

    Attributes:
        documents: raw Markdown, extracted but not cleaned; in a stable order.
        skipped: what could not be read, each with its reason.
        reused: how many documents came from the cache because their bytes had not changed.

    """

    documents: list[Document] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    reused: int = 0


class Source(Protocol):
    """Somewhere documents come from.

    Attributes:
        spec: the path or address it was opened with.
        name: a short label.

    """

    @property
    def spec(self) -> str:
        """The path or address it was opened with."""
        ...

    @property
    def name(self) -> str:
        """A short label for a summary."""
        ...

    def check(self) -> None:
        """Raise CorpusError for whatever is wrong with the input; writes nothing."""
        ...

    def files(self) -> list[Path]:
        """Return the local files it reads; none for a remote source."""
        ...

    def revision(self) -> str:
        """Return a digest of what a remote source stands at; "" for a local one."""
        ...

    def read(self, cache: DocumentCache | None, progress: Progress) -> Collected:
        """Extract every document, taking unchanged ones from the cache.

        Raises:
            CorpusError: a document is broken, or none is left.

        """
        ...
