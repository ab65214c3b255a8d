"""A client of any OCI registry: what is there, is it whole, and small things put beside it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urljoin, urlsplit

from llm_twin.delivery.connection import Connection
from llm_twin.delivery.ecr import Ecr, is_ecr
from llm_twin.errors import ConfigError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llm_twin.delivery.credentials import Login
    from llm_twin.delivery.reference import Reference
    from llm_twin.settings import Settings

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
# Asked without these, a registry answers with an old format, whose digest is another.
ACCEPT = ", ".join((*INDEXES, OCI_MANIFEST, "application/vnd.docker.distribution.manifest.v2+json"))

REDIRECTS = (302, 303, 307, 308)  # to where the blobs are; a HEAD is not followed there


@dataclass(frozen=True)
class Manifest:
    """What an image is made of.

    Attributes:
        digest: of its bytes.
        media_type: which of the formats it has.
        body: its bytes.

    """

    digest: str
    media_type: str
    body: bytes = field(repr=False)

    @property
    def data(self) -> dict[str, Any]:
        """Its JSON object; empty where that is something else."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def descriptor(self) -> dict[str, Any]:
        """How another manifest points to it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.body)}


def open_registry(host: str, settings: Settings) -> Registry:
    """The registry at a host, ECR or any other, with the login that belongs to it.

    Nothing is asked yet: AWS only when the registry wants a login.
    """
    if is_ecr(host):
        return Registry.open(host, lambda: Ecr.open(host, settings).login())
    return Registry.open(host)


class Registry:
    """One registry: images by reference.

    Attributes:
        connection: to it; its credentials are also what the engine pushes with.

    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @classmethod
    def open(cls, host: str, login: Login | None = None, **options: Any) -> Registry:
        """The registry at a host; arguments as ``Connection`` takes them. Nothing is asked yet."""
        return cls(Connection(host, login, **options))

    def head(self, ref: Reference) -> str | None:
        """The digest that a tag points to, or None if there is no such image."""
        answer = self.connection.ask(
            "HEAD", _manifest(ref), headers={"Accept": ACCEPT}, good=(200, 404), where=ref
        )
        if answer.status == 404:
            return None
        return answer.headers.get("Docker-Content-Digest") or self.manifest(ref).digest

    def manifest(self, ref: Reference) -> Manifest:
        """Fetch a manifest and check it against the digest asked for, or the one announced.

        Raises:
            RemoteError: there is none, or it is not what its digest says.

        """
        answer = self.connection.ask(
            "GET", _manifest(ref), headers={"Accept": ACCEPT}, good=(200, 404), where=ref
        )
        if answer.status == 404:
            raise RemoteError("the registry has no such image", ref, "Push it: invoke build-push")
        digest = _digest(answer.data)
        expected = ref.digest or answer.headers.get("Docker-Content-Digest") or digest
        if digest != expected:
            raise RemoteError("the registry sent another image than it was asked for", ref)
        media_type = answer.headers.get("Content-Type", "").partition(";")[0]
        found = Manifest(digest, media_type, answer.data)
        if media_type not in ACCEPT.split(", ") or not found.data:
            raise RemoteError("what answers is no registry", ref, "Check the address")
        return found

    def verify(self, ref: Reference, digest: str) -> int:
        """Check that the registry holds the whole image: its manifest, every platform, every blob.

        Args:
            ref: where it was pushed, a tag or a digest.
            digest: what it must be there.

        Returns: the size of its blobs in bytes, as stored.

        Raises:
            RemoteError: something is missing or different.

        """
        found = self.manifest(ref)
        if found.digest != digest:
            raise RemoteError(
                f"the registry holds {found.digest} and not what was pushed",
                f"{ref} ({digest})",
                "Somebody else may have pushed there: type the same again",
            )
        return self._complete(ref, found.data)

    def _complete(self, ref: Reference, data: Mapping[str, Any]) -> int:
        inner = [
            self.manifest(ref.pinned(item["digest"])).data for item in data.get("manifests", ())
        ]
        blobs = [data["config"], *data.get("layers", ())] if "config" in data else []
        for blob in blobs:
            if not self.has_blob(ref.name, blob["digest"], blob["size"]):
                raise RemoteError(
                    f"the registry does not hold all of the image ({blob['digest']} is missing)",
                    ref,
                    "Push again with: invoke build-push --force",
                )
        sizes = [int(blob["size"]) for blob in blobs]
        return sum(sizes) + sum(self._complete(ref, each) for each in inner)

    def has_blob(self, name: str, digest: str, size: int | None = None) -> bool:
        """Whether a blob is there, and of that size if one is given."""
        path = f"/v2/{name}/blobs/{digest}"
        answer = self.connection.ask("HEAD", path, good=(200, *REDIRECTS, 404))
        stored = answer.headers.get("Content-Length") if answer.status == 200 else None
        return answer.status != 404 and (None in (size, stored) or int(stored or 0) == size)

    def blob(self, name: str, digest: str) -> bytes:
        """Fetch a small blob, checked against its digest.

        Raises:
            RemoteError: there is none, or it is not what its digest says.

        """
        where = f"{self.connection.host}/{name}@{digest}"
        data = bytes(self.connection.ask("GET", f"/v2/{name}/blobs/{digest}", where=where).data)
        if _digest(data) != digest:
            raise RemoteError("the registry sent another blob than it was asked for", where)
        return data

    def retag(self, ref: Reference, tag: str) -> Reference:
        """Let another tag point to an image; no layer moves and no engine is needed."""
        target = ref.tagged(tag)
        found = self.manifest(ref)
        self.put_manifest(target, found.body, found.media_type)
        return target

    def put_manifest(self, ref: Reference, body: bytes, media_type: str = OCI_MANIFEST) -> str:
        """Store a manifest under a tag, or by digest where the reference has none; its digest."""
        digest = _digest(body)
        path = _manifest(ref if ref.tag else ref.pinned(digest))
        self.connection.ask(
            "PUT", path, body, {"Content-Type": media_type}, good=(201, 202), where=ref
        )
        return digest

    def put_blob(self, name: str, data: bytes) -> str:
        """Store a small blob if it is not there yet; its digest."""
        digest = _digest(data)
        if not self.has_blob(name, digest):
            where = f"{self.connection.host}/{name}"
            start = self.connection.ask(
                "POST", f"/v2/{name}/blobs/uploads/", b"", good=(202,), where=where
            )
            place = urljoin(self.connection.url, start.headers["Location"])
            mark = "&" if urlsplit(place).query else "?"
            place += mark + urlencode({"digest": digest})
            headers = {"Content-Type": "application/octet-stream"}
            self.connection.ask("PUT", place, data, headers, good=(201,), where=where)
        return digest

    def referrers(self, ref: Reference) -> list[dict[str, Any]] | None:
        """Descriptors of what is attached to a digest; None where the registry does not say."""
        path = f"/v2/{ref.name}/referrers/{ref.digest}"
        answer = self.connection.ask("GET", path, good=(200, 404), where=ref)
        return None if answer.status == 404 else list(json.loads(answer.data)["manifests"])

    def delete(self, ref: Reference) -> bool:
        """Take an image, and every tag of it, out of its repository; whether it was there."""
        digest = self.head(ref)
        if digest is None:
            return False
        answer = self.connection.ask(
            "DELETE", _manifest(ref.pinned(digest)), good=(202, 404, 405), where=ref
        )
        if answer.status == 405:
            raise ConfigError("the registry does not delete", ref, "Allow it in its configuration")
        return answer.status == 202


def _manifest(ref: Reference) -> str:
    return f"/v2/{ref.name}/manifests/{ref.version}"


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
