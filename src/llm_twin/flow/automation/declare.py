"""The automations that a project declared, checked before anything starts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_twin.errors import FlowError
from llm_twin.flow.automation.actions import RunFlow
from llm_twin.flow.automation.triggers import RunEnded, Trigger, Webhook
from llm_twin.flow.automation.words import declared_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llm_twin.flow.automation.actions import Action
    from llm_twin.flow.stage import Registry

CATCH_UP = ("latest", "all", "none")
OVERLAP = ("queue", "skip", "cancel-previous")


@dataclass(frozen=True)
class Automation:
    """A trigger and an action.

    Attributes:
        catch_up: which of a timer's moments that nobody looked at fire: the ``latest``, ``all``
            (oldest first, the newest 100), or ``none`` that is more than five minutes late.
        overlap: while the run of a former firing goes on, ``queue`` up behind it, ``skip`` this
            one, or ``cancel-previous``.
        line: where it was declared.

    """

    name: str
    when: Trigger
    do: Action
    catch_up: str = "latest"
    overlap: str = "queue"
    line: str = ""


class Automations:
    """A container of Automation, by name, in order of declaration."""

    def __init__(self) -> None:
        self._automations: dict[str, Automation] = {}

    def __iter__(self) -> Iterator[Automation]:
        return iter(self._automations.values())

    def __len__(self) -> int:
        return len(self._automations)

    def get(self, name: str) -> Automation | None:
        """The automation of this name, if there is one."""
        return self._automations.get(name)

    def add(
        self,
        name: str,
        *,
        when: Trigger,
        do: Action,
        catch_up: str = "latest",
        overlap: str = "queue",
    ) -> None:
        """Declare an automation; see ``Automation`` for the policies.

        Raises:
            FlowError: the name is taken, a policy is unknown, or it would start itself for ever.

        """
        line = declared_at()
        problem = ""
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            problem = "its name has other characters than letters, digits, . - and _"
        elif name in self._automations:
            problem = "there is another one of that name"
        elif catch_up not in CATCH_UP:
            problem = f"catch_up={catch_up!r} is not one of {', '.join(CATCH_UP)}"
        elif overlap not in OVERLAP:
            problem = f"overlap={overlap!r} is not one of {', '.join(OVERLAP)}"
        elif isinstance(when, RunEnded) and isinstance(do, RunFlow) and when.flow in ("", do.flow):
            problem = "each run that it starts would start the next"
        if problem:
            raise FlowError(f"automation {name!r}: {problem}", line, "Mend that line")
        self._automations[name] = Automation(name, when, do, catch_up, overlap, line)

    def check(self, registry: Registry) -> None:
        """See that every flow is there and takes what it is given.

        Raises:
            FlowError: a flow or parameter is unknown, or one hook has two secrets.

        """
        secrets: dict[str, str] = {}
        for item in self:
            problem = _problem(item.do, registry) if isinstance(item.do, RunFlow) else ""
            if isinstance(item.when, Webhook):
                first = secrets.setdefault(item.when.name, item.when.secret_env)
                if first != item.when.secret_env:
                    problem = f"webhook {item.when.name} has the secret {first} elsewhere"
            if problem:
                raise FlowError(f"automation {item.name!r}: {problem}", item.line, "Mend that line")


def _problem(action: RunFlow, registry: Registry) -> str:
    from llm_twin.flow.graph import order

    try:
        stages = order(registry, *action.flow.split())
    except FlowError as error:
        return f"{error.what} ({error.hint})" if error.hint else error.what
    taken = {parameter.name for stage in stages for parameter in stage.parameters}
    unknown = [name for name in action.parameters if name not in taken]
    return f"flow {action.flow} takes no {unknown[0]}" if unknown else ""
