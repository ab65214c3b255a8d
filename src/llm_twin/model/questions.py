"""Retrieval questions without anybody writing them: an author's headings ask for their sections.

A heading finds its own section too easily, so the search that is judged runs over chunks from
which the headings in question are withheld. A reader whose correction names a document asks for it.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.corpus.document import content_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llm_twin.corpus.document import Chunk, Document
    from llm_twin.model.feedback import Correction

MOST_QUESTIONS = 720
SHORTEST_SECTION = 200
_EDGES = re.compile(r"^[\W\d_]+|[\W_]+$")
_WORD = re.compile(r"[^\W\d_]{2,}")
_EMPTY = """
    about an and are as at be by can conclusion conclusions content contents do does for from
    further get getting how in introduction into is it its key links more my next notes of on or
    our overview part reading reference references section some step steps summary table
    takeaways that the their then this to up us use using want was we what when where which who
    why will with you your
"""
_EMPTY_WORDS = frozenset(_EMPTY.split())


@dataclass(frozen=True)
class Question:
    """A question with the one document that answers it.

    Attributes:
        text: the heading, without numbering and ornaments, or what a reader asked.
        document_id: where the answer is.
        chunk_ids: the chunks directly under the heading, by their ids in the full index.
        headings: the path that ends in the heading; withheld where the question is judged. Empty,
            like ``chunk_ids``, for a reader's question.
        heldout: whether no text under the heading is learned from. Only by answers to these can a
            language model be judged; retrieval learns from no row, so it is judged by all.

    """

    text: str
    document_id: str
    chunk_ids: tuple[str, ...]
    headings: tuple[str, ...]
    heldout: bool = False

    @property
    def id(self) -> str:
        """Stable while the heading is in that document."""
        return content_id(self.document_id, self.text)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Question:
        """Reverse of dataclasses.asdict."""
        return cls(
            data["text"],
            data["document_id"],
            tuple(data["chunk_ids"]),
            tuple(data["headings"]),
            data.get("heldout", False),
        )


def make_questions(chunks: Sequence[Chunk], seed: int = 0) -> list[Question]:
    """Ask for a stable sample of the sections whose heading says something.

    A heading qualifies with two words of content that are not all in the document's title, when
    no other document has the same one.
    """
    sections: dict[tuple[str, tuple[str, ...]], list[Chunk]] = defaultdict(list)
    for chunk in chunks:
        if chunk.headings:
            sections[chunk.document_id, chunk.headings].append(chunk)
    owners: dict[str, set[str]] = defaultdict(set)
    for document_id, headings in sections:
        owners[_cleaned(headings[-1]).lower()].add(document_id)
    questions = {
        question.id: question
        for (document_id, headings), members in sections.items()
        if sum(len(chunk.text) for chunk in members) >= SHORTEST_SECTION
        and _is_informative(headings[-1], members[0].title)
        and len(owners[_cleaned(headings[-1]).lower()]) == 1
        and (question := _question(document_id, headings, members))
    }
    return sorted(questions.values(), key=lambda it: content_id(str(seed), it.id))[:MOST_QUESTIONS]


def cited_questions(
    corrections: Iterable[Correction], documents: Iterable[Document]
) -> list[Question]:
    """Ask what readers asked, where their correction names one document of this corpus."""
    known: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for document in documents:
        for place in (document.uri.rstrip("/"), document.link.rstrip("/")):
            known[_last(place)].add((place, document.id))
    questions = {
        question.id: question
        for row in corrections
        for cited in row.cites
        if (document_id := _named(cited.partition("#")[0].rstrip("/"), known))
        for question in [Question(row.question, document_id, (), ())]
    }
    return list(questions.values())


def _named(cited: str, known: Mapping[str, set[tuple[str, str]]]) -> str:
    """The document at a place, or the only one whose place ends like it; "" when there is none."""
    found = known.get(_last(cited), set()) if cited else set()
    ends = {
        own
        for place, own in found
        if f"/{place}".endswith(f"/{cited}") or f"/{cited}".endswith(f"/{place}")
    }
    ids = {own for place, own in found if place == cited} or ends
    return ids.pop() if len(ids) == 1 else ""


def _last(place: str) -> str:
    return place.rpartition("/")[2]


def withhold_headings(chunks: Iterable[Chunk], questions: Iterable[Question]) -> list[Chunk]:
    """Return all chunks, the asked headings removed from the path of every chunk below them.

    Ids of the changed chunks differ from those of the full index; document ids do not.
    """
    asked: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for question in questions:
        asked[question.document_id].add(question.headings)
    return [
        dataclasses.replace(
            chunk,
            headings=tuple(
                heading
                for depth, heading in enumerate(chunk.headings, start=1)
                if chunk.headings[:depth] not in asked[chunk.document_id]
            ),
        )
        for chunk in chunks
    ]


def _question(document_id: str, headings: tuple[str, ...], members: Iterable[Chunk]) -> Question:
    ids = tuple(chunk.id for chunk in members)
    return Question(_cleaned(headings[-1]), document_id, ids, headings)


def _cleaned(heading: str) -> str:
    """Drop numbering, bullets and emoji at the edges; a question mark stays."""
    text = " ".join(heading.split())
    mark = "?" if text.endswith("?") else ""
    return _EDGES.sub("", _EDGES.sub("", text)) + mark


def _is_informative(heading: str, title: str) -> bool:
    words = _content_words(_cleaned(heading))
    return len(words) >= 2 and bool(words - _content_words(title))


def _content_words(text: str) -> set[str]:
    return {word for word in _WORD.findall(text.lower()) if word not in _EMPTY_WORDS}
