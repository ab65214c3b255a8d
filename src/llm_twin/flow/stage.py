"""A stage is a plain function and what the engine must know about it; the registry holds them.

The invoke task, the node of a plan and the row of the run history are views of a Stage.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.errors import FlowError
from llm_twin.flow.policy import Retry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Function = Callable[..., Any]
    Check = Callable[..., None]
    Inputs = Callable[..., list[Path]]
    Facts = Callable[..., dict[str, str]]

ONCE = Retry(1)


@dataclass(frozen=True)
class Stage:
    """One unit of work.

    Attributes:
        name: what a user types.
        function: does the work; its typed parameters become flags, its return value (plain JSON
            types or None) is kept with the run, and its ``message``, if any, shown with it.
        needs: names of stages that must complete first.
        inputs: globs relative to the project root; their contents are part of the key.
        find_inputs: called with the parameters, returns further input files.
        facts: called with the parameters, returns further parts of the key by name (a remote
            revision, a digest); must be cheap.
        env: environment variables that are part of the key.
        outputs: globs relative to the project root, of files and folders the stage writes. Each
            must match something when it is done; they are archived under its key and restored when
            the key comes back.
        kept: called without arguments, returns paths that the stage looks after by itself (a
            promoted model): they must exist for it to count as done, and no later run may have
            replaced them. They are not archived.
        cached: whether an unchanged key means that there is nothing to do.
        retry: when to try again, for example ``Retry(3) + backoff + jitter``; default: never.
        timeout: seconds an attempt may take; its whole process tree is ended then.
        exclusive: nothing else runs beside it in the same run.
        check: called with the parameters before anything is written; raises UserError.
        single: at most one run of this stage at a time on one store.

    """

    name: str
    function: Function
    needs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    find_inputs: Inputs | None = None
    facts: Facts | None = None
    env: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    kept: Callable[[], list[Path]] | None = None
    cached: bool = False
    retry: Retry = ONCE
    timeout: float | None = None
    exclusive: bool = False
    check: Check | None = None
    single: bool = False

    def __post_init__(self) -> None:
        for pattern in (*self.outputs, *self.inputs):
            if pattern.startswith(("/", "~")) or ".." in pattern.split("/"):
                raise FlowError(
                    f"stage {self.name} names a path outside the project",
                    pattern,
                    "Name files below the project root",
                )
        if self.name in self.needs:
            raise FlowError("a stage needs itself", self.name)

    @property
    def parameters(self) -> list[inspect.Parameter]:
        """The function's parameters, in order."""
        return list(inspect.signature(self.function, eval_str=True).parameters.values())

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        """Those of the given values that this stage takes, defaults filled in.

        Raises:
            FlowError: a parameter without default was not given.

        """
        chosen = {}
        for parameter in self.parameters:
            if parameter.name in given:
                chosen[parameter.name] = given[parameter.name]
            elif parameter.default is not parameter.empty:
                chosen[parameter.name] = parameter.default
            else:
                raise FlowError(
                    f"stage {self.name} needs a value for {parameter.name}",
                    hint=f"Type: invoke --help {self.name}",
                )
        return chosen


class Registry:
    """The one truth about which stages there are: a read-mostly container of Stage."""

    def __init__(self) -> None:
        self._stages: dict[str, Stage] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._stages

    def __iter__(self) -> Iterator[Stage]:
        return iter(self._stages.values())

    def __len__(self) -> int:
        return len(self._stages)

    def __getitem__(self, name: str) -> Stage:
        try:
            return self._stages[name]
        except KeyError:
            known = ", ".join(sorted(self._stages)) or "none"
            raise FlowError(f"no such stage: {name}", hint=f"Stages are: {known}") from None

    def add(self, item: Stage) -> None:
        """Register a stage.

        Raises:
            FlowError: the name is taken.

        """
        if item.name in self._stages:
            raise FlowError(f"two stages are named {item.name}", hint="Rename one of them")
        self._stages[item.name] = item

    def stage(
        self, function: Function | None = None, /, *, name: str = "", **options: Any
    ) -> Function:
        """Register the decorated function as a stage and return it unchanged.

        Usable bare (``@stage``) or with Stage's attributes as keywords
        (``@stage(needs=["lint"], inputs=["src/**/*.py"])``).
        """

        def register(plain: Function) -> Function:
            listed: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list | set) else value
                for key, value in options.items()
            }
            self.add(Stage(name or plain.__name__.replace("_", "-"), plain, **listed))
            return plain

        return register if function is None else register(function)


registry = Registry()
stage = registry.stage
