"""What a run would do, without doing it: which stages, why, and how long by their history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.flow.files import Files
from llm_twin.flow.key import Keys
from llm_twin.flow.uptodate import UpToDate, left_by

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llm_twin.flow.runner import Runner
    from llm_twin.flow.stage import Stage
    from llm_twin.flow.store import Store
    from llm_twin.flow.uptodate import Verdict

RUN, CACHED, RESTORE, DEPENDS = "run", "cached", "restore", "depends"
WORDS = {RUN: "run", CACHED: "not run", RESTORE: "be restored", DEPENDS: "perhaps run"}


@dataclass(frozen=True)
class Spread:
    """Seconds: the median, and the quarter that was quickest and slowest end here."""

    low: float
    median: float
    high: float
    runs: int


@dataclass(frozen=True)
class Step:
    """One stage of a plan: what would happen to it, why, and how long that took before."""

    stage: str
    action: str
    why: list[str]
    seconds: Spread | None = None


@dataclass(frozen=True)
class Plan:
    """The steps in order and, if every one that would run has a history, how long they take."""

    steps: list[Step]
    seconds: Spread | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "steps": [{**vars(s), "seconds": s.seconds and vars(s.seconds)} for s in self.steps],
            "seconds": self.seconds and vars(self.seconds),
        }


def make_plan(
    runner: Runner,
    store: Store,
    targets: Sequence[str],
    given: dict[str, Any],
    force: bool = False,
) -> Plan:
    """Judge every stage as a run would, guessing where one hangs on what another will leave."""
    files = Files(store.db)
    judge = UpToDate(
        store, lambda: runner.cache, Keys(runner.root, files, lambda text: runner.masker.text(text))
    )
    planned = runner.planned(targets, given)
    left: dict[str, str] = {}
    unsure: set[str] = set()
    steps = []
    for stage, arguments in planned:
        verdict = judge.verdict(stage, arguments, left, force)
        step = _step(stage, verdict, [need for need in stage.needs if need in unsure])
        if step.action in (RUN, DEPENDS) and stage.outputs:
            unsure.add(stage.name)
        left[stage.name] = left_by(stage, verdict.key, _last_outputs(store, stage, verdict))
        spread = _spread(store.durations(stage.name)) if step.action in (RUN, DEPENDS) else None
        steps.append(Step(step.stage, step.action, step.why, spread))
    files.save()
    return Plan(steps, _total([stage for stage, _ in planned], steps, runner.jobs))


def _step(stage: Stage, verdict: Verdict, unsure: list[str]) -> Step:
    if verdict.why:
        return Step(stage.name, RUN, verdict.why)
    if unsure and stage.cached:
        return Step(stage.name, DEPENDS, [f"if what {', '.join(unsure)} leaves changes"])
    if verdict.entry:
        return Step(stage.name, RESTORE, [f"its outputs come from the cache, run {verdict.run}"])
    return Step(stage.name, CACHED, [verdict.message])


def _last_outputs(store: Store, stage: Stage, verdict: Verdict) -> dict[str, str]:
    """What it left, or would leave if it did the same as last time."""
    if not verdict.why:
        return verdict.outputs
    last = store.last_completed(stage.name)
    return last[1].outputs if last else {}


def _spread(seconds: Sequence[float]) -> Spread | None:
    if not seconds:
        return None
    ordered = sorted(seconds)
    quarter = (len(ordered) - 1) / 4
    low, median, high = (_at(ordered, n * quarter) for n in (1, 2, 3))
    return Spread(low, median, high, len(ordered))


def _at(ordered: Sequence[float], place: float) -> float:
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def _total(stages: Sequence[Stage], steps: Sequence[Step], jobs: int) -> Spread | None:
    spreads = {step.stage: step.seconds for step in steps if step.action in (RUN, DEPENDS)}
    known = {name: spread for name, spread in spreads.items() if spread}
    if len(known) < len(spreads):
        return None

    def span(pick: Callable[[Spread], float]) -> float:
        return makespan(stages, {name: pick(spread) for name, spread in known.items()}, jobs)

    runs = min((spread.runs for spread in known.values()), default=0)
    return Spread(span(lambda s: s.low), span(lambda s: s.median), span(lambda s: s.high), runs)


def makespan(stages: Sequence[Stage], seconds: dict[str, float], jobs: int) -> float:
    """How long stages take side by side, started in order as soon as needs and jobs allow.

    Args:
        stages: in dependency order.
        seconds: what each takes; one that is not named takes no time.
        jobs: how many run at once.

    """
    ends: dict[str, float] = {}
    free = [0.0] * jobs
    for stage in stages:
        ready = max((ends[need] for need in stage.needs), default=0.0)
        if stage.name not in seconds:
            ends[stage.name] = ready
            continue
        slot = free.index(max(free) if stage.exclusive else min(free))
        start = max(ready, free[slot])
        ends[stage.name] = free[slot] = start + seconds[stage.name]
        if stage.exclusive:
            free = [free[slot]] * jobs
    return max(ends.values(), default=0.0)


def why(runner: Runner, store: Store, name: str, given: dict[str, Any]) -> tuple[Verdict, str]:
    """Judge one stage against its last run; the id of that run, or ""."""
    files = Files(store.db)
    keys = Keys(runner.root, files, lambda text: runner.masker.text(text))
    judge = UpToDate(store, lambda: runner.cache, keys)
    left: dict[str, str] = {}
    for stage, arguments in runner.planned([name], given):
        verdict = judge.verdict(stage, arguments, left)
        left[stage.name] = left_by(stage, verdict.key, _last_outputs(store, stage, verdict))
    files.save()
    last = store.last_completed(name)
    return verdict, last[0] if last else ""


def plan_table(plan: Plan, jobs: int) -> str:
    """What a person reads of a plan."""
    from llm_twin.flow.views import table

    rows = [("STAGE", "WOULD", "TAKES", "WHY")]
    rows += [(s.stage, WORDS[s.action], _seconds(s.seconds), _short(s.why)) for s in plan.steps]
    acting = [step for step in plan.steps if step.action in (RUN, DEPENDS)]
    if not acting:
        last = "nothing would run"
    elif plan.seconds is None:
        last = f"{_count(acting)} would run; no history yet to say how long"
    else:
        last = f"{_count(acting)} would run, in about {_seconds(plan.seconds)} with {jobs} at once"
    return f"{table(rows)}\n\n{last}"


def _count(steps: Sequence[Step]) -> str:
    return f"{len(steps)} stage{'s' if len(steps) > 1 else ''}"


def _seconds(spread: Spread | None) -> str:
    from llm_twin.flow.views import duration

    if spread is None:
        return ""
    text = duration(spread.median)
    return (
        text if spread.runs < 2 else f"{text} ({duration(spread.low)} to {duration(spread.high)})"
    )


def _short(why: Sequence[str]) -> str:
    more = f"; and {len(why) - 3} more" if len(why) > 3 else ""
    return "; ".join(why[:3]) + more
