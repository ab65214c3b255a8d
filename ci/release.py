"""Putting a pushed image live and going back: commands over the journal of deployments."""

from __future__ import annotations

import dataclasses
import json as json_format
import os
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.tasks import task

from ci import alert_sources
from llm_twin.errors import BusyError, ConfigError, NotReadyError
from llm_twin.flow.tasks import tell_errors
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from invoke.context import Context

    from llm_twin.delivery.deploy.journal import Journal
    from llm_twin.delivery.deploy.steps import Deployment, Target

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("local", "sagemaker")
TARGET = f"where: {' or '.join(TARGETS)}"


@task(
    help={
        "target": TARGET,
        "digest": "of an image in the repository that was pushed to last; default: that image",
        "image": "another image, like localhost:5000/llm-twin:latest; it is pinned by its digest",
        "port": "local: where the service listens; default: where it does, else 8000",
        "process": "local: no container, but a process of this machine over the promoted twin",
        "question": "asked before the switch; default: the one that travels with the image",
        "citation": "part of a title or link that its answer must cite",
        "latency": "seconds that the median of three answers may take",
        "json": "print the deployment as JSON",
    },
    auto_shortflags=False,
)
@tell_errors
def deploy(
    c: Context,
    target: str = "local",
    digest: str = "",
    image: str = "",
    port: int = 0,
    process: bool = False,
    question: str = "",
    citation: str = "",
    latency: float = 5.0,
    json: bool = False,
) -> None:
    """Put the image that was pushed last live, if it answers; else leave everything as it was."""
    from llm_twin.delivery.deploy import deployments

    settings = Settings.load(root=ROOT)
    options = {"question": question, "citation": citation, "latency": f"{latency:g}"}
    if target == "local":
        process = process or not (digest or image or _has_engine())
        options["port"] = str(port or "")
    if process and (digest or image or target != "local"):
        raise ConfigError("a process has no image, and is local", "--process", "Leave one out")
    tell = _aside if json else _tell
    where = open_target(target, settings, tell)
    pinned = _promoted(settings, options) if process else _pinned(settings, image, digest)
    with closing(_journal(settings)) as journal, telling(journal, settings):
        done = deployments.deploy(journal, where, pinned, pinned.partition("@")[2], options, tell)
    if json:
        print(json_format.dumps(_plain(done) | {"where": where.describe(done)}))
    else:
        _say_live(where, done)


@task(
    help={"target": TARGET, "to": "id of the deployment to go back to; default: the one before"},
    auto_shortflags=False,
)
@tell_errors
def rollback(c: Context, target: str = "local", to: str = "") -> None:
    """Put an earlier deployment live again, the same way as a new one."""
    from llm_twin.delivery.deploy import deployments

    settings = Settings.load(root=ROOT)
    with closing(_journal(settings)) as journal, telling(journal, settings):
        where = open_target(target, settings)
        _say_live(where, deployments.rollback(journal, where, _tell, to))


@task(name="deployments", help={"json": "print them as JSON, newest first"}, auto_shortflags=False)
@tell_errors
def list_deployments(c: Context, json: bool = False) -> None:
    """Show what was deployed, and what is live."""
    settings = Settings.load(root=ROOT)
    with closing(_journal(settings)) as journal:
        found = journal.history()
        live = {one.id for name in TARGETS if (one := journal.live(name))}
    if json:
        print(json_format.dumps([_plain(one) | {"live": one.id in live} for one in found]))
        return
    if not found:
        print("Nothing was deployed yet. Type: invoke deploy")
    for one in found:
        print(_line(one, live=one.id in live))


@task(help={"target": TARGET}, auto_shortflags=False)
@tell_errors
def undeploy(c: Context, target: str = "local") -> None:
    """Take away everything that deployments made; images stay in their registry."""
    from llm_twin.delivery.deploy import deployments

    settings = Settings.load(root=ROOT)
    with closing(_journal(settings)) as journal:
        deployments.undeploy(journal, open_target(target, settings), _tell)
    print(f"Nothing is deployed to {target} any more")


@task
@tell_errors
def recover(c: Context) -> None:
    """Finish or undo a deployment that was cut short, and start again what died on this machine."""
    from llm_twin.delivery.deploy import deployments
    from llm_twin.delivery.deploy.local import Local

    settings = Settings.load(root=ROOT)
    with closing(_journal(settings)) as journal:
        targets = [open_target(name, settings) for name in TARGETS if journal.unfinished(name)]
        with telling(journal, settings):
            recovered = deployments.recover(journal, targets, _tell)
        for one in recovered:
            print(_line(one, live=False))
        if live := journal.live("local"):
            local = Local(settings)
            with journal.hold("local", "recover"):
                again = local.revive(live)
            print(f"{live.label} {'was started again' if again else 'runs'}: {local.front.url}")
    if not (recovered or live):
        print("There is nothing to recover")


TASKS = [deploy, rollback, list_deployments, undeploy, recover]


def open_target(name: str, settings: Settings, tell: Callable[[str], None] | None = None) -> Target:
    """The target of that name.

    Raises:
        ConfigError: there is no such target.

    """
    if name == "local":
        from llm_twin.delivery.deploy.local import Local

        return Local(settings)
    if name == "sagemaker":
        from llm_twin.delivery.deploy.sagemaker import SageMaker

        return SageMaker(settings, tell=tell or _tell)
    raise ConfigError("there is no such target", repr(name), f"Choose: {', '.join(TARGETS)}")


@contextmanager
def telling(journal: Journal, settings: Settings) -> Iterator[None]:
    """Record what became of the deployments of a block: live, rolled back, or neither yet."""
    before = {one.id: one.state for one in journal.history()}
    try:
        yield
    except BusyError:
        raise
    except BaseException:
        _record(journal, settings, before)
        raise
    _record(journal, settings, before)


def _record(journal: Journal, settings: Settings, before: dict[str, str]) -> None:
    from llm_twin.alerting.store import record
    from llm_twin.delivery.deploy.steps import COMPLETED, ROLLED_BACK

    ends = {COMPLETED: "deploy.live", ROLLED_BACK: "deploy.rolled_back"}
    for one in reversed(journal.history()):
        if one.kind == "undeploy" or before.get(one.id) == one.state:
            continue
        kind = ends.get(one.state, "deploy.failed")
        previous = journal.get(one.previous)
        said = {
            "target": one.target,
            "version": one.facts.get("version", ""),
            "message": one.reason,
            "serves": previous.label if previous and kind != "deploy.live" else "",
            "run": os.environ.get("TWIN_RUN_ID", ""),
            "parameters": [one.options.get(name, "") for name in ("question", "citation")],
        }
        record(settings.home, kind, one.id, said, f"{kind}:{one.id}")
    if settings.alert_urls:
        alert_sources.look(settings)


def _journal(settings: Settings) -> Journal:
    from llm_twin.delivery.deploy.journal import Journal

    return Journal(settings.home)


def _has_engine() -> bool:
    from llm_twin.delivery.engine import find_engine

    try:
        find_engine()
    except NotReadyError:
        print("There is no container engine: a process is deployed", file=sys.stderr)
        return False
    return True


def _promoted(settings: Settings, options: dict[str, str]) -> str:
    """Note which bundle a process shall run; there is no image."""
    from llm_twin.model.bundles import Bundles

    bundle = Bundles(settings.home / "models").production()
    if bundle is None:
        raise NotReadyError("No twin was promoted yet", settings.home, "Type: invoke ct")
    options["version"] = bundle.version
    return ""


def _pinned(settings: Settings, image: str, digest: str) -> str:
    """The image that was meant, by digest."""
    from llm_twin.delivery.image import last_pushed
    from llm_twin.delivery.reference import Reference
    from llm_twin.delivery.registry import open_registry

    ref = Reference.parse(image or last_pushed(settings))
    if digest:
        ref = Reference.parse(f"{ref.repository}@{digest}")
    if not ref.digest:
        found = open_registry(ref.host, settings).head(ref)
        if found is None:
            raise NotReadyError("the registry has no such image", ref, "Type: invoke build-push")
        ref = ref.pinned(found)
    return str(ref.pinned(ref.digest))


def _tell(line: str) -> None:
    print(line, flush=True)


def _aside(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _say_live(target: Target, done: Deployment) -> None:
    print(f"{done.label} is live: {target.describe(done)}")
    if done.previous:
        print(f"To go back: invoke rollback --target {target.name}")


def _plain(one: Deployment) -> dict[str, Any]:
    return dataclasses.asdict(one)


def _line(one: Deployment, *, live: bool) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.began))
    digest = one.digest.removeprefix("sha256:")[:12]
    version = one.facts.get("version", "")
    mark = "live" if live else ""
    text = (
        f"{when}  {one.id}  {one.target:9}  {one.kind:8}  {one.state:18}  {mark:4}"
        f"  {digest:12}  {version}  {one.reason}"
    )
    return text.rstrip()
