"""What lies beside an image in its registry: put there by a push, checked by who deploys it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.delivery import artifacts, provenance, sbom
from llm_twin.delivery.layers import RegistryImage
from llm_twin.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llm_twin.delivery.cosign import Signer
    from llm_twin.delivery.reference import Reference
    from llm_twin.delivery.registry import Registry

# What provenance says, and the label that says the same.
LABELS = {
    "commit": "org.opencontainers.image.revision",
    "source tag": "llm-twin.source-tag",
    "base digest": "org.opencontainers.image.base.digest",
    "model version": "org.opencontainers.image.version",
    "dataset digest": "llm-twin.dataset-digest",
    "gate": "llm-twin.gate",
}
AGAIN = "Push it again: invoke build-push --force"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        state: ``ok``, ``missing`` or ``differs``.
        note: what was found.

    """

    name: str
    state: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.name:<16}{self.state:<9}{self.note}".rstrip()


@dataclass(frozen=True)
class Verified:
    """All that was looked at of one image."""

    ref: Reference
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is missing and nothing differs."""
        return all(check.state == "ok" for check in self.checks)


@dataclass(frozen=True)
class Attached:
    """A document beside an image: the digest of the manifest that holds it, and its bytes."""

    digest: str
    data: bytes


def attach_documents(
    registry: Registry, ref: Reference, sbom_data: bytes, provenance_data: bytes
) -> dict[str, str]:
    """Put SBOM and provenance beside an image; digests of their manifests by kind.

    Raises:
        RemoteError: one of them is not valid, or the registry failed.

    """
    digests = {}
    for kind, data, problem in (
        (sbom.KIND, sbom_data, sbom.problem(sbom_data)),
        (provenance.KIND, provenance_data, provenance.problem(provenance_data)),
    ):
        if problem:
            raise RemoteError(f"a document that is not valid is not attached ({problem})", ref)
        digests[kind] = artifacts.attach(registry, ref, kind, data)
    return digests


def attached_documents(registry: Registry, ref: Reference, kind: str) -> list[Attached]:
    """What of a kind lies beside an image; errors as the registry's."""
    return [
        Attached(item["digest"], artifacts.document(registry, ref, item))
        for item in artifacts.attached(registry, ref, kind)
    ]


def verify_image(
    registry: Registry,
    ref: Reference,
    *,
    signer: Signer | None = None,
    expect: Mapping[str, str] | None = None,
) -> Verified:
    """Read back an image and what lies beside it, and check that it all belongs together.

    Args:
        registry: where it is.
        ref: by tag or digest.
        signer: also check the signatures of the image and of its documents.
        expect: what its labels must say, by the names in ``LABELS``.

    Returns: each check; a document that differs is one, a registry that does not answer an error.

    """
    digest = ref.digest or registry.head(ref)
    if digest is None:
        return Verified(ref, (Check("image", "missing", str(ref)),))
    pinned = ref.pinned(digest)
    try:
        size = registry.verify(pinned, digest)
        labels = _labels(registry, pinned)
    except RemoteError as error:
        return Verified(ref, (Check("image", "differs", error.what),))
    found = [
        Check("image", "ok", f"{digest}, {size / 1e6:.1f} MB"),
        *_expected(labels, expect or {}),
    ]
    for check in (_sbom, _provenance):
        found += check(registry, pinned, labels, signer)
    if signer:
        found.append(_signature(registry, pinned, signer, "image"))
    return Verified(pinned, tuple(found))


def _labels(registry: Registry, ref: Reference) -> list[dict[str, str]]:
    """The labels of the image, for each platform."""
    image = RegistryImage(registry, ref)
    configs = [image.config(manifest) for manifest in image.manifests()]
    return [(config.get("config") or {}).get("Labels") or {} for config in configs]


def _expected(labels: list[dict[str, str]], expect: Mapping[str, str]) -> Iterator[Check]:
    for name, value in expect.items():
        said = sorted({each.get(LABELS[name], "") for each in labels})
        state = "ok" if said == [value] else "differs"
        yield Check(name, state, value if state == "ok" else f"{said}, and not {value}")


def _sbom(
    registry: Registry, ref: Reference, labels: list[dict[str, str]], signer: Signer | None
) -> Iterator[Check]:
    def differs(data: bytes) -> str:
        described = sbom.described_digest(data)
        return "" if described == ref.digest else f"it describes {described or 'no digest'}"

    for document, check in _read(registry, ref, "SBOM", sbom.KIND, sbom.problem, differs):
        yield check
        if check.state == "ok" and signer:
            yield _signature(registry, ref.pinned(document.digest), signer, "SBOM")


def _provenance(
    registry: Registry, ref: Reference, labels: list[dict[str, str]], signer: Signer | None
) -> Iterator[Check]:
    def differs(data: bytes) -> str:
        named = provenance.subject(data)
        return "" if named == ref.digest else f"it is about {named}"

    for document, check in _read(
        registry, ref, "provenance", provenance.KIND, provenance.problem, differs
    ):
        yield check
        if check.state == "ok":
            yield _labelled(provenance.facts(document.data), labels)
            if signer:
                yield _signature(registry, ref.pinned(document.digest), signer, "provenance")


def _read(
    registry: Registry, ref: Reference, name: str, kind: str, problem: Any, differs: Any
) -> Iterator[tuple[Attached, Check]]:
    """Each document of a kind, and what is wrong with it: all have to be right."""
    nothing = Attached("", b"")
    try:
        documents = attached_documents(registry, ref, kind)
    except RemoteError as error:
        yield nothing, Check(name, "differs", error.what)
        return
    if not documents:
        yield nothing, Check(name, "missing", AGAIN)
    for document in documents:
        wrong = problem(document.data) or differs(document.data)
        yield document, Check(name, "differs" if wrong else "ok", wrong or document.digest)


def _labelled(facts: Mapping[str, Any], labels: list[dict[str, str]]) -> Check:
    """Whether the labels of every platform say what the provenance says."""
    differing = [
        f"{name}: {each.get(label) or 'no label'} and not {facts[name] or 'empty'}"
        for each in labels
        for name, label in LABELS.items()
        if _plain(facts[name]) != _plain(each.get(label, ""))
    ]
    agreed = f"as provenance has it: {', '.join(LABELS)}"
    return Check("labels", "differs" if differing else "ok", "; ".join(differing) or agreed)


def _plain(value: Any) -> Any:
    """A value as it can be compared: a JSON text's object, a digest without its kind."""
    if not isinstance(value, str):
        return value or ""
    try:
        found = json.loads(value) if value.startswith("{") else value.removeprefix("sha256:")
    except ValueError:
        return value
    return found or ""


def _signature(registry: Registry, ref: Reference, signer: Signer, name: str) -> Check:
    try:
        signer.verify(registry, ref)
    except RemoteError as error:
        return Check("signature", "differs", f"{name}: {error.what}")
    return Check("signature", "ok", name)
