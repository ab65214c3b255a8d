"""ZenML stacks made of settings: where a training run computes, and where what it makes is kept.

Registering is repeated at will: it makes what is missing and changes what differs. No credentials
are stored; ZenML finds AWS's and the cluster's as their own tools do, on both sides.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, Any

from llm_twin.ct import zen
from llm_twin.errors import ConfigError
from llm_twin.model import durable

if TYPE_CHECKING:
    from uuid import UUID

    from llm_twin.settings import Settings

KINDS = ("local", "sagemaker", "kubernetes")
NEEDED = {
    "zenml_url": "a ZenML server: jobs elsewhere report to it",
    "zenml_key": "the API key of a service account on it",
    "ct_image": "what the job runs in: invoke build-push --target train prints it",
    "ct_bucket": "s3://bucket/prefix for what goes there and comes back",
    "ct_role": "ARN of the role that the job runs as: docs/how-to/remote-training.md",
    "ct_context": "the cluster's name in the kubeconfig: kubectl config get-contexts",
    "aws_region": "where the job runs, like eu-central-1",
}
NEEDS = {
    "local": (),
    "sagemaker": ("zenml_url", "zenml_key", "ct_image", "ct_bucket", "ct_role", "aws_region"),
    "kubernetes": ("zenml_url", "zenml_key", "ct_image", "ct_bucket", "ct_context"),
}
SHAPES = {
    "zenml_url": (r"https?://\S+", "is no address of a server"),
    "ct_image": (r"[^\s@]+@sha256:[0-9a-f]{64}", "names no image by its digest"),
    "ct_bucket": (r"s3://[a-z0-9][a-z0-9.-]+(/\S*)?", "is no s3://bucket/prefix"),
    "ct_role": (r"arn:aws[\w-]*:iam::\d{12}:role/\S+", "is no role's ARN"),
}


def name_of(kind: str) -> str:
    """The stack's name at ZenML."""
    return f"llm-twin-{kind}"


def region_of(settings: Settings) -> str:
    """The AWS region of the settings, or of the environment as AWS's tools read it."""
    environment = (os.environ.get(name, "") for name in ("AWS_REGION", "AWS_DEFAULT_REGION"))
    return settings.aws_region or next(filter(None, environment), "")


def check(kind: str, settings: Settings) -> None:
    """Say everything at once that is missing for a stack, or not of its shape.

    Raises:
        ConfigError: there is no such stack, or a setting is missing or wrong.

    """
    if kind not in KINDS:
        raise ConfigError("there is no such stack", repr(kind), f"Use {', '.join(KINDS)}")
    known = {name: getattr(settings, name) for name in NEEDED}
    known["aws_region"] = region_of(settings)
    missing = [f"TWIN_{name.upper()} ({NEEDED[name]})" for name in NEEDS[kind] if not known[name]]
    if missing:
        raise ConfigError(
            f"the stack {kind} needs more settings", "; ".join(missing), "Set them and try again"
        )
    for name, (shape, wrong) in SHAPES.items():
        if known[name] and not re.fullmatch(shape, known[name]):
            raise ConfigError(f"TWIN_{name.upper()} {wrong}", repr(known[name]), NEEDED[name])
    if kind != "local" and settings.index_url:
        raise ConfigError(
            "an index on a server is not made from another machine",
            "TWIN_INDEX_URL",
            "Unset it, or use the stack local",
        )


def register(kind: str, settings: Settings) -> str:
    """Make a stack as the settings say, or bring it up to them; return its name.

    Only call this after ``zen.prepare``. It asks nothing and changes no active stack but that of
    this process.

    Raises:
        ConfigError: a setting is missing or wrong; nothing was made.

    """
    check(kind, settings)
    if kind == "sagemaker":
        _quiet(settings)
    from zenml.client import Client
    from zenml.enums import StackComponentType

    client, name = Client(), name_of(kind)
    parts = {
        StackComponentType(part): _component(client, part, own, flavor, wanted)
        for part, own, flavor, wanted in _parts(kind, settings)
    }
    try:
        stack = client.get_stack(name, allow_name_prefix_match=False)
    except KeyError:
        stack = client.create_stack(name, dict(parts))
    if any([one.id for one in stack.components.get(part, ())] != [id]
           for part, id in parts.items()):  # fmt: skip
        stack = client.update_stack(
            stack.id, component_updates={part: [id] for part, id in parts.items()}
        )
    os.environ["ZENML_ACTIVE_STACK_ID"] = str(stack.id)
    if settings.alert_urls:
        # A job elsewhere has no outbox of ours; a local stack leaves it as it is.
        zen.set_up_alerter(settings, direct=True if kind != "local" else None)
    return name


def registered() -> list[str]:
    """Names of the stacks that were made here or by others on the same server."""
    from zenml.client import Client

    held = {stack.name for stack in Client().list_stacks(size=1000).items}
    return [name_of(kind) for kind in KINDS if name_of(kind) in held]


def parts_of(name: str) -> list[str]:
    """What a stack is made of, a line each; secrets are at ZenML and not in it."""
    from zenml.client import Client

    stack = Client().get_stack(name, allow_name_prefix_match=False)
    lines = []
    for part, (found, *_) in stack.components.items():
        told = ", ".join(f"{key}={value}" for key, value in found.configuration.items())
        lines.append(f"{part.value}: {found.name} ({found.flavor_name}) {told}".rstrip())
    return lines


def _quiet(settings: Settings) -> None:
    """Keep SageMaker's SDK from reporting what is done with it, and from saying so."""
    import logging

    said = {"SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}}
    path = settings.home / "zenml" / "sagemaker.yaml"
    durable.write_json(path, {"SchemaVersion": "1.0", **said})
    os.environ.setdefault("SAGEMAKER_USER_CONFIG_OVERRIDE", str(path))
    logging.getLogger("sagemaker.config").setLevel(logging.WARNING)


def _component(client: Any, part: str, name: str, flavor: str, wanted: dict[str, Any]) -> UUID:
    from zenml.enums import StackComponentType

    kind = StackComponentType(part)
    try:
        found = client.get_stack_component(kind, name, allow_name_prefix_match=False)
    except KeyError:
        found = client.create_stack_component(name, flavor, kind, configuration=wanted)
    differs = {key: None for key in found.configuration if key not in wanted}
    differs |= {
        key: value for key, value in wanted.items() if found.configuration.get(key) != value
    }
    if differs:
        found = client.update_stack_component(name, kind, configuration=differs)
    found_id: UUID = found.id
    return found_id


def _parts(kind: str, settings: Settings) -> list[tuple[str, str, str, dict[str, Any]]]:
    """What the stack is made of: part, name, flavor, configuration."""
    name = name_of(kind)
    store: tuple[str, str, str, dict[str, Any]] = ("artifact_store", "default", "local", {})
    if settings.ct_bucket:
        store = ("artifact_store", *_bucket(settings))
    if kind == "local":
        return [store, ("orchestrator", "default", "local", {})]
    host = settings.ct_image.partition("/")[0]
    return [
        store,
        # Nothing is built or pushed through it, so ECR needs no flavor of its own.
        ("container_registry", name, "default", {"uri": host}),
        ("image_builder", name, "local", {}),
        ("orchestrator", name, kind, _orchestrator(kind, settings)),
    ]


def _bucket(settings: Settings) -> tuple[str, str, dict[str, Any]]:
    """ZenML lets no store move, because paths in it are kept; so each place has its own."""
    path = settings.ct_bucket.rstrip("/")
    region = region_of(settings)
    name = f"llm-twin-{hashlib.sha256(path.encode()).hexdigest()[:8]}"
    return (
        name,
        "s3",
        {"path": path, **({"client_kwargs": {"region_name": region}} if region else {})},
    )


def _orchestrator(kind: str, settings: Settings) -> dict[str, Any]:
    if kind == "sagemaker":
        return {
            "execution_role": settings.ct_role,
            "region": region_of(settings),
            "bucket": settings.ct_bucket.removeprefix("s3://").partition("/")[0],
            "synchronous": False,
        }
    return {
        "kubernetes_context": settings.ct_context,
        "kubernetes_namespace": settings.ct_namespace,
        "pass_zenml_token_as_secret": True,
        "synchronous": False,
    }
