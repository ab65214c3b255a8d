"""Whether people ask something else than before, or get worse answers: `invoke watch.drift`.

The stage ``watch-drift`` is the same look for automations. It prints and keeps numbers alone: the
questions themselves are shown where somebody asks for them.
"""

from __future__ import annotations

import json as json_format
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.tasks import task

from llm_twin.errors import ConfigError
from llm_twin.flow import stage
from llm_twin.flow.project import parse_age
from llm_twin.flow.tasks import tell_errors
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from invoke.context import Context

    from llm_twin.loop.watching import Look

ROOT = Path(__file__).resolve().parents[1]
EVENT = "drift"
RULES = {"questions": "drift.questions", "scores": "drift.scores"}
"""Kinds of events that alert rules may wait for."""


def check(window: str, level: float, **_: Any) -> None:
    """Find what is wrong with the input before anything is written."""
    parse_age(window)
    if not 0.001 <= level <= 0.2:
        raise ConfigError("a level is a rate of false alarms", level, "Say --level 0.01")


@task(
    help={
        "window": "what counts as recent, like 7d",
        "level": "rate of false alarms, from 0.001 to 0.2",
        "json": "print JSON",
    },
    auto_shortflags=False,
)
@tell_errors
def drift(c: Context, window: str = "7d", level: float = 0.01, json: bool = False) -> None:
    """Compare what is asked, and how answers score, with what was before; tell automations."""
    check(window, level)
    found = look(Settings.load(root=ROOT), window, level)
    if json:
        said = {"against": found.against, "new": found.new, "told": _verdict(found)}
        print(json_format.dumps(found.numbers() | said))
    else:
        print("\n".join([*_table(found), *_verdict(found), *(f"  new: {q}" for q in found.new)]))


@stage(check=check)
def watch_drift(window: str = "7d", level: float = 0.01) -> dict[str, Any]:
    """Look for drift and tell automations of it, as `invoke watch.drift` does.

    Args:
        window: what counts as recent, like 7d.
        level: rate of false alarms, from 0.001 to 0.2.
    """
    found = look(Settings.load(root=ROOT), window, level)
    print("\n".join([*_table(found), *_verdict(found)]))
    return {"message": "; ".join(_verdict(found)), **found.numbers()}


def look(settings: Settings, window: str, level: float) -> Look:
    """Look once, and tell automations and alert rules what was found."""
    from llm_twin.ct.promotion import served
    from llm_twin.loop.watching import look as look_once
    from llm_twin.tracing.store.store import Store

    with closing(Store(settings.traces, settings)) as store:
        found = look_once(settings, store, served(settings), parse_age(window), level)
    tell(settings, found)
    return found


def tell(settings: Settings, found: Look) -> None:
    """Emit the event ``drift`` with its numbers; what drifted is an event for alert rules too."""
    from llm_twin.alerting.store import record
    from llm_twin.flow.automation import emit
    from llm_twin.flow.store import Store

    with closing(Store(settings.home)) as runs:
        emit(runs, EVENT, found.numbers())
    for name, line in found.told().items():
        record(settings.home, RULES[name], settings.trace_project, {"message": line})


def _verdict(found: Look) -> list[str]:
    lines = list(found.told().values())
    if few := found.too_few():
        lines.append(few)
    return lines or ["nothing drifted"]


def _table(found: Look) -> Iterator[str]:
    yield _line("", "before", "now", "of", "p")
    if found.questions:
        one, (before, now) = found.questions, found.coverage
        yield _line("questions that are new", 0.05, one.new, found.counts[1], one.p)
        yield _line("best passage found", before, now, found.counts[1], None)
    for name, score in found.scores.items():
        yield _line(name, score.before, score.now, score.count, score.p)


def _line(name: str, before: Any, now: Any, count: Any, p: Any) -> str:
    return f"{name:<28}{_shown(before):>10}{_shown(now):>10}{_shown(count):>8}{_shown(p):>10}"


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
