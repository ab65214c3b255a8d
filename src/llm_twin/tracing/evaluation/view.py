"""A stored trace as a rule looks at it: question, answer, passages, citations, time and cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llm_twin.tracing.store import reading
from llm_twin.tracing.store.records import marks

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

QUESTION = ("question", "query", "messages", "input", "prompt", "content")
ANSWER = ("answer", "text", "output", "choices", "message", "content")


@dataclass(frozen=True)
class Passage:
    """What was retrieved: its id, its rank's score and, where it was recorded, its text."""

    id: str
    score: float = 0.0
    text: str = ""


@dataclass(frozen=True)
class View:
    """One trace that has ended.

    Attributes:
        id: of the trace.
        name: of the trace.
        question: "" when none was recorded.
        answer: "" when none was recorded.
        declined: whether the answer path itself said that it does not know; None: not recorded.
        passages: what was retrieved, best first.
        citations: as recorded; ``quote`` and perhaps ``id`` are what rules look at.
        seconds: from start to end.
        cost: in US dollars, over all spans; None when no span has one.
        error: ``exception_type``, ``message``, ``traceback``; None when all went well.
        spans: as Opik's readers see them, oldest first.
        trace: the trace, likewise.

    """

    id: str
    name: str = ""
    question: str = ""
    answer: str = ""
    declined: bool | None = None
    passages: tuple[Passage, ...] = ()
    citations: tuple[Mapping[str, Any], ...] = ()
    seconds: float = 0.0
    cost: float | None = None
    error: Mapping[str, Any] | None = None
    spans: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    trace: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def texts(self) -> list[str]:
        """What was retrieved, where its text was recorded."""
        return [passage.text for passage in self.passages if passage.text]

    @classmethod
    def of(cls, trace: Mapping[str, Any], spans: Sequence[Mapping[str, Any]]) -> View:
        """Read a trace and its spans."""
        output = trace.get("output")
        told = output if isinstance(output, Mapping) else {}
        return cls(
            id=trace["id"],
            name=trace.get("name") or "",
            question=_said(trace.get("input"), QUESTION),
            answer=_said(output, ANSWER),
            declined=told["abstained"] if isinstance(told.get("abstained"), bool) else None,
            passages=tuple(_passages(spans)),
            citations=tuple(_citations(told, spans)),
            seconds=(trace.get("duration") or 0.0) / 1000,
            cost=trace.get("total_estimated_cost"),
            error=trace.get("error_info"),
            spans=tuple(spans),
            trace=trace,
        )


def views(db: sqlite3.Connection, ids: Sequence[str]) -> list[View]:
    """Read traces with their spans, in the order of the ids; those that are gone are left out."""
    spans: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for trace, *row in db.execute(
        f"SELECT trace_id, {reading.COLUMNS} FROM span"  # noqa: S608
        f" WHERE trace_id IN ({marks(ids)}) ORDER BY started, id",
        list(ids),
    ):
        spans[trace].append(reading.base("span", tuple(row)))
    return [View.of(one, spans[one["id"]]) for one in reading.by_ids(db, "trace", list(ids))]


def _said(value: Any, names: Sequence[str]) -> str:
    """The text in a field of one of these names, in however many objects and lists."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return _said(value[-1], names) if value else ""
    if isinstance(value, Mapping):
        for name in names:
            if said := _said(value.get(name), names):
                return said
        if len(value) == 1:
            return _said(next(iter(value.values())), names)
    return ""


def _passages(spans: Sequence[Mapping[str, Any]]) -> Iterator[Passage]:
    for output in _outputs(spans):
        for chunk in _listed(output, "chunks"):
            score, text = chunk.get("score"), chunk.get("text")
            yield Passage(
                str(chunk.get("id") or ""),
                float(score) if isinstance(score, int | float) else 0.0,
                text if isinstance(text, str) else "",
            )


def _citations(
    told: Mapping[str, Any], spans: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    for output in (*_outputs(spans), told):
        if found := _listed(output, "citations"):
            return found
    return []


def _outputs(spans: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [span["output"] for span in spans if isinstance(span.get("output"), Mapping)]


def _listed(output: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = output.get(name)
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []
