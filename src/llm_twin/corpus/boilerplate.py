"""Take a web page's frame off its text: navigation before it, buttons and comments after it.

The signals are general: what recurs over the documents of one site, what stands before the title
is said again, what repeats within a document, short runs at the edges. Only documents that came
from the web are touched; a file that an author keeps has no frame.

Looking at a page and taking its frame off need that page alone, so both can be kept, or done
elsewhere; between them stands a count over all that was seen (``recurring``).
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from llm_twin.corpus.duplicates import sketch
from llm_twin.corpus.markdown import blocks, normalized, words
from llm_twin.corpus.recurring import Seen, number

if TYPE_CHECKING:
    from collections.abc import Collection

    from llm_twin.corpus.document import Document
    from llm_twin.corpus.markdown import Block
    from llm_twin.corpus.recurring import Recurring

PARSED = 256
"""Pages that stay parsed between looking at them and taking their frame off."""

_LABELS = """
    subscribe, subscribe now, subscribe sign in, subscribesign in, sign in, sign up, log in, menu,
    search, home, skip to content, share, share this post, copy link, copy, facebook, twitter,
    linkedin, email, note, other, more, comments, leave a comment, restacks, like, reply, top,
    latest, discussions, no posts, ready for more, discussion about this post, start writing,
    get the app, start writingget the app, open in app, write, follow, following, listen,
    top highlight, published in, member only story, author, published, responses,
    no responses yet, help, status, about, careers, press, blog, privacy, terms, text to speech,
    teams, see all, previous, next, recommended from medium, sections
"""
BUTTONS = frozenset(normalized(label) for label in _LABELS.split(","))
"""Labels of the platforms' buttons, for a site of which there is only one document."""

FOOTERS = re.compile(
    r"(discussion about this post|comments|\d* ?responses|no responses yet|written by .{1,40}"
    r"|more from .{1,60}|recommended from medium|ready for more|subscribe to .{1,60})"
)
"""What opens a page's end, compared with normalized text; after it come comments and links."""

_STAMP = re.compile(
    r"[^\W\d]{3,9}\.? \d{1,2},? ?(\d{4})?|\d{1,2}\.? [^\W\d]{3,9}\.? \d{4}|[\d.]+K?"
    r"|\d+ min(utes?)? read|[\d.]+K? followers|[\W_]*(©|copyright).{0,60}",
    re.IGNORECASE,
)
"""Dates, counts and notices that platforms print by themselves on a line."""

_CARD = re.compile(r"\n.*[^\s.]([a-z0-9-]+\.)+[a-z]{2,6}$", re.DOTALL)
"""A link preview: a title, then a summary that runs into the name of a site."""

_CLOSING = "\"'”’»)]*_ "


@dataclass
class _Page:
    """One document's blocks with their normalized texts."""

    document: Document
    blocks: list[Block]
    keys: list[str]
    title: str
    known: frozenset[str]


def look(document: Document) -> Seen:
    """Look at a document from the web."""
    lines = {number(key) for key in _page(document).keys}
    return Seen(
        urlsplit(document.link).netloc.casefold(), tuple(sorted(lines)), sketch(document.text)
    )


def without_frame(document: Document, recurs: Recurring) -> Document:
    """Return a document from the web without its frame."""
    page = _page(document)
    edge, inside = (
        frozenset(key for key in page.keys if number(key) in set(lines)) for lines in recurs
    )
    return _stripped(page, edge, inside)


def from_web(link: str) -> bool:
    """Whether a document with this link came from the web."""
    return link.startswith(("http://", "https://"))


@lru_cache(PARSED)
def _page(document: Document) -> _Page:
    parts = blocks(document.text)
    keys = [normalized(part.text) for part in parts]
    title = _own_title(document, parts, keys)
    host = urlsplit(document.link).netloc
    known = frozenset(normalized(text) for text in (title, document.title, document.author, host))
    return _Page(dataclasses.replace(document, title=title), parts, keys, normalized(title), known)


def _own_title(document: Document, parts: list[Block], keys: list[str]) -> str:
    """Return the heading that the given title ends or begins with: without the site's name."""
    given = normalized(document.title)
    own = normalized(document.author)
    headings = [
        (len(key), part.text)
        for part, key in zip(parts, keys, strict=True)
        if part.kind == "heading" and key and key != own and f" {key} " in f" {given} "
    ]
    best = max(headings, default=(0, ""))
    return best[1] if 2 * best[0] > len(given) else _without_author(document)


def _without_author(document: Document) -> str:
    """Return the given title without the author's name at either end of it."""
    pieces = re.split(r" [-–—|·] ", document.title)
    own = (normalized(document.author), normalized(f"by {document.author}"))
    kept = [piece for piece in pieces if normalized(piece) not in own]
    return document.title if len(kept) in (0, len(pieces)) else kept[0]


def _stripped(page: _Page, edge: Collection[str], inside: Collection[str]) -> Document:
    frame = [_is_frame(page, at, edge) for at in range(len(page.blocks))]
    prose = [
        not framed and _is_prose(part) for framed, part in zip(frame, page.blocks, strict=True)
    ]
    first = prose.index(True) if any(prose) else len(prose)
    end = _end(page, frame, prose)
    start = _after_title(page, prose)
    kept = [
        _source(page, at, first, end)
        for at in range(end)
        if at >= start
        and not (frame[at] if at < first else _is_insert(page, at, inside))
        and not (at < first and _is_navigation(page, at))
    ]
    return dataclasses.replace(page.document, text="\n\n".join(kept))


def _source(page: _Page, at: int, first: int, end: int) -> str:
    """Return a block as written; a subtitle over the first text is no heading of it."""
    part = page.blocks[at]
    if part.kind != "heading" or at >= first:
        return part.source
    later = [other.level for other in page.blocks[at + 1 : end] if other.kind == "heading"]
    return part.text if part.level > min(later, default=3) else part.source


def _is_frame(page: _Page, at: int, edge: Collection[str]) -> bool:
    """Tell whether a block at an edge belongs to the page and not to the text."""
    part, key = page.blocks[at], page.keys[at]
    if part.kind in ("code", "table"):
        return False
    if not key or key in BUTTONS or key in page.known or _STAMP.fullmatch(part.text.strip()):
        return True
    return part.kind != "heading" and key in edge


def _is_insert(page: _Page, at: int, inside: Collection[str]) -> bool:
    """Tell whether a block in the middle of the text is a button, a notice or the contents."""
    part, key = page.blocks[at], page.keys[at]
    if part.kind in ("code", "table", "heading"):
        return False
    return (
        not key
        or key in BUTTONS
        or key in page.known
        or key in inside
        or _is_contents(page, part)
        or _is_card(part)
    )


def _is_contents(page: _Page, part: Block) -> bool:
    """Tell whether a list only says the document's own headings."""
    if part.kind != "list":
        return False
    headings = {
        key for key, other in zip(page.keys, page.blocks, strict=True) if other.kind == "heading"
    }
    items = [normalized(item) for item in part.text.splitlines()]
    return len(items) > 2 and sum(item in headings for item in items) >= 0.8 * len(items)


def _is_navigation(page: _Page, at: int) -> bool:
    """Tell whether a block before the first sentence is a list of links, or said again below."""
    part = page.blocks[at]
    if part.kind == "list":
        items = part.text.splitlines()
        short = sum(len(words(item)) <= 6 and item.rstrip()[-1:] not in ".!?…" for item in items)
        return short == len(items)
    return page.keys[at] in page.keys[at + 1 :]


def _is_prose(part: Block) -> bool:
    """Tell whether a block holds a sentence."""
    return part.kind in ("paragraph", "quote", "list") and any(
        _is_sentence(line) for line in part.text.splitlines()
    )


def _is_sentence(line: str) -> bool:
    size = len(words(line))
    return size >= 25 or (size >= 8 and line.rstrip(_CLOSING)[-1:] in tuple(".!?…:。！？："))


def _after_title(page: _Page, prose: list[bool]) -> int:
    """Return the place after the title's last repetition that no text precedes."""
    start = seen = 0
    for at, part in enumerate(page.blocks):
        seen += len(words(part.text)) if prose[at] else 0
        if seen > 60:
            break
        if part.kind == "heading" and page.keys[at] == page.title:
            start = at + 1
    return start


def _end(page: _Page, frame: list[bool], prose: list[bool]) -> int:
    """Return where the text ends: at the page's footer, less the trailing links and buttons."""
    end = _footer(page, frame, prose)
    while end and (frame[end - 1] or _is_leftover(page.blocks[end - 1])):
        end -= 1
    return end


def _is_leftover(part: Block) -> bool:
    """Tell whether a last block is a heading over nothing, a tag, or a preview of a link."""
    if part.kind == "paragraph":
        label = len(words(part.text)) <= 3 and part.text[-1:] not in tuple(".!?…。！？")
        return label or _is_card(part)
    return part.kind == "heading"


def _is_card(part: Block) -> bool:
    """Tell whether a paragraph is the preview of a page elsewhere."""
    short = part.kind == "paragraph" and len(words(part.text)) < 50
    return short and bool(_CARD.search(part.text))


def _footer(page: _Page, frame: list[bool], prose: list[bool]) -> int:
    """Return the first block of the footer: its heading, or a run of four that frame the page."""
    sizes = [
        len(part.text) if is_text else 0 for part, is_text in zip(page.blocks, prose, strict=True)
    ]
    half, seen = sum(sizes) / 2, 0
    for at, size in enumerate(sizes):
        if seen > half and page.blocks[at].kind != "list":
            run = frame[at : at + 4]
            buttons = (
                BUTTONS.intersection(page.keys[at : at + 4]) or page.title in page.keys[at : at + 4]
            )
            opens = FOOTERS.fullmatch(page.keys[at]) and any(frame[max(at - 1, 0) : at] + run[1:2])
            if opens or (all(run) and len(run) == 4 and buttons):
                return at
        seen += size
    return len(sizes)
