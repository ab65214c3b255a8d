"""What is worth a message to a person here, and the commands over what was said.

``invoke alerts.simulate`` shows what a change would have sent; see ``docs/how-to/alerts.md``.
"""

from __future__ import annotations

import dataclasses
import getpass
import json as json_format
import signal
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.collection import Collection
from invoke.tasks import task

from ci import alert_sources
from ci.alert_setup import TASKS
from llm_twin.errors import ConfigError, NotReadyError, RemoteError
from llm_twin.flow.tasks import tell_errors
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from invoke.context import Context

    from llm_twin.alerting.rules import Rule
    from llm_twin.alerting.store import Alert, Store

ROOT = Path(__file__).resolve().parents[1]
HEADS = ("ID", "STATE", "SEVERITY", "RULE", "SINCE", "TIMES", "SAYS")
RULE_HEADS = ("RULE", "SEVERITY", "WHEN", "ENDS ON")


def rules() -> list[Rule]:
    """This repository's rules."""
    from llm_twin.alerting.conditions import event, metric, no_traffic, run_state
    from llm_twin.alerting.rules import BY_EVENT, Rule

    trained = run_state("ct", ["Completed"])
    return [
        Rule(
            name="zenml-dead",
            when=event("zenml.dead"),
            severity="critical",
            text="ZenML's store does not answer, nothing can be trained",
            look="invoke runs.logs {run}",
            resolves_on=trained,
            cooldown="5m",
        ),
        Rule(
            name="training-failed",
            when=run_state("ct", ("Failed", "Crashed")) | event("ct.failed") | event("ct.crashed"),
            text="continuous training did not get through",
            look="invoke runs.logs {run}",
            inhibited_by=("zenml-dead",),
            resolves_on=trained,
            cooldown="5m",
            escalate_after="8h",
        ),
        Rule(
            name="gate-refused",
            when=event("gate.refused"),
            severity="warning",
            text="the new model was not promoted, the old one serves",
            look="invoke runs.logs {run}",
            resolves_on=event("model.promoted"),
            cooldown="5m",
        ),
        Rule(
            name="deployment-failed",
            when=event("deploy.rolled_back") | event("deploy.failed"),
            text="a deployment did not go live, what was live before still is",
            look="invoke deployments",
            group_by=("target",),
            resolves_on=event("deploy.live"),
            cooldown="5m",
            escalate_after="1h",
        ),
        Rule(
            name="loop-failed",
            when=event("loop.failed")
            | event("loop.cut_short")
            | event("loop.not_deployed")
            | event("loop.rolled_back")
            | run_state("loop", ["Crashed"]),
            text="the loop did not get through, the version before serves",
            look="invoke loop.history",
            resolves_on=event("loop.done"),
            cooldown="5m",
        ),
        Rule(
            name="no-traffic",
            when=no_traffic(30),
            severity="warning",
            text="nobody gets answers any more",
            look="invoke deployments",
            for_="5m",
        ),
        Rule(
            name="errors",
            when=metric("error_rate", above=0.05, worse_than_normal=2),
            severity="critical",
            text="answers fail",
            look="invoke traces.list --filter 'error_info is_not_empty'",
            for_="1m",
            escalate_after="30m",
        ),
        Rule(
            name="slow",
            when=metric("latency_p95", above=5, worse_than_normal=1.5),
            severity="warning",
            text="answers take long",
            look="invoke watch.metrics",
            for_="5m",
            inhibited_by=("errors",),
        ),
        Rule(
            name="cost",
            when=metric("cost_per_hour", above=1, minutes=60, worse_than_normal=2),
            severity="warning",
            text="answers cost more than they should",
            look="invoke watch.metrics --minutes 60",
        ),
        Rule(
            name="ungrounded",
            when=metric("score.groundedness", below=0.6, minutes=60),
            text="answers are not in what was retrieved",
            look="invoke traces.list --filter 'feedback_scores.groundedness < 0.6'",
            for_="5m",
            escalate_after="1d",
        ),
        Rule(
            name="refusals",
            when=metric("refusal_rate", above=0.3, minutes=60, worse_than_normal=1.5),
            severity="warning",
            text="questions are declined, perhaps documents are missing",
            look="invoke traces.list --filter 'feedback_scores.answered < 0.5'",
            for_="5m",
            escalate_after="1d",
        ),
        Rule(
            name="drift-of-questions",
            when=event("drift.questions"),
            severity="warning",
            text="people ask about something else than before",
            look="invoke watch.drift",
            resolves_on=event("model.promoted"),
            cooldown="5m",
        ),
        Rule(
            name="drift-of-scores",
            when=event("drift.scores"),
            severity="warning",
            text="answers score less than before",
            look="invoke watch.drift",
            resolves_on=event("model.promoted"),
            cooldown="5m",
        ),
        # What ci/automations.py says with alert().
        Rule(
            name="automation",
            when=event("alert"),
            severity=BY_EVENT,
            text="{text}",
            look="invoke automate --list",
            group_by=("subject",),
            inhibited_by=("training-failed", "zenml-dead"),
            cooldown="0s",
        ),
    ]


# Commands


@contextmanager
def _open() -> Iterator[tuple[Store, Settings]]:
    from llm_twin.alerting.store import Store as Alerts

    settings = Settings.load(root=ROOT)
    if not (settings.home / "alerts.db").exists():
        raise NotReadyError("no alerts yet", settings.home, "Watch for some: invoke alerts.watch")
    with closing(Alerts(settings.home)) as store:
        yield store, settings


@task(
    name="list",
    help={"limit": "how many", "rules": "list the rules instead", "json": "print JSON"},
    auto_shortflags=False,
)
@tell_errors
def list_alerts(c: Context, limit: int = 20, rules: bool = False, json: bool = False) -> None:
    """List alerts: what is open first, then what ended last; and what is silent."""
    from llm_twin.alerting import silences
    from llm_twin.alerting.message import utc
    from llm_twin.flow.views import table

    if rules:
        print(table([RULE_HEADS, *_rule_rows()]))
        return
    try:
        with _open() as (store, _):
            found, silent = store.recent(limit), silences.listed(store, time.time())
    except NotReadyError:
        found, silent = [], []
    if json:
        print(json_format.dumps([dataclasses.asdict(alert) for alert in found]))
        return
    print(table([HEADS, *map(_row, found)]) if found else "No alerts")
    for one in silent:
        print(f"{one.target} is silent until {utc(one.until)} {one.reason}".rstrip())


def _rule_rows() -> list[tuple[str, ...]]:
    return [(r.name, r.severity or "any", str(r.when), str(r.resolves_on or "")) for r in rules()]


def _row(alert: Alert) -> tuple[str, ...]:
    from llm_twin.alerting.message import utc

    by = f"{alert.state} by {alert.by}" if alert.by else alert.state
    return (
        alert.id, by, alert.severity, alert.rule, utc(alert.began), f"{alert.count:,}", alert.text
    )  # fmt: skip


@task(help={"id": "an alert's id, or how it begins", "json": "print JSON"}, auto_shortflags=False)
@tell_errors
def show(c: Context, id: str, json: bool = False) -> None:
    """Show one alert and what became of its messages."""
    from llm_twin.alerting import message, outbox

    with _open() as (store, _):
        alert = store.find(id)
        said = outbox.history(store, alert.id)
    if json:
        print(json_format.dumps(dataclasses.asdict(alert) | {"messages": said}))
        return
    what = "resolved" if alert.ended else "firing"
    print(f"{alert.id} {alert.state} {message.title(alert, what)}")
    print(message.body(alert, what, alert.ended or time.time()))
    for one in said:
        error = f" ({one['error']})" if one["error"] else ""
        print(
            f"{message.utc(one['made'])}  {one['what']} to {one['channel'] or 'the default'}: "
            f"{one['state']}, {one['attempts']} tries{error}"
        )


@task(help={"id": "an alert's id, or how it begins"}, auto_shortflags=False)
@tell_errors
def ack(c: Context, id: str) -> None:
    """Say that you see to an alert: it is not escalated, and repeats are only counted."""
    from llm_twin.alerting import silences

    with _open() as (store, _):
        alert = silences.acknowledge(store, id, time.time(), getpass.getuser())
    print(f"{alert.id} {alert.rule} is acknowledged by {alert.by}")


@task(
    help={"id": "of an alert, or a rule's name", "by": "what put it right"}, auto_shortflags=False
)
@tell_errors
def resolve(c: Context, id: str, by: str = "") -> None:
    """End an alert that does not end by itself."""
    from llm_twin.alerting import store as alerts

    with _open() as (store, settings):
        name = id if id in {rule.name for rule in rules()} else store.find(id).id
        ended = alerts.resolve(settings.home, name, by or getpass.getuser())
    print(f"{len(ended)} resolved: {', '.join(ended)}" if ended else f"Nothing is open of {name}")


@task(
    help={
        "target": "a rule's name, or an alert's id",
        "for_": "for how long, like 2h",
        "reason": "why, for whoever else looks",
    },
    auto_shortflags=False,
)
@tell_errors
def silence(c: Context, target: str, for_: str = "1h", reason: str = "") -> None:
    """Say nothing of a rule or an alert for a while; what is still open then is said then."""
    from llm_twin.alerting import silences
    from llm_twin.alerting.conditions import seconds
    from llm_twin.alerting.message import utc
    from llm_twin.alerting.store import Store as Alerts

    settings = Settings.load(root=ROOT)
    until = time.time() + seconds(for_)
    with closing(Alerts(settings.home)) as store:
        if target not in {rule.name for rule in rules()}:
            target = store.find(target).id
        silences.silence(store, target, until, reason)
    print(f"{target} is silent until {utc(until)}")


@task(help={"channel": "its name in TWIN_ALERT_URLS, or log"}, auto_shortflags=False)
@tell_errors
def test(c: Context, channel: str) -> None:
    """Send a test message through one channel, now."""
    from llm_twin.alerting import channels
    from llm_twin.alerting.outbox import Delivery

    known = channels.load(Settings.load(root=ROOT))
    if channel not in known:
        hint = f"There are: {', '.join(known)}"
        raise ConfigError("TWIN_ALERT_URLS names no such channel", channel, hint)
    said = ("TEST from llm-twin", "If you read this, alerts get through.")
    mark = f"[test.{int(time.time())}]"
    try:
        known[channel].reach()
        known[channel].send(Delivery(0, channel, "info", "test", *said, mark))
    except channels.Undelivered as error:
        hint = "Mend TWIN_ALERT_URLS, or the service"
        raise RemoteError(
            "the test message was not delivered", f"{channel}: {error}", hint
        ) from None
    print(f"{channel} took the test message")


@task(help={"since": "how far back, like 7d", "json": "print JSON"}, auto_shortflags=False)
@tell_errors
def simulate(c: Context, since: str = "7d", json: bool = False) -> None:
    """Show what these rules would have sent on what was recorded. Sends nothing."""
    from llm_twin.alerting.conditions import seconds
    from llm_twin.alerting.message import utc
    from llm_twin.alerting.simulate import simulate as simulated

    settings, now = Settings.load(root=ROOT), time.time()
    found = simulated(
        rules(),
        alert_sources.recorded(settings),
        now - seconds(since),
        now,
        figures=alert_sources.figures(settings),
        dedup=settings.alert_dedup,
    )
    if json:
        print(json_format.dumps([dataclasses.asdict(one) for one in found]))
        return
    for one in found:
        print(f"{utc(one.at)} {one.title}")
    print(f"{len(found)} messages in {since}; nothing was sent")


@task(help={"once": "look once and send what is due, then end"}, auto_shortflags=False)
@tell_errors
def watch(c: Context, once: bool = False) -> None:
    """Look for what is wrong and tell people of it, until interrupted."""
    from llm_twin.alerting import channels, worker
    from llm_twin.alerting.store import Store as Alerts

    settings = Settings.load(root=ROOT)
    known = channels.load(settings)
    with worker.only_one(settings.home), closing(Alerts(settings.home)) as store:
        team = worker.Worker(settings.home, alert_sources.engine(settings, store), known)
        if once:
            if waiting := team.once(alert_sources.PATIENCE):
                where = f"{waiting} wait for the next time"
                raise RemoteError("not all messages were delivered", where, "See: invoke alerts")
            return
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        print(f"watching {len(rules())} rules, telling {', '.join(known)}", flush=True)
        team.run(stop)


alerts = Collection("alerts", show, ack, resolve, silence, test, simulate, watch, *TASKS)
alerts.add_task(list_alerts, default=True)
