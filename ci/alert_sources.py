"""What alert rules look at here, the run history and the traces, and a look at them right now."""

from __future__ import annotations

import sqlite3
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from llm_twin.errors import BusyError, TwinError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from llm_twin.alerting.conditions import Figure
    from llm_twin.alerting.engine import Engine, Sources
    from llm_twin.alerting.store import Event, Store
    from llm_twin.flow.automation.triggers import Event as Recorded
    from llm_twin.settings import Settings

LOOK_BACK = 86400.0
"""Seconds of history that the first look takes in."""
PATIENCE = 30.0
"""Seconds for which a command waits for channels that fail."""


def sources(settings: Settings) -> Sources:
    """The run history and the traces, where there are any."""
    from llm_twin.alerting.engine import Sources

    return Sources({"runs": lambda after: _runs(settings.home, after)}, figures(settings))


def _runs(home: Path, after: int | None) -> tuple[list[Event], int]:
    """Runs that ended and alerts that automations raised, dead runs marked first."""
    from llm_twin.flow.automation.ledger import events_after, note_runs
    from llm_twin.flow.store import Store as Runs

    if not (home / "runs.db").exists():
        return [], after or 0
    with closing(Runs(home)) as runs:
        runs.reap()
        note_runs(runs)
        found = events_after(runs.db, after or 0)
    oldest = time.time() - LOOK_BACK if after is None else 0
    number = found[-1].id if found else after or 0
    return [_event(one) for one in found if _counts(one) and one.at >= oldest], number


def _counts(one: Recorded) -> bool:
    return one.kind in ("run", "alert")


def _event(one: Recorded) -> Event:
    from llm_twin.alerting.store import Event

    if one.kind == "run":
        return Event("run", one.data["run"], one.at, one.data | {"metrics": {}}, one.key)
    run = one.data.get("payload", {}).get("run", "")
    kept = {name: one.data.get(name, "") for name in ("severity", "text", "automation")}
    data = {**kept, "message": one.data.get("reason", ""), **({"run": run} if run else {})}
    return Event("alert", one.name, one.at, data, one.key)


def figures(settings: Settings) -> Callable[[float, float], Mapping[str, Figure]]:
    """Figures of the traces; opened when there is a store, and kept open."""
    kept: list[Callable[[float, float], Mapping[str, Figure]]] = []

    def read(minutes: float, until: float) -> Mapping[str, Figure]:
        if not kept:
            if not (settings.traces / "traces.db").exists():
                return {}
            kept.append(_opened(settings))
        return kept[0](minutes, until)

    return read


def _opened(settings: Settings) -> Callable[[float, float], Mapping[str, Figure]]:
    from llm_twin.tracing.evaluation.windows import metrics
    from llm_twin.tracing.store.store import Store as Traces

    traces = Traces(settings.traces, settings)

    def read(minutes: float, until: float) -> Mapping[str, Figure]:
        at = datetime.fromtimestamp(until, UTC)
        return metrics(traces, minutes, project=settings.trace_project, until=at)

    return read


def engine(settings: Settings, store: Store) -> Engine:
    """This repository's rules over everything that there is to look at.

    Raises:
        ConfigError: rules or settings cannot be used.

    """
    from ci.alerts import rules
    from llm_twin.alerting.engine import Engine
    from llm_twin.alerting.privacy import Privacy

    privacy = Privacy.of(settings.home)
    return Engine(store, rules(), sources(settings), dedup=settings.alert_dedup, privacy=privacy)


def look(settings: Settings, patience: float = PATIENCE) -> int:
    """Say now what there is to say, unless another process sees to it; return what still waits.

    For the end of a command that may have gone wrong; it never raises into it.
    """
    from llm_twin.alerting import channels, worker
    from llm_twin.alerting.store import Store as Alerts

    try:
        with worker.only_one(settings.home), closing(Alerts(settings.home)) as store:
            team = worker.Worker(settings.home, engine(settings, store), channels.load(settings))
            return team.once(patience)
    except BusyError:
        return 0
    except (OSError, sqlite3.Error, TwinError) as error:
        print(f"error: alerts were not sent: {error}", file=sys.stderr)
        return 0


def recorded(settings: Settings) -> list[Event]:
    """All events of both histories."""
    from llm_twin.alerting.privacy import Privacy
    from llm_twin.alerting.store import Store as Alerts
    from llm_twin.flow.automation.ledger import recorded as all_recorded
    from llm_twin.flow.store import Store as Runs

    found: list[Event] = []
    if (settings.home / "alerts.db").exists():
        with closing(Alerts(settings.home)) as store:
            found += store.events()[0]
    if (settings.home / "runs.db").exists():
        with closing(Runs(settings.home)) as runs:
            privacy = Privacy.of(settings.home)
            found += [privacy.event(_event(one)) for one in all_recorded(runs) if _counts(one)]
    return found
