"""The text of a PDF: pages joined, running heads removed, words mended at line ends."""

from __future__ import annotations

import io
import logging
import re
from collections import Counter

from llm_twin.corpus.extract import Unreadable


def read_pdf(data: bytes) -> tuple[str, str]:
    """Return the title (or "") and the text of a PDF, its paragraphs apart.

    Raises:
        Unreadable: it does not parse, is encrypted, or holds no text.

    """
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("the PDF is encrypted")
        title = str((reader.metadata and reader.metadata.title) or "")
        pages = [page.extract_text() for page in reader.pages]
    except Unreadable:
        raise
    except Exception as error:
        # A broken PDF can fail anywhere in the parser: whatever it is, only this document is lost.
        raise Unreadable(f"the PDF does not parse ({type(error).__name__})") from error
    text = _joined([[line.strip() for line in page.splitlines()] for page in pages])
    if not text.strip():
        raise Unreadable("the PDF holds no text (scanned pages?)")
    return (title if _is_title(title) else ""), text


def _is_title(title: str) -> bool:
    """Tell a title from the file names that word processors write there."""
    return bool(title.strip()) and not re.search(r"untitled|\.\w{2,4}$|^\W*$", title, re.I)


def _joined(pages: list[list[str]]) -> str:
    """Join pages without the lines that recur at their top and bottom."""
    running = Counter(
        line for page in pages for line in {_shape(edge) for edge in (*page[:1], *page[-1:])}
    )
    lines = []
    for page in pages:
        for at, line in enumerate(page):
            at_edge = at in (0, len(page) - 1)
            number = at_edge and re.fullmatch(r"\W*(page )?\d+( (of|/) \d+)?\W*", line, re.I)
            if number or (at_edge and running[_shape(line)] > max(2, len(pages) / 2)):
                continue
            lines.append(line)
    return _paragraphs(lines)


def _shape(line: str) -> str:
    return re.sub(r"\d+", "0", line)


def _paragraphs(lines: list[str]) -> str:
    """Mend lines into paragraphs: one ends at a blank line or a short line with a full stop."""
    width = (
        sorted(len(line) for line in lines if line)[int(0.8 * sum(map(bool, lines)))]
        if any(lines)
        else 0
    )
    paragraphs = [""]
    for line in lines:
        if not line:
            paragraphs.append("")
            continue
        paragraphs[-1] = _mended(paragraphs[-1], line)
        if len(line) < 0.8 * width and line.endswith((".", "!", "?", ":", "。")):
            paragraphs.append("")
    return "\n\n".join(_escaped(paragraph) for paragraph in paragraphs if paragraph)


def _mended(text: str, line: str) -> str:
    if re.search(r"[^\W\d]-$", text) and line[:1].islower():
        return text[:-1] + line
    return f"{text} {line}" if text else line


def _escaped(paragraph: str) -> str:
    """Keep a paragraph of plain text from being read as Markdown structure."""
    return re.sub(r"^([#>+*-]|\d+[.)])(?=\s|$)", r"\\\1", paragraph)
