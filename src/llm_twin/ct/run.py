"""One run of continuous training, from the command line's wishes to a summary a person can read."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_twin.ct import learning, zen
from llm_twin.ct import report as reporting
from llm_twin.ct.summary import summary
from llm_twin.errors import SpaceError, TwinError
from llm_twin.model import curves, feedback
from llm_twin.model.bundles import Bundles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llm_twin.ct.config import CtConfig
    from llm_twin.settings import Settings

LOCAL = "local"
MOST_POINTS = 400
NO_SPACE = ("No space left on device", "disk is full")


def run_ct(config: CtConfig, settings: Settings) -> dict[str, Any]:
    """Run the pipeline, print a summary and return it as plain data.

    Raises:
        TwinError: a step said no; production is what it was.

    """
    started, before = time.monotonic(), cpu_seconds()
    Bundles(settings.home / "models").sweep()
    zen.prepare(settings)
    with workspace(settings.home / "work"):
        report = _pipeline(config, settings)
    report["wall_seconds"] = round(time.monotonic() - started, 1)
    report["cpu_seconds"] = round(cpu_seconds() - before, 1)
    report["peak_mb"] = round(peak_mb())
    report["report"] = _written(report, settings)
    print(summary(report), flush=True)
    return report


def _written(report: dict[str, Any], settings: Settings) -> str:
    """Write the report beside the state; what was promoted stays so if that fails."""
    name = str(report["version"] or report["zenml_run"])
    try:
        page, text = reporting.write(report, settings.home / "reports" / name)
        if place := os.environ.get("GITHUB_STEP_SUMMARY"):
            with Path(place).open("a", encoding="utf-8") as summaries:
                summaries.write(text.read_text(encoding="utf-8"))
    except OSError as error:
        return f"not written: {error.strerror}"
    return str(page)


@contextlib.contextmanager
def workspace(folder: Path) -> Iterator[None]:
    """Keep every temporary file of a run in one folder, emptied before and after.

    Only call this while holding the lock that keeps a second training run away.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    before = tempfile.tempdir
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
        del os.environ["TMPDIR"]
        shutil.rmtree(folder, ignore_errors=True)


def _pipeline(config: CtConfig, settings: Settings) -> dict[str, Any]:
    print("starting ZenML", flush=True)
    # Pausing collection while thousands of classes are made saves a quarter of ZenML's start.
    gc.disable()
    from zenml import Model

    from llm_twin.ct import promotion
    from llm_twin.ct.pipeline import ct

    gc.freeze()
    gc.enable()
    zen.end_dead_runs()
    if config.profile.remote.stack == LOCAL:
        zen.use_alerter(settings)
    served = promotion.served(settings)
    if served:
        zen.reconcile(str(served.manifest["details"].get("zenml", "")))
    version = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}"
    curated = str(feedback.current(settings.home) or "") if config.feedback else ""

    def start(luggage: str, options: dict[str, Any]) -> Any:
        # A job elsewhere has no outbox of its own: whoever follows it raises the alert.
        hook = None if luggage else zen.ON_FAILURE
        run = ct.with_options(model=Model(name=zen.MODEL), on_failure=hook, **options)(
            config.corpus,
            list(config.exclude),
            config.seed,
            config.profile.model_dump(mode="json"),
            version,
            origin(config),
            curated,
            luggage,
        )
        if run is None:
            raise TwinError("ZenML did not start a run", hint="Look at the log: invoke runs")
        return run

    if config.profile.remote.stack != LOCAL:
        return _outcome(_elsewhere(config, settings, version, start), config, version)
    try:
        run = start("", {})
    except Exception as error:
        if any(sign in str(error) for sign in NO_SPACE):
            raise SpaceError(
                "the disk is full", settings.home, "Free some space and type: invoke ct"
            ) from error
        raise
    return _outcome(str(run.id), config, version)


def _elsewhere(
    config: CtConfig, settings: Settings, version: str, start: Callable[..., Any]
) -> str:
    """Run on another machine, take in what it promotes, and return the run's id."""
    from llm_twin.ct import remote

    return remote.run(
        config.corpus,
        config.exclude,
        config.profile,
        settings,
        version,
        start,
        curated=config.feedback,
    ).run


def _outcome(run_id: str, config: CtConfig, version: str) -> dict[str, Any]:
    from zenml.client import Client

    steps = Client().get_pipeline_run(run_id).steps

    def artifact(step: str, name: str) -> Any:
        return steps[step].outputs[name][0].load()

    verdict = artifact("gate", "verdict")
    candidate = artifact("evaluate", "candidate_metrics")
    model = artifact("train", "model")
    data = artifact("dataset", "dataset")
    return {
        "corpus": config.corpus,
        "profile": config.profile.model_dump(mode="json"),
        "collected": artifact("collect", "collected"),
        "cleaned": artifact("clean", "cleaned"),
        "indexed": artifact("index", "indexed"),
        "feedback": data["feedback"],
        "dataset": learning.figures(data),
        "trained": artifact("train", "trained"),
        "curves": _thinned(curves.read(model / curves.FILE)),
        **_without_items(candidate),
        "production": _without_items(artifact("evaluate", "production_metrics")),
        "verdict": verdict,
        "version": version if verdict["promote"] else None,
        "message": f"promoted {version}"
        if verdict["promote"]
        else f"not promoted: {verdict['verdict']}",
        "zenml_run": run_id,
    }


def _thinned(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most some hundred points for the history; evaluations and the last one are all kept."""
    stride = -(-len(points) // MOST_POINTS)
    return [
        point
        for place, point in enumerate(points, 1)
        if place % stride == 0 or place == len(points) or point.get("evaluation") is not None
    ]


def _without_items(metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        group: {key: value for key, value in figures.items() if key != "items"}
        for group, figures in metrics.items()
    }


def origin(config: CtConfig) -> dict[str, str]:
    """Where a bundle comes from: corpus, run, commit."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        check=False,
        capture_output=True,
        text=True,
        cwd=zen.SOURCE_ROOT,
    )
    return {
        "corpus": config.corpus,
        "run": os.environ.get("TWIN_RUN_ID", ""),
        "commit": done.stdout.strip(),
    }


def cpu_seconds() -> float:
    """CPU seconds of this process and the children it waited for."""
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def peak_mb() -> float:
    """Largest resident memory of this process, in MiB."""
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
