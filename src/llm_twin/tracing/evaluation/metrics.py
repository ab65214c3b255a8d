"""Scores that need no model: what overlaps, occurs, repeats or takes long. 1 is always good."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from llm_twin.tracing.evaluation.rules import Score

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llm_twin.tracing.evaluation.view import Passage

_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W_{_IDEOGRAPHS}]+")
_SENTENCE_END = re.compile(r"(?<=[.!?…:;])\s+|(?<=[。！？；])|\n+")
_MARK = re.compile(r"\[\^?(\d{1,3})\](?!\()")
_GRAMMAR = """
    about after all also and any are been because before being between both but can could did
    does each for from had has have her his how into its just like may more most must not only
    other our out over same should some such than that the their them then there these they this
    those through too use used uses using very was were what when where which while who why will
    with would you your
"""
_EMPTY_WORDS = frozenset(_GRAMMAR.split())
STEM = 6
"""Letters by which words count as the same: retrieval, retriever, retrieved."""
SUPPORTED = 0.5
CERTAIN = 0.4
_REFUSAL = re.compile(
    r"""((i'm\ |i\ am\ )?(very\ )?(sorry|afraid)|unfortunately|leider|désolé|lo\ siento)?
    [\s,:.]*(but\ |that\ )?
    (  (i|we)\ (do\ not|don't)\ (know|have\ (any|enough|the)\b)
    |  (i|we)\ (can\ ?not|can't|could\ not|couldn't|am\ unable\ to|am\ not\ able\ to)
       \ (answer|help|find|say|tell|provide)
    |  ich\ wei(ß|ss)\ (es\ |das\ )?nicht | je\ ne\ sais\ pas | no\ lo\ sé | non\ lo\ so
    )""",
    re.IGNORECASE | re.VERBOSE,
)


def words(text: str) -> list[str]:
    """The words that carry meaning, in order: without those of grammar, cut to a stem."""
    found = (word.casefold() for word in _WORD.findall(text))
    return [
        word if word.isdigit() else word[:STEM]
        for word in found
        if word not in _EMPTY_WORDS and (len(word) > 2 or word.isdigit() or word > "\u3040")
    ]


def groundedness(answer: str, retrieved: Sequence[str]) -> Score | None:
    """How much of an answer is in the texts that it could be taken from.

    Each sentence counts by its number of words. Its support is, in the text where that is highest,
    half the share of its words that occur there and half the share of its pairs of neighbouring
    words. None when there are no texts, or no words.
    """
    texts = [_sets(words(text)) for text in retrieved]
    sentences = [(sentence, words(sentence)) for sentence in _sentences(answer)]
    sentences = [(sentence, found) for sentence, found in sentences if found]
    if not texts or not sentences:
        return None
    supports = [max(_support(found, *text) for text in texts) for _, found in sentences]
    total = sum(len(found) for _, found in sentences)
    value = sum(s * len(found) for s, (_, found) in zip(supports, sentences, strict=True)) / total
    least, (sentence, _) = min(zip(supports, sentences, strict=True), key=lambda pair: pair[0])
    if least >= SUPPORTED:
        return Score(round(value, 3), "every sentence is in what was retrieved")
    shown = shorten(sentence, 120, placeholder=" …")
    return Score(round(value, 3), f"least supported ({least:.2f}): {shown}")


def _sentences(answer: str) -> list[str]:
    return [part for part in _SENTENCE_END.split(_MARK.sub("", answer)) if part.strip()]


def _sets(found: Sequence[str]) -> tuple[frozenset[str], frozenset[tuple[str, str]]]:
    return frozenset(found), frozenset(pairwise(found))


def _support(
    found: Sequence[str], known: frozenset[str], pairs: frozenset[tuple[str, str]]
) -> float:
    single = _share(word in known for word in found)
    if len(found) == 1:
        return single
    return (single + _share(pair in pairs for pair in pairwise(found))) / 2


def _share(truths: Iterable[bool]) -> float:
    counted = list(truths)
    return sum(counted) / len(counted)


def citation_validity(
    answer: str,
    citations: Sequence[Mapping[str, Any]],
    passages: Sequence[Passage],
) -> Score | None:
    """The share of citations that hold, and of [n] marks that have a citation.

    A citation holds when its ``id`` is one of what was retrieved and its ``quote`` occurs there.
    None when nothing was cited or retrieved, or too little of it was recorded.
    """
    faults = [_fault(citation, passages) for citation in citations]
    wrong = [f"[{number}] {fault}" for number, fault in enumerate(faults, 1) if fault]
    bare = [f"[{mark}] has no citation" for mark in _bare(answer, len(citations), passages)]
    total = len(bare) + sum(fault is not None for fault in faults)
    if not citations or not passages or not total:
        return None
    reason = "; ".join([*wrong, *bare][:5]) or f"all {total} hold"
    return Score(round(1 - (len(wrong) + len(bare)) / total, 3), reason)


def _fault(citation: Mapping[str, Any], passages: Sequence[Passage]) -> str | None:
    """What is wrong with a citation; "" when it holds, None when that cannot be told."""
    identity, quote = str(citation.get("id") or ""), _plain(str(citation.get("quote") or ""))
    named = [one for one in passages if one.id == identity] if identity else passages
    if not named:
        return "was not retrieved"
    texts = [_plain(one.text) for one in named if one.text]
    if quote and texts and not any(quote in text for text in texts):
        return "is no quotation"
    return "" if identity or (quote and texts) else None


def _bare(answer: str, cited: int, passages: Sequence[Passage]) -> list[int]:
    """Marks beyond the citations; what a passage itself holds, like ``x[0]``, is no mark."""
    marks = sorted({int(mark) for mark in _MARK.findall(answer)} - set(range(1, cited + 1)))
    return [mark for mark in marks if not any(f"[{mark}]" in one.text for one in passages)]


def _plain(text: str) -> str:
    return " ".join(_WORD.findall(text.casefold()))


def answered(answer: str, declined: bool | None = None) -> Score:
    """1 when a question was answered, 0 when the answer is empty or a refusal."""
    start = answer.replace("’", "'").lstrip(" \"'*_“")
    if not start.strip():
        return Score(0.0, "the answer is empty")
    if declined if declined is not None else _REFUSAL.match(start):
        return Score(0.0, "declined")
    return Score(1.0, "answered")


def length(answer: str, least: int, most: int) -> Score:
    """1 for so many words, less in proportion when there are fewer or more."""
    count = len(_WORD.findall(answer))
    value = min(1.0, count / least if least else 1.0, most / count if count else 1.0)
    return Score(round(value, 3), f"{count} words")


def language(question: str, answer: str) -> Score | None:
    """Whether the answer is in the question's language; None when either is not clear."""
    asked, told = _language(question), _language(_MARK.sub("", answer))
    if not asked or not told:
        return None
    return Score(float(asked == told), f"asked in {asked}, answered in {told}")


def _language(text: str) -> str:
    name, certainty = _identifier().classify(text)
    return str(name) if certainty >= CERTAIN else ""


@cache
def _identifier() -> Any:
    from py3langid.langid import (  # type: ignore[import-untyped]
        MODEL_FILE,
        LanguageIdentifier,
    )

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def latency(seconds: float, good: float, bad: float) -> Score:
    """1 up to so many seconds, 0 from so many on, falling in between."""
    return Score(_falling(seconds, good, bad), f"{seconds:.2f} s")


def cost(dollars: float | None, good: float, bad: float) -> Score | None:
    """1 up to so many dollars, 0 from so many on, falling in between; None when not recorded."""
    if dollars is None:
        return None
    return Score(_falling(dollars, good, bad), f"${dollars:.6f}")


def _falling(value: float, good: float, bad: float) -> float:
    return round(min(1.0, max(0.0, (bad - value) / (bad - good))), 3)
