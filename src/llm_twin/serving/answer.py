"""The one answer path: retrieve, decline or go on, quote or generate, cite."""

from __future__ import annotations

import time
import unicodedata
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from llm_twin.errors import UserError
from llm_twin.serving.citations import Citation, numbered, used
from llm_twin.serving.echoes import without_echoes
from llm_twin.serving.extractive import extract, opening
from llm_twin.serving.prompts import load_prompt
from llm_twin.tracing.track import traced

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llm_twin.retrieval.ports import Hit
    from llm_twin.serving.llm import LLM, Completion
    from llm_twin.serving.prompts import Prompt
    from llm_twin.serving.twin import Twin

    Mode = Literal["extractive", "local", "openai"]

LONGEST_QUESTION = 4000
MOST_PASSAGES = 50
MOST_TOKENS = 600
SURE = 0.5
"""Confidence below which the twin declines; calibration puts 0.5 at the learned line."""

UNKNOWN = "I don't know: nothing in these texts answers that."
UNCITED = "the model cited nothing: every passage it was given is listed"


@dataclass(frozen=True)
class Answer:
    """What the twin says.

    Attributes:
        text: the answer, with [n] marks that count the citations from 1.
        citations: its sources, in the order of their marks.
        abstained: it declined.
        confidence: 0..1 that the corpus answers the question; below 0.5 it declines.
        mode: ``extractive`` (quotations), ``local`` or ``openai``.
        model: what wrote it, or "" for quotations.
        timings: milliseconds per step.
        note: what a reader should know beside it, or "".
        prompt: ``name@version`` of the template, or "".
        prompt_tokens: tokens that the model read, 0 when it does not tell.
        completion_tokens: tokens that it wrote, 0 when it does not tell.

    """

    text: str
    citations: list[Citation]
    abstained: bool
    confidence: float
    mode: Mode
    model: str = ""
    timings: dict[str, float] = field(default_factory=dict)
    note: str = ""
    prompt: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def _asked(
    question: str, twin: Twin, llm: LLM | None = None, k: int = 5, thread: str = ""
) -> dict[str, Any]:
    asked = {"question": question[: LONGEST_QUESTION * 2], "k": k}
    return {"input": asked, "thread_id": thread, "metadata": twin.provenance}


def _chunks(hits: Sequence[Hit]) -> dict[str, Any]:
    chunks = [
        {
            "id": hit.chunk.id,
            "document": hit.chunk.document_id,
            "score": hit.score,
            "title": hit.chunk.prefix,
            "text": hit.chunk.text,
        }
        for hit in hits
    ]
    return {"output": {"chunks": chunks}}


def _cites(cited: tuple[str, list[Citation]]) -> dict[str, Any]:
    return {"output": {"text": cited[0], "citations": [asdict(citation) for citation in cited[1]]}}


@traced("answer", before=_asked, after=lambda found: {"output": found.to_dict()})
def answer(
    question: str, twin: Twin, llm: LLM | None = None, k: int = 5, thread: str = ""
) -> Answer:
    """Answer from the author's texts, or decline.

    Args:
        question: in plain words.
        twin: the opened production bundle.
        llm: writes the answer from the passages; None quotes them.
        k: passages to look at.
        thread: the conversation that the answer's trace belongs to, or "".

    Raises:
        UserError: the question is empty or too long, or k is out of range.
        ConfigError: the LLM's settings are refused.
        RemoteError: the LLM does not answer.

    """
    asked = clean_question(question)
    if not 1 <= k <= MOST_PASSAGES:
        raise UserError("k is out of range", k, f"Ask for 1 to {MOST_PASSAGES} passages")
    clock = _Clock()
    with clock.step("retrieve"):
        hits = _retrieved(asked, twin, k)
    with clock.step("judge"):
        judged = without_echoes(asked, hits, twin.embedder)
        vectors = twin.embedder is not None
        confidence = round(twin.calibration.confidence(asked, judged, vectors=vectors), 3)
    if confidence < SURE or not hits:
        return _declined(hits, confidence, llm, clock)
    with clock.step("generate"):
        if llm is None:
            return _quoted(asked, hits, twin, confidence, clock)
        return _generated(asked, hits, llm, confidence, clock)


def clean_question(question: str) -> str:
    """Return the question on one line, without control characters.

    Raises:
        UserError: no word is left of it, or it is too long.

    """
    printable = "".join(
        " " if unicodedata.category(character) in ("Cc", "Cs", "Co", "Cn") else character
        for character in question[: LONGEST_QUESTION * 2]
    )
    asked = " ".join(printable.split())
    if len(question) > LONGEST_QUESTION:
        raise UserError(
            "the question is too long",
            f"{len(question):,} characters",
            f"Ask in at most {LONGEST_QUESTION:,} characters",
        )
    if not any(character.isalnum() for character in asked):
        raise UserError(
            "the question holds no word", repr(asked), 'Ask like: invoke ask "What is …?"'
        )
    return asked


@traced(
    "retrieve",
    "tool",
    before=lambda question, twin, k: {"input": {"query": question, "k": k}},
    after=_chunks,
)
def _retrieved(question: str, twin: Twin, k: int) -> list[Hit]:
    return twin.search(question, k)


def _quoted(
    question: str, hits: Sequence[Hit], twin: Twin, confidence: float, clock: _Clock
) -> Answer:
    text, citations = _marked(_extracted(question, hits, twin))
    return Answer(
        text=text,
        citations=citations,
        abstained=False,
        confidence=confidence,
        mode="extractive",
        timings=clock.timings,
    )


@traced(
    "generate",
    before=lambda question, hits, twin: {"input": {"question": question, "passages": len(hits)}},
    after=lambda citations: {"output": {"quotes": [citation.quote for citation in citations]}},
)
def _extracted(question: str, hits: Sequence[Hit], twin: Twin) -> list[Citation]:
    return extract(question, hits, twin.embedder, twin.calibration.vocabulary)


@traced("cite", after=_cites)
def _marked(citations: list[Citation]) -> tuple[str, list[Citation]]:
    return "\n\n".join(map(numbered, citations, range(1, len(citations) + 1))), citations


def _generated(
    question: str, hits: Sequence[Hit], llm: LLM, confidence: float, clock: _Clock
) -> Answer:
    prompt = load_prompt(llm.prompt)
    completion = _completed(llm, *_prompted(prompt, question, hits))
    if _is_unknown(completion.text):
        return _declined(hits, confidence, llm, clock)
    offered = [Citation.of(hit.chunk, opening(hit.chunk)) for hit in hits]
    text, citations = _cited(completion.text, offered)
    notes = [llm.note, "" if citations else UNCITED]
    return Answer(
        text=text,
        citations=citations or offered,
        abstained=False,
        confidence=confidence,
        mode=llm.mode,
        model=completion.model,
        timings=clock.timings,
        note="; ".join(filter(None, notes)),
        prompt=f"{prompt.name}@{prompt.version}",
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
    )


@traced(
    "prompt",
    before=lambda prompt, *_: {"input": {"template": prompt.name, "version": prompt.version}},
    after=lambda messages: {"output": dict(zip(("system", "user"), messages, strict=True))},
)
def _prompted(prompt: Prompt, question: str, hits: Sequence[Hit]) -> tuple[str, str]:
    return prompt.render(question=question, passages=_passages(hits))


@traced(
    "generate",
    "llm",
    before=lambda llm, system, user: {
        "input": {"system": system, "user": user},
        "provider": llm.mode,
    },
    after=lambda completion: completion.span(),
)
def _completed(llm: LLM, system: str, user: str) -> Completion:
    began = time.perf_counter()
    completion = llm.complete(system, user, MOST_TOKENS)
    whole = round((time.perf_counter() - began) * 1000, 2)
    return replace(completion, first_token_ms=completion.first_token_ms or whole)


_cited = traced("cite", after=_cites)(used)


def _declined(hits: Sequence[Hit], confidence: float, llm: LLM | None, clock: _Clock) -> Answer:
    titles = list(dict.fromkeys(hit.chunk.title for hit in hits if hit.chunk.title))[:3]
    closest = f" (closest: {'; '.join(titles)})" if titles else ""
    return Answer(
        text=UNKNOWN + closest,
        citations=[],
        abstained=True,
        confidence=confidence,
        mode=llm.mode if llm else "extractive",
        model=llm.model if llm else "",
        timings=clock.timings,
    )


def _passages(hits: Sequence[Hit]) -> str:
    return "\n\n".join(
        f"[{number}] {hit.chunk.prefix}\n{hit.chunk.text}" for number, hit in enumerate(hits, 1)
    )


def _is_unknown(text: str) -> bool:
    plain = text.replace("’", "'").strip(" .!\"'*").lower()
    return not plain or plain == "i don't know"


class _Clock:
    """Milliseconds of named steps; `timings` is shared with the answer, so late steps show too."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.timings: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        ended = time.perf_counter()
        self.timings[name] = round((ended - began) * 1000, 2)
        self.timings["total"] = round((ended - self.started) * 1000, 2)
