"""Where every trigger of training comes together: `invoke ct-due`, and its ledger, `ct.triggers`.

More in ``docs/how-to/triggers.md``; what fires by itself is in ``ci/automations.py``.
"""

from __future__ import annotations

import json as json_format
import os
import sys
import time
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.tasks import task

from llm_twin.errors import TwinError
from llm_twin.flow import stage
from llm_twin.flow.context import context
from llm_twin.flow.project import parse_age
from llm_twin.flow.tasks import tell_errors
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from invoke.context import Context

    from llm_twin.loop.audit import Audit
    from llm_twin.loop.budget import Meter
    from llm_twin.loop.due import Plan
    from llm_twin.loop.requests import Request

ROOT = Path(__file__).resolve().parents[1]
PUT_OFF = "put off"
NOTHING_NEW = "nothing is new since the last training; write documents, or correct answers"
DAY = 86400.0
HEADS = ("ASKED", "CAUSE", "CORPUS", "PROFILE", "OUTCOME", "COST", "RUN", "SAYS")
GITHUB = {
    "schedule": "schedule",
    "repository_dispatch": "repository_dispatch",
    "workflow_dispatch": "by hand",
}
"""Causes by what started a workflow of GitHub."""


def check(corpus: str, profile: str, cooldown: str, **_: Any) -> None:
    """Find what is wrong with what was sent before anything is written."""
    from ci.training import check as trainable
    from llm_twin.loop.due import checked_corpus, checked_profile

    settings = Settings.load(root=ROOT)
    parse_age(cooldown)
    checked_profile(profile)
    checked_corpus(corpus, ROOT, settings)
    if os.environ.get("GITHUB_EVENT_NAME") in GITHUB:
        checked_profile(settings.profile)
        checked_corpus(settings.corpus, ROOT, replace(settings, corpus=""))
    trainable(corpus=corpus, profile=profile)


@stage(check=check)
def ct_due(
    cause: str = "", corpus: str = "", profile: str = "", feedback: bool = True,
    cooldown: str = "1h",
) -> dict[str, Any]:  # fmt: skip
    """Train if it is time: no other training, cooldown over, budget left; else say why not.

    Args:
        cause: what asks, in a few words; "put off": ask again for what was told "not now".
        corpus: an address or a path in the project; default: as for invoke ct.
        profile: name of a file in configs/ct; default: as for invoke ct.
        feedback: curate readers' corrections before, and learn from them.
        cooldown: time between the end of a training and the next one.
    """
    from ci.loop import limits
    from llm_twin.loop.audit import Audit
    from llm_twin.loop.due import Guard
    from llm_twin.loop.requests import BY_HAND, Request, Requests

    settings, run = Settings.load(root=ROOT), context().run or _new_run()
    guard = Guard(settings.home, limits(), parse_age(cooldown))
    why = cause or GITHUB.get(os.environ.get("GITHUB_EVENT_NAME", ""), "invoke ct-due")
    with closing(Audit(settings.home)) as audit:
        known, former = Requests(audit).find(run), None
        asked = known or Request(run, 0.0, why, corpus, profile)
        if why == PUT_OFF and not known:
            former = Requests(audit).put_off(time.time() - DAY)
            if former is None:
                return _said("nothing was put off")
            asked = replace(former, run=run, outcome="", reason="", ended=None)
        plan = _plan(asked)
        if former and (no := guard.not_now(audit, run, plan, time.time())):
            return _said(f"not now: {no}")
        one = guard.admit(audit, asked, plan, ask=why != BY_HAND)
        if one.outcome:
            return _said(f"{one.outcome}: {one.reason}")
        if former:
            Requests(audit).take_up(former, run)
        return _said(_seen_to(audit, settings, one, plan, feedback))


def _plan(one: Request) -> Plan:
    from ci.training import config_of
    from llm_twin.loop.due import Plan

    return Plan.of(config_of(one.corpus, profile=one.profile).profile)


def _new_run() -> str:
    from llm_twin.flow.records import new_run_id

    return new_run_id()


def _seen_to(audit: Audit, settings: Settings, one: Request, plan: Plan, feedback: bool) -> str:
    """Train, and write down what became of it; what fails here may be resumed."""
    from llm_twin.loop.audit import FAILED
    from llm_twin.loop.budget import metered
    from llm_twin.loop.requests import Requests

    with metered(audit, one.run, "train", plan.cpu, plan.dollars) as meter:
        try:
            if feedback:
                _curate(settings)
            outcome, reason = _train(settings, one, plan, meter, feedback)
        except Exception as error:
            Requests(audit).end(one.run, FAILED, str(error), time.time())
            raise
    Requests(audit).end(one.run, outcome, reason, time.time())
    return f"{outcome}: {reason} (because of {one.cause})"


def _curate(settings: Settings) -> None:
    from ci.curate import curate_feedback

    if (settings.traces / "traces.db").exists():
        report = curate_feedback(settings)
        print(f"{report['rows']} corrections to learn from")


def _train(
    settings: Settings, one: Request, plan: Plan, meter: Meter, feedback: bool
) -> tuple[str, str]:
    """Run ``ct`` as a run of its own, or go on with it.

    Raises:
        TwinError: it did not get through.

    """
    from llm_twin.flow.locks import is_held
    from llm_twin.flow.store import Store
    from llm_twin.loop.due import charge, outcome_of, unchanged
    from llm_twin.loop.requests import NOT_NOW

    began = time.time()
    with closing(Store(settings.home)) as runs:
        begun = runs.recorded(one.training)
        if not (begun and runs.get(one.training).state.good):
            _invoke(settings, ["runs.resume", one.training] if begun else _line(one, feedback))
        if not runs.recorded(one.training):
            if is_held(settings.home / "locks" / "ct"):
                return NOT_NOW, "another invoke ct came first"
            raise TwinError("invoke ct was refused", one.run, f"See: invoke runs.logs {one.run}")
        run = runs.get(one.training)
    report = run.stages[-1].result or {}
    charge(meter, plan, time.time() - began, report)
    if run.ended is None or run.state.type == "Crashed":
        meter.least = plan.cpu
    if not run.state.good:
        hint = f"See: invoke runs.logs {run.id}"
        raise TwinError("the training did not get through", run.state.message or run.state, hint)
    return unchanged(NOTHING_NEW) if run.stages[-1].cached else outcome_of(report)


def _line(one: Request, feedback: bool) -> list[str]:
    """What is typed after ``invoke``; each value is one argument, and no shell reads it."""
    given = {"corpus": one.corpus, "profile": one.profile, "feedback": str(feedback).lower()}
    options = [part for name, text in given.items() if text for part in ("--set", f"{name}={text}")]
    return ["run", "ct", "--id", one.training, *options]


def _invoke(settings: Settings, line: list[str]) -> None:
    start = (sys.executable, "-m", "invoke", "--search-root", str(ROOT))
    context().run_command(
        *start, *line, cwd=ROOT, env={"TWIN_HOME": str(settings.home)}, check=False
    )


# The ledger


@task(
    help={"limit": "how many", "json": "print JSON, with all that is known"}, auto_shortflags=False
)
@tell_errors
def triggers(c: Context, limit: int = 20, json: bool = False) -> None:
    """Show who asked for training, what became of it and what it cost; turns of the loop too."""
    from ci.loop import limits
    from llm_twin.flow.views import table
    from llm_twin.loop.audit import Audit

    settings = Settings.load(root=ROOT)
    with closing(Audit(settings.home)) as audit:
        rows, day = _ledger(audit, limit), audit.spent_since(time.time() - DAY)
    if json:
        print(json_format.dumps({"asked": rows, "day": asdict(day), "limits": asdict(limits())}))
        return
    if not rows:
        print("Nothing has asked for training yet. Type: invoke ct")
        return
    print(table([HEADS, *map(_row, rows)]))
    most = limits()
    print(
        f"in 24 hours {day}, of {most.cpu:,.0f} CPU-s, {most.tokens:,} tokens, ${most.dollars:.2f}"
    )


def _ledger(audit: Audit, limit: int) -> list[dict[str, Any]]:
    """Requests and turns of the loop, newest first."""
    from llm_twin.loop.requests import Request, Requests

    found = Requests(audit).recent(limit)
    found += [
        Request(
            turn.run, turn.began, f"loop: {turn.fact('why')}", training=turn.run,
            began=turn.began, ended=turn.ended, outcome=turn.outcome, reason=turn.reason,
        )
        for turn in audit.recent(limit)
    ]  # fmt: skip
    newest = sorted(found, key=lambda one: one.asked, reverse=True)[:limit]
    return [asdict(one) | {"spent": asdict(audit.spent_by(one.run))} for one in newest]


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    from llm_twin.loop.audit import Spent

    asked = datetime.fromtimestamp(row["asked"], UTC).strftime("%Y-%m-%d %H:%M")
    cost = str(Spent(**row["spent"])) if row["began"] else ""
    return (
        asked, row["cause"], row["corpus"], row["profile"], row["outcome"] or "goes on", cost,
        row["training"] or row["run"], row["reason"],
    )  # fmt: skip


def _said(text: str) -> dict[str, Any]:
    print(text)
    return {"message": text}
