"""Run a flow, or go on with one: bad input is refused before anything is written."""

from __future__ import annotations

import contextlib
import errno
import functools
import json as jsonlib
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Any

from llm_twin.errors import FlowError, NotReadyError, SpaceError
from llm_twin.flow.execution import Execution, RunResult
from llm_twin.flow.graph import order
from llm_twin.flow.locks import claim
from llm_twin.flow.records import new_run_id
from llm_twin.flow.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import IO

    from llm_twin.flow.cache import Cache
    from llm_twin.flow.execution import Planned
    from llm_twin.flow.mask import Masker
    from llm_twin.flow.report import Reporter
    from llm_twin.flow.stage import Registry

__all__ = ["RunResult", "Runner"]

MASKED = "***"


class Runner:
    """Runs flows of one registry on one store."""

    def __init__(
        self,
        registry: Registry,
        root: Path,
        home: Path,
        reporter: Reporter,
        cache: Callable[[], Cache] | None = None,
        jobs: int = 0,
    ) -> None:
        """Prepare; nothing is read or written yet.

        Args:
            registry: the stages there are.
            root: the project root; keys and outputs are relative to it.
            home: the state folder.
            reporter: told about everything.
            cache: opens where outputs are archived; default: a folder in the state folder.
            jobs: how many stages at once; 0: one for each core.

        """
        self.registry = registry
        self.root = root
        self.home = home
        self.reporter = reporter
        self._open_cache = cache
        self.jobs = jobs or len(os.sched_getaffinity(0))

    @functools.cached_property
    def cache(self) -> Cache:
        """Where outputs are archived."""
        if self._open_cache:
            return self._open_cache()
        from llm_twin.flow.cache import Cache

        return Cache(self.home)

    @functools.cached_property
    def masker(self) -> Masker:
        """Masks the secrets that this process knows of."""
        from llm_twin.flow.mask import Masker, declared_secrets

        return Masker(declared_secrets(os.environ))

    def run(
        self,
        *targets: str,
        parameters: dict[str, Any] | None = None,
        force: bool = False,
        run_id: str = "",
    ) -> RunResult:
        """Run the targets and what they need.

        Args:
            targets: stage names.
            parameters: values for the stages' parameters, by name.
            force: do the work even where nothing changed.
            run_id: chosen by the caller, who wants this run at most once.

        Raises:
            UserError: bad input, found before anything was written.

        """
        given = parameters or {}
        plan = self.planned(targets, given)
        for stage, arguments in plan:
            if stage.check:
                stage.check(**arguments)
        with self._open(plan) as (store, stack):
            run_id = run_id or new_run_id()
            private = self._claim(store, stack, plan, run_id)
            if store.recorded(run_id):
                raise FlowError(
                    "a run with this id exists",
                    run_id,
                    f"Go on with it: invoke runs.resume {run_id}",
                )
            options = {"targets": list(targets), "force": force}
            names = [stage.name for stage, _ in plan]
            store.start(
                run_id,
                " ".join(targets),
                self.masker.value(given) if given else {},
                names,
                _source(),
                options,
            )
            return Execution(self, store, run_id, force, private).run(plan)

    def resume(self, run_id: str) -> RunResult:
        """Go on with a run that did not complete: what completed is not done again.

        Raises:
            NotReadyError: there is no such run, or it completed.
            BusyError: it is going on in another process.
            FlowError: its flow has other stages now.

        """
        with self._open([]) as (store, stack):
            run = store.get(run_id)
            if MASKED in jsonlib.dumps(run.parameters):
                raise FlowError(
                    "its parameters held a secret, which is not kept",
                    run.id,
                    f"Start anew: invoke {run.flow}",
                )
            plan = self.planned(run.options.get("targets", run.flow.split()), run.parameters)
            if [stage.name for stage, _ in plan] != [item.stage for item in run.stages]:
                raise FlowError(
                    "the flow has other stages now", run.flow, f"Start anew: invoke {run.flow}"
                )
            private = self._claim(store, stack, plan, run.id)
            run = store.get(run.id)
            if run.state.good:
                raise NotReadyError("this run completed", run.id, f"Start anew: invoke {run.flow}")
            store.restart(run.id)
            execution = Execution(self, store, run.id, bool(run.options.get("force")), private)
            execution.take_over(run.stages)
            return execution.run(plan)

    def planned(self, targets: Sequence[str], given: dict[str, Any]) -> Planned:
        """The stages in order, each with its arguments.

        Raises:
            FlowError: an unknown stage, a circle, a parameter that no stage takes.

        """
        stages = order(self.registry, *targets)
        known = {parameter.name for stage in stages for parameter in stage.parameters}
        for name in given:
            if name not in known:
                raise FlowError(
                    f"no stage of this flow takes a parameter {name}",
                    hint=f"Parameters are: {', '.join(sorted(known)) or 'none'}",
                )
        return [(stage, stage.arguments(given)) for stage in stages]

    @contextlib.contextmanager
    def _open(self, plan: Planned) -> Iterator[tuple[Store, contextlib.ExitStack]]:
        with contextlib.ExitStack() as stack, _no_space_said(self.home):
            store = Store(self.home)
            stack.callback(store.close)
            for run_id in store.reap():
                self.reporter.note(
                    f"run {run_id} had died; go on with it: invoke runs.resume {run_id}"
                )
            yield store, stack

    def _claim(
        self, store: Store, stack: contextlib.ExitStack, plan: Planned, run_id: str
    ) -> list[IO[str]]:
        """Hold the run, and the stages that may run only once at a time."""
        by = f"process {os.getpid()}, since {time.strftime('%H:%M:%S')}, run {run_id}"
        names = [stage.name for stage, _ in plan if stage.single]
        locks = [stack.enter_context(claim(store.home / "locks", name, by)) for name in names]
        return [stack.enter_context(store.hold(run_id)), *locks]


def _source() -> str:
    return "ci" if os.environ.get("CI") else "local"


@contextlib.contextmanager
def _no_space_said(home: Path) -> Iterator[None]:
    """Say in one line that the history could not be kept."""
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EROFS):
            raise
        raise SpaceError(
            f"the run history cannot be written ({error})",
            home,
            "Free space, or type: export TWIN_HOME=/another/folder",
        ) from None
