"""Who asked for a training, when, and what became of it: the table ``request`` of ``loop.db``.

Turns of the loop have rows of their own; see ``loop.audit``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_twin.loop.audit import CUT_SHORT, FAILED, TRAINED, UNCHANGED

if TYPE_CHECKING:
    import sqlite3

    from llm_twin.loop.audit import Audit

NOT_NOW, TAKEN_UP = "not now", "taken up"
BY_HAND = "by hand"
COLUMNS = "run, asked, cause, corpus, profile, training, began, ended, outcome, reason"


@dataclass(frozen=True)
class Request:
    """One request for a training; times in seconds since the epoch.

    Attributes:
        run: id of the run that asked.
        cause: what made it ask, in a few words.
        corpus: "" for the one that the settings name.
        profile: likewise.
        training: id of the run of ``ct``.
        began: None when it did not begin.
        ended: None while it goes on.
        outcome: "" while it goes on.
        reason: why it ended like that.

    """

    run: str
    asked: float
    cause: str
    corpus: str = ""
    profile: str = ""
    training: str = ""
    began: float | None = None
    ended: float | None = None
    outcome: str = ""
    reason: str = ""


class Requests:
    """The requests, over an open audit."""

    def __init__(self, audit: Audit) -> None:
        self.db: sqlite3.Connection = audit.db

    def add(self, one: Request) -> None:
        """Write down a request; one that is known stays as it is."""
        row = (
            one.run, one.asked, one.cause, one.corpus, one.profile, one.training, one.began,
            one.ended, one.outcome, one.reason,
        )  # fmt: skip
        self.db.execute("INSERT OR IGNORE INTO request VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def find(self, run: str) -> Request | None:
        """The request of a run, or whose training a run is."""
        found = self._rows("run = ?1 OR (training = ?1 AND training != '')", run)
        return next(iter(found), None)

    def end(self, run: str, outcome: str, reason: str, now: float) -> None:
        """Say what became of it; what was said first counts."""
        self.db.execute(
            "UPDATE request SET outcome = ?, reason = ?, ended = ? WHERE run = ? AND ended IS NULL",
            (outcome, reason, now, run),
        )

    def reopen(self, run: str) -> bool:
        """Let one that failed or was cut short go on, unless another training began since."""
        done = self.db.execute(
            "UPDATE request SET outcome = '', reason = '', ended = NULL"
            " WHERE run = ?1 AND outcome IN (?2, ?3) AND began ="
            " (SELECT max(began) FROM (SELECT began FROM request UNION SELECT began FROM turn))",
            (run, FAILED, CUT_SHORT),
        )
        return done.rowcount > 0

    def unfinished(self) -> list[Request]:
        """Those that go on, or whose process died; oldest first."""
        return self._rows("began IS NOT NULL AND ended IS NULL ORDER BY began")

    def put_off(self, since: float) -> Request | None:
        """The newest that was told "not now" since a time, unless it was trained meanwhile."""
        found = self._rows(
            "outcome = ? AND asked >= ? AND NOT EXISTS (SELECT 1 FROM request AS later"
            " WHERE later.began >= request.asked AND later.corpus = request.corpus"
            " AND later.profile = request.profile AND later.outcome IN ('', ?, ?, ?))"
            " ORDER BY asked DESC LIMIT 1",
            NOT_NOW, since, *TRAINED, UNCHANGED,
        )  # fmt: skip
        return next(iter(found), None)

    def take_up(self, one: Request, by: str) -> None:
        """Say that a run sees to what was put off."""
        self.db.execute(
            "UPDATE request SET outcome = ?, reason = reason || ?"
            " WHERE outcome = ? AND corpus = ? AND profile = ? AND asked <= ?",
            (TAKEN_UP, f"; taken up by {by}", NOT_NOW, one.corpus, one.profile, one.asked),
        )

    def recent(self, limit: int = 20) -> list[Request]:
        """The newest first."""
        return self._rows("1 ORDER BY asked DESC LIMIT ?", limit)

    def _rows(self, where: str, *values: object) -> list[Request]:
        query = f"SELECT {COLUMNS} FROM request WHERE {where}"  # noqa: S608
        return [Request(*row) for row in self.db.execute(query, values).fetchall()]
