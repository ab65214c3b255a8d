"""The data warehouse of the LLM Engineer's Handbook: a JSON list of articles, posts, repositories.

Its texts are html2text's Markdown of whole pages. Fields may be missing, empty or named in
another way; what cannot be a document is skipped and named.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from llm_twin.corpus.decode import check_size, decode, parse_json
from llm_twin.corpus.document import Document
from llm_twin.corpus.files import collect, excluded, usable
from llm_twin.corpus.markdown import blocks, normalized
from llm_twin.corpus.ports import Collected, Skipped
from llm_twin.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from llm_twin.corpus.cache import DocumentCache
    from llm_twin.corpus.ports import Progress

    Row = dict[str, Any]

_NOT_TEXT = frozenset(("title", "subtitle", "language", "link", "url", "author", "date", "image"))
_READ_FILES = (".md", ".markdown", ".txt")


@dataclass(frozen=True)
class Handbook:
    """A source of articles in one JSON file.

    Attributes:
        spec: the path it was opened with.
        name: a short label.
        path: the file.
        max_mb: the largest article read, in MiB.
        exclude: patterns of uris (links, mostly) to leave out.

    """

    spec: str
    name: str
    path: Path
    max_mb: int
    exclude: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise CorpusError when the file is not JSON, or not in this format."""
        for uri, row in self._rows():
            check_size(_size(row), self.max_mb, uri)

    def files(self) -> list[Path]:
        """Return the one file."""
        return [self.path]

    def revision(self) -> str:
        """Nothing beyond its files."""
        return ""

    def read(self, cache: DocumentCache | None, progress: Progress) -> Collected:
        """Turn every row into documents."""
        collected = Collected()
        rows = self._rows()
        for number, (uri, row) in enumerate(rows, start=1):
            progress(f"reading {number}/{len(rows)} {uri}")
            check_size(_size(row), self.max_mb, uri)
            documents = list(_texts(uri, row))
            if not documents:
                collected.skipped.append(Skipped(uri, "the row holds no text"))
            for part, fields in documents:
                if excluded(part, self.exclude):
                    continue
                data = json.dumps(fields, sort_keys=True).encode()
                collect(collected, cache, part, data, lambda data, uri: _document(data, uri))
        return usable(collected, self.spec)

    def _rows(self) -> list[tuple[str, Row]]:
        """Return the rows that are not excluded, each with its uri."""
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise CorpusError(f"cannot be read ({error.strerror})", self.spec) from None
        rows = _as_rows(parse_json(decode(data, self.spec), self.spec))
        if not rows:
            raise CorpusError(
                "not the handbook's format (a JSON list of objects with a 'content')",
                self.spec,
                "Give a data-warehouse export, or a folder of documents",
            )
        seen: dict[str, int] = {}
        named = []
        for position, row in enumerate(rows):
            uri = str(
                row.get("link") or row.get("_id") or row.get("id") or f"{self.name}#{position}"
            )
            seen[uri] = seen.get(uri, 0) + 1
            named.append((uri if seen[uri] == 1 else f"{uri}#{seen[uri]}", row))
        return [(uri, row) for uri, row in named if not excluded(uri, self.exclude)]


def _as_rows(parsed: object) -> list[Row]:
    """Return the objects with content in a list, or in an artifact's ``artifact_data``."""
    if isinstance(parsed, dict):
        lists = [value for value in parsed.values() if isinstance(value, list)]
        parsed = lists[0] if len(lists) == 1 else [parsed]
    if not isinstance(parsed, list):
        return []
    return [row for row in parsed if isinstance(row, dict) and "content" in row]


def _size(row: Row) -> int:
    content = row["content"]
    values = content.values() if isinstance(content, dict) else [content]
    return sum(len(value) for value in values if isinstance(value, str))


def _texts(uri: str, row: Row) -> Iterator[tuple[str, Row]]:
    """Yield the uri and the plain fields of each document in a row."""
    content = row["content"]
    link = str(row.get("link") or "")
    common = {
        "link": link,
        "author": str(row.get("author_full_name") or ""),
        "published": str(row.get("published_at") or row.get("date") or "")[:10],
    }
    if isinstance(content, str):
        content = {"Content": content, "Title": row.get("title") or row.get("name")}
    if not isinstance(content, dict):
        return
    if _is_repository(row, content):
        yield from _repository(uri, content, common)
        return
    named = {str(key).lower(): value for key, value in content.items() if isinstance(value, str)}
    text = "\n\n".join(value for key, value in named.items() if key not in _NOT_TEXT)
    if text.strip():
        title = {"title": named.get("title", ""), "subtitle": named.get("subtitle", "")}
        yield uri, common | title | {"text": text}


def _is_repository(row: Row, content: dict[str, object]) -> bool:
    """Tell a repository's files by path from an article's sections by name."""
    paths = sum("." in str(key) or "/" in str(key) for key in content)
    return row.get("platform") == "github" or 2 * paths > len(content)


def _repository(uri: str, content: dict[str, object], common: Row) -> Iterator[tuple[str, Row]]:
    for path, text in content.items():
        readable = str(path).lower().endswith(_READ_FILES) and isinstance(text, str)
        # The handbook's crawler removed every space from the files it took: nothing to learn.
        if readable and " " in str(text).strip():
            yield f"{uri}/{path}", common | {"title": "", "subtitle": "", "text": text}


def _document(data: bytes, uri: str) -> Document:
    fields: dict[str, str] = json.loads(data)
    text = _mended(fields["text"])
    author = fields["author"]
    title = " ".join(fields["title"].split()) or _title(text, author) or _name(uri)
    return Document(
        uri=uri,
        title=title,
        text=_demoted(text, fields["subtitle"]),
        link=fields["link"] or uri,
        author=author,
        published=fields["published"],
    )


def _title(text: str, author: str) -> str:
    """Return the first top heading that is not the author's name, or the first words."""
    parts = blocks(text)
    for part in parts:
        if (
            part.kind == "heading"
            and part.level == 1
            and normalized(part.text) != normalized(author)
        ):
            return part.text
    first = next((part.text for part in parts if normalized(part.text)), "")
    return first if len(first) <= 80 else f"{first[:80].rpartition(' ')[0] or first[:80]}…"


def _name(uri: str) -> str:
    return PurePosixPath(uri).name or uri


def _demoted(text: str, subtitle: str) -> str:
    """Make the subtitle a line of text: as a heading it would stand over the whole article."""
    wanted = normalized(subtitle)
    if not wanted:
        return text
    lines = text.splitlines()
    for at, line in enumerate(lines):
        if line.startswith("#") and normalized(line) == wanted:
            lines[at] = line.lstrip("# ")
    return "\n".join(lines)


def _mended(text: str) -> str:
    """Undo what html2text does to Markdown: wrapped headings, empty bold, code without fences.

    Its code opens with two lines of four spaces; as indented code, CommonMark would read it as
    part of a list that stands before it.
    """
    lines: list[str] = []
    code: list[str] | None = None
    source = text.splitlines()
    for at, line in enumerate(source):
        if code is not None and line.strip() and not line.startswith("    "):
            lines += _fence(code)
            code = None
        if code is not None:
            code.append(line[4:])
        elif line == "    " and source[at + 1 : at + 2] == ["    "]:
            code = []
        elif lines and lines[-1].startswith("#") and line.strip():
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line.replace("****", ""))
    return "\n".join(lines + (_fence(code) if code is not None else []))


def _fence(code: list[str]) -> list[str]:
    """Return fenced lines, without the empty icon of a copy button (``__``) at the end."""
    body = re.sub(r" ?__\s*$", "", "\n".join(code)).strip("\n").rstrip()
    return ["", "````", body, "````", ""]
