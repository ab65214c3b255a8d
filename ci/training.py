"""Continuous training as a stage: `invoke ct`."""

from __future__ import annotations

import contextlib
import importlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_twin.errors import TwinError
from llm_twin.flow import stage
from llm_twin.flow.context import context
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llm_twin.ct.config import CtConfig

ROOT = Path(__file__).resolve().parents[1]
NOT_DOCUMENTATION = ("src/*.md", "src/*.txt", "benchmarks/*")


def check(corpus: str, exclude: str, budget: str, feedback: bool, **_: Any) -> None:
    """Find what is wrong with the input before anything is written."""
    from llm_twin.ct.preflight import preflight

    preflight(config_of(corpus, exclude, budget, feedback), Settings.load(root=ROOT))


def corpus_files(corpus: str, exclude: str, budget: str, feedback: bool, **_: Any) -> list[Path]:
    """The files of the corpus and of curated feedback, as inputs of the key."""
    from llm_twin.ct.preflight import corpus_files as files

    return files(config_of(corpus, exclude, budget, feedback), Settings.load(root=ROOT))


def corpus_revision(corpus: str, exclude: str, budget: str, **_: Any) -> dict[str, str]:
    """What a remote corpus stands at, as a part of the key."""
    from llm_twin.ct.preflight import corpus_revision as revision

    return revision(config_of(corpus, exclude, budget), Settings.load(root=ROOT))


def production() -> list[Path]:
    """The promoted bundle and every file that its manifest lists."""
    from llm_twin.model.bundles import production_files

    return production_files(Settings.load(root=ROOT).home / "models")


def config_of(corpus: str, exclude: str, budget: str, feedback: bool = True) -> CtConfig:
    """What a command line asks training for; without a corpus, this repository's documentation."""
    from llm_twin.ct.config import CtConfig

    chosen, unwanted = corpus or Settings.load(root=ROOT).corpus, exclude
    if not chosen:
        chosen, unwanted = str(ROOT), ",".join([exclude, *NOT_DOCUMENTATION])
    return replace(CtConfig.of(chosen, unwanted, budget), feedback=feedback)


@stage(
    cached=True,
    single=True,
    check=check,
    find_inputs=corpus_files,
    facts=corpus_revision,
    kept=production,
    env=["TWIN_CORPUS", "TWIN_EMBEDDER", "TWIN_EMBEDDER_URL", "TWIN_INDEX_URL"],
)
def ct(
    corpus: str = "", exclude: str = "", budget: str = "60s", seed: int = 0, feedback: bool = True
) -> dict[str, Any]:
    """Train a twin on a corpus, evaluate it, and promote it if the gate lets it through.

    Args:
        corpus: folder, file, Git URL, feed or export; default: this repository's own documentation.
        exclude: patterns of files to leave out, separated by commas.
        budget: CPU time for training, like 60s or 2m.
        seed: of everything random.
        feedback: learn from what `invoke curate` made of readers' corrections.
    """
    from llm_twin.ct.run import run_ct

    settings = Settings.load(root=ROOT)
    config = config_of(corpus, exclude, budget, feedback).with_seed(seed)
    with telling_of_failure(settings, corpus=corpus, exclude=exclude):
        report = run_ct(config, settings)
    tell_verdict(report, settings)
    try:
        record_evaluation(report, settings)
    except TwinError as error:
        print(f"the evaluation was not recorded: {error}")
    return report


@contextlib.contextmanager
def telling_of_failure(settings: Settings, **parameters: str) -> Iterator[None]:
    """Record what ends a training run, ZenML's own failures included, of which no hook hears.

    Args:
        settings: whose state folder the alerts are kept in.
        parameters: of the run: taken out of what is told.
    """
    from llm_twin.ct import zen

    # Not import statements, here and below: what alerts are made of is no part of this stage's key.
    hooks = importlib.import_module("llm_twin.alerting.hooks")
    here = context()
    os.environ["TWIN_ATTEMPT"] = str(here.attempt)
    try:
        with zen.store_errors(settings):
            yield
    except Exception as error:
        kind = "zenml.dead" if isinstance(error, zen.StoreDead) else "ct.failed"
        said = {"run": here.run, "message": hooks.message(error), "parameters": parameters}
        key = hooks.run_key("ct", here.run, here.attempt) if here.run else ""
        hooks.record(settings.home, kind, here.run, said, key)
        send_alerts(settings)
        raise


def tell_verdict(report: dict[str, Any], settings: Settings) -> None:
    """Record that the candidate was promoted, or that the gate refused it."""
    store = importlib.import_module("llm_twin.alerting.store")
    run, verdict = context().run, report["verdict"]
    promoted = report["version"]
    kind, subject = ("model.promoted", promoted) if promoted else ("gate.refused", run)
    said = {
        "run": run,
        "verdict": verdict["verdict"],
        "message": "; ".join([verdict["verdict"], *verdict["reasons"]]),
    }
    key = f"gate:{run}:{context().attempt}" if run else ""
    store.record(settings.home, kind, subject, said, key)
    send_alerts(settings)


def send_alerts(settings: Settings) -> None:
    """Send what there is to say, where channels are named and nobody watches."""
    if settings.alert_urls:
        importlib.import_module("ci.alert_sources").look(settings)


def record_evaluation(report: dict[str, Any], settings: Settings) -> None:
    """Keep what the candidate made of each withheld question as an experiment in Opik."""
    from zenml.client import Client

    # Not an import statement: all of tracing would become a part of this stage's key.
    experiment = importlib.import_module("llm_twin.tracing.experiment")
    evaluated = Client().get_pipeline_run(report["zenml_run"]).steps["evaluate"]
    asked = evaluated.outputs["candidate_metrics"][0].load()["retrieval"]["items"]
    experiment.record(
        settings,
        "withheld questions",
        report["version"] or f"not promoted {report['zenml_run']}",
        [experiment.Item.of_retrieval(**item) for item in asked],
        {"corpus": report["corpus"], "gate": report["verdict"]["verdict"]},
        {
            "bits_per_character": report["language"]["bits_per_character"],
            **{name: report["retrieval"][name] for name in ("hit@1", "hit@5", "mrr")},
        },
    )
