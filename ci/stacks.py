"""Where training runs: `invoke ct.stack` sets a place up, `ct.follow` and `ct.stop` mind a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.tasks import task

from llm_twin.flow.tasks import tell_errors
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from invoke.context import Context

    from llm_twin.ct.remote import Outcome

ROOT = Path(__file__).resolve().parents[1]
LENT = {
    "AWS_ACCESS_KEY_ID": "access_key",
    "AWS_SECRET_ACCESS_KEY": "secret_key",  # pragma: allowlist secret
    "AWS_SESSION_TOKEN": "token",
}


def connected() -> Settings:
    """The settings, with ZenML's server found and this process's ZenML pointed to it.

    Raises:
        ConfigError: no server is named.
        RemoteError: it cannot be reached, or is of another version.

    """
    from llm_twin.ct import history, zen

    settings = Settings.load(root=ROOT)
    lend_credentials(settings)
    if settings.zenml_url:
        history.check(settings)
    zen.prepare(settings)
    return settings


def lend_credentials(settings: Settings) -> None:
    """Put the credentials of the roles that settings name where ZenML's parts look for them.

    They are those of one session, usually an hour's; a run that takes longer goes on, and can be
    followed again.
    """
    if not (settings.aws_assume_role or (settings.aws_role and "GITHUB_ACTIONS" in os.environ)):
        return
    from llm_twin.delivery import aws

    found = aws.session(settings).get_credentials().get_frozen_credentials()
    os.environ.update({name: getattr(found, part) or "" for name, part in LENT.items()})


@task(
    positional=["kind"],
    help={"kind": "local, sagemaker or kubernetes"},
    auto_shortflags=False,
)
@tell_errors
def stack(c: Context, kind: str) -> None:
    """Make a ZenML stack as the settings say, or bring it up to them; asks nothing."""
    from llm_twin.ct import history, stacks

    stacks.check(kind, Settings.load(root=ROOT))
    settings = connected()
    with history.asking(settings):
        name = stacks.register(kind, settings)
        for line in stacks.parts_of(name):
            print(line)


@task(name="stacks", auto_shortflags=False)
@tell_errors
def listed(c: Context) -> None:
    """Show the stacks for training, what each is made of, and the runs that are elsewhere."""
    from llm_twin.ct import history, stacks

    settings = connected()
    with history.asking(settings):
        found = stacks.registered()
        for name in found:
            print(name)
            for line in stacks.parts_of(name):
                print(f"  {line}")
        if not found:
            print("there is none yet; make one: invoke ct.stack sagemaker")
        for run in history.elsewhere():
            print(run)


@task(positional=["run"], help={"run": "id or name at ZenML"}, auto_shortflags=False)
@tell_errors
def follow(c: Context, run: str) -> None:
    """Follow a run on another machine until it ends, and take in the twin that it promoted."""
    from llm_twin.ct import remote

    print(told(remote.follow(run, connected())))


@task(positional=["run"], help={"run": "id or name at ZenML"}, auto_shortflags=False)
@tell_errors
def stop(c: Context, run: str) -> None:
    """Stop a run on another machine; production stays what it is."""
    from llm_twin.ct import remote

    print(f"{remote.stop(run, connected())} is stopped")


def told(outcome: Outcome) -> str:
    """How a run ended, on one line."""
    if outcome.bundle:
        return f"promoted {outcome.bundle.version}"
    return "not promoted; the gate's reasons are above"


TASKS: list[Any] = [stack, listed, follow, stop]
