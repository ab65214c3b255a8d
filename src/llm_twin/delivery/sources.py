"""What an image is made of: this repository's files, the promoted twin, and a base image.

All of it goes into one tag, so that the same sources are never built twice, on any machine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_twin.delivery.context import context_tar, source_tag
from llm_twin.delivery.reference import Reference
from llm_twin.delivery.registry import open_registry
from llm_twin.errors import ConfigError, NotReadyError, TwinError
from llm_twin.model.bundles import MANIFEST, Bundle, Bundles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llm_twin.delivery.engine import Address
    from llm_twin.settings import Settings

DOCKERFILE = "Dockerfile"
EMBEDDER_FILES = ("manifest.json", "model-int8.onnx", "tokenizer.json")
BASE = re.compile(r"^ARG BASE=(\S+)", re.MULTILINE)
SECRET_FILES = {"pip": "PIP_CONFIG_FILE", "uv": "UV_CONFIG_FILE"}
"""Build secrets by id, and the variables of pip and uv that name the files."""


@dataclass(frozen=True)
class Commit:
    """Where the checkout stands.

    Attributes:
        sha: of the commit; ``unknown`` outside Git.
        branch: its name; empty on none.
        dirty: whether a tracked file differs from the commit.

    """

    sha: str = "unknown"
    branch: str = ""
    dirty: bool = False

    @classmethod
    def of(cls, root: Path, env: Mapping[str, str] = os.environ) -> Commit:
        """Ask Git once; a GitHub job, whose checkout is on no branch, says it by variables."""
        try:
            done = subprocess.run(
                ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"],
                cwd=root, capture_output=True, text=True, check=True, timeout=60,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            return cls()
        heads = dict(re.findall(r"(?m)^# branch\.(oid|head) (.*)$", done.stdout))
        dirty = any(not line.startswith("#") for line in done.stdout.splitlines())
        branch = heads.get("head", "(detached)")
        if branch == "(detached)":
            on_branch = env.get("GITHUB_REF_TYPE") == "branch"
            named = env.get("GITHUB_REF_NAME", "") if on_branch else ""
            branch = env.get("GITHUB_HEAD_REF") or named
        return cls(heads.get("oid", "unknown"), branch, dirty)


@dataclass(frozen=True)
class Sources:
    """Everything that goes in.

    Attributes:
        root: the checkout.
        commit: where it stands.
        base: the base image to build on, by digest where it comes from a registry.
        base_digest: what its name stands for now.
        bundle: the promoted twin.
        staged: files from outside the build context, by their path in it.
        target: stage of the Dockerfile; empty for its last.
        platform: like ``linux/arm64``; empty for the engine's own.
        tag: ``src-`` and the hash of all this, the commit apart.

    """

    root: Path
    commit: Commit
    base: str
    base_digest: str
    bundle: Bundle
    staged: Mapping[str, Path]
    target: str = ""
    platform: str = ""
    tag: str = field(default="")

    @classmethod
    def find(
        cls,
        root: Path,
        settings: Settings,
        address: Address,
        *,
        target: str = "",
        platform: str = "",
        pull: bool = False,
    ) -> Sources:
        """Look at the checkout, the promoted twin and the base image, and hash them.

        Args:
            root: the checkout.
            settings: where the twin is, and which base image is wanted.
            address: of the engine, asked for the base image before its registry is.
            target: stage of the Dockerfile; empty for its last.
            platform: like ``linux/arm64``; empty for the engine's own.
            pull: ask the base image's registry even if the engine has one of that name.

        Raises:
            NotReadyError: nothing is promoted yet, or a part of it is missing.
            ConfigError: the Dockerfile is missing, or the base image cannot be had.

        """
        bundle = promoted(settings)
        base, digest = resolve_base(root, settings, address, pull)
        found = cls(
            root, Commit.of(root), base, digest, bundle,
            staged_files(bundle, settings), target, platform,
        )  # fmt: skip
        tag = source_tag(
            root, target=target, platform=platform, base_digest=digest, extra_files=found.staged
        )
        return replace(found, tag=tag)

    @property
    def details(self) -> Mapping[str, Any]:
        """What the twin's manifest says about where it comes from."""
        return dict(self.bundle.manifest.get("details") or {})

    @property
    def dataset(self) -> str:
        """The digest of what the twin was trained on."""
        return str(self.details.get("dataset", "unknown"))

    @property
    def labels(self) -> dict[str, str]:
        """What the image says of itself."""
        return {
            "org.opencontainers.image.revision": self.commit.sha,
            "org.opencontainers.image.version": self.bundle.version,
            "org.opencontainers.image.base.digest": self.base_digest,
            "llm-twin.source-tag": self.tag,
            "llm-twin.dataset-digest": self.dataset,
            "llm-twin.gate": json.dumps(self.gate),
            "llm-twin.dirty": str(self.commit.dirty).lower(),
        }

    @property
    def gate(self) -> dict[str, str]:
        """What the gate said of the twin."""
        return {"verdict": str(self.details.get("gate", "unknown"))}

    def context(self) -> Iterator[bytes]:
        """The build context as a tar."""
        return context_tar(self.root, extra_files=self.staged)


def promoted(settings: Settings) -> Bundle:
    """The promoted twin.

    Raises:
        NotReadyError: there is none, or it is damaged.

    """
    folder = settings.home / "models"
    bundle = Bundles(folder).production()
    if bundle is None:
        raise NotReadyError("No twin is promoted yet", folder, "Make one: invoke ct")
    return bundle


def staged_files(bundle: Bundle, settings: Settings) -> dict[str, Path]:
    """The twin's files and, unless it searches by words alone, the embedder's."""
    names = (MANIFEST, *bundle.manifest["files"])
    staged = {f"bundle/models/image/{name}": bundle.path / name for name in names}
    wanted = str((bundle.manifest.get("details") or {}).get("embedder", ""))
    if wanted.startswith("minilm"):
        from llm_twin.retrieval.weights import ensure_model

        folder = settings.embedder_home or settings.home / "embedder"
        if not all((folder / name).is_file() for name in EMBEDDER_FILES):
            ensure_model(settings)
        staged |= {f"embedder/{name}": folder / name for name in EMBEDDER_FILES}
    return staged


def resolve_base(
    root: Path, settings: Settings, address: Address, pull: bool = False
) -> tuple[str, str]:
    """The base image to build on, and the digest that its name stands for.

    One that the engine has is taken as it is; else its registry is asked, and it is pinned.

    Raises:
        ConfigError: the Dockerfile names none, or nobody has it.

    """
    name = settings.base_image or _named_in(root / DOCKERFILE)
    ref = Reference.parse(name)
    if ref.digest:
        return name, ref.digest
    if not pull and (known := _in_engine(address, name, settings)):
        pinned = (Reference.parse(text) for text in known.get("RepoDigests") or ())
        same = [each.digest for each in pinned if each.repository == ref.repository]
        return name, same[0] if same else str(known["Id"])
    digest = open_registry(ref.host, settings).head(ref)
    if digest is None:
        raise ConfigError(
            "The base image is neither in the engine nor in its registry",
            name,
            "Check its name, or set TWIN_BASE_IMAGE",
        )
    return f"{name}@{digest}", digest


def build_secrets(env: Mapping[str, str] = os.environ) -> dict[str, Path]:
    """Configuration of pip and uv that the build may read and the image never holds."""
    return {name: Path(env[var]) for name, var in SECRET_FILES.items() if env.get(var)}


def _named_in(dockerfile: Path) -> str:
    try:
        found = BASE.search(dockerfile.read_text(encoding="utf-8"))
    except OSError:
        found = None
    if not found:
        raise ConfigError("No base image is named", dockerfile, "Set TWIN_BASE_IMAGE")
    return found[1]


def _in_engine(address: Address, name: str, settings: Settings) -> dict[str, Any]:
    """What the engine knows of an image; without an engine, the registry may know it."""
    try:
        return address.image(name)
    except NotReadyError as missing:
        try:
            open_registry(Reference.parse(name).host, settings).head(Reference.parse(name))
        except TwinError:
            raise missing from None
        return {}
