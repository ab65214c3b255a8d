"""ZenML, embedded and quiet: its environment, its leftovers, its stages.

ZenML costs seconds to import, opens connections for analytics and takes over logging, so it is only
imported inside a training run, after ``prepare``.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llm_twin.errors import TwinError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zenml.models import PipelineRunResponse

    from llm_twin.settings import Settings

MODEL = "llm-twin"
ON_FAILURE = "llm_twin.alerting.hooks.run_failed"
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
            "SAGEMAKER_SUPPRESS_V2_WARNING": "1",
        }
    )
    os.environ.setdefault("ZENML_LOGGING_VERBOSITY", "CRITICAL")
    if settings.zenml_url:
        os.environ["ZENML_STORE_URL"] = settings.zenml_url.rstrip("/")
        if settings.zenml_key:
            os.environ["ZENML_STORE_API_KEY"] = settings.zenml_key


class StoreDead(TwinError):
    """ZenML's database cannot be used."""


@contextlib.contextmanager
def store_errors(settings: Settings) -> Iterator[None]:
    """Say in one line that ZenML's database cannot be used.

    Raises:
        StoreDead: it, or the server that it is kept on, cannot be used.

    """
    try:
        yield
    except TwinError:
        raise
    except Exception as error:
        # Of all that a training run loads, only ZenML uses these two.
        for one in causes(error):
            if type(one).__module__.split(".")[0] in ("sqlalchemy", "requests"):
                raise StoreDead(
                    f"ZenML's database cannot be used ({getattr(one, 'orig', type(one).__name__)})",
                    settings.home / "zenml",
                    "Move that folder away and type: invoke ct. The promoted twin stays",
                ) from error
        raise


def causes(error: BaseException) -> list[BaseException]:
    """An error and all that led to it."""
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found


def use_alerter(settings: Settings) -> None:
    """Put our alerter on ZenML's stack where there are channels; training goes on without."""
    if settings.alert_urls:
        try:
            set_up_alerter(settings)
        except Exception as error:
            print(f"warning: ZenML got no alerter: {type(error).__name__}", file=sys.stderr)


def set_up_alerter(settings: Settings, *, direct: bool | None = None) -> str:
    """Put our alerter on ZenML's active stack; return the stack's name."""
    # Not an import statement: what alerts are made of is no part of the key of training.
    flavor = importlib.import_module("llm_twin.alerting.zenml_flavor")
    return str(flavor.set_up(settings, direct=direct))


def end_dead_runs() -> int:
    """Mark runs that a killed process left running as failed; return how many.

    Only call this while holding the lock that keeps a second training run away. Where a server
    keeps the history, nothing is marked: what runs there may be others', or jobs elsewhere.
    """
    from zenml.client import Client
    from zenml.enums import StoreType

    client = Client()
    if client.zen_store.type == StoreType.REST:
        return 0
    alive = ("running", "initializing", "provisioning")
    dead = [run for state in alive for run in client.list_pipeline_runs(status=state).items]
    for run in dead:
        end_run(run)
    return len(dead)


def end_run(run: PipelineRunResponse) -> None:
    """Mark a run and what is unfinished of it as failed."""
    from zenml.client import Client
    from zenml.enums import ExecutionStatus
    from zenml.models import PipelineRunUpdate, StepRunUpdate

    store = Client().zen_store
    for step in run.steps.values():
        if not step.status.is_finished:
            store.update_run_step(step.id, StepRunUpdate(status=ExecutionStatus.FAILED))
    store.update_run(run.id, PipelineRunUpdate(status=ExecutionStatus.FAILED))


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
