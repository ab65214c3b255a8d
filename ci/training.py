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
PROFILES = ROOT / "configs" / "ct"
NOT_DOCUMENTATION = ("src/*.md", "src/*.txt", "benchmarks/*")


def check(**asked: Any) -> None:
    """Find what is wrong with the input before anything is written."""
    from llm_twin.ct.preflight import preflight

    preflight(config_of(**_told(asked)), Settings.load(root=ROOT))


def input_files(**asked: Any) -> list[Path]:
    """The files of the corpus, of curated feedback and of the profile, as inputs of the key."""
    from llm_twin.ct.preflight import corpus_files, profile_files
    from llm_twin.model.profile import files

    config, settings = config_of(**_told(asked)), Settings.load(root=ROOT)
    said = files(profile_path(asked["profile"]))
    return [*said, *profile_files(config), *corpus_files(config, settings)]


def corpus_revision(**asked: Any) -> dict[str, str]:
    """What a remote corpus stands at, as a part of the key."""
    from llm_twin.ct.preflight import corpus_revision as revision

    return revision(config_of(**_told(asked)), Settings.load(root=ROOT))


def _told(asked: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in asked.items() if name != "seed"}


def production() -> list[Path]:
    """The promoted bundle and every file that its manifest lists."""
    from llm_twin.model.bundles import production_files

    return production_files(Settings.load(root=ROOT).home / "models")


def profile_path(name: str) -> Path:
    """The file of a profile; without a name, the one that is set."""
    from llm_twin.model.profile import find

    return find(name or Settings.load(root=ROOT).profile, PROFILES)


def config_of(
    corpus: str,
    exclude: str = "",
    budget: str = "",
    feedback: bool = True,
    profile: str = "",
    stack: str = "",
) -> CtConfig:
    """What a command line asks training for; without a corpus, this repository's documentation.

    Raises:
        ConfigError: there is no such profile, it is not right, or the budget or stack is none.

    """
    from llm_twin.ct.config import CtConfig
    from llm_twin.model.profile import load

    chosen, unwanted = corpus or Settings.load(root=ROOT).corpus, exclude
    if not chosen:
        chosen, unwanted = str(ROOT), ",".join([exclude, *NOT_DOCUMENTATION])
    said = load(profile_path(profile)).with_budget(budget).with_stack(stack)
    return replace(CtConfig.of(chosen, unwanted, said), feedback=feedback)


@stage(
    cached=True,
    single=True,
    check=check,
    find_inputs=input_files,
    facts=corpus_revision,
    kept=production,
    env=["TWIN_CORPUS", "TWIN_PROFILE", "TWIN_EMBEDDER", "TWIN_EMBEDDER_URL", "TWIN_INDEX_URL"],
)
def ct(
    corpus: str = "", exclude: str = "", budget: str = "", seed: int = 0, feedback: bool = True,
    profile: str = "", stack: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Train a twin on a corpus, evaluate it, and promote it if the gate lets it through.

    Args:
        corpus: folder, file, Git URL, feed or export; default: this repository's own documentation.
        exclude: patterns of files to leave out, separated by commas.
        budget: another limit than the profile's: a time like 60s or 2m, or tokens like 300ktok.
        seed: of everything random.
        feedback: learn from what `invoke curate` made of readers' corrections.
        profile: name in configs/ct or a .yaml file; default: laptop. See `invoke ct.profiles`.
        stack: where it runs instead of where the profile says: local, sagemaker or kubernetes.
    """
    from llm_twin.ct.run import run_ct

    settings = Settings.load(root=ROOT)
    config = config_of(corpus, exclude, budget, feedback, profile, stack).with_seed(seed)
    # Not import statements: what connects and what counts the cost is no part of this stage's key.
    if config.profile.remote.stack != "local":
        settings = importlib.import_module("ci.stacks").connected()
    due = importlib.import_module("llm_twin.loop.due")
    plan = due.Plan.of(config.profile)
    with (
        telling_of_failure(settings, corpus=corpus, exclude=exclude),
        due.counted(settings, context().run, corpus, profile, plan) as note,
    ):
        report = run_ct(config, settings)
        note(report)
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
