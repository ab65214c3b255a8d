"""Which traces say that an answer was bad, and what it should have been.

A reader's correction says it outright. A bad answer to a question that was also answered well, as
readers said, is corrected by that answer. Every other bad answer is a question that is open.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from llm_twin.model.feedback import Correction
from llm_twin.model.near_duplicates import question_key
from llm_twin.tracing.evaluation import metrics
from llm_twin.tracing.evaluation.view import View
from llm_twin.tracing.store import reading
from llm_twin.tracing.store.merge import stamp_of
from llm_twin.tracing.store.projects import find

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterator, Mapping
    from datetime import datetime

    from llm_twin.tracing.store.store import Store

GOOD = 0.8
"""What people's scores of an answer are at least where it corrects another."""
_NAMED = re.compile(r"https?://[^\s<>()\[\]\"']+|[\w.-]*[\w-]/[\w./-]*\w\.\w{1,5}\b|\b[\w-]+\.md\b")
_MARK = re.compile(r"\[(\d{1,2})\](?!\()")
_COLUMNS = ", ".join(f"trace.{name}" for name in reading.COLUMNS.split(", "))


class Choice(NamedTuple):
    """What was looked at and what was chosen of it."""

    rows: list[Correction]
    """The oldest first; ``wanted`` is "" where nobody said what it should have been."""
    traces: int


class _Score(NamedTuple):
    name: str
    value: float
    by_rule: bool


def choose(
    store: Store,
    project: str,
    low: float = 0.5,
    since: datetime | None = None,
    ignored: Collection[str] = (),
) -> Choice:
    """Choose the traces that were corrected, failed, or have a score below ``low``.

    Args:
        store: of the traces.
        project: Opik's name of the project; traces of experiments do not count.
        low: scores from 0 to 1 below it are bad.
        since: traces that started earlier are left alone; None: all are looked at.
        ignored: names of scores that say nothing about the text, like ``latency``.

    """
    rows: list[Correction] = []
    endorsed: dict[tuple[str, ...], Correction] = {}
    traces = 0
    with store.database.read() as db:
        within = (find(db, project) or "", stamp_of(since) if since else "")
        scores = _scores(db, within, ignored)
        for trace in _traces(db, within):
            traces += 1
            own = scores.get(trace.id, [])
            row = _row(trace, own, low)
            if row.why:
                rows.append(row)
            elif row.answer and _is_endorsed(own):
                endorsed.setdefault(question_key(row.question), row)
    return Choice([_answered(row, endorsed) for row in rows], traces)


def _traces(db: sqlite3.Connection, within: tuple[str, str]) -> Iterator[View]:
    found = db.execute(
        f"SELECT {_COLUMNS} FROM traffic JOIN trace ON trace.id = traffic.trace"  # noqa: S608
        " WHERE traffic.project_id = ? AND live = 1 AND traffic.started >= ? ORDER BY trace.id",
        within,
    )
    for row in found:
        yield View.of(reading.base("trace", row), ())


def _scores(
    db: sqlite3.Connection, within: tuple[str, str], ignored: Collection[str]
) -> Mapping[str, list[_Score]]:
    found: dict[str, list[_Score]] = {}
    for entity, *score in db.execute(
        "SELECT entity, name, value, coalesce(source, '') = 'online_scoring' FROM traffic"
        " CROSS JOIN score ON score.kind = 'trace' AND score.entity = trace"
        " WHERE project_id = ? AND live = 1 AND started >= ? ORDER BY entity, name, author",
        within,
    ):
        if score[0] not in ignored:
            found.setdefault(entity, []).append(_Score(*score))
    return found


def _row(trace: View, scores: list[_Score], low: float) -> Correction:
    answered = not trace.error and metrics.answered(trace.answer, trace.declined).value == 1
    metadata = trace.trace.get("metadata")
    corrected = metadata.get("correction") if isinstance(metadata, dict) else None
    wanted = corrected.strip() if isinstance(corrected, str) else ""
    return Correction(
        trace.id,
        trace.question.strip(),
        wanted,
        trace.answer.strip() if answered else "",
        _cited(wanted, trace) if wanted else tuple(_links(trace)),
        _why(trace, wanted, scores, low),
    )


def _why(trace: View, wanted: str, scores: list[_Score], low: float) -> str:
    if wanted:
        return "corrected"
    if trace.error:
        return f"error {trace.error.get('exception_type', '')}".rstrip()
    worst = min((score for score in scores if score.value < low), key=_value, default=None)
    return f"{worst.name} {worst.value:.3g}" if worst else ""


def _value(score: _Score) -> float:
    return score.value


def _is_endorsed(scores: list[_Score]) -> bool:
    people = [score.value for score in scores if not score.by_rule]
    return bool(people) and min(people) >= GOOD


def _links(trace: View) -> Iterator[str]:
    for citation in trace.citations:
        if isinstance(link := citation.get("link"), str) and link:
            yield link


def _cited(text: str, trace: View) -> tuple[str, ...]:
    """The documents that a correction names itself, or by the marks of the answer's citations."""
    links = list(_links(trace))
    marked = [links[int(mark) - 1] for mark in _MARK.findall(text) if 0 < int(mark) <= len(links)]
    named = [name.rstrip(".,;:!?") for name in _NAMED.findall(text)]
    return tuple(dict.fromkeys([*named, *marked]))


def _answered(row: Correction, endorsed: Mapping[tuple[str, ...], Correction]) -> Correction:
    better = None if row.wanted else endorsed.get(question_key(row.question))
    if better is None:
        return row if row.wanted else replace(row, cites=())
    return replace(row, wanted=better.answer, cites=better.cites)
