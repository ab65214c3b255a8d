"""`invoke ct.report`: the report of a training run that is in the history."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.tasks import task

from llm_twin.errors import NotReadyError, SpaceError
from llm_twin.flow.tasks import TaskWithOptionalLast, tell_errors
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from invoke.context import Context

    from llm_twin.flow.records import Run
    from llm_twin.flow.store import Store

ROOT = Path(__file__).resolve().parents[1]
STAGE = "ct"


@task(
    klass=TaskWithOptionalLast,
    positional=["run"],
    help={
        "run": "id of a run that trained, or how it begins or ends; default: the newest",
        "out": "folder for report.html and report.md; default: the run's logs",
        "markdown": "print the Markdown and write nothing",
    },
    auto_shortflags=False,
)
@tell_errors
def report(c: Context, run: str = "", out: str = "", markdown: bool = False) -> None:
    """Write what a training run did as a page with plots, and as Markdown."""
    from llm_twin.ct import report as reports
    from llm_twin.flow.store import Store

    settings = Settings.load(root=ROOT)
    with closing(Store(settings.home)) as store:
        name, result = found(store, run)
        folder = Path(out).expanduser() if out else store.log_folder(name)
    if markdown:
        print(reports.markdown(result), end="")
        return
    try:
        page, short = reports.write(result, folder)
    except OSError as error:
        raise SpaceError("the report cannot be written", folder, str(error.strerror)) from None
    print(f"Open {page}\nThe same in short: {short}")


def found(store: Store, run: str) -> tuple[str, dict[str, Any]]:
    """The id of a run, and what its training returned.

    Args:
        store: the history of runs.
        run: as ``Store.get`` takes it; empty: the newest run that trained.

    Raises:
        NotReadyError: there is no such run, or it did not get to the end of training.

    """
    if not run:
        newest = store.last_completed(STAGE)
        if newest is None:
            raise NotReadyError("no run has trained yet", store.home, "Type: invoke ct")
        name, result = newest[0], newest[1].result
    else:
        one = store.get(run)
        name, result = one.id, _result(one)
    if not isinstance(result, dict):
        raise NotReadyError("the run did not finish training", name, "See which did: invoke runs")
    return name, result


def _result(run: Run) -> Any:
    return next((stage.result for stage in run.stages if stage.stage == STAGE), None)
