"""The alerter of ZenML, and questions that a person answers: more tasks of ``invoke alerts``."""

from __future__ import annotations

import hashlib
import json as json_format
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.tasks import task

from llm_twin.errors import NotReadyError
from llm_twin.flow.tasks import tell_errors
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from invoke.context import Context

ROOT = Path(__file__).resolve().parents[1]


@task(
    help={
        "direct": "have the alerter send by itself: for steps that run on other machines",
        "force": "look again even if nothing changed",
    },
    auto_shortflags=False,
)
@tell_errors
def setup(c: Context, direct: bool = False, force: bool = False) -> None:
    """Put the channels of TWIN_ALERT_URLS on ZenML's stack as its alerter; asks nothing."""
    settings = Settings.load(root=ROOT)
    if not settings.alert_urls:
        hint = "Set it like team=slack://…, a line each; the console and alerts.log work without"
        raise NotReadyError("no channel is named", "TWIN_ALERT_URLS", hint)
    stamp = settings.home / "zenml" / "alerter.json"
    wanted = _stamp(settings, direct)
    if not force and stamp.exists() and stamp.read_text() == wanted:
        print("ZenML's alerter is set up, and nothing changed")
        return
    from llm_twin.ct import zen

    zen.prepare(settings)
    with zen.store_errors(settings):
        stack = zen.set_up_alerter(settings, direct=direct)
    stamp.write_text(_stamp(settings, direct))
    print(f"ZenML's stack {stack} sends through the channels of TWIN_ALERT_URLS")


def _stamp(settings: Settings, direct: bool) -> str:
    """What the set-up depends on; the addresses, which hold secrets, only by their digest."""
    store = settings.home / "zenml" / "local_stores" / "default_zen_store" / "zenml.db"
    return json_format.dumps(
        {
            "urls": hashlib.sha256(settings.alert_urls.encode()).hexdigest(),
            "direct": direct,
            "stack": os.environ.get("ZENML_ACTIVE_STACK_ID", ""),
            "store": os.environ.get("ZENML_STORE_URL", ""),
            "database": store.stat().st_ino if store.exists() else 0,
        }
    )


@task(
    positional=["question"],
    help={"question": "its id or how that begins", "reason": "kept with the answer"},
    auto_shortflags=False,
)
@tell_errors
def approve(c: Context, question: str, reason: str = "") -> None:
    """Answer a question with yes."""
    _answer(question, True, reason)


@task(
    positional=["question"],
    help={"question": "its id or how that begins", "reason": "kept with the answer"},
    auto_shortflags=False,
)
@tell_errors
def refuse(c: Context, question: str, reason: str = "") -> None:
    """Answer a question with no."""
    _answer(question, False, reason)


@task(help={"json": "print them as JSON"}, auto_shortflags=False)
@tell_errors
def approvals(c: Context, json: bool = False) -> None:
    """Show the questions that wait for an answer, then the others, newest first."""
    from llm_twin.alerting.approval import recent

    found = recent(Settings.load(root=ROOT).home)
    if json:
        print(json_format.dumps([asdict(one) for one in found]))
        return
    if not found:
        print("Nothing was asked yet")
    for one in found:
        asked = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.asked))
        by = f" by {one.by}" if one.by else ""
        because = f": {one.reason}" if one.reason else ""
        print(f"{asked}  {one.id}  {one.state}{by}{because}  {one.question}")


TASKS: list[Any] = [setup, approve, refuse, approvals]


def _answer(question: str, approved: bool, reason: str) -> None:
    from llm_twin.alerting.approval import answer

    done = answer(Settings.load(root=ROOT).home, question, approved, reason)
    print(f"{done.state}: {done.question}")
