"""Questions that a person answers: a row that is durable before the question is sent.

Whoever asks waits for the row to be answered by ``invoke alerts.approve`` or ``alerts.refuse``, or
for its time to run out, which is a no. Asked again with the same key, after a crash say, it is the
same question: it is not sent twice, and an answer that was given meanwhile counts.
"""

from __future__ import annotations

import contextlib
import getpass
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_twin.alerting import notes
from llm_twin.alerting.privacy import Privacy
from llm_twin.alerting.store import Store
from llm_twin.errors import NotReadyError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPEN, APPROVED, REFUSED, TIMED_OUT = "open", "approved", "refused", "timed out"
LOOK_SECONDS = 0.2
TABLE = """
    CREATE TABLE IF NOT EXISTS approval (
        id TEXT PRIMARY KEY, key TEXT NOT NULL UNIQUE, question TEXT NOT NULL, asked REAL NOT NULL,
        due REAL NOT NULL, state TEXT NOT NULL, answered REAL, by TEXT NOT NULL,
        reason TEXT NOT NULL
    )
"""


@dataclass(frozen=True)
class Approval:
    """One question; times in seconds since the epoch.

    Attributes:
        due: when it counts as refused if nobody has answered.
        state: ``open``, ``approved``, ``refused`` or ``timed out``.
        by: who answered, and ``reason`` why.

    """

    id: str
    key: str
    question: str
    asked: float
    due: float
    state: str
    answered: float | None
    by: str
    reason: str


def ask(home: Path, question: str, timeout: float = 3600.0, key: str = "") -> Approval:
    """Send a question to the channels and wait until it is answered or its time is over.

    Args:
        home: the state folder.
        question: in a sentence; it is redacted.
        timeout: seconds that it stays open, counted from when it was first asked.
        key: says that it is the same question as one asked before; default: it is another one.

    Raises:
        SpaceError: it cannot be written.

    """
    asked = request(home, question, timeout, key)
    while (now := find(home, asked.id)).state == OPEN:
        time.sleep(LOOK_SECONDS)
    return now


def request(home: Path, question: str, timeout: float = 3600.0, key: str = "") -> Approval:
    """Ask and do not wait; the question and its message are written together."""
    made, now = secrets.token_hex(3), time.time()
    clean = Privacy.of(home).text(question)
    row = (made, key or made, clean, now, now + timeout, OPEN)
    with _opened(home) as store, store.transaction() as db:
        new = db.execute(
            "INSERT OR IGNORE INTO approval VALUES (?, ?, ?, ?, ?, ?, NULL, '', '')", row
        ).rowcount
        if new:
            body = f"{clean}\nYes: invoke alerts.approve {made}\nNo: invoke alerts.refuse {made}"
            notes.put(store, "question", "warning", "QUESTION: please answer", body, now)
        (found,) = _select(store, "key = ?", key or made)
    return found


def answer(home: Path, name: str, approved: bool, reason: str = "", by: str = "") -> Approval:
    """Answer a question that is open, by its id or how that begins.

    Raises:
        NotReadyError: there is no such question, or it is not open any more.

    """
    found = find(home, name)
    state = APPROVED if approved else REFUSED
    with _opened(home) as store, store.transaction() as db:
        done = db.execute(
            "UPDATE approval SET state = ?, answered = ?, by = ?, reason = ?"
            " WHERE id = ? AND state = ?",
            (state, time.time(), by or getpass.getuser(), reason, found.id, OPEN),
        ).rowcount
    now = find(home, found.id)
    if not done:
        said = f"{now.state} by {now.by}" if now.by else now.state
        raise NotReadyError(
            f"this question is not open any more ({said})", now.id, "See: invoke alerts.approvals"
        )
    return now


def find(home: Path, name: str) -> Approval:
    """One question by its id or how that begins; one whose time is over is closed by looking.

    Raises:
        NotReadyError: there is none, or several fit.

    """
    with _opened(home) as store:
        _close_overdue(store)
        found = _select(store, "id = ?1 OR substr(id, 1, length(?1)) = ?1 LIMIT 2", name)
    if len(found) != 1 or not name:
        what = "more than one question fits" if found else "no such question"
        raise NotReadyError(what, name, "See which there are: invoke alerts.approvals")
    return found[0]


def recent(home: Path, limit: int = 20) -> list[Approval]:
    """What is open, then what was answered last."""
    with _opened(home) as store:
        _close_overdue(store)
        return _select(store, "1 ORDER BY state != ?, asked DESC LIMIT ?", OPEN, limit)


@contextlib.contextmanager
def _opened(home: Path) -> Iterator[Store]:
    with contextlib.closing(Store(home)) as store:
        store.db.execute(TABLE)
        yield store


def _close_overdue(store: Store) -> None:
    now = time.time()
    overdue = (OPEN, now)
    if store.db.execute("SELECT 1 FROM approval WHERE state = ? AND due <= ?", overdue).fetchone():
        store.db.execute(
            "UPDATE approval SET state = ?, answered = due WHERE state = ? AND due <= ?",
            (TIMED_OUT, *overdue),
        )


def _select(store: Store, where: str, *values: object) -> list[Approval]:
    rows = store.db.execute(f"SELECT * FROM approval WHERE {where}", values)  # noqa: S608
    return [Approval(*row) for row in rows]
