"""Messages between being made and being sent: a row each, in the transaction of what they tell.

A delivery is marked ``sending`` on the disk before its channel is asked, and ``sent`` after. What
was certainly sent is never sent again. What was being sent when the process died may have arrived:
it waits for the dedup window, then goes out marked as perhaps a repeat, unless a later message
about the same alert got through.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.alerting import message

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from llm_twin.alerting.store import Alert, Store

LOG = "log"
"""The channel that is always there: ``alerts.log`` and the console."""
DEFAULT = ""
"""Stands for the first channel of the settings."""
DEAD = 3
"""Failures in a row after which messages go to the next channel."""
LONGEST_WAIT = 15.0


@dataclass(frozen=True)
class Delivery:
    """A message on its way through one channel."""

    id: int
    channel: str
    severity: str
    what: str
    title: str
    body: str
    mark: str


def tell(store: Store, alert: Alert, what: str, now: float) -> None:
    """Queue a message about an alert, inside a transaction; the alert is not saved here.

    Args:
        store: of the alerts.
        alert: what it is about.
        what: ``firing``, ``again``, ``escalated`` or ``resolved``.
        now: seconds since the epoch.

    """
    row = store.db.execute(
        "INSERT INTO message (alert, what, severity, title, body, made) VALUES (?, ?, ?, ?, ?, ?)",
        (
            alert.id, what, alert.severity, message.title(alert, what),
            message.body(alert, what, now), now,
        ),
    )  # fmt: skip
    store.db.executemany(
        "INSERT INTO delivery (message, channel) VALUES (?, ?)",
        [(row.lastrowid, channel) for channel in _channels(alert, what)],
    )
    alert.told, alert.told_count = now, alert.count
    alert.fired = alert.fired or now


def _channels(alert: Alert, what: str) -> list[str]:
    usual = alert.to or [DEFAULT]
    further = alert.escalate_to if what == "escalated" or alert.escalated else []
    found = further or usual if what == "escalated" else [*usual, *further]
    # What an automation raised has its line in alerts.log already.
    logged = what == "firing" and "alert" in alert.subjects.values()
    return list(dict.fromkeys([*([] if logged else [LOG]), *found]))


def recover(store: Store, dedup: float) -> None:
    """See to what was being sent when a sender died; called by the only one, while it is idle.

    Args:
        store: of the alerts.
        dedup: seconds during which nothing may arrive twice.

    """
    with store.transaction() as db:
        # alerts.log knows what it holds, so nothing is in doubt there.
        db.execute(
            "UPDATE delivery SET state = 'waiting' WHERE state = 'sending' AND channel = ?", (LOG,)
        )
        db.execute(
            "UPDATE delivery SET state = 'waiting', unsure = 1, again = at + ?"
            " WHERE state = 'sending'",
            (dedup,),
        )


def route(store: Store, names: Sequence[str], now: float, also: Sequence[str] = ()) -> None:
    """Point what waits at channels that exist, and past those that are dead.

    Args:
        store: of the alerts.
        names: of the channels in the settings: the default, then where to go instead.
        now: seconds since the epoch.
        also: of these, those that get what goes to the default too.

    """
    known = [LOG, *names]
    marks = ", ".join("?" * len(known))
    with store.transaction() as db:
        lost = db.execute(
            "SELECT id, message, channel FROM delivery WHERE state = 'waiting'"  # noqa: S608
            f" AND channel NOT IN ({marks})",
            known,
        ).fetchall()
        for number, about, name in lost:
            if name == DEFAULT:
                extra = [(about, one) for one in also if one != names[0]]
                db.executemany(
                    "INSERT OR IGNORE INTO delivery (message, channel) VALUES (?, ?)", extra
                )
            if not (names and _move(db, number, about, names[:1])):
                db.execute("UPDATE delivery SET state = 'nowhere' WHERE id = ?", (number,))
        dead = {name for name in names if _failures(db, name) >= DEAD}
        resting = [name for name in dead if _rests(db, name, now)]
        alive = [name for name in names if name not in dead]
        for name in resting if alive else []:
            behind = names.index(name) + 1
            order = [one for one in (*names[behind:], *names[:behind]) if one in alive]
            stuck = db.execute(
                "SELECT id, message FROM delivery WHERE channel = ? AND state = 'waiting'"
                " AND (NOT unsure OR again <= ?)",
                (name, now),
            ).fetchall()
            for number, about in stuck:
                _move(db, number, about, order)


def _move(db: sqlite3.Connection, number: int, about: int, names: Sequence[str]) -> bool:
    """Hand a delivery to the first of these channels that does not have its message."""
    for name in names:
        moved = db.execute(
            "UPDATE OR IGNORE delivery SET channel = ?, again = 0 WHERE id = ?", (name, number)
        )
        if moved.rowcount:
            return True
    return False


def _failures(db: sqlite3.Connection, name: str) -> int:
    row = db.execute("SELECT failures FROM channel WHERE name = ?", (name,)).fetchone()
    return int(row[0]) if row else 0


def _rests(db: sqlite3.Connection, name: str, now: float) -> bool:
    sql = "SELECT 1 FROM channel WHERE name = ? AND again > ?"
    return db.execute(sql, (name, now)).fetchone() is not None


def due(store: Store, now: float) -> set[str]:
    """The channels that have something to send now."""
    rows = store.db.execute(
        "SELECT DISTINCT channel FROM delivery WHERE state = 'waiting' AND again <= ?", (now,)
    )
    return {name for (name,) in rows.fetchall() if not _rests(store.db, name, now)}


def take(store: Store, channel: str, now: float) -> Delivery | None:
    """The next delivery of a channel, its place held; None when nothing is due.

    Of several messages about one alert that wait, the newest says it all; the log has each.
    """
    with store.transaction() as db:
        if channel != LOG:
            _supersede(db, channel)
        if _rests(db, channel, now):
            return None
        row = db.execute(
            "SELECT delivery.id, severity, what, title, body, unsure, alert, message"
            " FROM delivery JOIN message ON message.id = message"
            " WHERE channel = ? AND state = 'waiting' AND again <= ? ORDER BY message LIMIT 1",
            (channel, now),
        ).fetchone()
    if row is None:
        return None
    number, severity, what, title, body, unsure, alert, count = row
    body += "\n(perhaps a repeat: the sender was stopped while it sent this)" if unsure else ""
    return Delivery(number, channel, severity, what, title, body, f"[{alert}.{count}]")


def _supersede(db: sqlite3.Connection, channel: str) -> None:
    db.execute(
        "UPDATE delivery SET state = 'superseded' WHERE channel = ?1 AND state = 'waiting'"
        " AND EXISTS (SELECT 1 FROM delivery AS later"
        " JOIN message AS theirs ON theirs.id = later.message"
        " JOIN message AS mine ON mine.id = delivery.message"
        " WHERE later.channel = ?1 AND theirs.alert = mine.alert AND theirs.id > mine.id"
        " AND later.state IN ('waiting', 'sent') AND (later.state = 'sent' OR NOT delivery.unsure)"
        ")",
        (channel,),
    )


def sending(store: Store, delivery: Delivery, now: float) -> None:
    """Mark that from here on it may have arrived."""
    with store.transaction() as db:
        db.execute(
            "UPDATE delivery SET state = 'sending', at = ?, attempts = attempts + 1 WHERE id = ?",
            (now, delivery.id),
        )


def sent(store: Store, delivery: Delivery, now: float) -> None:
    """Mark that it arrived."""
    with store.transaction() as db:
        db.execute(
            "UPDATE delivery SET state = 'sent', at = ?, error = '' WHERE id = ?",
            (now, delivery.id),
        )
        db.execute("DELETE FROM channel WHERE name = ?", (delivery.channel,))


def failed(store: Store, delivery: Delivery, error: str, now: float, *, refused: bool) -> None:
    """Mark that it did not arrive: the channel rests, ever longer, and others take over.

    Args:
        store: of the alerts.
        delivery: what did not arrive.
        error: why, without secrets.
        now: seconds since the epoch.
        refused: whether trying again is of little use.

    """
    with store.transaction() as db:
        failures = max(_failures(db, delivery.channel) + 1, DEAD if refused else 0)
        wait = min(2.0 ** (failures - 1), LONGEST_WAIT) * random.uniform(0.5, 1)
        db.execute(
            "INSERT OR REPLACE INTO channel VALUES (?, ?, ?, ?)",
            (delivery.channel, failures, now + wait, error),
        )
        db.execute(
            "UPDATE delivery SET state = 'waiting', error = ? WHERE id = ?", (error, delivery.id)
        )


def waiting(store: Store) -> int:
    """How many deliveries wait or are on their way."""
    sql = "SELECT count(*) FROM delivery WHERE state IN ('waiting', 'sending')"
    return int(store.db.execute(sql).fetchone()[0])


def history(store: Store, alert: str) -> list[dict[str, Any]]:
    """What was said of an alert, to which channel, and what became of it; oldest first."""
    names = ("made", "what", "channel", "state", "attempts", "error")
    rows = store.db.execute(
        "SELECT made, what, channel, state, attempts, error FROM message"
        " JOIN delivery ON message = message.id WHERE alert = ? ORDER BY message.id, delivery.id",
        (alert,),
    )
    return [dict(zip(names, row, strict=True)) for row in rows.fetchall()]
