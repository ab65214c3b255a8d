"""The figures of a time window, each beside its normal: what alerts and people look at.

Traces count by when they started; those of experiments do not count, though what they cost does.
Reading is by index alone, so that a day of 100,000 traces takes a fraction of a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from llm_twin.tracing.store.merge import stamp_of
from llm_twin.tracing.store.projects import find

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from llm_twin.tracing.store.store import Store

NORMAL = timedelta(days=1)


@dataclass(frozen=True)
class Figure:
    """One figure of a window.

    Attributes:
        value: None when there was nothing to take it from.
        count: how many requests, scores or errors it was taken from.
        normal: the same over the day before the window.
        normal_count: likewise.

    """

    value: float | None
    count: int
    normal: float | None
    normal_count: int


Values = dict[str, tuple[float | None, int]]


def metrics(
    store: Store, minutes: float = 15, *, project: str, until: datetime | None = None
) -> dict[str, Figure]:
    """Every figure of the last minutes by name.

    ``requests_per_minute``, ``error_rate`` (0..1), ``latency_p50`` and ``latency_p95`` (seconds),
    ``cost_per_hour`` (US dollars), ``refusal_rate`` (0..1 of the scored answers), ``score.NAME``
    (the mean; ``score.groundedness`` among them), ``unscored_per_hour`` (rules and judges that
    failed).

    Args:
        store: of the traces.
        minutes: length of the window.
        project: Opik's name of the project.
        until: end of the window; None: now.

    """
    end = until or datetime.now(UTC)
    begin = end - timedelta(minutes=minutes)
    with store.database.read() as db:
        identity = find(db, project) or ""
        here = _values(db, identity, begin, end)
        before = _values(db, identity, begin - NORMAL, begin)
    nothing = (None, 0)
    return {
        name: Figure(*here.get(name, nothing), *before.get(name, nothing))
        for name in [*here, *(name for name in before if name not in here)]
    }


def _values(db: sqlite3.Connection, project: str, begin: datetime, end: datetime) -> Values:
    within = {"project": project, "begin": stamp_of(begin), "end": stamp_of(end)}
    hours = (end - begin) / timedelta(hours=1)
    scores = _scores(db, within)
    answered, judged = scores.get("score.answered", (None, 0))
    refused = None if answered is None else 1 - answered
    return {
        **_traffic(db, within, hours),
        "cost_per_hour": _cost(db, within, hours),
        "refusal_rate": (refused, judged),
        **scores,
        "unscored_per_hour": _unscored(db, within, hours),
    }


def _traffic(db: sqlite3.Connection, within: Mapping[str, str], hours: float) -> Values:
    rows = db.execute(
        "SELECT failed, (julianday(ended) - julianday(started)) * 86400 FROM traffic"
        " WHERE project_id = :project AND live = 1 AND started >= :begin AND started < :end",
        within,
    ).fetchall()
    count = len(rows)
    failed = sum(row[0] for row in rows)
    seconds = sorted(row[1] for row in rows if row[1] is not None)
    return {
        "requests_per_minute": (count / hours / 60, count),
        "error_rate": (failed / count if count else None, count),
        "latency_p50": (_percentile(seconds, 0.5), len(seconds)),
        "latency_p95": (_percentile(seconds, 0.95), len(seconds)),
    }


def _percentile(ordered: list[float], share: float) -> float | None:
    return round(ordered[int(share * (len(ordered) - 1))], 3) if ordered else None


def _cost(
    db: sqlite3.Connection, within: Mapping[str, str], hours: float
) -> tuple[float | None, int]:
    total, count = db.execute(
        "SELECT sum(cost), count(*) FROM span WHERE cost IS NOT NULL"
        " AND project_id = :project AND started >= :begin AND started < :end",
        within,
    ).fetchone()
    return (total / hours if count else None), count


def _scores(db: sqlite3.Connection, within: Mapping[str, str]) -> Values:
    rows = db.execute(
        "SELECT name, avg(value), count(*) FROM traffic"
        " CROSS JOIN score ON score.kind = 'trace' AND score.entity = trace"
        " WHERE project_id = :project AND live = 1 AND started >= :begin AND started < :end"
        " GROUP BY name",
        within,
    )
    return {f"score.{name}": (value, count) for name, value, count in rows}


def _unscored(
    db: sqlite3.Connection, within: Mapping[str, str], hours: float
) -> tuple[float | None, int]:
    sql = "SELECT count(*) FROM evaluation_error WHERE at >= :begin AND at < :end"
    count = db.execute(sql, within).fetchone()[0]
    return count / hours, count
