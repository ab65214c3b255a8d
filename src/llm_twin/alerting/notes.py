"""Messages that belong to no alert: a question for a person, a note that a pipeline posts."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from llm_twin.alerting.outbox import DEFAULT, LOG

if TYPE_CHECKING:
    from llm_twin.alerting.privacy import Privacy
    from llm_twin.alerting.store import Store

MOST_LINES = 10


def put(
    store: Store, what: str, severity: str, title: str, body: str, now: float, dedup: float = 0.0
) -> bool:
    """Queue a message, inside a transaction; return whether it is a new one.

    Args:
        store: of the alerts.
        what: ``question`` or ``note``.
        severity: like that of a rule.
        title: a line, redacted.
        body: a few lines, redacted.
        now: seconds since the epoch.
        dedup: seconds during which the same text is not said again.

    """
    name = hashlib.sha256(f"{what}\n{title}\n{body}".encode()).hexdigest()[:8]
    said = store.db.execute(
        "SELECT 1 FROM message WHERE alert = ? AND made > ?", (name, now - dedup)
    ).fetchone()
    if said:
        return False
    row = store.db.execute(
        "INSERT INTO message (alert, what, severity, title, body, made) VALUES (?, ?, ?, ?, ?, ?)",
        (name, what, severity, title, body, now),
    )
    store.db.executemany(
        "INSERT INTO delivery (message, channel) VALUES (?, ?)",
        [(row.lastrowid, channel) for channel in (LOG, DEFAULT)],
    )
    return True


def lines(privacy: Privacy, text: str) -> str:
    """The first lines of a text, each redacted."""
    return "\n".join(filter(None, map(privacy.text, text.splitlines()[:MOST_LINES])))
