"""Front door for invoke: every stage of a registry as a task, and the commands over the history.

Flags come from the function's signature, their help from its docstring. Whatever is slow to import
is imported when a task runs, so that ``invoke --list`` stays quick.
"""

from __future__ import annotations

import functools
import inspect
import sys
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.exceptions import Exit
from invoke.parser.argument import Argument
from invoke.tasks import Task

from llm_twin.errors import TwinError
from llm_twin.flow.commands import Commands
from llm_twin.flow.project import Project

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from invoke.context import Context

    from llm_twin.flow.stage import Registry, Stage

OWN_FLAGS = {
    "force": (False, "run it even if nothing changed"),
    "jobs": (0, "how many stages at once; default: one for each core"),
    "json": (False, "print events as JSON, one a line"),
}


def tell_errors(function: Callable[..., None]) -> Callable[..., None]:
    """Turn the errors a user can meet into one line on stderr and an exit code."""

    @functools.wraps(function)
    def told(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except TwinError as error:
            raise Exit(f"error: {error}", code=error.exit_code) from None
        except BrokenPipeError:
            raise Exit(code=0) from None

    return told


class OptionalPositional(Argument):
    """A positional argument that may be left out.

    Invoke knows only required ones: ``runs.logs ID ct`` would start the task ``ct``. Its parser
    reads ``value`` to learn what the next token is for, and once more in ``complete_context`` to
    complain about what was not given; only there does this one count as given.
    """

    @property
    def value(self) -> Any:
        """What was given, or None."""
        given = super().value
        frame = sys._getframe(1)
        for _ in range(3):
            if given is None and frame.f_code.co_name == "complete_context":
                return ""
            frame = frame.f_back or frame
        return given

    @value.setter
    def value(self, text: str) -> None:
        self.set_value(text)


class TaskWithOptionalLast(Task[Any]):
    """A task whose last positional argument may be left out."""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        """The arguments, the last positional one made optional."""
        arguments = super().get_arguments(ignore_unknown_help)
        last = [item for item in arguments if item.positional][-1]
        optional = OptionalPositional(names=last.names, help=last.help, positional=True)
        return [optional if item is last else item for item in arguments]


def collection(registry: Registry, root: Path, *more: Task[Any]) -> Collection:
    """Return the invoke namespace: stages, given tasks, and the commands over runs and cache."""
    project = Project(registry, root)
    namespace = Collection()
    for stage in registry:
        namespace.add_task(stage_task(project, stage))
    for item in more:
        namespace.add_task(item)
    commands = Commands(project)
    for name in ("run", "plan", "why", "parity", "automate"):
        namespace.add_task(_task(getattr(commands, name), name, iterable=["set"]))
    runs = Collection("runs")
    runs.add_task(_task(commands.runs_list, "list"), default=True)
    for name in ("show", "resume", "cancel", "prune"):
        runs.add_task(_task(getattr(commands, f"runs_{name}"), name))
    logs = _task(commands.runs_logs, "logs", TaskWithOptionalLast, positional=["run", "stage"])
    runs.add_task(logs)
    namespace.add_collection(runs)
    cache = Collection("cache")
    cache.add_task(_task(commands.cache_show, "show"), default=True)
    cache.add_task(_task(commands.cache_prune, "prune"))
    namespace.add_collection(cache)
    return namespace


def beside(namespace: Collection, name: str, *tasks: Task[Any]) -> None:
    """Put tasks beside one of the namespace: ``name`` goes on to be it, ``name.other`` is more."""
    own = namespace.tasks.pop(name)
    together = Collection(name, *tasks)
    together.add_task(own, default=True)
    namespace.add_collection(together)


def _task(
    function: Callable[..., None], name: str, kind: type[Task[Any]] = Task, **options: Any
) -> Task[Any]:
    taken = inspect.signature(function).parameters
    options["iterable"] = [item for item in options.get("iterable", []) if item in taken]
    body = tell_errors(function)
    body.__doc__ = description(function)
    return kind(body, name=name, help=argument_help(function), auto_shortflags=False, **options)


def stage_task(project: Project, stage: Stage) -> Task[Any]:
    """View a stage as an invoke task: its own parameters as flags, and those of every run."""
    context = inspect.Parameter("c", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    own = [p.replace(annotation=inspect.Parameter.empty) for p in stage.parameters]
    taken = {p.name for p in own}
    flags = {name: flag for name, flag in OWN_FLAGS.items() if name not in taken}
    extra = [context.replace(name=name, default=default) for name, (default, _) in flags.items()]
    parameters = [context, *(p.replace(kind=context.kind) for p in own), *extra]
    help_texts = argument_help(stage.function) | {name: text for name, (_, text) in flags.items()}

    @tell_errors
    def body(_: Context, **given: Any) -> None:
        chosen = {name: given.pop(name) for name in flags}
        project.run(stage.name, parameters=given, **chosen)

    body.__name__ = stage.name
    body.__doc__ = description(stage.function)
    body.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    del body.__wrapped__  # type: ignore[attr-defined]
    return Task(body, name=stage.name, help=help_texts, auto_shortflags=False)


def description(function: Callable[..., Any]) -> str:
    """The docstring up to its ``Args:`` section."""
    return (inspect.getdoc(function) or "").partition("\nArgs:")[0].strip()


def argument_help(function: Callable[..., Any]) -> dict[str, str]:
    """Help texts from the ``Args:`` section of a docstring, by parameter name."""
    section = (inspect.getdoc(function) or "").partition("\nArgs:\n")[2]
    texts: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if not line.startswith("    "):
            break
        head, colon, rest = line.strip().partition(": ")
        if colon and line[4] != " ":
            name = head
            texts[name] = rest
        elif name:
            texts[name] += " " + line.strip()
    return texts
