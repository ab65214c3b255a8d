"""Raise an alert once: a row in the history, a line in ``alerts.log`` and one on stderr."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from llm_twin.flow.automation.ledger import emit, save_firing
from llm_twin.flow.automation.words import utc
from llm_twin.flow.views import plain_line

if TYPE_CHECKING:
    from pathlib import Path

    from llm_twin.flow.automation.actions import Alert
    from llm_twin.flow.automation.ledger import Firing
    from llm_twin.flow.store import Store

TAIL_BYTES = 1 << 20


def raise_alert(store: Store, firing: Firing, action: Alert, now: float) -> None:
    """Record an alert and the end of its firing together.

    The file's line is written first, under the store's lock, unless it is there already: whoever
    is killed in between leaves a line that the next one finds by the firing's id. The row is what
    counts: an alert is raised also when the file cannot be written.
    """
    text = f"{action.text} ({firing.reason})"
    line = plain_line(f"{utc(now)} {action.severity} {firing.automation}: {text} [{firing.id}]")
    data = {
        "severity": action.severity,
        "text": action.text,
        "reason": firing.reason,
        "automation": firing.automation,
        "firing": firing.id,
        "payload": firing.payload,
    }
    with store.transaction() as db:
        try:
            _append_once(store.home / "alerts.log", line, f"[{firing.id}]")
        except OSError as error:
            print(f"error: alerts.log cannot be written ({error})", file=sys.stderr)
        key = f"alert:{firing.id}"
        emit(store, firing.automation, data, kind="alert", key=key, at=now)
        firing.state, firing.ended = "Completed", now
        save_firing(db, firing)
    print(f"alert {line}", file=sys.stderr, flush=True)


def _append_once(path: Path, line: str, mark: str) -> None:
    with path.open("ab+") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        tail = file.read()
        if f"{mark}\n".encode() in tail:
            return
        start = "" if not tail or tail.endswith(b"\n") else "\n"
        file.write(f"{start}{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())
