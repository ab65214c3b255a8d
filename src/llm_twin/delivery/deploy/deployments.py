"""Deploying, going back, taking away and recovering, the same for every target.

An error before the point of return undoes what was done, newest first; the old deployment serves
all along. After it, a deployment can only be finished, by ``recover`` if need be.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llm_twin.corpus import forgotten
from llm_twin.delivery.deploy.steps import (
    COMPLETED,
    ROLLED_BACK,
    ROLLING_BACK,
    UNFINISHED,
    Deployment,
    Step,
    Target,
)
from llm_twin.errors import NotReadyError, TwinError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llm_twin.delivery.deploy.journal import Journal

    Tell = Callable[[str], None]

RECOVER = "Type: invoke recover"


class DeployFailed(TwinError):
    """A deployment did not come live, or could not be finished."""


def _quiet(line: str) -> None:
    """Tell nobody."""


def deploy(
    journal: Journal,
    target: Target,
    image: str,
    digest: str,
    options: dict[str, str],
    on_event: Tell = _quiet,
) -> Deployment:
    """Put an image live, or leave everything as it was.

    Args:
        journal: of deployments.
        target: where to.
        image: the reference pinned by digest; empty for a process of this machine.
        digest: of the image.
        options: what the target wants to know.
        on_event: told a line for each step.

    Raises:
        DeployFailed: it did not come live; says why, and what serves now.
        BusyError: another deployment runs, or one was cut short.

    """
    with journal.hold(target.name, f"deploy of {image or 'a process'}"):
        deployment = journal.begin(target.name, "deploy", image, digest, options)
        return _start(journal, target, deployment, on_event)


def rollback(journal: Journal, target: Target, on_event: Tell = _quiet, to: str = "") -> Deployment:
    """Put an earlier deployment's image live again, as a new deployment; errors as in deploy.

    Args:
        journal: of deployments.
        target: where.
        on_event: told a line for each step.
        to: how the id of the deployment to go back to begins; default: the one before the live.

    Raises:
        NotReadyError: there is no such deployment.

    """
    with journal.hold(target.name, "rollback"):
        live = journal.live(target.name)
        start = to or (live.previous if live else "")
        if not start:
            what = "there is nothing to go back to" if live else "nothing is deployed"
            raise NotReadyError(what, target.name, "See: invoke deployments")
        to_one = journal.find(target.name, start)
        again = journal.begin(target.name, "rollback", to_one.image, to_one.digest, to_one.options)
        return _start(journal, target, again, on_event)


def undeploy(journal: Journal, target: Target, on_event: Tell = _quiet) -> Deployment:
    """Take away everything that deployments to a target made.

    Raises:
        DeployFailed: something could not be taken away yet.
        BusyError: another deployment runs, or one was cut short.

    """
    with journal.hold(target.name, "undeploy"):
        removal = journal.begin(target.name, "undeploy", "", "", {})
        return _start(journal, target, removal, on_event)


def recover(
    journal: Journal, targets: Sequence[Target], on_event: Tell = _quiet
) -> list[Deployment]:
    """Finish or undo what was cut short, once, and return it as it is then.

    Args:
        journal: of deployments.
        targets: those to look at; the journal of others is left alone.
        on_event: told a line for each step.

    Raises:
        BusyError: the deployment is not cut short, but running.
        DeployFailed: it could not be finished or undone.

    """
    recovered = []
    for target in targets:
        if journal.unfinished(target.name) is None:
            continue
        with journal.hold(target.name, "recover"):
            # Read again: whoever held the lock until now may have finished it.
            if deployment := journal.unfinished(target.name):
                recovered.append(_recover(journal, target, deployment, on_event))
    return recovered


def _recover(journal: Journal, target: Target, deployment: Deployment, tell: Tell) -> Deployment:
    steps = _steps(journal, target, deployment)
    begun = journal.steps(deployment)
    forward = any(step.commits and step.name in begun for step in steps)
    if deployment.state != ROLLING_BACK and (forward or deployment.kind == "undeploy"):
        return _run(journal, deployment, steps, tell)
    reason = deployment.reason or f"cut short at {next(reversed(begun), 'the start')}"
    _back(journal, deployment, steps, reason, tell)
    return deployment


def _steps(journal: Journal, target: Target, deployment: Deployment) -> list[Step]:
    previous = journal.get(deployment.previous)
    if deployment.kind == "undeploy":
        return target.removal(previous, journal.history(target.name))
    return target.steps(deployment, previous)


def _start(journal: Journal, target: Target, deployment: Deployment, tell: Tell) -> Deployment:
    try:
        steps = _steps(journal, target, deployment)
    except BaseException as error:
        _end(journal, deployment, ROLLED_BACK, _words(error))
        raise
    return _run(journal, deployment, steps, tell)


def _run(journal: Journal, deployment: Deployment, steps: list[Step], tell: Tell) -> Deployment:
    """Go forward; on an error go back, as long as that can be done."""
    try:
        _forward(journal, deployment, steps, tell)
    except BaseException as error:
        done = journal.steps(deployment)
        step = next(reversed(done), "the start")
        what = _words(error)
        if deployment.kind == "undeploy" or any(
            step.commits and done.get(step.name) for step in steps
        ):
            _end(journal, deployment, UNFINISHED, f"{step}: {what}", final=False)
            raise _unfinished(deployment, step, error) from error
        _back(journal, deployment, steps, f"{step}: {what}", tell)
        if isinstance(error, TwinError | KeyboardInterrupt):
            raise _rolled_back(journal, deployment, step, error) from error
        raise
    return deployment


def _forward(journal: Journal, deployment: Deployment, steps: list[Step], tell: Tell) -> None:
    done = journal.steps(deployment)
    for step in steps:
        if done.get(step.name):
            continue
        journal.begin_step(deployment, step.name)
        began = time.monotonic()
        found = step.do() or {}
        # The version is known before anything is switched; what is live is never taken away.
        forgotten.refuse(journal.path.parent, found.get("version", ""))
        deployment.facts |= found
        journal.end_step(deployment, step.name)
        tell(f"{step.name}: {time.monotonic() - began:.1f} s")
    _end(journal, deployment, COMPLETED)


def _back(
    journal: Journal,
    deployment: Deployment,
    steps: list[Step],
    reason: str,
    tell: Tell,
) -> None:
    """Undo what has begun, newest first; stays to be recovered if that cannot be done."""
    # Written first, so that a recovery does not take up the way forward half-way back.
    _end(journal, deployment, ROLLING_BACK, reason, final=False)
    begun = journal.steps(deployment)
    for step in reversed([step for step in steps if step.name in begun]):
        try:
            step.undo()
        except TwinError as error:
            raise DeployFailed(
                f"it went wrong ({reason}), and {step.name} could not be undone ({error.what})",
                error.where or deployment.label,
                f"{error.hint}. {RECOVER}" if error.hint else RECOVER,
            ) from error
        tell(f"{step.name}: undone")
    _end(journal, deployment, ROLLED_BACK, reason)


def _end(
    journal: Journal, deployment: Deployment, state: str, reason: str = "", *, final: bool = True
) -> None:
    deployment.state = state
    deployment.reason = reason
    deployment.ended = time.time() if final else None
    journal.save(deployment)


def _words(error: BaseException) -> str:
    if isinstance(error, TwinError):
        return f"{error.what}: {error.where}" if error.where else error.what
    if isinstance(error, KeyboardInterrupt):
        return "it was stopped"
    return f"{type(error).__name__}: {error}"


def _unfinished(deployment: Deployment, step: str, error: BaseException) -> DeployFailed:
    serves = "" if deployment.kind == "undeploy" else f" and serves, but {step} is not done"
    what = f"{deployment.label} is live" + serves if serves else f"{step} could not be taken away"
    return DeployFailed(f"{what} ({_words(error)})", deployment.target, RECOVER)


def _rolled_back(
    journal: Journal, deployment: Deployment, step: str, error: BaseException
) -> DeployFailed:
    previous = journal.get(deployment.previous)
    before = previous.label if previous else deployment.facts.get("before", "")
    serves = f"{before} still serves" if before else "Nothing was live before"
    hint = getattr(error, "hint", "")
    return DeployFailed(
        f"{deployment.label} was not put live; {step}: {_words(error)}",
        deployment.image or deployment.target,
        f"{serves}. {hint}" if hint else serves,
    )
