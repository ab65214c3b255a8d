"""`invoke build-push`: from sources to an image that a registry holds, once for the same sources.

The source tag is set last, when the image, its documents and every blob are in the registry: a run
that is killed before that counts as not done, and the next one does it again.
"""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from llm_twin.delivery.engine import find_address
from llm_twin.delivery.reference import Reference, is_loopback
from llm_twin.delivery.registry import open_registry
from llm_twin.delivery.sources import Sources, build_secrets
from llm_twin.errors import ConfigError, NotReadyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from llm_twin.delivery.engine import Engine
    from llm_twin.delivery.registry import Registry
    from llm_twin.settings import Settings

LATEST = "latest"
MAIN = "main"
UNTAGGABLE = re.compile(r"[^A-Za-z0-9_.-]+")

TRAIN = "train"
"""The stage of the Dockerfile that training jobs run in; it is not deployed."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may ask of a build.

    Attributes:
        target: stage of the Dockerfile; empty for its last.
        platform: like ``linux/arm64``; empty for the engine's own.
        pull: look for a newer base image.
        force: build even if the registry has an image of these sources.
        push: whether it goes into the registry.
        create: make the repository in ECR if it is missing.

    """

    target: str = ""
    platform: str = ""
    pull: bool = False
    force: bool = False
    push: bool = True
    create: bool = False


@dataclass
class Delivered:
    """What came of it.

    Attributes:
        source_tag: names the sources.
        reference: the image in the registry, by digest; empty if it was not pushed.
        digest: the registry's.
        image_id: the engine's; empty if nothing was built.
        tags: what the image is called in the registry.
        documents: digests of what is attached to it, by media type.
        size: bytes of its blobs in the registry, compressed.
        seconds: by step.

    """

    source_tag: str
    reference: str = ""
    digest: str = ""
    image_id: str = ""
    tags: list[str] = field(default_factory=list)
    documents: dict[str, str] = field(default_factory=dict)
    size: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """One line for the history."""
        if not self.reference:
            return f"built {self.image_id[7:19]} ({self.source_tag[:16]}), not pushed"
        what = "pushed" if self.image_id else "nothing changed:"
        return f"{what} {self.reference}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {"message": self.message}

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Note how long a step takes."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = round(time.perf_counter() - began, 3)


def build_push(
    settings: Settings, root: Path, options: Options, on_event: Callable[[str], None] = print
) -> Delivered:
    """Build and push what the registry does not have yet; errors as the parts raise them.

    Args:
        settings: registry, repository, base image, and where the twin is.
        root: the checkout.
        options: what the user asked for.
        on_event: told, a line at a time, what a person may want to know meanwhile.

    """
    began = time.perf_counter()
    sources = _find(settings, root, options)
    done = Delivered(sources.tag, seconds={"hash": round(time.perf_counter() - began, 3)})
    if not options.push:
        done.image_id = build_image(settings, sources, on_event, done)
        return done
    host = registry_host(settings)
    registry = open_registry(host, settings)
    ref = Reference.parse(f"{host}/{settings.repository}:{sources.tag}")
    with done.timed("look"):
        digest = None if options.force else registry.head(ref)
        if digest is None:
            _check_repository(ref, settings, options.create)
    if digest is None:
        digest = _deliver(settings, sources, registry, ref, on_event, done)
    done.digest, done.reference = digest, str(ref.pinned(digest))
    with done.timed("tags"):
        done.tags = [ref.tag, *_move_tags(registry, ref.pinned(digest), sources)]
    if options.target != TRAIN:
        _remember(settings.home, done)
    return done


def build_image(
    settings: Settings,
    sources: Sources,
    on_event: Callable[[str], None] = print,
    done: Delivered | None = None,
    cache_from: tuple[str, ...] = (),
) -> str:
    """Build the image and leave it in the engine; its id there."""
    from llm_twin.delivery.buildkit import Recipe, build
    from llm_twin.delivery.engine import find_engine
    from llm_twin.delivery.progress import PlainView
    from llm_twin.delivery.smoke_question import find_question

    done = done or Delivered(sources.tag)
    with done.timed("question"):
        question, citation = find_question(sources.bundle, settings)
    recipe = Recipe(
        tags=(f"{settings.repository}:{sources.tag}",),
        target=sources.target,
        platform=sources.platform,
        build_args={"BASE": sources.base},
        labels={
            **sources.labels,
            "llm-twin.smoke-question": question,
            "llm-twin.smoke-citation": citation,
        },
        network=settings.build_network,
        cache_from=cache_from,
    )
    with done.timed("build"), PlainView(_Lines(on_event)) as view:  # type: ignore[arg-type]
        built = build(
            find_engine(),
            sources.context(),
            recipe,
            secrets=build_secrets(),
            credentials=_logins(settings, sources.base, *cache_from),
            on_event=view,
        )
    done.image_id = built.image_id
    return built.image_id


def last_pushed(settings: Settings) -> str:
    """The image that ``build-push`` delivered last, by digest.

    Raises:
        NotReadyError: there is none.

    """
    path = _memory(settings.home)
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["reference"])
    except (OSError, ValueError, KeyError, TypeError):
        raise NotReadyError("Nothing was pushed yet", path, "Type: invoke build-push") from None


def registry_host(settings: Settings) -> str:
    """The registry of the settings, or the local one, which is started if it does not run."""
    if settings.registry:
        return settings.registry
    from llm_twin.delivery.local_registry import registry_status, registry_up

    address = registry_status(settings.home) or registry_up(settings.home, engine_or_none())
    return address.removeprefix("http://")


def _logins(settings: Settings, *images: str) -> dict[str, tuple[str, str]]:
    """User and password for the registries of images that the build may fetch, where ECR has one.

    The engine asks for any other login itself, when it needs it.
    """
    from llm_twin.delivery.ecr import is_ecr

    hosts = {Reference.parse(image).host for image in images}
    found = {
        host: open_registry(host, settings).connection.credentials()
        for host in hosts
        if is_ecr(host)
    }
    return {host: (one.username, one.password) for host, one in found.items() if one}


def _find(settings: Settings, root: Path, options: Options) -> Sources:
    return Sources.find(
        root,
        settings,
        find_address(),
        target=options.target,
        platform=options.platform,
        pull=options.pull,
    )


def _check_repository(ref: Reference, settings: Settings, create: bool) -> None:
    """Find out, or see to it, that the image will be taken, before it is built."""
    from llm_twin.delivery.ecr import Ecr, is_ecr

    if is_ecr(ref.host):
        Ecr.open(ref.host, settings).ensure_repository(ref.name, create=create)
    elif create:
        raise ConfigError("Only ECR wants its repositories made", ref.host, "Leave --create out")


def _deliver(
    settings: Settings,
    sources: Sources,
    registry: Registry,
    ref: Reference,
    on_event: Callable[[str], None],
    done: Delivered,
) -> str:
    """Build, push under a tag that may move, attach what belongs to it, and set the source tag."""
    from llm_twin.delivery.engine import find_engine
    from llm_twin.delivery.push import push

    began = datetime.now(UTC)
    moving = ref.tagged(moving_tags(sources, is_loopback(ref.host))[0])
    latest = ref.tagged(LATEST)
    # The engine of a laptop remembers; that of a CI job begins with nothing.
    cached = not is_loopback(ref.host) and registry.head(latest)
    build_image(settings, sources, on_event, done, (str(latest),) if cached else ())
    engine = find_engine()
    with done.timed("push"):
        digest = push(engine, done.image_id, moving, registry, on_event)
    with done.timed("documents"):
        done.documents = describe(
            settings, engine, done.image_id, sources, registry, ref.pinned(digest), began
        )
    with done.timed("verify"):
        registry.retag(ref.pinned(digest), ref.tag)
        done.size = registry.verify(ref, digest)
    return digest


def describe(
    settings: Settings,
    engine: Engine,
    image: str,
    sources: Sources,
    registry: Registry,
    ref: Reference,
    began: datetime,
) -> dict[str, str]:
    """Attach the parts list and the provenance to a pushed image, and sign if that is set up.

    Returns: the digests of the documents, by media type.

    """
    from llm_twin.delivery import provenance, sbom
    from llm_twin.delivery.cosign import find_signer
    from llm_twin.delivery.supply_chain import attach_documents

    signer = find_signer(settings.cosign_key, settings.cosign_keyless, os.environ)
    origin = provenance.Provenance(
        name=ref.repository,
        digest=ref.digest,
        source_tag=sources.tag,
        commit=sources.commit.sha,
        dirty=sources.commit.dirty,
        base=sources.base,
        base_digest=sources.base_digest,
        model_version=sources.bundle.version,
        dataset_digest=sources.dataset,
        gate=sources.gate,
        target=sources.target,
        platform=sources.platform or "{Os}/{Architecture}".format(**engine.image(image)),
        build_args={"BASE": sources.base},
        started=began.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        **provenance.origin(os.environ),
    )
    parts = sbom.make(engine, image, ref)
    documents = attach_documents(registry, ref, parts, origin.document())
    if signer:
        signer.sign(registry, [ref, *(ref.pinned(digest) for digest in documents.values())])
    return documents


def moving_tags(sources: Sources, local: bool) -> list[str]:
    """The tags that point to the newest image of their kind, that of the commit first.

    ``latest`` is what main is, except in a registry of this machine, where it is what came last.
    An image for a chosen platform or of another target gets names of its own, and no ``latest``.
    """
    commit = sources.commit
    kind = "".join(f"-{part}" for part in (sources.target, sources.platform) if part)
    names = [f"git-{commit.sha[:12]}" + ("-dirty" if commit.dirty else "")]
    if commit.branch:
        names.append(f"branch-{commit.branch}")
    tags = [UNTAGGABLE.sub("-", f"{name}{kind}")[:128] for name in names]
    if not kind and (local or (commit.branch == MAIN and not commit.dirty)):
        tags.append(LATEST)
    return tags


def _move_tags(registry: Registry, image: Reference, sources: Sources) -> list[str]:
    tags = moving_tags(sources, is_loopback(image.host))
    for tag in tags:
        if registry.head(image.tagged(tag)) != image.digest:
            registry.retag(image, tag)
    return tags


def _remember(home: Path, done: Delivered) -> None:
    path = _memory(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    from llm_twin.model import durable

    durable.write_json(path, {"reference": done.reference, "source_tag": done.source_tag})


def _memory(home: Path) -> Path:
    return home / "delivery" / "pushed.json"


def engine_or_none() -> Engine | None:
    """The engine, or None where there is none that can be used."""
    from llm_twin.delivery.engine import find_engine

    try:
        return find_engine()
    except (NotReadyError, ConfigError):
        return None


class _Lines:
    """A stream of whole lines for a view, each handed on as it is written."""

    def __init__(self, on_event: Callable[[str], None]) -> None:
        self._on_event = on_event

    def write(self, text: str) -> None:
        self._on_event(text.rstrip("\n"))

    def flush(self) -> None:
        """Nothing is kept back."""
