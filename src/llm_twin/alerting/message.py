"""What a person reads: what, since when, how bad, where to look; short enough for a pager."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llm_twin.alerting.privacy import brief

if TYPE_CHECKING:
    from llm_twin.alerting.store import Alert

MOST_IDS = 3
LONGEST_TITLE = 120
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def title(alert: Alert, what: str) -> str:
    """One line for a list: how it stands, the rule, what it says."""
    how = alert.severity if what == "firing" else what
    text = f"{how.upper()} {alert.rule}: {alert.text}"
    return text if len(text) <= LONGEST_TITLE else f"{text[: LONGEST_TITLE - 3]}..."


def body(alert: Alert, what: str, now: float) -> str:
    """A few lines of plain text."""
    ids = list(alert.subjects)
    more = " and more" if len(ids) > MOST_IDS else ""
    times = f", {alert.count:,} times" if alert.count > 1 else ""
    lines = [
        brief(alert.detail),
        f"since {utc(alert.began)}{times}",
        alert.measured,
        f"about: {', '.join(reversed(ids[-MOST_IDS:]))}{more}" if ids else "",
        _standing(alert, what, now),
        f"look: {alert.look}" if alert.look else "",
        f"alert {alert.id}" if what == "resolved" else f"invoke alerts.ack {alert.id}",
    ]
    return "\n".join(line for line in lines if line)


def _standing(alert: Alert, what: str, now: float) -> str:
    if what == "resolved":
        by = f" by {alert.by}" if alert.by else ""
        return f"resolved{by} after {span(now - alert.began)}"
    if what == "escalated":
        why = alert.note or "nobody acknowledged it"
        return f"{why}, {span(now - alert.began)} after it began"
    if what == "again":
        return f"{alert.count - alert.told_count:,} more since the last message"
    return ""


def utc(at: float) -> str:
    """Seconds since the epoch as ``2026-03-29 01:00:00 UTC``."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def span(seconds: float) -> str:
    """A length of time in its largest unit: ``40 s``, ``12 min``, ``3.5 h``, ``2 d``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{round(seconds / size, 1):g} {unit}"
    return f"{max(0, round(seconds))} s"
