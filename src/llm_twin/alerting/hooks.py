"""ZenML hooks that record how a pipeline's run ended, and the words for it.

ZenML calls a pipeline's hooks once a run when the pipeline is dynamic, once a step when it is
static, and never for a static run whose steps were all cached. Here each run makes one event,
whichever it is: name the hooks by their source and ZenML finds them in the installed package::

    @pipeline(on_failure="llm_twin.alerting.hooks.run_failed")
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from llm_twin.alerting.store import record
from llm_twin.errors import TwinError
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

INTERRUPTED = ("KeyboardInterrupt", "RunInterruptedException")


def run_failed(error: BaseException) -> None:
    """Record ``<pipeline>.failed`` for the run that this is called in; not for one cut off."""
    if type(error).__name__ in INTERRUPTED:
        return
    run, _ = _current()
    failed = [name for name, step in _steps(run).items() if str(step.status) == "failed"]
    _tell(run, "failed", ": ".join([*failed[:1], message(error)]))


def run_succeeded() -> None:
    """Record ``<pipeline>.succeeded``, when the last step of a static run is done."""
    run, own = _current()
    if own is None or _is_last(run, own):
        _tell(run, "succeeded", "every step is done")


def run_key(flow: str, run: str, attempt: int = 1) -> str:
    """What makes an end of a run one event, whoever notices it: hook, wrapper or watch."""
    return f"{flow}:{run}:{attempt}"


def message(error: BaseException) -> str:
    """What may be said of an error.

    Only our own errors are made to be read; the texts of others hold parameters, paths and worse,
    so of those only the type is named.
    """
    if isinstance(error, TwinError):
        return f"{error.what}. {error.hint}" if error.hint else error.what
    return f"it raised {type(error).__name__}"


def _current() -> tuple[Any, Any]:
    """The ZenML run that a hook is called in, and the step if it was called for one."""
    from zenml import get_step_context
    from zenml.execution.pipeline.dynamic.run_context import DynamicPipelineRunContext

    if dynamic := DynamicPipelineRunContext.get():
        return dynamic.run, None
    context = get_step_context()
    return context.pipeline_run, context.step_run


def _steps(run: Any) -> Mapping[str, Any]:
    from zenml.client import Client

    steps: Mapping[str, Any] = Client().get_pipeline_run(run.id).steps
    return steps


def _is_last(run: Any, own: Any) -> bool:
    done = {name for name, step in _steps(run).items() if step.status.is_successful}
    return set(run.snapshot.step_configurations) <= done | {own.name}


def _tell(run: Any, end: str, said: str) -> None:
    """Record the end of a run; where nothing empties the outbox, have the alerter send it."""
    from zenml.client import Client

    flow = run.pipeline.name
    alerter: Any = Client().active_stack.alerter
    if getattr(getattr(alerter, "config", None), "direct", False):
        alerter.post(f"{flow} {end}: {run.name}. {said}")
        return
    subject = os.environ.get("TWIN_RUN_ID") or run.name
    attempt = int(os.environ.get("TWIN_ATTEMPT") or 1)
    data = {"run": subject, "zenml_run": run.name, "message": said}
    key = run_key(flow, subject, attempt)
    record(Settings.load().home, f"{flow}.{end}", subject, data, key)
