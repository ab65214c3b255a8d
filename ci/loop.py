"""From bad answers to a better twin: `invoke loop`, a flow whose steps can be resumed.

Each step writes what it decided into ``loop.db`` under the run's id and looks there first, so that
doing it again does no harm. More in ``docs/how-to/loop.md``.
"""

from __future__ import annotations

import sys
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_twin.errors import BusyError, TwinError
from llm_twin.flow import stage
from llm_twin.flow.context import context
from llm_twin.flow.project import parse_age
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llm_twin.alerting.rules import Rule
    from llm_twin.ct.config import CtConfig
    from llm_twin.loop.budget import Limits
    from llm_twin.loop.loop import Reasons, Step

ROOT = Path(__file__).resolve().parents[1]
RULES = ("refusals", "ungrounded")
"""Those about what training can put right."""
ENOUGH_FEEDBACK = 20
"""New corrections that are worth a training without an alert."""
CPU_A_DAY, TOKENS_A_DAY, DOLLARS_A_DAY = 4 * 3600.0, 500_000, 5.0
"""What the loop and all other training may cost in 24 hours."""
IDLE = {"message": "nothing to do"}


@contextmanager
def _step(name: str, planned: float = 0.0) -> Iterator[Step | None]:
    """The turn of this run, while there is one that goes on."""
    from llm_twin.loop.loop import step

    with step(Settings.load(root=ROOT), context().run, name, planned) as one:
        if one is None:
            print(IDLE["message"])
        yield one


def check(
    corpus: str, exclude: str, budget: str, feedback: bool, cooldown: str, wait: str, watch: str,
    **_: Any,
) -> None:  # fmt: skip
    """Find what is wrong with the input before anything is written."""
    from ci.training import check as trainable

    for age in (cooldown, wait, watch):
        parse_age(age)
    trainable(corpus=corpus, exclude=exclude, budget=budget, feedback=feedback)


@stage
def loop_plan(
    corpus: str = "", exclude: str = "", budget: str = "", feedback: bool = True,
    topic: str = "", cooldown: str = "1h", dry_run: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Decide whether the loop has to turn, and may."""
    from ci.training import config_of
    from llm_twin.flow.locks import claim
    from llm_twin.loop import loop as turns
    from llm_twin.loop.audit import Audit
    from llm_twin.loop.due import Guard, Plan
    from llm_twin.sqlite import transaction

    settings, run, now = Settings.load(root=ROOT), context().run, time.time()
    with (
        claim(settings.home / "locks", "loop", f"invoke loop, run {run}"),
        closing(Audit(settings.home)) as audit,
    ):
        if audit.find(run):
            return {"message": "goes on"}
        if other := turns.clear(audit, settings, run):
            raise BusyError("the loop is turning already", other.run, "See: invoke loop.history")
        config = config_of(corpus, exclude, budget, feedback)
        guard, plan = Guard(settings.home, limits(), parse_age(cooldown)), Plan.of(config.profile)
        if no := guard.not_now(audit, run, plan, now):
            return _said(f"not now: {no}")
        why = look_around(settings, config)
        if not (why.alerts or why.suffice(ENOUGH_FEEDBACK)):
            return _said(f"nothing to do: {why}")
        if dry_run:
            return _said(f"would train because of {why}; {plan.cpu:.0f} CPU-s are planned")
        with transaction(audit.db):
            if no := guard.not_now(audit, run, plan, now):
                return _said(f"not now: {no}")
            turns.begin(audit, settings, run, why, _score(why), topic)
        if not why.suffice(ENOUGH_FEEDBACK):
            turns.finish(audit, settings, run, turns.NOTHING_NEW, turns.WRITE)
            return _said(f"{turns.NOTHING_NEW}: {turns.WRITE}")
    return _said(f"training because of {why}")


def limits() -> Limits:
    """What a day may cost."""
    from llm_twin.loop.budget import Limits

    return Limits(CPU_A_DAY, TOKENS_A_DAY, DOLLARS_A_DAY)


def look_around(settings: Settings, config: CtConfig) -> Reasons:
    """Why the loop may have to turn."""
    from ci.curate import curate_feedback
    from llm_twin.loop import loop as turns

    corrections = curate_feedback(settings, dry_run=True)["rows"] if config.feedback else 0
    return turns.Reasons(
        turns.open_alerts(settings.home, RULES),
        turns.new_documents(config, settings),
        turns.new_feedback(settings, corrections),
    )


def _score(why: Reasons) -> str:
    from llm_twin.loop.loop import score_of

    about = [rule for rule in _rules() if why.alerts and rule.name == why.alerts[0].rule]
    return score_of(about[0]) if about else "answered"


def _rules() -> list[Rule]:
    from ci.alerts import rules

    return [rule for rule in rules() if rule.name in RULES]


@stage(needs=["loop-plan"])
def loop_curate(feedback: bool = True) -> dict[str, Any]:
    """Make training data of what readers said."""
    from ci.curate import curate_feedback

    with _step("curate") as one:
        if one is None or not feedback:
            return IDLE
        report = curate_feedback(one.settings)
        kept = {name: report[name] for name in ("traces", "rows", "open", "rejected", "digest")}
        one.note(feedback=kept)
        return _said(f"{report['rows']} corrections, {report['open']} open questions")


@stage(needs=["loop-curate"])
def loop_train(
    corpus: str = "", exclude: str = "", budget: str = "", feedback: bool = True
) -> dict[str, Any]:
    """Train, and ask the gate; what it lets through does not serve yet."""
    from ci import training
    from llm_twin.flow.locks import claim
    from llm_twin.loop import loop as turns
    from llm_twin.loop.due import Plan, charge

    plan = Plan.of(training.config_of(corpus, exclude, budget, feedback).profile)
    with _step("train", plan.cpu) as one:
        if one is None:
            return IDLE
        run, settings = one.turn.run, one.settings
        made = turns.made_by(settings, run)
        if made is None:
            with claim(settings.home / "locks", "ct", f"invoke loop, run {run}"):
                began = time.time()
                report = training.ct(corpus, exclude, budget, feedback=feedback)
            charge(one.meter, plan, time.time() - began, report)
            verdict = report["verdict"]
            one.note(gate=verdict, zenml_run=report["zenml_run"])
            made = turns.made_by(settings, run)
            if made is None:
                return one.end(turns.REFUSED, "; ".join([verdict["verdict"], *verdict["reasons"]]))
        one.note(version=made.version, dataset=made.manifest["details"]["dataset"])
        if before := one.fact("before"):
            turns.switch_to(settings, before)
        return _said(f"{made.version} passed the gate; it does not serve yet")


@stage(needs=["loop-train"])
def loop_canary() -> dict[str, Any]:
    """Let the new version answer what was asked, beside the old one."""
    from ci.watch import RULES as SCORES
    from llm_twin.loop import canary
    from llm_twin.loop import loop as turns

    with _step("canary") as one:
        if one is None:
            return IDLE
        if not one.fact("before"):
            return _said("there was no version before, so there is nothing to compare with")
        verdict = canary.replayed(one, SCORES)
        for reason in verdict.reasons:
            print(reason)
        one.note(canary=asdict(verdict))
        if verdict.worse:
            return one.end(turns.REFUSED, "; ".join(verdict.reasons))
        told = "is better where it was bad" if verdict.helps else "is not measurably worse"
        return {"message": f"the new version {told}", **asdict(verdict)}


@stage(needs=["loop-canary"])
def loop_approve(approve: bool = False, wait: str = "1h") -> dict[str, Any]:
    """Ask a person through the alerter, if that is wanted."""
    from llm_twin.alerting import approval
    from llm_twin.loop import loop as turns

    with _step("approve") as one:
        if one is None or not approve:
            return IDLE
        found = "; ".join(one.fact("canary", {}).get("reasons", []))
        question = f"Put {one.fact('version')} live? It was made by run {one.turn.run}. {found}"
        key, patience = f"loop:{one.turn.run}", parse_age(wait)
        approval.request(one.settings.home, question, patience, key)
        send(one.settings)
        answer = approval.ask(one.settings.home, question, patience, key)
        said = f"{answer.state} by {answer.by}" if answer.by else answer.state
        one.note(approval={"id": answer.id, "said": said, "reason": answer.reason})
        if answer.state != approval.APPROVED:
            return one.end(turns.REFUSED, f"{said} {answer.reason}".rstrip())
        return _said(said)


@stage(needs=["loop-approve"])
def loop_build(deploy: bool = True, process: bool = False) -> dict[str, Any]:
    """Make the new version production; build and push its image, where there is an engine."""
    from llm_twin.delivery.image import engine_or_none
    from llm_twin.loop import loop as turns

    with _step("build") as one:
        if one is None:
            return IDLE
        turns.switch_to(one.settings, one.fact("version"))
        if not deploy or process or engine_or_none() is None:
            return _said("no image is built")
        _invoke("build-push")
        return _said("the image is in its registry")


@stage(needs=["loop-build"])
def loop_deploy(
    deploy: bool = True, process: bool = False, target: str = "local", port: int = 0
) -> dict[str, Any]:
    """Put the new version live, if it answers."""
    from llm_twin.delivery.deploy.journal import Journal
    from llm_twin.loop import loop as turns

    with _step("deploy") as one:
        if one is None:
            return IDLE
        version = one.fact("version")
        if not deploy:
            one.note(live=version)
            return _said(f"{version} is production; nothing is deployed")
        with closing(Journal(one.settings.home)) as journal:
            cut_short, live = journal.unfinished(target), journal.live(target)
            if cut_short:
                _invoke("recover")
                live = journal.live(target)
            if live is None or live.facts.get("version") != version:
                options = ["--process"] * process + ["--port", str(port)] * bool(port)
                try:
                    _invoke("deploy", "--target", target, *options)
                except TwinError as error:
                    newest = next(iter(journal.history(target)), None)
                    reason = newest.reason if newest and newest.reason else error.what
                    return one.end(turns.NOT_DEPLOYED, reason)
                live = journal.live(target)
        one.note(live=version, deployment=live.id if live else "", switched=time.time())
        return _said(f"{version} is live")


@stage(needs=["loop-deploy"])
def loop_watch(deploy: bool = True, target: str = "local", watch: str = "5m") -> dict[str, Any]:
    """Look at the figures that the alert was about, now of the new version; go back if bad."""
    from ci.watch import workers
    from llm_twin.delivery.deploy.journal import Journal
    from llm_twin.loop import canary
    from llm_twin.loop import loop as turns

    with _step("watch") as one:
        if one is None or not deploy:
            return IDLE
        team = workers(one.settings)
        with closing(team[0].store):
            bad = canary.watch(_rules(), team, float(one.fact("switched")), parse_age(watch))
        if not bad:
            return _said(f"nothing got worse in {watch}")
        with closing(Journal(one.settings.home)) as journal:
            live = journal.live(target)
        if live is None or not live.previous:
            return one.end(turns.NO_HELP, f"{bad}; nothing was deployed before")
        one.note(live="")
        _invoke("rollback", "--target", target)
        return one.end(turns.ROLLED_BACK, bad)


@stage(needs=["loop-watch"], check=check)
def loop(
    corpus: str = "", exclude: str = "", budget: str = "", feedback: bool = True,
    topic: str = "", cooldown: str = "1h", dry_run: bool = False, approve: bool = False,
    wait: str = "1h", deploy: bool = True, process: bool = False, target: str = "local",
    port: int = 0, watch: str = "5m",
) -> dict[str, Any]:  # fmt: skip
    """Turn bad answers into a better twin: curate, train, compare, deploy, resolve the alert.

    Args:
        corpus: as for invoke ct.
        exclude: as for invoke ct.
        budget: another limit than the profile's: a time like 60s or 2m, or tokens like 300ktok.
        feedback: learn from readers' corrections.
        topic: words; of the badly answered questions only those that hold them are asked again.
        cooldown: time between the end of a turn and the next one.
        dry_run: say what would be done and why; begin nothing.
        approve: ask a person before the new version serves; see invoke alerts.approvals.
        wait: how long an answer is waited for; none is a no.
        deploy: --no-deploy makes it production and leaves what is deployed alone.
        process: deploy a process of this machine, even with a container engine.
        target: where: local or sagemaker.
        port: local: where the service listens.
        watch: how long it is watched once it serves.
    """
    from llm_twin.loop import loop as turns

    with _step("finish") as one:
        if one is None:
            return IDLE
        verdict = one.fact("canary", {})
        if one.fact("alerts") and not verdict.get("helps"):
            return one.end(turns.NO_HELP, "the new version serves, but does not measurably help")
        reason = "; ".join(verdict.get("reasons", [])[:1])
        one.end(turns.DONE, reason)
        return {"message": f"{one.fact('version')} serves. {reason}".rstrip()}


def send(settings: Settings) -> None:
    """Send what is queued; this repository's run history is left alone, so a stage may do it."""
    from ci.alerts import rules
    from llm_twin.alerting import channels, worker
    from llm_twin.alerting.engine import Engine
    from llm_twin.alerting.store import Store

    with (
        suppress(BusyError),
        worker.only_one(settings.home),
        closing(Store(settings.home)) as store,
    ):
        engine = Engine(store, rules(), dedup=settings.alert_dedup)
        worker.Worker(settings.home, engine, channels.load(settings)).once(settings.alert_timeout)


def _invoke(*line: str) -> None:
    context().run_command(sys.executable, "-m", "invoke", *line, cwd=ROOT)


def _said(text: str) -> dict[str, Any]:
    print(text)
    return {"message": text}
