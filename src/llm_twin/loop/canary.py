"""The new version beside the old one on what was really asked, before and after it serves.

Before: both answer the same questions, scored by the rules that score every answer, and the scores
are compared in pairs as the gate compares models. After: the figures that alerts look at.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llm_twin.errors import BusyError, RemoteError, TwinError
from llm_twin.model.gate import compare

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llm_twin.alerting.conditions import Figure
    from llm_twin.alerting.rules import Rule as AlertRule
    from llm_twin.loop.budget import Meter
    from llm_twin.loop.loop import Step
    from llm_twin.serving.llm import LLM
    from llm_twin.serving.twin import Twin
    from llm_twin.settings import Settings
    from llm_twin.tracing.client import Tracing
    from llm_twin.tracing.evaluation.rules import Rule
    from llm_twin.tracing.evaluation.view import View
    from llm_twin.tracing.evaluation.worker import Worker
    from llm_twin.tracing.store.store import Store

    Scores = dict[str, float]

MOST_TRACES = 1000
MOST_QUESTIONS = 60
GOOD = 0.5
"""A score below it is bad."""
ALWAYS = ("answered", "groundedness")
"""Scores that good questions may not lose, whatever the alert is about."""
FLUSH_SECONDS = 60.0
LOOK_SECONDS = 2.0
CANARY = "-canary"
"""Added to the project's name for replayed questions, which are no traffic."""


@dataclass(frozen=True)
class Asked:
    """Questions, each once, those that were answered badly and those that were answered well."""

    bad: list[str] = field(default_factory=list)
    good: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[str]:
        """Bad ones first."""
        return self.bad + self.good


@dataclass(frozen=True)
class Verdict:
    """What replaying says of the new version.

    Attributes:
        worse: something got measurably worse, so it must not serve.
        helps: what was bad got measurably better.
        before: mean score of the bad questions as the old version answers them; None: not asked.
        after: the same of the new version.
        reasons: sentences with numbers.

    """

    worse: bool
    helps: bool
    before: float | None
    after: float | None
    reasons: list[str]


def replayed(one: Step, rules: Sequence[Rule]) -> Verdict:
    """Let the version before a turn and the turn's own answer the same questions, and judge.

    Raises:
        RemoteError: the traces did not come into the store.
        NotReadyError: one of the versions is gone.

    """
    from llm_twin.serving.twin import Twin
    from llm_twin.tracing import client

    settings, project = one.settings, one.settings.trace_project
    aside = replace(settings, trace_project=project + CANARY)
    tracing = client.start(aside, metadata={"run_id": one.turn.run})
    both = []
    try:
        questions = asked(
            tracing.store, project, one.fact("score"), one.fact("since"), one.fact("topic")
        )
        for version in (one.fact("before"), one.fact("version")):
            path = settings.home / "models" / version
            with contextlib.closing(Twin.open(path, settings)) as twin:
                both.append(replay(questions.all, twin, settings, tracing, rules, one.meter))
    finally:
        tracing.stop()
    return judge(one.fact("score"), questions, *both)


def asked(store: Store, project: str, score: str, since: str, topic: str = "") -> Asked:
    """Collect what was asked since a time, the newest answer to a question deciding.

    Args:
        store: of the traces.
        project: Opik's name of the project.
        score: whose value says whether an answer was bad; an error always was.
        since: ISO 8601.
        topic: words that every bad question has to hold.

    """
    from llm_twin.tracing.evaluation.view import views
    from llm_twin.tracing.store.projects import find

    words, found, seen = topic.casefold().split(), Asked(), set()
    with store.database.read() as db:
        rows = db.execute(
            "SELECT traffic.trace, failed, avg(value) FROM traffic LEFT JOIN score"
            " ON kind = 'trace' AND entity = traffic.trace AND name = ?"
            " WHERE project_id = ? AND live = 1 AND started >= ?"
            " GROUP BY traffic.trace ORDER BY started DESC LIMIT ?",
            (score, find(db, project) or "", since, MOST_TRACES),
        ).fetchall()
        bad = {
            trace: bool(failed) or value < GOOD
            for trace, failed, value in rows
            if failed or value is not None
        }
        questions = {view.id: view.question for view in views(db, list(bad))}
    for trace in bad:
        question = questions.get(trace, "")
        key = " ".join(question.casefold().split())
        own = found.bad if bad[trace] else found.good
        unwanted = bad[trace] and not all(word in key for word in words)
        if key and key not in seen and not unwanted and len(own) < MOST_QUESTIONS:
            own.append(question)
        seen.add(key)
    return found


def replay(
    questions: Sequence[str],
    twin: Twin,
    settings: Settings,
    tracing: Tracing,
    rules: Sequence[Rule],
    meter: Meter,
) -> list[Scores]:
    """Answer questions with a version, traced, and score the answers; scores are stored too.

    Raises:
        RemoteError: the traces did not come into the store.

    """
    from llm_twin.serving.llm import open_llm
    from llm_twin.tracing.evaluation.view import views

    llm = open_llm(settings.llm, settings, twin)
    ids = [_ask(question, twin, llm) for question in questions]
    if not tracing.flush(FLUSH_SECONDS):
        raise RemoteError("the canary's answers were not stored in time", settings.traces)
    with tracing.store.database.read() as db:
        seen = {view.id: view for view in views(db, ids)}
    for view in seen.values():
        usage = view.trace.get("usage") or {}
        meter.tokens += int(usage.get("total_tokens") or 0)
        meter.dollars += view.cost or 0.0
    return [_scored(seen.get(trace), tracing, rules) for trace in ids]


def _ask(question: str, twin: Twin, llm: LLM | None) -> str:
    from llm_twin.serving.answer import answer
    from llm_twin.tracing import track

    # What goes wrong is in the trace.
    with contextlib.suppress(TwinError):
        answer(question, twin, llm)
    return track.trace_id()


def _scored(view: View | None, tracing: Tracing, rules: Sequence[Rule]) -> Scores:
    if view is None:
        return {}
    scores = [score for rule in rules if rule.wants(view) for score in rule.scores(view)]
    for score in scores:
        tracing.score(view.id, score.name, score.value, score.reason)
    return {score.name: score.value for score in scores}


def judge(
    score: str,
    questions: Asked,
    old: Sequence[Mapping[str, float]],
    new: Sequence[Mapping[str, float]],
) -> Verdict:
    """Compare two versions on the same questions.

    Args:
        score: what the bad questions are bad in.
        questions: that were asked, the bad ones first.
        old: scores of each answer of the old version; one that failed has none.
        new: the same of the new version.

    """
    split = len(questions.bad)
    helps, worse, reasons = False, False, []
    names = dict.fromkeys((score, *ALWAYS))
    parts = [("bad", score, old[:split], new[:split])]
    parts += [("good", name, old[split:], new[split:]) for name in names]
    for kind, name, theirs, ours in parts:
        pairs = _pairs(name, theirs, ours)
        if not pairs:
            continue
        found = compare([new for _, new in pairs], [old for old, _ in pairs], True)
        worse |= found.verdict == "worse"
        helps |= found.verdict == "better" and kind == "bad"
        reasons.append(
            f"{len(pairs)} questions that had {kind} answers: {name} {_mean(pairs, 0):.2f} →"
            f" {_mean(pairs, 1):.2f}, {found.verdict}"
        )
    bad = _pairs(score, old[:split], new[:split])
    before, after = (_mean(bad, 0), _mean(bad, 1)) if bad else (None, None)
    return Verdict(worse, helps, before, after, reasons)


def _pairs(
    name: str, old: Sequence[Mapping[str, float]], new: Sequence[Mapping[str, float]]
) -> list[tuple[float, float]]:
    """Old and new value of each question that has both; one that failed was not answered."""
    missing = {"answered": 0.0} if name == "answered" else {}
    both = [
        ({**missing, **before}, {**missing, **after})
        for before, after in zip(old, new, strict=True)
    ]
    return [
        (before[name], after[name]) for before, after in both if name in before and name in after
    ]


def _mean(pairs: Sequence[tuple[float, float]], side: int) -> float:
    return sum(pair[side] for pair in pairs) / len(pairs)


def watch(rules: Sequence[AlertRule], team: Sequence[Worker], since: float, seconds: float) -> str:
    """Score and look at the figures since a version serves; return what is bad, or "" at the end.

    Args:
        rules: alert rules about figures; too few samples are not bad.
        team: scores what is answered meanwhile, unless another process does.
        since: when the version began to serve, in seconds since the epoch.
        seconds: for how long.

    """
    from llm_twin.tracing.evaluation.windows import metrics

    store, project = team[0].store, team[0].project

    def figures(minutes: float) -> Mapping[str, Figure]:
        own = (time.time() - since) / 60
        return metrics(store, min(minutes, own), project=project)

    until = time.monotonic() + seconds
    while True:
        for worker in team:
            with contextlib.suppress(BusyError):
                worker.once()
        for rule in rules:
            reading = rule.when.look(figures)  # type: ignore[union-attr]
            if reading.bad:
                return f"{rule.name}: {reading.said}"
        if (left := until - time.monotonic()) <= 0:
            return ""
        time.sleep(min(LOOK_SECONDS, left))
