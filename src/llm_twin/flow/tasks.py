"""Front door for invoke: every stage of a registry as a task, and the commands over the history.

Flags come from the function's signature, their help from its docstring. Whatever is slow to import
is imported when a task runs, so that ``invoke --list`` stays quick.
"""

from __future__ import annotations

import functools
import inspect
import json as jsonlib
import sys
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.exceptions import Exit
from invoke.parser.argument import Argument
from invoke.tasks import Task, task

from llm_twin.errors import NotReadyError, TwinError
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from invoke.context import Context

    from llm_twin.flow.stage import Registry, Stage
    from llm_twin.flow.store import Store


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
    """Return the invoke namespace: a task for each stage, ``runs`` and the given tasks."""
    namespace = Collection()
    for stage in registry:
        namespace.add_task(stage_task(registry, stage, root))
    for item in more:
        namespace.add_task(item)
    runs = Collection("runs")
    runs.add_task(runs_list, name="list", default=True)
    runs.add_task(runs_show, name="show")
    runs.add_task(runs_logs, name="logs")
    namespace.add_collection(runs)
    return namespace


def stage_task(registry: Registry, stage: Stage, root: Path) -> Task[Any]:
    """View a stage as an invoke task; it also takes the parameters of the stages it needs."""
    force = inspect.Parameter("force", inspect.Parameter.KEYWORD_ONLY, default=False)
    context = inspect.Parameter("c", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    own = [p.replace(annotation=inspect.Parameter.empty) for p in stage.parameters]
    parameters = [context, *(p.replace(kind=context.kind) for p in own)]
    help_texts = argument_help(stage.function)
    if stage.cached:
        parameters.append(force.replace(kind=context.kind))
        help_texts["force"] = "run it even if nothing changed"

    @tell_errors
    def body(_: Context, **given: Any) -> None:
        from llm_twin.flow.report import PlainReporter
        from llm_twin.flow.runner import Runner

        runner = Runner(registry, root, Settings.load(root=root).home, PlainReporter())
        forced = given.pop("force", False)
        result = runner.run(stage.name, parameters=given, force=forced)
        if result.exit_code:
            raise Exit(f"error: {result.state.message}", code=result.exit_code)

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


def _open_store() -> Store:
    from llm_twin.flow.store import Store

    home = Settings.load().home
    if not (home / "runs.db").exists():
        raise NotReadyError("no runs are recorded yet", home, "Start one: invoke ct")
    store = Store(home)
    store.reap()
    return store


@task(help={"limit": "how many, newest first", "json": "print JSON"}, auto_shortflags=False)
@tell_errors
def runs_list(c: Context, limit: int = 20, json: bool = False) -> None:
    """List the runs, newest first."""
    from llm_twin.flow.report import run_to_dict, runs_table

    try:
        runs = _open_store().recent(limit)
    except NotReadyError:
        runs = []
    print(jsonlib.dumps([run_to_dict(r) for r in runs], indent=2) if json else runs_table(runs))


@task(help={"run": "its id, or a unique part", "json": "print JSON"}, auto_shortflags=False)
@tell_errors
def runs_show(c: Context, run: str, json: bool = False) -> None:
    """Show one run and its stages."""
    from llm_twin.flow.report import run_details, run_to_dict

    found = _open_store().get(run)
    print(jsonlib.dumps(run_to_dict(found), indent=2) if json else run_details(found))


@task(
    klass=TaskWithOptionalLast,
    help={"run": "its id, or a unique part", "stage": "one stage only", "json": "print JSON"},
    positional=["run", "stage"],
    auto_shortflags=False,
)
@tell_errors
def runs_logs(c: Context, run: str, stage: str | None = None, json: bool = False) -> None:
    """Print what the stages of a run printed."""
    store = _open_store()
    found = store.get(run)
    names = [item.stage for item in found.stages]
    if stage and stage not in names:
        raise NotReadyError(
            f"run {found.id} has no stage {stage}", hint=f"Its stages are: {', '.join(names)}"
        )
    logs = {
        name: path.read_text("utf-8", "replace")
        for name in ([stage] if stage else names)
        if (path := store.log_path(found.id, name)).exists()
    }
    if json:
        print(jsonlib.dumps({"id": found.id, "logs": logs}, indent=2))
        return
    for name, text in logs.items():
        if len(logs) > 1:
            print(f"-- {name}")
        print(text, end="" if text.endswith("\n") else "\n")
    if not logs:
        print(f"run {found.id} printed nothing")
