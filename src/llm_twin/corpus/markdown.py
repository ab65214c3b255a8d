"""Markdown seen as blocks and as plain text, through markdown-it's tokens.

Cleaning decides over whole blocks and keeps their source; chunking needs the text without inline
markup. Both read the same tokens, so they agree on what a block is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_UNSPACED = re.compile(r"[\u2e80-\u312f\u3190-\u9fff\uf900-\ufaff\uff00-\uffef]")
"""Chinese and Japanese, which are written without spaces between words."""

_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|\w+")

_KINDS = {
    "heading_open": "heading",
    "paragraph_open": "paragraph",
    "bullet_list_open": "list",
    "ordered_list_open": "list",
    "table_open": "table",
    "blockquote_open": "quote",
    "fence": "code",
    "code_block": "code",
    "html_block": "html",
    "hr": "rule",
}


@dataclass(frozen=True)
class Block:
    """A top-level block of a Markdown text.

    Attributes:
        kind: heading, paragraph, list, table, quote, code, html or rule.
        level: 1 to 6 for a heading, else 0.
        source: its lines as written.
        text: its plain text; items, rows and lines are separated by newlines.

    """

    kind: str
    level: int
    source: str
    text: str


@cache
def parser() -> MarkdownIt:
    """Return the one parser: CommonMark with tables and strikethrough."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"maxNesting": 100}).enable(["table", "strikethrough"])


def parse(text: str) -> list[Token]:
    """Return the block tokens of a Markdown text."""
    return parser().parse(text)


def blocks(text: str) -> list[Block]:
    """Split a Markdown text into its top-level blocks, in order."""
    lines = text.splitlines()
    tokens = parse("\n".join(lines))
    found = []
    for start, end in top_level(tokens):
        token = tokens[start]
        if token.map is None:
            continue
        source = "\n".join(lines[token.map[0] : token.map[1]]).rstrip()
        level = int(token.tag[1]) if token.type == "heading_open" else 0
        plain_text = "\n".join(_texts(tokens[start:end]))
        found.append(Block(_KINDS.get(token.type, "paragraph"), level, source, plain_text))
    return found


def top_level(tokens: Sequence[Token]) -> list[tuple[int, int]]:
    """Return (start, end) of each sibling at the level of the first token."""
    spans = []
    depth = start = 0
    for position, token in enumerate(tokens):
        if depth == 0:
            start = position
        depth += token.nesting
        if depth == 0:
            spans.append((start, position + 1))
    return spans


def _texts(tokens: Sequence[Token]) -> list[str]:
    texts = []
    for token in tokens:
        if token.type == "inline":
            texts.append(plain(token))
        elif token.type in ("fence", "code_block"):
            texts.append(token.content.rstrip())
        elif token.type == "html_block":
            texts.append(html_text(token.content))
    return texts


def plain(inline: Token) -> str:
    """Return an inline token's text without markup or hard wraps."""
    text = ""
    children = inline.children or []
    for position, child in enumerate(children):
        after = children[position + 1].content if position + 1 < len(children) else ""
        text = _append(text, child, after)
    return text.strip()


def _append(text: str, child: Token, after: str) -> str:
    if child.type == "softbreak":
        return text if _joins(text, after) else f"{text} "
    if child.type == "hardbreak" or (child.type == "html_inline" and "<br" in child.content):
        return f"{text}\n"
    if child.type == "text":
        return text + _spaced(text, _without_stray_marks(child.content))
    if child.type in ("code_inline", "image"):
        return text + (plain(child) if child.type == "image" else child.content)
    if child.type in ("strong_open", "em_open") and text and after and _is_word(text[-1], after[0]):
        return f"{text} "
    return text


def _spaced(text: str, content: str) -> str:
    """Undo the space that html2text puts between bold text and its punctuation."""
    stray = text and text[-1].isalnum() and re.match(r" [,.:;](?= |$)", content)
    return content[1:] if stray else content


def _without_stray_marks(content: str) -> str:
    """Drop ``**`` that a careless writer left where it opens or closes nothing.

    One alone, between words or between spaces it may mean something: ``**kwargs``, ``2 ** 3``.
    """
    if content.count("**") < 2:
        return content
    return re.sub(r"(?<!\w)\*\*(?=\S)|(?<=\S)\*\*(?!\w)", "", content)


def _is_word(before: str, after: str) -> bool:
    """Tell whether emphasis that opens here would glue two words together."""
    return before.isalnum() and after.isalnum() and not _UNSPACED.match(before + after)


def _joins(text: str, after: str) -> bool:
    """Tell whether a line ends in the middle of a word, so that no space belongs there."""
    if text.endswith("-") and text[-2:-1].isalnum():
        return not re.match(r"(and|or|und|oder|et|ou|y|e|o)\b", after)
    return bool(text and after and _UNSPACED.match(text[-1]) and _UNSPACED.match(after[0]))


class _Text(HTMLParser):
    """Collects what a reader of an HTML fragment would see."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words += data.split()


def html_text(source: str) -> str:
    """Return the words of an HTML fragment, without tags, comments and scripts."""
    reader = _Text()
    reader.feed(source)
    reader.close()
    return " ".join(reader.words)


def normalized(text: str) -> str:
    """Return text for comparing: words only, lower case, single spaces."""
    return " ".join(re.findall(r"\w+", text.replace("_", " ").casefold()))


def words(text: str) -> list[str]:
    """Return the words of a text in lower case; in Chinese and Japanese each character is one."""
    return _WORDS.findall(text.casefold())
