"""The ways of training: `invoke ct.profiles`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke.tasks import task

from ci.training import PROFILES
from llm_twin.errors import ConfigError
from llm_twin.flow.tasks import tell_errors

if TYPE_CHECKING:
    from invoke.context import Context


@task(auto_shortflags=False)
@tell_errors
def profiles(c: Context) -> None:
    """List the ways of training in configs/ct, and what is wrong with one."""
    from llm_twin.model.profile import load

    wrong = []
    for path in sorted(PROFILES.glob("*.yaml")):
        try:
            print(load(path).line())
        except ConfigError as error:
            wrong.append(error)
    for each in wrong[:-1]:
        print(f"error: {each}")
    if wrong:
        raise wrong[-1]
