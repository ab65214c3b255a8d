"""Scores stored traces by rules, each trace once by each version of a rule.

Which traces came since last time is told by a cursor in the store; what was found and is not scored
yet is a row there, taken away in the transaction that writes the scores. So whatever kills the
worker, the next one goes on where it was. Rules of one lane wait for each other, lanes do not.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import sqlite3
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from llm_twin.errors import BusyError, RemoteError
from llm_twin.tracing.evaluation.rules import Skip
from llm_twin.tracing.evaluation.view import views
from llm_twin.tracing.store.merge import stamp_of
from llm_twin.tracing.store.records import MOST_ROWS
from llm_twin.tracing.store.routing import Request, dumps

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence

    from llm_twin.tracing.evaluation.rules import Rule, Score
    from llm_twin.tracing.evaluation.view import View
    from llm_twin.tracing.store.store import Store

LOGGER = logging.getLogger(__name__)
STEP = 500
FIRST_LOOK = timedelta(days=1)
"""How far a lane that never ran looks back."""
UNFINISHED = timedelta(hours=1)
"""After so long a trace that has not ended is given up."""
ERRORS_KEPT = timedelta(days=7)
RETRY_SECONDS = 5.0


@dataclass
class _Found:
    """What the rules said of one trace."""

    trace: str
    done: dict[str, int]
    scores: list[Score] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)


class Worker:
    """The rules of one lane at work on one project's traces."""

    def __init__(
        self,
        store: Store,
        rules: Sequence[Rule],
        *,
        project: str,
        lane: str = "rules",
        quiet: float = 2.0,
        batch: int = 50,
    ) -> None:
        """Take up the lane's work.

        Args:
            store: of the traces.
            rules: asked in this order.
            project: Opik's name of the project.
            lane: under which name the store remembers how far this is.
            quiet: seconds that nothing came of a trace before it is scored.
            batch: traces whose scores are written at once.

        """
        self.store, self.rules, self.project, self.lane = store, rules, project, lane
        self.quiet, self.batch = timedelta(seconds=quiet), batch
        self.scored = self.errors = 0

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lane: a second worker would ask judges twice.

        Raises:
            BusyError: another process holds it.

        """
        path = self.store.database.path.with_name(f"watch-{self.lane}.lock")
        with path.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(
                    "another process scores these traces", path, "End it, or leave it to it"
                ) from None
            yield

    def run(self, stop: threading.Event, pause: float = 1.0) -> None:
        """Score what comes until told to stop."""
        self.tidy()
        while not stop.is_set():
            try:
                idle = not self.step()
            except (sqlite3.Error, RemoteError) as error:
                LOGGER.warning("traces wait to be scored: %s", error)
                stop.wait(RETRY_SECONDS)
            else:
                stop.wait(pause if idle else 0)

    def once(self) -> int:
        """Score what is due now; return how many traces are not quiet yet.

        Raises:
            BusyError: another process holds the lane.
            RemoteError: the store refuses the scores.

        """
        with self.alone():
            self.tidy()
            while self.step():
                pass
        return self.waiting()

    def waiting(self) -> int:
        """Traces that were seen and are not scored yet."""
        with self.store.database.read() as db:
            sql = "SELECT count(*) FROM evaluation WHERE lane = ? AND due"
            return int(db.execute(sql, (self.lane,)).fetchone()[0])

    def look_back(self, by: timedelta) -> None:
        """See the traces of a time again, for rules that did not score them yet."""
        begin = stamp_of(datetime.now(UTC) - by)
        with self.store.database.write() as db:
            if begin < self._cursor(db)[0]:
                self._save_cursor(db, begin, "")

    def tidy(self) -> None:
        """Forget old errors."""
        old = stamp_of(datetime.now(UTC) - ERRORS_KEPT)
        with self.store.database.write() as db:
            db.execute("DELETE FROM evaluation_error WHERE at < ?", (old,))

    def step(self) -> bool:
        """See what came, score what is due; whether there was anything.

        Raises:
            RemoteError: the store refuses the scores; nothing of this step is remembered.

        """
        came = self._advance()
        due = self._due()
        if due:
            with self.store.database.read() as db:
                seen = {view.id: view for view in views(db, list(due))}
            self._write([self._ask(trace, seen.get(trace), due[trace]) for trace in due])
        return bool(came or due)

    def _advance(self) -> bool:
        now = stamp_of(datetime.now(UTC))
        with self.store.database.read() as db:
            cursor = self._cursor(db)
            came = self._came(db, cursor, now)
        # A clock that was set back must not hide what comes until it is where it was.
        if came or cursor[0] > now:
            with self.store.database.write() as db:
                db.executemany(
                    "INSERT INTO evaluation VALUES (?, ?, 1, '{}')"
                    " ON CONFLICT DO UPDATE SET due = 1",
                    [(trace, self.lane) for _, trace, wanted in came if wanted],
                )
                self._save_cursor(db, *(came[-1][:2] if came else (now, "")))
        return bool(came)

    def _came(
        self, db: sqlite3.Connection, cursor: tuple[str, str], now: str
    ) -> list[tuple[str, str, bool]]:
        """Traces in the order in which they came: when, id, and whether it is this lane's."""
        return db.execute(
            "SELECT created, id, (SELECT live FROM traffic WHERE trace = id) AND project_id IS"
            " (SELECT project.id FROM project WHERE name = ?)"
            " FROM trace WHERE (created, id) > (?, ?) AND created <= ?"
            " ORDER BY created, id LIMIT ?",
            (self.project, *cursor, now, STEP),
        ).fetchall()

    def _cursor(self, db: sqlite3.Connection) -> tuple[str, str]:
        sql = "SELECT value FROM evaluation_state WHERE name = ?"
        row = db.execute(sql, (f"cursor {self.lane}",)).fetchone()
        if row is None:
            return stamp_of(datetime.now(UTC) - FIRST_LOOK), ""
        created, trace = json.loads(row[0])
        return created, trace

    def _save_cursor(self, db: sqlite3.Connection, created: str, trace: str) -> None:
        db.execute(
            "INSERT OR REPLACE INTO evaluation_state VALUES (?, ?)",
            (f"cursor {self.lane}", dumps([created, trace])),
        )

    def _due(self) -> dict[str, dict[str, int]]:
        """Traces that ended and are quiet, or are given up, with what scored them already."""
        now = datetime.now(UTC)
        times = {
            "lane": self.lane,
            "now": stamp_of(now),
            "quiet": stamp_of(now - self.quiet),
            "old": stamp_of(now - UNFINISHED),
            "limit": self.batch,
        }
        with self.store.database.read() as db:
            rows = db.execute(
                "SELECT evaluation.trace, done FROM evaluation"
                " JOIN traffic ON traffic.trace = evaluation.trace"
                " JOIN trace ON trace.id = evaluation.trace"
                " WHERE lane = :lane AND due AND (ended IS NULL AND created < :old"
                "  OR ended IS NOT NULL AND created < :quiet"
                "   AND (updated < :quiet OR updated > :now)"
                "   AND NOT EXISTS (SELECT 1 FROM span WHERE span.trace_id = trace.id"
                "    AND span.created >= :quiet))"
                " ORDER BY evaluation.trace LIMIT :limit",
                times,
            ).fetchall()
        return {trace: json.loads(done) for trace, done in rows}

    def _ask(self, trace: str, view: View | None, done: dict[str, int]) -> _Found:
        found = _Found(trace, dict(done))
        if view is None or not view.trace.get("end_time"):
            return found
        for rule in self.rules:
            if found.done.get(rule.name, 0) < rule.version:
                self._ask_one(rule, view, found)
        return found

    def _ask_one(self, rule: Rule, view: View, found: _Found) -> None:
        try:
            if not rule.wants(view):
                return
            found.scores += rule.scores(view)
        except Skip:
            return
        except Exception as error:
            # Whatever a rule does wrong, the other rules and traces go on.
            found.errors.append((rule.name, f"{type(error).__name__}: {error}"))
            LOGGER.warning("%s gave trace %s no score: %s", rule.name, view.id, error)
            return
        found.done[rule.name] = rule.version

    def _write(self, found: Sequence[_Found]) -> None:
        now = stamp_of(datetime.now(UTC))
        with self.store.database.write() as db:
            found = self._still_due(db, found)
            rows = [_row(one.trace, score, self.project) for one in found for score in one.scores]
            errors = [(one.trace, *error) for one in found for error in one.errors]
            for start in range(0, len(rows), MOST_ROWS):
                self._put(rows[start : start + MOST_ROWS])
            db.executemany(
                "UPDATE evaluation SET due = 0, done = ? WHERE lane = ? AND trace = ?",
                [(dumps(one.done), self.lane, one.trace) for one in found],
            )
            db.executemany(
                "INSERT INTO evaluation_error (at, trace, rule, message) VALUES (?, ?, ?, ?)",
                [(now, *error) for error in errors],
            )
        self.scored += sum(bool(one.scores) for one in found)
        self.errors += len(errors)

    def _still_due(self, db: sqlite3.Connection, found: Sequence[_Found]) -> list[_Found]:
        """Without traces that were deleted meanwhile: a reason may hold their words."""
        sql = "SELECT trace FROM evaluation WHERE lane = ? AND due"
        due = {trace for (trace,) in db.execute(sql, (self.lane,))}
        return [one for one in found if one.trace in due]

    def _put(self, rows: list[dict[str, Any]]) -> None:
        body = dumps({"scores": rows}).encode()
        answer = self.store.handle(Request("PUT", "v1/private/traces/feedback-scores", body=body))
        if answer.status >= 300:
            raise RemoteError("the trace store refused scores", f"status {answer.status}")


def _row(trace: str, score: Score, project: str) -> dict[str, Any]:
    return {
        "id": trace, "project_name": project, "name": score.name, "value": score.value,
        "reason": score.reason, "source": "online_scoring",
    }  # fmt: skip


def run(workers: Sequence[Worker], stop: threading.Event) -> None:
    """Let all lanes score until told to stop; a judge's last request is waited for.

    Raises:
        BusyError: another process holds one of the lanes.

    """
    with contextlib.ExitStack() as stack:
        for worker in workers:
            stack.enter_context(worker.alone())
        lanes = stack.enter_context(ThreadPoolExecutor(len(workers)))
        for ended in as_completed([lanes.submit(worker.run, stop) for worker in workers]):
            stop.set()
            ended.result()
