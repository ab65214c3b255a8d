"""Layers as they are stored: compressed or not, whole or broken, with what they delete."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile

import pytest

from llm_twin.delivery.layers import PIECE, File, Layer, saved_layers
from llm_twin.errors import RemoteError


def tar(start: str = "./", **files: bytes | str) -> bytes:
    """A tar; a text is a symbolic link's target. ``__`` stands for a slash."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as out:
        for name, data in files.items():
            info = tarfile.TarInfo(start + name.replace("__", "/"))
            if isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
            info.size = len(data) if isinstance(data, bytes) else 0
            out.addfile(info, io.BytesIO(data if isinstance(data, bytes) else b""))
        out.addfile(folder := tarfile.TarInfo("etc"), None)
        folder.type = tarfile.DIRTYPE
        out.addfile(folder, None)
    return archive.getvalue()


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def contents(layer: Layer) -> dict[str, bytes | None]:
    return {file.path: file.read() for file in layer.files()}


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_files_are_read_and_the_stored_bytes_are_checked(pack) -> None:
    large = b"0123456789abcdef" * (PIECE // 8)
    stored = pack(tar(a=b"one", opt__b=large, link="a"))
    layer = Layer(io.BytesIO(stored), sha256(stored))

    found = contents(layer)

    assert found == {"a": b"one", "opt/b": large, "link": b"", "etc": b""}
    assert layer.digest == sha256(stored)


def test_a_layer_of_several_gzip_members_is_read_to_its_end() -> None:
    plain = tar(a=b"one", b=b"two" * 1000)
    stored = gzip.compress(plain[:700]) + gzip.compress(plain[700:])

    assert contents(Layer(io.BytesIO(stored)))["b"] == b"two" * 1000


def test_files_need_not_be_read() -> None:
    stored = tar(a=b"one" * 10_000, b=b"two")
    layer = Layer(io.BytesIO(stored), sha256(stored))

    assert [file.path for file in layer.files()] == ["a", "b", "etc"]
    assert layer.digest == sha256(stored)


def test_what_a_layer_deletes_is_named() -> None:
    names = {"opt__.wh.old": b"", "opt__new__.wh..wh..opq": b"", ".wh.top": b""}
    files = list(Layer(io.BytesIO(tar(**names))).files())

    assert files[:3] == [
        File("opt/.wh.old", "opt/old"), File("opt/new/.wh..wh..opq", "opt/new/"),
        File(".wh.top", "top"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (gzip.compress(tar(a=b"x" * 5000))[:60], "cannot be read"),
        (gzip.compress(tar(a=b"x" * 5000))[:-6] + b"wrong!", "cannot be read"),
        (tar(a=b"x" * 5000)[:1000], "cannot be read"),
        (b"no tar at all" * 100, "cannot be read"),
        (b"\x28\xb5\x2f\xfd and more", "zstd"),
        (tar(a=b"another"), "not what its digest says: sha256:a1"),
    ],
    ids=["cut", "overwritten", "cut tar", "no tar", "zstd", "another"],
)
def test_a_broken_layer_is_said(stored, words) -> None:
    with pytest.raises(RemoteError, match=words):
        contents(Layer(io.BytesIO(stored), "sha256:a1"))


@pytest.mark.parametrize(
    "names", [("1__layer.tar", "2__layer.tar"), ("blobs__sha256__1", "blobs__sha256__2")]
)
def test_layers_are_told_from_the_rest_of_what_docker_save_writes(names) -> None:
    one, two = tar(a=b"one"), gzip.compress(tar(b=b"two"))
    saved = tar("", **{
        names[0]: one, "repositories": b"{}", "blobs__sha256__3": b'{"config": 1}',
        names[1]: two, "manifest.json": b"[]", "3__layer.tar": "../1/layer.tar",
    })  # fmt: skip

    layers = [(contents(layer), layer.digest) for layer in saved_layers([saved[:999], saved[999:]])]

    assert layers == [
        ({"a": b"one", "etc": b""}, sha256(one)), ({"b": b"two", "etc": b""}, sha256(two)),
    ]  # fmt: skip
