"""Instruction pairs out of an author's own texts, without a language model.

Every answer is the author's, word for word. There are four kinds: the text under a heading, what
follows a question in the text, how a passage goes on, and the first sentences of a document.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llm_twin.corpus.document import content_id
from llm_twin.model.near_duplicates import words_of
from llm_twin.model.rows import Pair
from llm_twin.model.sentences import cut, is_question, sentences, size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llm_twin.model.split import Section

PAIR_CHARACTERS = (80, 2000)
"""Shortest and longest answer under a heading; see ``sentences.size`` for the shortest."""
LONGEST_ANSWER = 800
"""Characters of the other kinds' answers."""
MOST_HEADINGS, MOST = 10_000, 4000
"""Pairs of one kind; more are drawn from, the same ones every time."""
_SUMMARY = (60, 400)
_QUESTION_WORDS = (4, 40)
_OPENING_WORDS = 40
_PROMPTS = (
    "Write the section “{heading}” of “{title}”.",
    "What do you say about “{heading}” in “{title}”?",
    "Explain “{heading}”, as in “{title}”.",
)
_OPENING = "Write the opening of “{title}”."
_POINTS_BACK = re.compile(
    r"(why|how|what|really|right|ready|so|but|and|or|sounds|see|isn.t|doesn.t)\b[^ ]* ?"
    r"(not|now|else|so|then|that|this|it)?\W*$",
    re.IGNORECASE,
)


def pairs_of(sections: Sequence[Section]) -> list[Pair]:
    """All pairs of some sections, the text under headings first.

    Questions and summaries are as many as there are; continuations are at most half as many as
    the others, or one for each document, so that they do not drown them.
    """
    headings = _some([pair for section in sections for pair in _heading(section)], MOST_HEADINGS)
    questions = _some([pair for section in sections for pair in _questions(section)])
    summaries = _some([pair for section in _first_of_each(sections) for pair in _summary(section)])
    told = [*headings, *questions, *summaries]
    documents = len({section.document_id for section in sections})
    continued = [pair for section in sections for pair in _continuation(section)]
    return [*told, *_some(continued, min(MOST, max(len(told) // 2, documents)))]


def _some(pairs: list[Pair], most: int = MOST) -> list[Pair]:
    """No more than so many, drawn by their hash, in their order."""
    if len(pairs) <= most:
        return pairs
    drawn = sorted(pairs, key=lambda pair: content_id(pair.document_id, pair.prompt))
    kept = set(drawn[:most])
    return [pair for pair in pairs if pair in kept]


def _heading(section: Section) -> Iterator[Pair]:
    shortest, longest = PAIR_CHARACTERS
    if size(section.text) >= shortest and (section.headings or section.title):
        yield Pair(prompt_of(section), cut(section.text, longest), "heading", section.document_id)


def prompt_of(section: Section) -> str:
    """Phrase the instruction; the same section is always asked for in the same words."""
    if not section.headings:
        return _OPENING.format(title=section.title)
    heading = section.headings[-1]
    if not section.title:
        return f"Explain “{heading}”."
    choice = int(content_id(section.document_id, heading), 16) % len(_PROMPTS)
    return _PROMPTS[choice].format(heading=heading, title=section.title)


def _questions(section: Section) -> Iterator[Pair]:
    """A question in the text, answered by what follows it in the same section."""
    said = sentences(section.text)
    for sentence, following in zip(said, [*said[1:], ""], strict=False):
        if not is_question(sentence) or is_question(following) or not _stands_alone(sentence):
            continue
        answer = cut(_after(section.text, sentence), LONGEST_ANSWER)
        if size(answer) >= PAIR_CHARACTERS[0]:
            prompt = f"{sentence.strip()}{_where(section)}"
            yield Pair(prompt, answer, "question", section.document_id)


def _stands_alone(question: str) -> bool:
    least, most = _QUESTION_WORDS
    return least <= len(words_of(question)) <= most and not _POINTS_BACK.match(question)


def _after(text: str, sentence: str) -> str:
    """The text behind a sentence, its code and lists included."""
    _, found, rest = text.partition(sentence)
    return rest.strip() if found else ""


def _where(section: Section) -> str:
    places = [f"“{place}”" for place in (*section.headings[-1:], section.title) if place]
    return f" ({', in '.join(places)})" if places else ""


def _summary(section: Section) -> Iterator[Pair]:
    """The first sentences of a document, where it says more than that."""
    shortest, longest = _SUMMARY
    said: list[str] = []
    for sentence in sentences(section.text):
        if len(" ".join([*said, sentence])) > longest or len(said) == 3 or sentence.endswith(":"):
            break
        said.append(sentence)
    answer = " ".join(said)
    if section.title and size(answer) >= shortest and size(section.text) >= 2 * size(answer):
        prompt = f"What is “{section.title}” about, in a few sentences?"
        yield Pair(prompt, answer, "summary", section.document_id)


def _first_of_each(sections: Sequence[Section]) -> list[Section]:
    firsts = {section.document_id: section for section in reversed(sections)}
    return [section for section in firsts.values() if section.chunks[0].position == 0][::-1]


def _continuation(section: Section) -> Iterator[Pair]:
    """The first sentences of a section, and how it goes on."""
    said = sentences(section.text)
    count = next((at for at in range(1, len(said)) if len(words_of(" ".join(said[:at]))) >= 12), 0)
    opening = " ".join(said[:count])
    if not count or len(words_of(opening)) > 2 * _OPENING_WORDS:
        return
    rest = cut(_after(section.text, said[count - 1]), LONGEST_ANSWER)
    if size(rest) >= 2 * PAIR_CHARACTERS[0]:
        yield Pair(f"Go on from here: {opening}", rest, "continuation", section.document_id)
