"""The two shapes that travel through the house: a document and a chunk of one."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any


def content_id(*parts: str, length: int = 16) -> str:
    """Return a stable id: the first hex digits of SHA-256 over the parts, NUL-separated."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:length]


@dataclass(frozen=True)
class Document:
    """One text of the author, as clean Markdown.

    Attributes:
        uri: where it came from; unique in a corpus and stable over runs (relative path, or URL).
        title: its title, without markup.
        text: Markdown; the body without navigation or boilerplate, headings kept.
        link: what a citation shows: a URL, or the path for a file.
        author: the author's name, or "".
        published: ISO date, or "".

    """

    uri: str
    title: str
    text: str
    link: str = ""
    author: str = ""
    published: str = ""

    @property
    def id(self) -> str:
        """Stable over edits: derived from the uri alone."""
        return content_id(self.uri)

    @property
    def digest(self) -> str:
        """Changes with any field: what incremental steps compare."""
        return content_id(
            self.uri, self.title, self.text, self.link, self.author, self.published, length=32
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Document:
        """Reverse of to_dict."""
        return cls(**data)


@dataclass(frozen=True)
class Chunk:
    """A piece of one document that fits the embedder's window together with its title and headings.

    Attributes:
        document_id: Document.id.
        document_digest: Document.digest, to see what changed.
        title: the document's title.
        headings: path of section headings above it, outermost first, without the title.
        text: the passage, Markdown with inline markup and hard wraps removed; paragraphs are
            separated by a blank line, code blocks kept as fenced blocks.
        link: the document's link.
        position: 0-based place in its document.

    """

    document_id: str
    document_digest: str
    title: str
    headings: tuple[str, ...]
    text: str
    link: str
    position: int

    @property
    def id(self) -> str:
        """Content id: the same passage at the same place has the same id in every run."""
        return content_id(self.document_id, self.title, "\x1f".join(self.headings), self.text)

    @property
    def prefix(self) -> str:
        """Title and heading path, as prepended for embedding: ``Title > Heading > Subheading``."""
        return " > ".join((self.title, *self.headings))

    @property
    def passage(self) -> str:
        """What is embedded: prefix, newline, text."""
        return f"{self.prefix}\n{self.text}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Chunk:
        """Reverse of to_dict."""
        return cls(**{**data, "headings": tuple(data["headings"])})
