"""What was asked to be forgotten: a list in the state folder, honoured whenever texts come in.

The source may not be ours to change, so a forgotten text is left out each time that it is met: by
where it is, by who wrote it, or by what it says, wherever it lies now. The list holds digests of
texts and no text. A model that learned from one is tainted, and refused after the deadline.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from llm_twin.corpus.document import content_id
from llm_twin.corpus.ports import Skipped
from llm_twin.errors import ConfigError, NotReadyError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    from llm_twin.corpus.document import Document

FILE = "forgotten.json"
SHINGLE = 8
SAME = 0.5
"""A text with this share of a forgotten one's remembered shingles says the same."""
REASON = "it was asked to be forgotten"
_WORD = re.compile(r"\w+")
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
_BREAK = re.compile(r"\\+[nrtbf]")


@dataclass(frozen=True)
class Request:
    """One wish to forget.

    Attributes:
        id: of the request.
        what: the document's place as it was typed, or ``an author``.
        asked: seconds since the epoch.
        deadline: after it no model that saw it is deployed; seconds since the epoch.
        documents: ids of the documents.
        author: digest of the author's name; empty where a document was named.
        sketches: for each document, digests of some of its shingles.
        models: versions that had seen them.
        needles: while it is not done: digests of all that is looked for, by number of words.
        names: while it is not done: ids of the documents' chunks.
        done: whether everything of it is gone.

    """

    id: str
    what: str
    asked: float
    deadline: float
    documents: tuple[str, ...]
    author: str = ""
    sketches: tuple[tuple[str, ...], ...] = ()
    models: tuple[str, ...] = ()
    needles: dict[str, list[str]] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    done: bool = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Request:
        """Reverse of dataclasses.asdict, through JSON."""
        lists = {name: tuple(data[name]) for name in ("documents", "models", "names")}
        return cls(**{**data, **lists, "sketches": tuple(map(tuple, data["sketches"]))})

    def means(self, document: Document) -> bool:
        """Whether it asks for this document to be forgotten."""
        if document.id in self.documents or (self.author and self.author == named(document.author)):
            return True
        own = set(shingles(document.text)) if self.sketches else set()
        return any(
            sketch and len(own.intersection(sketch)) >= SAME * len(sketch)
            for sketch in self.sketches
        )

    def taints(self, version: str, documents: Collection[str] = ()) -> bool:
        """Whether a model learned from what it asks to forget, by its version or documents."""
        return version in self.models or not set(self.documents).isdisjoint(documents)


def requests(home: Path) -> list[Request]:
    """Every request so far, oldest first.

    Raises:
        ConfigError: the list cannot be read; nothing may be collected before it can.

    """
    path = home / FILE
    try:
        return [Request.from_dict(one) for one in json.loads(path.read_text("utf-8"))["requests"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"what is to be forgotten cannot be read ({type(error).__name__})",
            path,
            "Repair it, or delete it and forget again",
        ) from error


def unwanted(home: Path) -> Callable[[Document], bool]:
    """Tell of a document whether it was to be forgotten; the list is read once."""
    wishes = requests(home)
    return lambda document: any(wish.means(document) for wish in wishes)


def sift(
    documents: Sequence[Document], is_unwanted: Callable[[Document], bool]
) -> tuple[list[Document], list[Skipped]]:
    """The documents that may be used, and those that were to be forgotten."""
    kept: list[Document] = []
    left: list[Skipped] = []
    for document in documents:
        if is_unwanted(document):
            left.append(Skipped(document.uri, REASON))
        else:
            kept.append(document)
    return kept, left


def refusal(home: Path, version: str, documents: Collection[str] = (), *, due: bool = True) -> str:
    """Why a model may not serve any more; empty if it may.

    Args:
        home: the state folder.
        version: of the model's bundle.
        documents: ids of what it learned from, where that is known.
        due: only once the deadline has passed.

    """
    now = time.time()
    for wish in requests(home):
        if wish.taints(version, documents) and (not due or wish.deadline <= now):
            day = time.strftime("%Y-%m-%d", time.localtime(wish.deadline))
            return f"it learned from what was to be forgotten by {day} ({wish.what})"
    return ""


def refuse(home: Path, version: str, documents: Collection[str] = (), *, due: bool = True) -> None:
    """Stop a model that may not serve any more; arguments as for ``refusal``.

    Raises:
        NotReadyError: it is tainted.

    """
    if reason := refusal(home, version, documents, due=due):
        raise NotReadyError(
            f"the model is tainted: {reason}", version, "Make one without it: invoke ct"
        )


def named(author: str) -> str:
    """Digest of an author's name, whatever its case and spaces; empty for none."""
    plain = " ".join(author.split()).casefold()
    return content_id("author", plain, length=32) if plain else ""


def words(text: str) -> list[str]:
    """The words of a text, or of text inside JSON, in lower case."""
    if "\\" in text:
        text = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)
        text = _BREAK.sub(" ", text)
    return _WORD.findall(text.lower())


def digest(sequence: Sequence[str]) -> str:
    """Digest of consecutive words."""
    return blake2b(" ".join(sequence).encode("utf-8", "replace"), digest_size=8).hexdigest()


def shingles(text: str, size: int = SHINGLE) -> Iterator[str]:
    """Digests of all sequences of so many words."""
    found = words(text)
    return (digest(found[at : at + size]) for at in range(len(found) - size + 1))
