"""``loop.db``: one row for each turn of the loop or other training, and what their steps cost.

A row is committed to the disk before a call returns, so that whoever resumes a turn finds what was
decided, and the day's budget counts what a killed step had set aside.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.sqlite import open_database, transaction

if TYPE_CHECKING:
    from pathlib import Path

FAILED, CUT_SHORT = "failed", "cut short"
TRAINED = ("promoted", "refused")
"""How a request for training ends when there was one; see ``loop.requests``."""
UNCHANGED = "unchanged"
COLUMNS = "run, began, ended, outcome, reason, facts"
MIGRATIONS = (
    """
    CREATE TABLE turn (
        run TEXT PRIMARY KEY, began REAL NOT NULL, ended REAL, outcome TEXT NOT NULL,
        reason TEXT NOT NULL, facts TEXT NOT NULL
    );
    CREATE INDEX turn_by_time ON turn (began);
    CREATE TABLE spending (
        id INTEGER PRIMARY KEY, run TEXT NOT NULL, step TEXT NOT NULL, at REAL NOT NULL,
        cpu REAL NOT NULL, tokens INTEGER NOT NULL, dollars REAL NOT NULL
    );
    CREATE INDEX spending_by_time ON spending (at);
    CREATE INDEX spending_by_run ON spending (run)
    """,
    """
    CREATE TABLE request (
        run TEXT PRIMARY KEY, asked REAL NOT NULL, cause TEXT NOT NULL, corpus TEXT NOT NULL,
        profile TEXT NOT NULL, training TEXT NOT NULL, began REAL, ended REAL,
        outcome TEXT NOT NULL, reason TEXT NOT NULL
    );
    CREATE INDEX request_by_time ON request (asked);
    CREATE INDEX request_by_training ON request (training)
    """,
)


@dataclass(frozen=True)
class Spent:
    """What something cost.

    Attributes:
        cpu: seconds of processors.
        tokens: read and written by models that are asked over the network.
        dollars: as their traces say it.

    """

    cpu: float = 0.0
    tokens: int = 0
    dollars: float = 0.0

    def __str__(self) -> str:
        return f"{self.cpu:.0f} CPU-s, {self.tokens:,} tokens, ${self.dollars:.2f}"


@dataclass(frozen=True)
class Turn:
    """One turn of the loop; times in seconds since the epoch.

    Attributes:
        run: id of the run of the flow.
        outcome: "" while it goes on.
        reason: why it ended like that.
        facts: what was found, decided and made, by name; plain JSON types.

    """

    run: str
    began: float
    ended: float | None = None
    outcome: str = ""
    reason: str = ""
    facts: dict[str, Any] | None = None

    def fact(self, name: str, default: Any = "") -> Any:
        """What was noted under a name."""
        return (self.facts or {}).get(name, default)


class Audit:
    """The connection to ``loop.db``, for one thread."""

    def __init__(self, home: Path) -> None:
        """Open or create it in the state folder.

        Raises:
            SpaceError: it cannot be written.
            NotReadyError: a newer version wrote it.

        """
        self.db = open_database(home / "loop.db", "the loop's history", MIGRATIONS)

    def close(self) -> None:
        """Close the database."""
        self.db.close()

    # Turns

    def begin(self, run: str, now: float, facts: dict[str, Any]) -> None:
        """Begin a turn; one that has begun stays as it is."""
        row = (run, now, json.dumps(facts))
        self.db.execute("INSERT OR IGNORE INTO turn VALUES (?, ?, NULL, '', '', ?)", row)

    def find(self, run: str) -> Turn | None:
        """The turn of a run, if it began one."""
        return next(iter(self._turns("run = ?", run)), None)

    def note(self, run: str, **facts: Any) -> None:
        """Add to what is known of a turn."""
        with transaction(self.db):
            turn = self.find(run)
            known = {**(turn.facts or {} if turn else {}), **facts}
            self.db.execute("UPDATE turn SET facts = ? WHERE run = ?", (json.dumps(known), run))

    def end(self, run: str, outcome: str, reason: str, now: float) -> None:
        """Say how a turn ended; what was said first counts."""
        self.db.execute(
            "UPDATE turn SET outcome = ?, reason = ?, ended = ? WHERE run = ? AND ended IS NULL",
            (outcome, reason, now, run),
        )

    def reopen(self, run: str) -> Turn | None:
        """The turn of a run; one that failed goes on, unless another has begun since."""
        self.db.execute(
            "UPDATE turn SET outcome = '', reason = '', ended = NULL"
            " WHERE run = ?1 AND outcome = ?2 AND began = (SELECT max(began) FROM turn)",
            (run, FAILED),
        )
        return self.find(run)

    def unfinished(self) -> list[Turn]:
        """Turns without an end, oldest first."""
        return self._turns("ended IS NULL ORDER BY began")

    def recent(self, limit: int = 20) -> list[Turn]:
        """The newest turns first."""
        return self._turns("1 ORDER BY began DESC LIMIT ?", limit)

    def last_end(self, besides: str) -> float | None:
        """When a turn, or another training, ended last; without those that failed or died.

        Args:
            besides: a run that does not count.

        """
        row = self.db.execute(
            "SELECT max(ended) FROM ("
            " SELECT ended FROM turn WHERE run != ?1 AND outcome NOT IN (?2, ?3)"
            " UNION ALL SELECT ended FROM request WHERE run != ?1 AND outcome IN (?4, ?5))",
            (besides, FAILED, CUT_SHORT, *TRAINED),
        ).fetchone()
        return None if row[0] is None else float(row[0])

    def _turns(self, where: str, *values: object) -> list[Turn]:
        rows = self.db.execute(f"SELECT {COLUMNS} FROM turn WHERE {where}", values)  # noqa: S608
        return [
            Turn(run, began, ended, outcome, reason, json.loads(facts))
            for run, began, ended, outcome, reason, facts in rows.fetchall()
        ]

    # Spending

    def reserve(self, run: str, step: str, now: float, cpu: float, dollars: float = 0.0) -> int:
        """Set aside what a step may cost, before it starts; returns the row to settle."""
        cursor = self.db.execute(
            "INSERT INTO spending (run, step, at, cpu, tokens, dollars) VALUES (?, ?, ?, ?, 0, ?)",
            (run, step, now, cpu, dollars),
        )
        return int(cursor.lastrowid or 0)

    def settle(self, row: int, spent: Spent) -> None:
        """Write what it did cost."""
        self.db.execute(
            "UPDATE spending SET cpu = ?, tokens = ?, dollars = ? WHERE id = ?",
            (spent.cpu, spent.tokens, spent.dollars, row),
        )

    def spent_since(self, begin: float) -> Spent:
        """What all steps cost since a time."""
        return self._sum("at >= ?", begin)

    def spent_by(self, run: str) -> Spent:
        """What a turn cost."""
        return self._sum("run = ?", run)

    def _sum(self, where: str, value: object) -> Spent:
        sums = "coalesce(sum(cpu), 0), coalesce(sum(tokens), 0), coalesce(sum(dollars), 0)"
        query = f"SELECT {sums} FROM spending WHERE {where}"  # noqa: S608
        return Spent(*self.db.execute(query, (value,)).fetchone())
