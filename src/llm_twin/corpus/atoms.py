"""A document as sections of atoms: the pieces that a chunk should not cut when it can help it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from llm_twin.corpus.markdown import html_text, normalized, parse, plain, top_level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markdown_it.token import Token

_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’»)\]]*\s+|(?<=[。！？])|\n")


@dataclass(frozen=True)
class Atom:
    """A paragraph, list, table or code block, with the places where it may be cut.

    Attributes:
        parts: sentences, items, rows or lines.
        joiner: what stands between two parts.
        head: what opens every piece (a fence, a table's header), its newline included.
        tail: what closes every piece.

    """

    parts: tuple[str, ...]
    joiner: str = " "
    head: str = ""
    tail: str = ""

    def render(self, parts: Sequence[str] | None = None) -> str:
        """Return the text of some parts, or of all."""
        chosen = self.parts if parts is None else parts
        return f"{self.head}{self.joiner.join(chosen)}{self.tail}"


@dataclass
class Section:
    """What stands under one heading, up to the next.

    Attributes:
        headings: the path to it, outermost first, without the document's title.
        atoms: its content, in order.

    """

    headings: tuple[str, ...]
    atoms: list[Atom] = field(default_factory=list)


def sections(text: str, title: str) -> list[Section]:
    """Cut a Markdown text at its headings; text before the first has no headings.

    A heading that nothing follows becomes a line of text, so that no word is lost.
    """
    tokens = parse(text)
    path: list[tuple[int, str]] = []
    found = [Section(())]
    for start, end in top_level(tokens):
        if tokens[start].type != "heading_open":
            found[-1].atoms += _atoms(tokens[start:end])
            continue
        level = int(tokens[start].tag[1])
        path = [step for step in path if step[0] < level]
        heading = plain(tokens[start + 1]).replace("\n", " ")
        if heading and normalized(heading) != normalized(title):
            path.append((level, heading))
        found.append(Section(tuple(step[1] for step in path)))
    return _keep_bare_headings(found)


def _keep_bare_headings(found: list[Section]) -> list[Section]:
    for section, following in zip(found, [*found[1:], Section(())], strict=True):
        deeper = following.headings[: len(section.headings)] == section.headings
        if section.headings and not section.atoms and not deeper:
            section.atoms.append(Atom((section.headings[-1],)))
            section.headings = section.headings[:-1]
    return [section for section in found if section.atoms]


def _atoms(tokens: Sequence[Token]) -> list[Atom]:
    """Return the atoms of one top-level block."""
    kind = tokens[0].type
    if kind in ("fence", "code_block"):
        return _code(tokens[0])
    if kind == "table_open":
        return [_table(tokens)]
    if kind in ("bullet_list_open", "ordered_list_open"):
        return _list(tokens)
    if kind == "html_block":
        return prose(html_text(tokens[0].content))
    if kind in ("paragraph_open", "heading_open"):
        return prose(plain(tokens[1]))
    inner = tokens[1:-1]
    return [atom for start, end in top_level(inner) for atom in _atoms(inner[start:end])]


def prose(text: str) -> list[Atom]:
    """Return a paragraph as an atom that may be cut after its sentences."""
    if not text.strip():
        return []
    cuts = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    parts = [text[start:end] for start, end in pairwise(cuts) if end > start]
    return [Atom(tuple(parts), joiner="")]


def _code(token: Token) -> list[Atom]:
    lines = token.content.rstrip().splitlines()
    if not any(line.strip() for line in lines):
        return []
    longest = max((len(run) for run in re.findall(r"`{3,}", token.content)), default=2)
    fence = "`" * (longest + 1)
    language = token.info.split()[0] if token.info.split() else ""
    return [Atom(tuple(lines), "\n", f"{fence}{language}\n", f"\n{fence}")]


def _list(tokens: Sequence[Token]) -> list[Atom]:
    """Return a list as one atom of items; code or tables inside its items stand alone."""
    atoms: list[Atom] = []
    items: list[str] = []
    for line in _items(tokens, 0):
        if isinstance(line, str):
            items.append(line)
            continue
        atoms += [Atom(tuple(items), "\n")] if items else []
        atoms.append(line)
        items = []
    return [*atoms, Atom(tuple(items), "\n")] if items else atoms


def _items(tokens: Sequence[Token], depth: int) -> list[str | Atom]:
    """Return a list's lines, each item with its mark, and the atoms that are not text."""
    ordered = tokens[0].type == "ordered_list_open"
    lines: list[str | Atom] = []
    inner = tokens[1:-1]
    number = int(tokens[0].attrGet("start") or 1)
    for order, (start, end) in enumerate(top_level(inner)):
        mark = f"{number + order}. " if ordered else "- "
        lines += _item(inner[start + 1 : end - 1], "  " * depth, mark, depth)
    return lines


def _item(tokens: Sequence[Token], indent: str, mark: str, depth: int) -> list[str | Atom]:
    lines: list[str | Atom] = []
    for start, end in top_level(tokens):
        part = tokens[start:end]
        if part[0].type in ("bullet_list_open", "ordered_list_open"):
            lines += _items(part, depth + 1)
            continue
        for atom in _atoms(part):
            if atom.head:
                lines.append(atom)
                continue
            text = " ".join(atom.render().split())
            lines.append(f"{indent}{mark}{text}")
            mark = " " * len(mark)
    return lines


def _table(tokens: Sequence[Token]) -> Atom:
    rows: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            rows[-1].append(plain(token).replace("\n", " "))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    rule = f"|{' --- |' * len(rows[0])}"
    return Atom(tuple(lines[1:]) or ("",), "\n", f"{lines[0]}\n{rule}\n")
