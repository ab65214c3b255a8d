"""What a job elsewhere is sent: its luggage, once, and how ZenML is to run it.

None of it is a secret: keys that a job may need are kept by ZenML, which hands them to the job when
it has started.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_twin.ct import luggage
from llm_twin.model.profile import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llm_twin.model.profile import Profile
    from llm_twin.settings import Settings

LUGGAGE = "llm-twin-luggage"
KEYS = "llm_twin_ct_keys"
CHECKPOINTS = "/opt/ml/checkpoints"
SENT = ("embedder", "embedder_url", "llm_url", "judge_url", "judge_model", "max_document_mb")
SECRET = ("embedder_key", "llm_key", "judge_key")
DAY = 86400
TICK = 10.0


def say(text: str) -> None:
    """Print a line of progress at once."""
    print(f"  {text}", flush=True)


def send(
    corpus: str,
    exclude: Sequence[str],
    profile: Profile,
    settings: Settings,
    *,
    curated: bool = True,
) -> str:
    """Pack the luggage and upload it, unless the same is there; return its id at ZenML."""
    from zenml import save_artifact
    from zenml.client import Client

    with tempfile.TemporaryDirectory(prefix="llm-twin-luggage-") as name:
        folder = Path(name)
        paths = luggage.paths_of(profile)
        digest = luggage.pack(
            folder, corpus, settings, exclude=exclude, paths=paths, curated=curated
        )
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        told = f"luggage {digest[:12]}: {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB"
        store = Client().active_stack.artifact_store
        with contextlib.suppress(KeyError):
            there = Client().get_artifact_version(LUGGAGE, digest)
            if there.uri.startswith(store.path) and store.exists(there.uri):
                say(f"{told}, is at {store.path} already")
                return str(there.id)
            digest = f"{digest}-{os.urandom(4).hex()}"
        say(f"{told}, goes to {store.path}")
        with ticking("still uploading"):
            saved = save_artifact(
                folder, LUGGAGE, digest, extract_metadata=False, include_visualizations=False
            )
        return str(saved.id)


@contextlib.contextmanager
def ticking(text: str) -> Iterator[None]:
    """Say every ten seconds that something goes on."""
    done, started = threading.Event(), time.monotonic()

    def tick() -> None:
        while not done.wait(TICK):
            say(f"{text} ({time.monotonic() - started:.0f} s)")

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def options(profile: Profile, settings: Settings, version: str) -> dict[str, Any]:
    """What ``with_options`` is given so that a pipeline runs on the profile's stack."""
    from zenml.config import DockerSettings

    remote = profile.remote
    image = DockerSettings(skip_build=True, parent_image=settings.ct_image)
    make = {"sagemaker": _on_sagemaker, "kubernetes": _on_kubernetes}[remote.stack]
    return {
        "settings": {"docker": image, "orchestrator": make(profile, settings)},
        "environment": _environment(settings, remote.stack),
        "secrets": _keys(settings),
        "extra": {"llm_twin": {"remote": remote.model_dump(), "version": version}},
    }


def _on_sagemaker(profile: Profile, settings: Settings) -> Any:
    from zenml.integrations.aws.flavors.sagemaker_orchestrator_flavor import (
        SagemakerOrchestratorSettings,
    )

    return SagemakerOrchestratorSettings.model_validate(
        {
            "synchronous": False,
            "instance_type": profile.remote.instance,
            "max_runtime_in_seconds": int(seconds(profile.remote.time)),
            # Else the machine is kept, and paid, for five minutes more.
            "keep_alive_period_in_seconds": None,
            "tags": {"llm-twin": profile.name},
            "estimator_args": {
                "checkpoint_s3_uri": f"{settings.ct_bucket.rstrip('/')}/checkpoints/{profile.name}",
                "checkpoint_local_path": CHECKPOINTS,
                "disable_profiler": True,
                "enable_sagemaker_metrics": False,
            },
        }
    )


def _on_kubernetes(profile: Profile, settings: Settings) -> Any:
    from zenml.integrations.kubernetes.flavors import KubernetesOrchestratorSettings
    from zenml.integrations.kubernetes.pod_settings import KubernetesPodSettings

    gpus = profile.remote.gpus
    return KubernetesOrchestratorSettings(
        synchronous=False,
        service_account_name=settings.ct_service_account or None,
        active_deadline_seconds=int(seconds(profile.remote.time) + seconds(profile.remote.start)),
        orchestrator_job_backoff_limit=0,
        ttl_seconds_after_finished=DAY,
        orchestrator_pod_settings=KubernetesPodSettings(
            resources={"limits": {"nvidia.com/gpu": str(gpus)}} if gpus else {}
        ),
    )


def _environment(settings: Settings, stack: str) -> dict[str, str]:
    """Settings that the job shares; none of them is a secret."""
    shared = {f"TWIN_{name.upper()}": str(getattr(settings, name)) for name in SENT}
    found = {name: value for name, value in shared.items() if value}
    if stack == "sagemaker":
        found["TWIN_CHECKPOINTS"] = CHECKPOINTS
    return {**found, "TWIN_REMOTE": "1"}


def _keys(settings: Settings) -> list[str]:
    """Have ZenML keep the keys that a job may need; it asks for them when it has started."""
    from zenml.client import Client

    keys = {f"TWIN_{name.upper()}": getattr(settings, name) for name in SECRET}
    keys["HF_TOKEN"] = os.environ.get("HF_TOKEN", "")
    keys = {name: value for name, value in keys.items() if value}
    if not keys:
        return []
    try:
        kept = Client().get_secret(KEYS).secret_values
    except KeyError:
        Client().create_secret(KEYS, values=keys)
    else:
        if kept != keys:
            gone = [name for name in kept if name not in keys]
            Client().update_secret(KEYS, add_or_update_values=keys, remove_values=gone)
    return [KEYS]
