"""What a person can do about an alert: acknowledge it, silence it, hand it on."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, NamedTuple

from llm_twin.alerting import outbox
from llm_twin.alerting.store import ACKNOWLEDGED, FIRING, PENDING
from llm_twin.errors import UserError

if TYPE_CHECKING:
    from llm_twin.alerting.store import Alert, Store


class Silence(NamedTuple):
    """Nothing is said of a rule or an alert until a time, in seconds since the epoch."""

    id: str
    target: str
    until: float
    reason: str


def acknowledge(store: Store, name: str, now: float, by: str = "") -> Alert:
    """Mark that somebody sees to an alert: repeats and escalation are no longer told.

    Raises:
        NotReadyError: there is no such alert.
        UserError: it is over.

    """
    with store.transaction():
        alert = store.find(name)
        if alert.state not in (FIRING, ACKNOWLEDGED):
            raise UserError(f"this alert is {alert.state}", alert.id, "See: invoke alerts")
        alert.state, alert.acknowledged, alert.by = ACKNOWLEDGED, now, by
        store.save(alert)
    return alert


def escalate(store: Store, name: str, reason: str, now: float) -> list[str]:
    """Tell whom a rule names next, at once; return the ids of the alerts that this was about.

    Args:
        store: of the alerts.
        name: of a rule, or an alert's id.
        reason: why waiting is of no use, like "its retraining was refused".
        now: seconds since the epoch.

    """
    found = []
    with store.transaction():
        for alert in store.open_alerts():
            if name in (alert.rule, alert.id) and alert.state != PENDING:
                alert.escalated, alert.note, alert.state = now, reason, FIRING
                outbox.tell(store, alert, "escalated", now)
                store.save(alert)
                found.append(alert.id)
    return found


def silence(store: Store, target: str, until: float, reason: str) -> Silence:
    """Say nothing of a rule, or of one alert by its id, until a time; durable on return."""
    made = Silence(secrets.token_hex(4), target, until, reason)
    with store.transaction() as db:
        db.execute("INSERT INTO silence VALUES (?, ?, ?, ?)", made)
    return made


def listed(store: Store, now: float) -> list[Silence]:
    """The silences that are not over."""
    rows = store.db.execute(
        "SELECT id, target, until, reason FROM silence WHERE until > ? ORDER BY until", (now,)
    )
    return [Silence(*row) for row in rows.fetchall()]


def current(store: Store, now: float) -> set[str]:
    """The rules and alerts of which nothing is said now."""
    return {one.target for one in listed(store, now)}
