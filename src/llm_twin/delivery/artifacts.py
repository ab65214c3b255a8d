"""Documents attached to an image in its registry: what it is made of and where it comes from.

They are OCI manifests with a ``subject``. A registry that knows no such thing gets the index that
the specification falls back to, under a tag made of the image's digest.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llm_twin.delivery.registry import INDEXES, OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llm_twin.delivery.reference import Reference
    from llm_twin.delivery.registry import Registry

EMPTY = "application/vnd.oci.empty.v1+json"


def attach(
    registry: Registry,
    image: Reference,
    kind: str,
    data: bytes,
    annotations: Mapping[str, str] | None = None,
) -> str:
    """Store a document beside an image; the same document twice is one.

    Args:
        registry: where the image is.
        image: by tag or digest.
        kind: the document's media type, like ``application/vnd.cyclonedx+json``.
        data: its bytes.
        annotations: what else to say about it.

    Returns: the digest of the manifest that holds it.

    """
    subject = registry.manifest(image)
    config = registry.put_blob(image.name, b"{}")
    layer = registry.put_blob(image.name, data)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": kind,
        "config": {"mediaType": EMPTY, "digest": config, "size": 2},
        "layers": [{"mediaType": kind, "digest": layer, "size": len(data)}],
        "subject": subject.descriptor,
        "annotations": dict(annotations or {}),
    }
    body = json.dumps(manifest, sort_keys=True).encode()
    digest = registry.put_manifest(image.pinned(""), body)
    pinned = image.pinned(subject.digest)
    if registry.referrers(pinned) is None:
        item = {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(body)}
        _index(
            registry, pinned, {**item, "artifactType": kind, "annotations": dict(annotations or {})}
        )
    return digest


def attached(registry: Registry, image: Reference, kind: str = "") -> list[dict[str, Any]]:
    """Descriptors of the documents beside an image, all or those of one kind."""
    digest = image.digest or registry.head(image) or ""
    found = registry.referrers(image.pinned(digest)) if digest else []
    if found is None:
        found = _indexed(registry, _fallback(image.pinned(digest)))
    return [item for item in found if kind in ("", item.get("artifactType"))]


def document(registry: Registry, image: Reference, descriptor: Mapping[str, Any]) -> bytes:
    """Fetch a document by its descriptor, checked against the digests on the way."""
    manifest = registry.manifest(image.pinned(descriptor["digest"])).data
    return registry.blob(image.name, manifest["layers"][0]["digest"])


def _fallback(image: Reference) -> Reference:
    return image.tagged(image.digest.replace(":", "-"))


def _indexed(registry: Registry, index: Reference) -> list[dict[str, Any]]:
    return list(registry.manifest(index).data["manifests"]) if registry.head(index) else []


def _index(registry: Registry, image: Reference, item: dict[str, Any]) -> None:
    index = _fallback(image)
    found = _indexed(registry, index)
    if item["digest"] not in [each["digest"] for each in found]:
        body = {"schemaVersion": 2, "mediaType": INDEXES[0], "manifests": [*found, item]}
        registry.put_manifest(index, json.dumps(body).encode(), INDEXES[0])
