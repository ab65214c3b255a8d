"""ZenML, embedded and quiet: its environment, its leftovers, its stages.

ZenML costs seconds to import, opens connections for analytics and takes over logging, so it is only
imported inside a training run, after ``prepare``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_twin.settings import Settings

MODEL = "llm-twin"
SOURCE_ROOT = Path(__file__).resolve().parents[2]


def prepare(settings: Settings) -> None:
    """Set the environment that ZenML reads when it is imported.

    State goes to ``<home>/zenml``; nothing is sent anywhere; values a user has set are kept where
    they choose a stack or a store.
    """
    folder = settings.home / "zenml"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(
        {
            "TWIN_HOME": str(settings.home),
            "ZENML_ANALYTICS_OPT_IN": "false",
            "ZENML_AUTO_OPEN_DASHBOARD": "false",
            "ZENML_CONFIG_PATH": str(folder),
            "ZENML_CUSTOM_SOURCE_ROOT": str(SOURCE_ROOT),
            "ZENML_ENABLE_RICH_TRACEBACK": "false",
            "ZENML_LOGGING_COLORS_DISABLED": "true",
            "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
            "TOKENIZERS_PARALLELISM": "false",
        }
    )
    os.environ.setdefault("ZENML_LOGGING_VERBOSITY", "CRITICAL")


def end_dead_runs() -> int:
    """Mark runs that a killed process left running as failed; return how many.

    Only call this while holding the lock that keeps a second training run away.
    """
    from zenml.client import Client
    from zenml.enums import ExecutionStatus
    from zenml.models import PipelineRunUpdate, StepRunUpdate

    client = Client()
    alive = ("running", "initializing", "provisioning")
    dead = [run for state in alive for run in client.list_pipeline_runs(status=state).items]
    for run in dead:
        for step in run.steps.values():
            if not step.status.is_finished:
                client.zen_store.update_run_step(
                    step.id, StepRunUpdate(status=ExecutionStatus.FAILED)
                )
        client.zen_store.update_run(run.id, PipelineRunUpdate(status=ExecutionStatus.FAILED))
    return len(dead)


def set_production(version: str) -> None:
    """Give a model version the stage ``production``; the former one is archived."""
    from zenml.client import Client
    from zenml.enums import ModelStages

    client = Client()
    if version and client.get_model_version(MODEL, version).stage != ModelStages.PRODUCTION:
        client.update_model_version(MODEL, version, stage=ModelStages.PRODUCTION, force=True)


def reconcile(version: str) -> None:
    """Repeat a stage change that a kill between the two switches left out."""
    from zenml.client import Client

    try:
        Client().get_model_version(MODEL, version)
    except KeyError:
        return
    set_production(version)
