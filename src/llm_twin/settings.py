"""Settings: environment variables with working defaults, read once and passed on.

Nothing here reads a file or creates a folder, so ``Settings.load()`` is free to call from a task.
"""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, get_type_hints

from llm_twin.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


SWITCH = dict.fromkeys(("1", "true", "yes", "on"), True)
SWITCH |= dict.fromkeys(("0", "false", "no", "off"), False)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Each field is set by the environment variable ``TWIN_<FIELD>``.

    Attributes:
        home: the state folder; deleting it loses history, never the ability to run.
        corpus: what ``invoke ct`` trains on when it is not told; empty: this repository.
        profile: how ``invoke ct`` trains when it is not told: a name in ``configs/ct`` or a file.
        checkpoints: where a killed training goes on from; default ``<home>/checkpoints``.
        embedder: ``minilm`` (embedded), ``words`` (none), ``sentence-transformers:MODEL``
            or ``openai:MODEL`` (an OpenAI-compatible endpoint at ``embedder_url``).
        embedder_home: where MiniLM's weights are kept; default ``<home>/embedder``. A folder that
            already holds ``model.safetensors`` and ``tokenizer.json`` is used without a download.
        embedder_url: base URL of the embeddings endpoint, with ``/v1``.
        embedder_key: its key; never printed.
        index_url: empty for the SQLite file inside each bundle, or ``http://host:6333`` (Qdrant).
        index_key: the Qdrant API key; never printed.
        llm: ``""`` (extractive), ``local`` (the trained model) or ``openai``.
        llm_url: base URL of an OpenAI-compatible chat endpoint, with ``/v1``.
        llm_model: the model name sent to it.
        llm_key: its key; never printed.
        llm_timeout: seconds to wait for it.
        max_document_mb: a single document larger than this, in MiB, is refused.
        cache: ``s3://bucket/prefix`` of a stage cache shared with others; empty: the folder only.
        cache_secret: signs what goes into the stage cache and checks what comes out; never printed.
        cache_signed: whether only signed entries count (1, true, yes, on; or 0, false, no, off).
        cache_timeout: seconds a shared cache may take to answer before it is left alone.
        cache_size: what the stage cache may hold here, in MiB.
        aws_region: where the ECR repository and the endpoint are; empty: as boto3 finds it.
        aws_role: ARN of the role that a GitHub job takes on with its identity token.
        aws_assume_role: ARN of a role taken on after that, perhaps in another account.
        registry: host of the registry for images, like
            ``123456789012.dkr.ecr.eu-central-1.amazonaws.com``; empty: one on this machine.
        repository: the images' name in it.
        base_image: what images are built on; empty: what the Dockerfile names.
        build_network: network of the build's steps, like ``host``; empty: the engine's default.
        sagemaker_role: ARN of the role that the endpoint runs as; empty: the one that
            ``aws.bootstrap`` makes.
        sagemaker_endpoint: the endpoint's name; begins with llm-twin.
        sagemaker_instance: type of its machines.
        sagemaker_max_instances: how many there may be under load.
        sagemaker_canary: percent of the traffic that a new version gets first.
        sagemaker_bake: seconds that it is watched before it gets the rest.
        cosign_key: key that images are signed with, as ``cosign sign --key`` takes it; empty: none.
        cosign_keyless: whether they are signed with a GitHub job's identity instead.
        trace: whether the service traces its answers.
        trace_home: the folder of traces; default ``<home>/traces``. One of its own, because a
            container that is deployed here may write to nothing else.
        trace_project: Opik's name for where traces go.
        trace_patterns: more to redact: regular expressions, one a line.
        trace_presidio: language that Presidio is asked in besides, like ``en``; empty: not asked.
        trace_rate: 0..1, the share of traces that is kept.
        trace_slow: seconds; a trace that took longer is kept whatever the share.
        trace_low_score: a trace with a feedback score below it is kept whatever the share.
        trace_grace: seconds during which every trace is kept, so that scores may still arrive.
        trace_days: age in days at which traces are deleted; 0: never.
        trace_mb: size in MiB of the trace store beyond which the oldest are deleted; 0: none.
        trace_key: key that ``traces.serve`` asks of its clients; needed beyond loopback.
        opik_url: API of a real Opik that traces are forwarded to, like
            ``https://www.comet.com/opik/api/``; empty: none.
        opik_key: its API key; never printed.
        opik_workspace: its workspace.
        judge_model: model that scores traced answers through an OpenAI-compatible endpoint;
            empty: none does.
        judge_url: base URL of that endpoint, with ``/v1``.
        judge_key: its key; never printed.
        api_keys: keys, one of which the service asks of its clients, apart by commas; empty: none.
        serve_concurrency: questions answered at a time by one worker; more wait, then get a 429.
        serve_timeout: seconds that one answer may take.
        alert_urls: where alerts go, one ``name=url`` a line, as Apprise writes URLs; the first is
            the default, the next stand in for it, and one with a ``+`` before its name gets
            everything too; empty: ``alerts.log`` and the console alone.
        alert_timeout: seconds that one of them may take to answer.
        alert_dedup: for how long a repeat is only counted, like ``1h``.
        zenml_url: a ZenML server that keeps the history of training for all who name it; needed
            for training elsewhere; empty: a database in the state folder.
        zenml_key: API key of a service account on it; never printed.
        ct_image: what training runs in elsewhere: an image by digest, as ``build-push`` names it.
        ct_bucket: ``s3://bucket/prefix`` for what goes there and comes back.
        ct_role: ARN of the role that a SageMaker training job runs as.
        ct_namespace: Kubernetes namespace of training jobs.
        ct_context: the kubeconfig's name of the cluster.
        ct_service_account: Kubernetes service account that training jobs run as; empty: ZenML
            makes one that may edit the namespace.

    """

    home: Path = Path(".twin")
    corpus: str = ""
    profile: str = "laptop"
    checkpoints: Path | None = None
    embedder: str = "minilm"
    embedder_home: Path | None = None
    embedder_url: str = "https://api.openai.com/v1"
    embedder_key: str = field(default="", repr=False)
    index_url: str = ""
    index_key: str = field(default="", repr=False)
    llm: str = ""
    llm_url: str = "https://api.openai.com/v1"
    llm_model: str = ""
    llm_key: str = field(default="", repr=False)
    llm_timeout: float = 60.0
    max_document_mb: int = 20
    cache: str = ""
    cache_secret: str = field(default="", repr=False)
    cache_signed: bool = False
    cache_timeout: float = 2.0
    cache_size: int = 2048
    aws_region: str = ""
    aws_role: str = ""
    aws_assume_role: str = ""
    registry: str = ""
    repository: str = "llm-twin"
    base_image: str = ""
    build_network: str = ""
    sagemaker_role: str = ""
    sagemaker_endpoint: str = "llm-twin"
    sagemaker_instance: str = "ml.m5.large"
    sagemaker_max_instances: int = 2
    sagemaker_canary: int = 10
    sagemaker_bake: int = 300
    cosign_key: str = ""
    cosign_keyless: bool = False
    trace: bool = True
    trace_home: Path | None = None
    trace_project: str = "llm-twin"
    trace_patterns: str = ""
    trace_presidio: str = ""
    trace_rate: float = 1.0
    trace_slow: float = 10.0
    trace_low_score: float = 0.5
    trace_grace: float = 3600.0
    trace_days: float = 0.0
    trace_mb: int = 0
    trace_key: str = field(default="", repr=False)
    opik_url: str = ""
    opik_key: str = field(default="", repr=False)
    opik_workspace: str = "default"
    judge_model: str = ""
    judge_url: str = "https://api.openai.com/v1"
    judge_key: str = field(default="", repr=False)
    api_keys: str = field(default="", repr=False)
    serve_concurrency: int = 8
    serve_timeout: float = 60.0
    alert_urls: str = field(default="", repr=False)
    alert_timeout: float = 10.0
    alert_dedup: str = "1h"
    zenml_url: str = ""
    zenml_key: str = field(default="", repr=False)
    ct_image: str = ""
    ct_bucket: str = ""
    ct_role: str = ""
    ct_namespace: str = "llm-twin"
    ct_context: str = ""
    ct_service_account: str = ""

    @classmethod
    def load(cls, env: Mapping[str, str] | None = None, root: Path | None = None) -> Settings:
        """Read ``TWIN_*`` variables; a relative home is taken from ``root`` (default: cwd).

        Raises:
            ConfigError: a variable does not parse as its field's type, or cannot be used.

        """
        env = os.environ if env is None else env
        root = Path.cwd() if root is None else root
        hints = get_type_hints(cls)
        values: dict[str, object] = {}
        for item in dataclasses.fields(cls):
            name = f"TWIN_{item.name.upper()}"
            text = env.get(name, "").strip()
            if not text:
                continue
            values[item.name] = _parse(name, text, hints[item.name])
        settings = cls(**values)  # type: ignore[arg-type]
        _check_cache(settings)
        home = (root / settings.home.expanduser()).absolute()
        embedder_home, trace_home = settings.embedder_home, settings.trace_home
        checkpoints = settings.checkpoints
        return dataclasses.replace(
            settings,
            home=home,
            checkpoints=home / "checkpoints"
            if checkpoints is None
            else (root / checkpoints.expanduser()).absolute(),
            embedder_home=home / "embedder"
            if embedder_home is None
            else (root / embedder_home.expanduser()).absolute(),
            trace_home=home / "traces"
            if trace_home is None
            else (root / trace_home.expanduser()).absolute(),
        )

    @property
    def traces(self) -> Path:
        """The folder of traces, also of settings that were not loaded from the environment."""
        return self.trace_home or self.home / "traces"


def _check_cache(settings: Settings) -> None:
    scheme, _, place = settings.cache.rpartition("://")
    if settings.cache and (scheme != "s3" or not re.fullmatch(r"[a-z0-9][a-z0-9.-]+(/.*)?", place)):
        raise ConfigError(
            "TWIN_CACHE is no place for a cache",
            repr(settings.cache),
            "Set it like s3://bucket/prefix or unset it",
        )
    if settings.cache_signed and not settings.cache_secret:
        raise ConfigError("TWIN_CACHE_SIGNED needs a secret", hint="Set TWIN_CACHE_SECRET too")
    if not settings.cache_timeout > 0:
        raise ConfigError(
            "TWIN_CACHE_TIMEOUT is not above zero", settings.cache_timeout, "Unset it"
        )


def _parse(name: str, text: str, kind: object) -> object:
    if kind is bool:
        if text.lower() not in SWITCH:
            raise ConfigError(
                f"{name} is neither on nor off", repr(text), f"Set it like {name}=1 or unset it"
            )
        return SWITCH[text.lower()]
    if kind in (int, float):
        try:
            return float(text) if kind is float else int(text)
        except ValueError:
            raise ConfigError(
                f"{name} is not a number", repr(text), f"Set it like {name}=20 or unset it"
            ) from None
    return text if kind is str else Path(text)
