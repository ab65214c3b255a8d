"""Documents made fit to learn from: one alphabet, no boilerplate, each text once."""

from __future__ import annotations

import json
import struct
import unicodedata
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from itertools import islice
from typing import TYPE_CHECKING

from llm_twin.corpus.boilerplate import from_web, look, without_frame
from llm_twin.corpus.document import Document, content_id
from llm_twin.corpus.duplicates import duplicates_among, sketch
from llm_twin.corpus.markdown import words
from llm_twin.corpus.ports import Skipped
from llm_twin.corpus.prepared import AT_ONCE, Prepared, rules
from llm_twin.corpus.recurring import Seen, recurring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from llm_twin.corpus.prepared import Row, Run
    from llm_twin.corpus.recurring import Recurring

FEWEST_WORDS = 5
EMPTY = "empty, or nothing but boilerplate"
RULES = ("cleaning", "boilerplate", "recurring", "duplicates", "markdown", "document")


@dataclass
class Cleaned:
    """What cleaning left.

    Attributes:
        documents: clean documents, in the order they came.
        dropped: the others, each with its reason.

    """

    documents: list[Document] = field(default_factory=list)
    dropped: list[Skipped] = field(default_factory=list)


def clean(
    documents: Sequence[Document], prepared: Prepared | None = None, run: Run = map
) -> Cleaned:
    """Normalise characters, remove boilerplate, and drop empty and duplicate documents.

    What recurs over the documents of one site is seen only with all of them at hand, so this
    takes the whole corpus; which duplicate is kept does not depend on their order.

    Args:
        documents: the corpus.
        prepared: where what was made of single documents is kept.
        run: does what is done for each document; see ``prepared.Run``.

    """
    prepared = prepared or Prepared()
    entries = [Entry(one.uri, one.digest, one.link) for one in documents]
    found = survey(entries, documents.__getitem__, prepared, run)
    if prepared.drop_damaged([one.key for one in found]):
        found = survey(entries, documents.__getitem__, prepared, run)
    dropped = [
        Skipped(entry.uri, one.reason)
        for entry, one in zip(entries, found, strict=True)
        if one.reason
    ]
    dropped.sort(key=lambda one: one.reason != EMPTY)
    kept = [one.key for one in found if not one.reason]
    return Cleaned(list(tidied(kept, prepared)), dropped)


@dataclass(frozen=True)
class Entry:
    """A document that need not be read yet.

    Attributes:
        uri: its uri.
        digest: Document.digest.
        link: its link.

    """

    uri: str
    digest: str
    link: str


@dataclass(frozen=True)
class Verdict:
    """What cleaning makes of a document.

    Attributes:
        key: of the clean document; see ``tidied``.
        digest: Document.digest of the clean document; empty if it is empty.
        reason: why it is dropped; empty if it is kept.

    """

    key: str
    digest: str
    reason: str = ""


def survey(
    entries: Sequence[Entry], read: Callable[[int], Document], prepared: Prepared, run: Run = map
) -> list[Verdict]:
    """Clean a corpus of which only new or changed documents are read.

    Args:
        entries: the corpus.
        read: the document at a position.
        prepared: where what is made of single documents is kept.
        run: does what is done for each document.

    Returns:
        A verdict for each entry, in their order.

    """
    recurs = _recurring(entries, read, prepared, run)
    own = rules(*RULES)
    keys = [
        content_id(own, entry.digest, repr(lines), length=32)
        for entry, lines in zip(entries, recurs, strict=True)
    ]
    rows = prepared.rows("cleaned", keys, _tidy, lambda at: (read(at), recurs[at]), run, text=False)
    sketches, verdicts = [], []
    for key, (_, own_sketch, digest) in zip(keys, rows, strict=True):
        sketches.append(own_sketch)
        verdicts.append(Verdict(key, digest.decode(), "" if digest else EMPTY))
    kept = sorted((at for at in range(len(entries)) if not verdicts[at].reason),
                  key=lambda at: entries[at].uri)  # fmt: skip
    copies = duplicates_among(
        [sketches[at] for at in kept],
        _texts(
            [keys[at] for at in kept],
            prepared,
            lambda place: _tidy((read(kept[place]), recurs[kept[place]])),
        ),
    )
    for place, original in copies.items():
        reason = f"says the same as {entries[kept[original]].uri}"
        verdicts[kept[place]] = replace(verdicts[kept[place]], reason=reason)
    return verdicts


def tidied(keys: Iterable[str], prepared: Prepared) -> Iterator[Document]:
    """Yield the clean documents with these keys of a survey.

    Raises:
        KeyError: it is not kept any more.

    """
    left = iter(keys)
    while block := list(islice(left, AT_ONCE)):
        rows = prepared.get(block)
        for key in block:
            yield Document.from_dict(json.loads(rows[key][0]))


def _recurring(
    entries: Sequence[Entry], read: Callable[[int], Document], prepared: Prepared, run: Run
) -> list[Recurring | None]:
    """For each page from the web, its lines that are boilerplate; None for other documents."""
    web = [at for at, entry in enumerate(entries) if from_web(entry.link)]
    own = rules(*RULES)
    keys = [content_id("look", own, entries[at].digest, length=32) for at in web]
    rows = prepared.rows("looked", keys, _look, lambda place: read(web[place]), run)
    seen = [Seen(row[0], struct.unpack(f"<{len(row[1]) // 8}Q", row[1]), row[2]) for row in rows]

    def text_at(place: int) -> str:
        return _plain_letters(read(web[place])).text

    found: list[Recurring | None] = [None] * len(entries)
    for at, lines in zip(web, recurring(seen, text_at), strict=True):
        found[at] = lines
    return found


def _look(document: Document) -> Row:
    seen = look(_plain_letters(document))
    return seen.site, struct.pack(f"<{len(seen.lines)}Q", *seen.lines), seen.sketch


def _tidy(given: tuple[Document, Recurring | None]) -> Row:
    """A clean document, its sketch and its digest; nothing of one that is empty."""
    document = _plain_letters(given[0])
    if given[1] is not None:
        document = without_frame(document, given[1])
    if _is_empty(document.text):
        return "", b"", b""
    said = json.dumps(document.to_dict())
    return said, sketch(document.text), document.digest.encode()


def _texts(
    keys: Sequence[str], prepared: Prepared, make: Callable[[int], Row]
) -> Callable[[int], str]:
    @lru_cache(AT_ONCE)
    def text_at(at: int) -> str:
        row = prepared.get([keys[at]]).get(keys[at]) or make(at)
        return str(json.loads(row[0])["text"])

    return text_at


def _is_empty(text: str) -> bool:
    """Tell whether there is too little to learn from."""
    return len(words(text)) < FEWEST_WORDS


def _plain_letters(document: Document) -> Document:
    """Write letters that only look different (fake bold, ligatures, full width) as plain ones."""
    title = " ".join(_translated(document.title).split())
    return replace(document, title=title, text=_translated(document.text))


def _translated(text: str) -> str:
    return unicodedata.normalize("NFC", text.translate(_plain()))


@cache
def _plain() -> dict[int, str]:
    """Return the look-alikes and what they stand for.

    Not NFKC over the whole text: that would also turn x² into x2, ½ into 1⁄2 and the full-width
    punctuation of Chinese into ASCII.
    """
    table = {code: unicodedata.normalize("NFKC", chr(code)) for code in _lookalikes()}
    table |= dict.fromkeys((0x00AD, 0x200B, 0x2060, 0xFEFF), "")
    return table | {0x00A0: " ", 0x202F: " ", 0x2028: "\n", 0x2029: "\n\n", 0x000B: "\n"}


def _lookalikes() -> Iterator[int]:
    for first, last in (
        (0x1D400, 0x1D7FF),  # mathematical bold, italic, script, sans-serif, monospace
        (0xFB00, 0xFB06),  # ligatures
        (0xFF10, 0xFF19),  # full-width digits and letters
        (0xFF21, 0xFF3A),
        (0xFF41, 0xFF5A),
        (0x1F130, 0x1F149),  # squared letters
        (0x24B6, 0x24E9),  # circled letters
    ):
        yield from range(first, last + 1)
    yield from (0x210A, 0x210B, 0x210C, 0x210D, 0x210E, 0x2110, 0x2111, 0x2112, 0x2113, 0x2115)
    yield from (0x2119, 0x211A, 0x211B, 0x211C, 0x211D, 0x2124, 0x2128, 0x212C, 0x212D, 0x212F)
    yield from (0x2130, 0x2131, 0x2133, 0x2134, 0x2139)
