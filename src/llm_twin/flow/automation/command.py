"""``invoke automate``: keep looking, look once, say what would have fired, or list."""

from __future__ import annotations

import importlib
import json as jsonlib
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from invoke.exceptions import Exit

from llm_twin.errors import BusyError, ConfigError, FlowError
from llm_twin.flow.automation.ledger import last_firing, recorded, states, unfinished
from llm_twin.flow.automation.words import utc
from llm_twin.flow.project import parse_age
from llm_twin.flow.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from llm_twin.flow.automation.declare import Automations
    from llm_twin.flow.project import Project

DECLARED = "ci.automations"
PORT = 8377


def automate(
    project: Project,
    *,
    once: bool = False,
    simulate: bool = False,
    list: bool = False,
    since: str = "7d",
    json: bool = False,
    host: str = "127.0.0.1",
    port: int = 0,
) -> None:
    """What ``invoke automate`` does with these flags."""
    if list:
        show_list(project, json)
    elif simulate:
        show_simulation(project, since, json)
    elif once:
        look_once(project)
    else:
        keep_looking(project, host, port)


def load(project: Project, module: str = DECLARED) -> Automations:
    """Return the automations that the project declared, checked.

    Raises:
        FlowError: there are none, or one is wrong; the message names the line to mend.

    """
    found: Automations | None = None
    try:
        found = getattr(importlib.import_module(module), "automations", None)
    except ModuleNotFoundError as error:
        if error.name not in (module, module.partition(".")[0]):
            raise
    if found is None:
        path = module.replace(".", "/") + ".py"
        hint = f"Declare them in {path}: automations = Automations()"
        raise FlowError("no automations are declared", project.root / path, hint)
    found.check(project.registry)
    return found


def keep_looking(project: Project, host: str, port: int) -> None:
    """See to automations until stopped.

    Raises:
        BusyError: another process does.
        ConfigError: the address cannot be listened on.

    """
    from llm_twin.flow.automation.daemon import Daemon
    from llm_twin.flow.automation.engine import Engine, claim_store

    automations = load(project)
    store = Store(project.home)
    with claim_store(store):
        engine = Engine(automations, store, project.root, say=_say)
        daemon = Daemon(engine, host, port or _port())
        for row in _rows(automations, project.home):
            _say(f"watching {row['name']}: {row['when']} -> {row['do']}")
        if daemon.receiver:
            address = "http://{}:{}/hooks/".format(*daemon.receiver.server_address)
            _say(f"receiving webhooks at {address}")
        daemon.run()
        goes_on = [firing.id for firing in unfinished(store.db)]
        _say(f"stopped; {len(goes_on)} firings are for the next one to see to")


def look_once(project: Project) -> None:
    """Fire what is due and see it through; exit code 1 if something did not complete."""
    from llm_twin.flow.automation import daemon
    from llm_twin.flow.automation.engine import Engine, claim_store

    automations = load(project)
    store = Store(project.home)
    try:
        lock = claim_store(store)
    except BusyError as busy:
        _say(str(busy))
        return
    with lock:
        ended = daemon.look_once(Engine(automations, store, project.root, say=_say))
    bad = [firing for firing in ended if firing.state not in ("Completed", "Skipped")]
    if bad:
        raise Exit(f"error: {bad[0].automation}: {bad[0].state}: {bad[0].message}", code=1)
    if not ended:
        _say("nothing was due")


def show_simulation(project: Project, since: str, json: bool) -> None:
    """Print what would have fired on the recorded events."""
    from llm_twin.flow.automation.plan import simulate

    automations = load(project)
    now = time.time()
    events = recorded(Store(project.home)) if (project.home / "runs.db").exists() else []
    found = simulate(automations, events, now - parse_age(since), now)
    if json:
        print(jsonlib.dumps([asdict(item) for item in found], indent=2))
        return
    for item in found:
        print(f"{utc(item.at)} {item.automation}: {item.reason} -> {item.action}")
    print(f"{len(found)} firings in {since}; nothing was done")


def show_list(project: Project, json: bool) -> None:
    """Print the automations: what they wait for, when they are due, what became of the last."""
    from llm_twin.flow.views import table

    rows = _rows(load(project), project.home)
    if json:
        print(jsonlib.dumps(rows, indent=2))
        return
    lines = [("NAME", "WHEN", "DO", "NEXT", "LAST", "STATE")]
    for row in rows:
        state = f"{row['state']}: {row['message']}" if row["message"] else row["state"]
        lines.append(
            (row["name"], row["when"], row["do"], _time(row["next"]), _time(row["last"]), state)
        )
    print(table(lines))


def _rows(automations: Automations, home: Path) -> list[dict[str, Any]]:
    now = time.time()
    store = Store(home) if (home / "runs.db").exists() else None
    known = states(store.db, automations) if store else {}
    rows = []
    for item in automations:
        last = last_firing(store.db, item.name) if store else None
        state = known[item.name][1] if item.name in known else item.when.start(now)
        rows.append(
            {
                "name": item.name,
                "when": str(item.when),
                "do": str(item.do),
                "next": item.when.next_due(state, now),
                "last": last.fired if last else None,
                "state": last.state if last else "",
                "message": last.message if last else "",
                "firing": last.id if last else "",
            }
        )
    return rows


def _time(at: float | None) -> str:
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _say(text: str) -> None:
    from llm_twin.flow.views import plain_line

    print(f"{time.strftime('%H:%M:%S')} {plain_line(text)}", flush=True)


def _port() -> int:
    text = os.environ.get("TWIN_AUTOMATE_PORT", "") or str(PORT)
    if not text.isdecimal():
        raise ConfigError("TWIN_AUTOMATE_PORT is not a number", repr(text), f"Set it like {PORT}")
    return int(text)
