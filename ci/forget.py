"""`invoke forget`: a document or an author is taken out of everything that this project keeps."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.tasks import task

from llm_twin.flow.tasks import TaskWithOptionalLast, tell_errors
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from invoke.context import Context

    from llm_twin.corpus.forgotten import Request
    from llm_twin.loop.forget import Plan

ROOT = Path(__file__).resolve().parents[1]


@task(
    klass=TaskWithOptionalLast,
    positional=["what"],
    help={
        "what": "a document's path, link or id, or an author's name; left out: finish what was"
        " cut short",
        "deadline": "after it no model that saw it is deployed, like 7d, 12h or 0s",
        "yes": "do it",
        "dry-run": "show what would be done, whatever else is said",
    },
    auto_shortflags=False,
)
@tell_errors
def forget(
    c: Context, what: str = "", deadline: str = "7d", yes: bool = False, dry_run: bool = False
) -> None:
    """Take a document, or all of an author, out of corpus, index, datasets, traces and models."""
    from llm_twin.flow.project import parse_age
    from llm_twin.loop import forget as forgetting

    settings = Settings.load(root=ROOT)
    seconds = parse_age(deadline)
    for wish in [] if dry_run else forgetting.unfinished(settings.home):
        print(f"finishing {wish.id} ({wish.what})")
        _carry_out(settings, wish)
    if not what:
        _show_list(settings)
        return
    plan = forgetting.plan(settings, what, seconds)
    _show(plan)
    if dry_run or not yes:
        print("Nothing is forgotten yet; to do it add --yes")
        return
    _carry_out(settings, plan.wish)


def _carry_out(settings: Settings, wish: Request) -> None:
    from llm_twin.alerting.store import record
    from llm_twin.loop import forget as forgetting

    forgetting.carry_out(settings, wish, lambda line: print(f"  {line}", flush=True))
    told = {"message": f"{wish.what} is forgotten", "models": list(wish.models)}
    record(settings.home, "forget.done", wish.id, told, key=wish.id)
    print(
        f"Forgotten: {wish.what}. The source itself is yours to change: it is left out from now on"
    )
    if tainted := forgetting.serves_still(settings, wish):
        print(
            f"{tainted} learned from it and is refused after {_day(wish.deadline)}."
            " Make one without it: invoke ct; then: invoke build-push deploy"
        )


def _show(plan: Plan) -> None:
    wish = plan.wish
    print(f"documents  {len(wish.documents)}: {'; '.join(plan.titles)}")
    print(f"passages   {plan.passages}")
    print(f"models     {', '.join(wish.models) or 'none'}; refused after {_day(wish.deadline)}")


def _show_list(settings: Settings) -> None:
    from llm_twin.corpus.forgotten import requests

    found = requests(settings.home)
    for wish in found:
        print(f"{_day(wish.asked)}  {wish.what}  refused after {_day(wish.deadline)}")
    if not found:
        print("Nothing was forgotten. Type: invoke forget DOCUMENT")


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
