"""Bytes to raw Markdown, one function per type of file.

Heavy extractors are imported by the function that needs them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from llm_twin.corpus.decode import check_notebook, decode, exclude_hint
from llm_twin.corpus.document import Document
from llm_twin.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Callable


_UNREAD = (
    "script, style, form, button, iframe, svg, .button-wrapper, .subscription-widget,"
    " .subscription-widget-wrap, .subscription-widget-wrap-editor"
)


class Unreadable(Exception):
    """A document that is skipped with this reason, while the rest goes on."""


@dataclass(frozen=True)
class Extracted:
    """What an extractor found; empty strings where the document does not say."""

    text: str
    title: str = ""
    author: str = ""
    published: str = ""


def extract(data: bytes, uri: str, link: str = "") -> Document:
    """Return the raw document in a file's bytes; its type is told by the uri's suffix.

    Raises:
        CorpusError: a text file is binary, wrongly encoded or malformed.
        Unreadable: the document holds no text that can be read.

    """
    extractor = EXTRACTORS[PurePosixPath(uri).suffix.lower()]
    found = extractor(data, uri)
    title = found.title or _first_heading(found.text) or name_title(uri)
    return Document(
        uri=uri,
        title=" ".join(title.split()),
        text=found.text,
        link=link or uri,
        author=found.author,
        published=found.published,
    )


def name_title(uri: str) -> str:
    """Return a title made from a file's name."""
    path = PurePosixPath(uri)
    stem = path.parent.name if path.stem.lower() in ("readme", "index") else path.stem
    return re.sub(r"[-_]+", " ", stem or path.stem).strip() or uri


def _first_heading(text: str) -> str:
    """Return the first top heading among the first blocks of a Markdown text."""
    from llm_twin.corpus.markdown import parse, plain

    tokens = parse("\n".join(text.splitlines()[:200]))
    for at, token in enumerate(tokens):
        if token.type == "heading_open" and token.tag == "h1":
            return plain(tokens[at + 1])
    return ""


def _markdown(data: bytes, uri: str) -> Extracted:
    text = decode(data, uri)
    body, fields = _front_matter(text)
    return Extracted(body, fields.get("title", ""), fields.get("author", ""), _day(fields))


def _front_matter(text: str) -> tuple[str, dict[str, str]]:
    """Split off the ``---`` block of ``key: value`` lines that site generators put on top."""
    lines = text.splitlines()
    if not lines or lines[0].rstrip() != "---" or "---" not in lines[1:80]:
        return text, {}
    end = lines.index("---", 1)
    pairs = (line.partition(":") for line in lines[1:end] if line[:1].isalpha())
    fields = {key.strip().lower(): value.strip().strip("\"'") for key, _, value in pairs}
    return "\n".join(lines[end + 1 :]), fields


def _day(fields: dict[str, str]) -> str:
    found = re.match(r"\d{4}-\d{2}-\d{2}", fields.get("date", ""))
    return found.group() if found else ""


def _text(data: bytes, uri: str) -> Extracted:
    return Extracted(decode(data, uri))


def _html(data: bytes, uri: str) -> Extracted:
    return page(decode_html(data, uri), uri)


def decode_html(data: bytes, uri: str) -> str:
    """Return a page's text in UTF-8 or in the encoding that the page itself declares."""
    declared = re.search(rb"charset=[\"']?([\w-]+)", data[:2048])
    if declared and declared.group(1).lower() != b"utf-8" and b"\0" not in data:
        try:
            return data.decode(declared.group(1).decode("ascii"))
        except (LookupError, UnicodeDecodeError):
            pass
    return decode(data, uri)


def page(html: str, uri: str) -> Extracted:
    """Return the main text of a web page as Markdown.

    Raises:
        Unreadable: there is none.

    """
    from trafilatura import extract, extract_metadata

    about = extract_metadata(html) if html.strip() else None
    text = about and extract(
        html,
        output_format="markdown",
        include_formatting=True,
        include_comments=False,
        favor_recall=True,
    )
    text = text or _short_page(html)
    if not text:
        raise Unreadable("no main text on the page")
    title, author, date = (about.title, about.author, about.date) if about else ("", "", "")
    return Extracted(text, title or "", author or "", date or "")


def _short_page(html: str) -> str:
    """Return what a page says that is too short for trafilatura to find its main text."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(html, "lxml")
    for frame in soup.select("nav, header, footer, aside"):
        frame.decompose()
    main = soup.select_one("main, article, body")
    return fragment(str(main)) if main else ""


def fragment(html: str) -> str:
    """Return an article's HTML body, which has no page around it, as Markdown."""
    from bs4 import BeautifulSoup
    from markdownify import MarkdownConverter

    soup = BeautifulSoup(html, "lxml")
    for unread in soup.select(_UNREAD):
        unread.decompose()
    for line in soup.select("pre br"):
        line.replace_with("\n")
    converter = MarkdownConverter(heading_style="ATX", bullets="-")
    return str(converter.convert_soup(soup)).strip()


def _notebook(data: bytes, uri: str) -> Extracted:
    """Return the Markdown cells and the code cells of a notebook; outputs are left out."""
    from nbformat import ValidationError, reads

    text = decode(data, uri)
    check_notebook(text, uri)
    try:
        notebook = reads(text, as_version=4)  # type: ignore[no-untyped-call]
    except (ValidationError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CorpusError(
            f"the notebook cannot be read ({type(error).__name__})", uri, exclude_hint(uri)
        ) from None
    language = notebook.metadata.get("kernelspec", {}).get("language", "python")
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cells.append(cell.source)
        elif cell.cell_type == "code" and cell.source.strip():
            cells.append(f"````{language}\n{cell.source}\n````")
    return Extracted("\n\n".join(cells))


def _pdf(data: bytes, uri: str) -> Extracted:
    from llm_twin.corpus.pdf import read_pdf

    title, text = read_pdf(data)
    return Extracted(text, title)


EXTRACTORS: dict[str, Callable[[bytes, str], Extracted]] = {
    ".md": _markdown,
    ".markdown": _markdown,
    ".txt": _text,
    ".html": _html,
    ".htm": _html,
    ".ipynb": _notebook,
    ".pdf": _pdf,
}
