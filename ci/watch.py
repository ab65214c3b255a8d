"""How this repository's answers are scored while they are given: rules, judges, figures.

Every score is from 0, bad, to 1, good. Who changes a rule raises its ``version``; more in
``docs/how-to/watch.md``.
"""

from __future__ import annotations

import dataclasses
import json as jsonlib
import signal
import threading
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.collection import Collection
from invoke.tasks import task

from llm_twin.errors import UserError
from llm_twin.flow.tasks import tell_errors
from llm_twin.settings import Settings
from llm_twin.tracing.evaluation import Score, metrics, rule

if TYPE_CHECKING:
    from invoke.context import Context

    from llm_twin.tracing.evaluation.rules import Rule
    from llm_twin.tracing.evaluation.view import View
    from llm_twin.tracing.evaluation.worker import Worker

ROOT = Path(__file__).resolve().parents[1]
JUDGED_PER_HOUR = 200
LONGEST_LOOK = 24 * 366


def went_well(trace: View) -> bool:
    """Whether a question came to an answer, be it a refusal."""
    return trace.error is None and bool(trace.question)


def said_something(trace: View) -> bool:
    """Whether there is an answer, and no refusal."""
    return went_well(trace) and metrics.answered(trace.answer, trace.declined).value == 1


@rule(when=said_something)
def groundedness(trace: View) -> Score | None:
    """What is said is in what was retrieved."""
    return metrics.groundedness(trace.answer, trace.texts)


@rule(when=said_something)
def citation_validity(trace: View) -> Score | None:
    """What is cited was retrieved, and is quoted as it is."""
    return metrics.citation_validity(trace.answer, trace.citations, trace.passages)


@rule(when=went_well)
def answered(trace: View) -> Score:
    """The twin did not decline."""
    return metrics.answered(trace.answer, trace.declined)


@rule(when=said_something)
def length(trace: View) -> Score:
    """Neither a stump nor an essay."""
    return metrics.length(trace.answer, least=5, most=600)


@rule(when=said_something)
def language(trace: View) -> Score | None:
    """The answer is in the question's language."""
    return metrics.language(trace.question, trace.answer)


@rule()
def latency(trace: View) -> Score:
    """It did not take long."""
    return metrics.latency(trace.seconds, good=2, bad=20)


@rule()
def cost(trace: View) -> Score | None:
    """It did not cost much."""
    return metrics.cost(trace.cost, good=0.01, bad=0.1)


RULES: tuple[Rule, ...] = (
    groundedness, citation_validity, answered, length, language, latency, cost,
)  # fmt: skip
JUDGEMENTS = {
    "judged_faithful": "Every statement of the answer is supported by the passages.",
    "judged_relevant": "The answer answers the question that was asked.",
}
JUDGED_SHARE = 0.2


def workers(settings: Settings) -> list[Worker]:
    """The rules, and the judges when ``TWIN_JUDGE_MODEL`` names a model.

    Raises:
        ConfigError: the judge's address is no URL.
        SpaceError: the state folder cannot be written.

    """
    from llm_twin.tracing.evaluation.judge import Judge
    from llm_twin.tracing.evaluation.worker import Worker
    from llm_twin.tracing.store.store import Store

    store = Store(settings.traces, settings)
    found = [Worker(store, RULES, project=settings.trace_project)]
    if judge := Judge.of(settings, store, JUDGED_PER_HOUR):
        judged = [
            judge.rule(name, criterion, JUDGED_SHARE, when=said_something)
            for name, criterion in JUDGEMENTS.items()
        ]
        # What a judge said is written at once: it was paid for.
        found.append(Worker(store, judged, project=settings.trace_project, lane="judges", batch=1))
    return found


@task(
    help={
        "once": "score what is there, then end",
        "since": "hours to look back, for rules that are new or changed; default: where it was",
    },
    auto_shortflags=False,
)
@tell_errors
def watch(c: Context, once: bool = False, since: float = 0.0) -> None:
    """Score new answers until interrupted, and write the scores back to their traces."""
    from llm_twin.tracing.evaluation.worker import run

    if not 0 <= since <= LONGEST_LOOK:
        raise UserError("watch looks back up to a year", f"{since:g} hours", "Say --since 24")
    team = workers(Settings.load(root=ROOT))
    for worker in team:
        worker.look_back(timedelta(hours=since))
    if not once:
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        run(team, stop)
    for worker in team:
        waiting = worker.once() if once else worker.waiting()
        print(f"{worker.lane}: scored {worker.scored}, failed {worker.errors}, waiting {waiting}")


@task(
    name="metrics",
    help={"minutes": "length of the window", "json": "print JSON"},
    auto_shortflags=False,
)
@tell_errors
def figures(c: Context, minutes: float = 15.0, json: bool = False) -> None:
    """Show errors, latency, cost and scores of the last minutes, beside those of the day before."""
    from llm_twin.tracing.evaluation import windows
    from llm_twin.tracing.store.store import Store

    if not 0 < minutes <= 7 * 24 * 60:
        raise UserError("a window is up to a week", f"{minutes:g} minutes", "Ask for 15")
    settings = Settings.load(root=ROOT)
    store = Store(settings.traces, settings)
    found = windows.metrics(store, minutes, project=settings.trace_project)
    if json:
        print(jsonlib.dumps({name: dataclasses.asdict(one) for name, one in found.items()}))
        return
    print(_line(f"last {minutes:g} minutes", "value", "of", "normal", "of"))
    for name, one in found.items():
        print(_line(name, _shown(one.value), one.count, _shown(one.normal), one.normal_count))


def _line(name: str, value: str, count: object, normal: str, normal_count: object) -> str:
    return f"{name:<28}{value:>12}{count!s:>8}{normal:>12}{normal_count!s:>8}"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


collection = Collection("watch", metrics=figures)
collection.add_task(watch, default=True)
