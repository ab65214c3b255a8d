"""Every file of every layer of an image, read as it streams by; nothing is unpacked to disk.

A file that a later layer deletes is still in the earlier one, for whoever pulls the image. So this
goes through layers, and not through what a container sees.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import tarfile
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from llm_twin.errors import NotReadyError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from llm_twin.delivery.engine import Engine
    from llm_twin.delivery.reference import Reference
    from llm_twin.delivery.registry import Registry

PIECE = 1 << 21
RANGE = 1 << 23
GZIP = b"\x1f\x8b"
ZSTANDARD = b"\x28\xb5\x2f\xfd"
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"


@dataclass(frozen=True)
class File:
    """What a layer has at a path.

    Attributes:
        path: in the image, without a leading slash.
        hides: the path that this entry takes away from the layers below; empty for a real file.
        data: its bytes; None if it is no plain file.

    """

    path: str
    hides: str = ""
    data: IO[bytes] | None = None

    def read(self, size: int = -1) -> bytes:
        """The next of its bytes, asked for before the next file is; none where it has none.

        Raises:
            RemoteError: the layer breaks off.

        """
        with _tar_errors():
            return self.data.read(size) if self.data else b""


class Layer:
    """One layer; its files can be read once, and before those of the next layer."""

    def __init__(self, stream: io.RawIOBase | IO[bytes], expected: str = "") -> None:
        self._hashed = _Hashed(stream)
        self._expected = expected

    @property
    def digest(self) -> str:
        """Of its bytes as they are stored; known when all its files were read."""
        return self._hashed.digest

    def files(self) -> Iterator[File]:
        """Its entries, folders left out.

        Raises:
            RemoteError: it breaks off, is no tar, or is not what its digest says.

        """
        stored = io.BufferedReader(self._hashed, PIECE)
        with _tar_errors(self._expected):
            plain = _plain(stored)
            with tarfile.open(fileobj=plain, mode="r|", bufsize=PIECE) as tar:
                yield from (_file(tar, member) for member in tar if not member.isdir())
            for stream in (plain, stored):
                while stream.read(PIECE):
                    pass
        if self._expected not in ("", self.digest):
            raise RemoteError("a layer is not what its digest says", self._expected)


def saved_layers(pieces: Iterable[bytes]) -> Iterator[Layer]:
    """The layers of what ``docker save`` writes.

    Engines before 25 write ``<id>/layer.tar``; later ones ``blobs/sha256/<digest>``, where
    manifests and configurations are too.
    """
    buffered = io.BufferedReader(_Pieces(pieces), PIECE)
    with _tar_errors(), tarfile.open(fileobj=buffered, mode="r|", bufsize=PIECE) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith("/layer.tar"):
                yield Layer(_content(archive, member))
            elif member.isfile() and member.name.startswith("blobs/"):
                blob = io.BufferedReader(cast("Any", _content(archive, member)), PIECE)
                if not blob.peek(1).startswith(b"{"):
                    yield Layer(blob)


class Image(Protocol):
    """An image that can be looked through."""

    def documents(self) -> Mapping[str, Any]:
        """Its configuration and history, as JSON values by name."""
        ...

    def layers(self) -> Iterator[Layer]:
        """Its layers, in no particular order."""
        ...


@dataclass(frozen=True)
class EngineImage:
    """An image in the container engine, as ``docker save`` writes it."""

    engine: Engine
    name: str

    def documents(self) -> dict[str, Any]:
        """What the engine says about it.

        Raises:
            NotReadyError: there is no such image.

        """
        with _engine_errors(self):
            found = self.engine.api.inspect_image(self.name)
            history = self.engine.api.history(self.name)
        kept = ("Config", "ContainerConfig", "Author", "Comment", "RepoTags")
        return {"config": {key: found.get(key) for key in kept}, "history": history}

    def layers(self) -> Iterator[Layer]:
        """Its layers, in no particular order.

        Raises:
            NotReadyError: there is no such image.
            RemoteError: the engine went away.

        """
        yield from saved_layers(self._saved())

    def _saved(self) -> Iterator[bytes]:
        with _engine_errors(self):
            yield from self.engine.api.get_image(self.name, chunk_size=PIECE)


@dataclass(frozen=True)
class RegistryImage:
    """An image in a registry; of one for several platforms, all of them."""

    registry: Registry
    ref: Reference

    def documents(self) -> dict[str, Any]:
        """Its manifests' annotations and its configurations."""
        found: dict[str, Any] = {}
        for number, data in enumerate(self.manifests()):
            found[f"manifest {number}"] = data
            found[f"config {number}"] = self.config(data)
        return found

    def config(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration that a manifest names: labels, environment, history.

        Raises:
            RemoteError: it has none.

        """
        try:
            return dict(json.loads(self.registry.blob(self.ref.name, manifest["config"]["digest"])))
        except (ValueError, KeyError, TypeError):
            raise RemoteError(
                "that is no image, or its configuration is broken", self.ref
            ) from None

    def manifests(self) -> list[dict[str, Any]]:
        """One for each platform; what a builder has put beside them is left out."""
        data = self.registry.manifest(self.ref).data
        if "manifests" not in data:
            return [data]
        platforms = [item for item in data["manifests"] if "annotations" not in item]
        return [self.registry.manifest(self.ref.pinned(item["digest"])).data for item in platforms]

    def layers(self) -> Iterator[Layer]:
        """Its layers from the base up, each once, fetched in pieces and checked."""
        items = [item for manifest in self.manifests() for item in manifest["layers"]]
        for digest, size in {item["digest"]: item["size"] for item in items}.items():
            yield Layer(_Pieces(self._blob(digest, size)), digest)

    def _blob(self, digest: str, size: int) -> Iterator[bytes]:
        path = f"/v2/{self.ref.name}/blobs/{digest}"
        for start in range(0, size, RANGE):
            wanted = {"Range": f"bytes={start}-{min(start + RANGE, size) - 1}"}
            ask = self.registry.connection.ask
            answer = ask("GET", path, headers=wanted, good=(200, 206), where=self.ref)
            yield answer.data
            if answer.status == 200:  # it knows no ranges, and that was all of it
                return


def _plain(stored: Any) -> IO[bytes]:
    """The layer without its compression; ``stored`` is a ``BufferedReader``."""
    start = stored.peek(4)[:4]
    if start == ZSTANDARD:
        raise RemoteError("a layer is compressed with zstd, which is not read here", "", "Use gzip")
    return cast("IO[bytes]", gzip.GzipFile(fileobj=stored) if start[:2] == GZIP else stored)


def _file(tar: tarfile.TarFile, member: tarfile.TarInfo) -> File:
    path = member.name.removeprefix("./").lstrip("/")
    folder, slash, name = path.rpartition("/")
    if name == OPAQUE:
        return File(path, f"{folder}/")
    if name.startswith(WHITEOUT):
        return File(path, f"{folder}{slash}{name.removeprefix(WHITEOUT)}")
    return File(path, data=tar.extractfile(member) if member.isfile() else None)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    return cast("IO[bytes]", archive.extractfile(member))


class _Pieces(io.RawIOBase):
    """Pieces of bytes, read like a file."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


class _Hashed(io.RawIOBase):
    """Another stream, and the digest of what was read from it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._stream.readinto(buffer)
        self._hash.update(memoryview(buffer)[:count])
        return count


@contextlib.contextmanager
def _tar_errors(where: str = "") -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise RemoteError(
            f"a layer cannot be read ({error})", where, "Push or build it again"
        ) from None


@contextlib.contextmanager
def _engine_errors(image: EngineImage) -> Iterator[None]:
    import requests
    from docker.errors import DockerException, NotFound  # type: ignore[import-untyped]

    try:
        yield
    except NotFound:
        raise NotReadyError(
            "the engine has no such image", image.name, "Build it: invoke build-push --no-push"
        ) from None
    except (DockerException, requests.RequestException) as error:
        raise RemoteError(
            f"the engine was lost while it handed out an image ({type(error).__name__})",
            image.name,
            "Look whether it runs: docker info. Then type the same again",
        ) from None
