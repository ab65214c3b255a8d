"""What goes into an image: the same list of files, once as a tag and once as a tar.

The tag covers paths, contents, symbolic links and the executable bit, as Git does, so that a fresh
clone has the same one; owners, times and empty folders are in neither. The tar is in GNU format:
BuildKit does not know an archive that begins with a PAX header.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm_twin.delivery.ignore import Ignore
from llm_twin.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# Goes up when the same files have to be built again because this module has changed.
VERSION = 1
CHUNK = 1 << 18
# The first moment that a zip file can hold; wheels are zip files.
MTIME = 315_532_800


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or symbolic link: its name in the context, where it lies, and what it is."""

    name: str
    path: Path
    status: os.stat_result

    @property
    def kind(self) -> str:
        """``l`` for a link, ``x`` for what its owner may execute, else ``f``."""
        if stat.S_ISLNK(self.status.st_mode):
            return "l"
        return "x" if self.status.st_mode & stat.S_IXUSR else "f"


def source_tag(
    root: Path,
    *,
    dockerfile: str = "Dockerfile",
    build_args: Mapping[str, str] | None = None,
    target: str = "",
    platform: str = "",
    base_digest: str = "",
    extra_files: Mapping[str, Path] | None = None,
) -> str:
    """``src-`` and the SHA-256 of all that decides what an image contains.

    Args:
        root: the folder of the build context; its ``.dockerignore`` is honoured.
        dockerfile: the Dockerfile's path in it.
        build_args: the build arguments; no secrets.
        target: the stage to build; empty for the last.
        platform: like ``linux/arm64``; empty for the engine's own.
        base_digest: what the base image's name stands for now.
        extra_files: files or folders from elsewhere, by their path in the context.

    Raises:
        ConfigError: the Dockerfile is missing or a file cannot be read.

    """
    inputs = {
        "version": VERSION,
        "dockerfile": dockerfile,
        "build_args": dict(build_args or {}),
        "target": target,
        "platform": platform,
        "base": base_digest,
    }
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode() + b"\0")
    for entry in _entries(root, dockerfile, extra_files or {}):
        digest.update(os.fsencode(f"{entry.kind}{entry.name}\0") + _content(entry))
    return f"src-{digest.hexdigest()}"


def context_tar(
    root: Path,
    *,
    dockerfile: str = "Dockerfile",
    extra_files: Mapping[str, Path] | None = None,
) -> Iterator[bytes]:
    """The build context as an uncompressed tar, in pieces; arguments as for ``source_tag``.

    Raises:
        ConfigError: the Dockerfile is missing, or a file cannot be read or shrinks meanwhile.

    """
    waiting = bytearray()
    for piece in _pieces(_entries(root, dockerfile, extra_files or {})):
        waiting += piece
        # A piece becomes a message to the engine: one for each small file takes ten times as long.
        if len(waiting) >= CHUNK:
            yield bytes(waiting)
            waiting.clear()
    yield bytes(waiting)


def _pieces(entries: Iterable[Entry]) -> Iterator[bytes]:
    folders: set[str] = set()
    for entry in entries:
        for folder in _parents(entry.name):
            if folder not in folders:
                folders.add(folder)
                yield _header(folder, tarfile.DIRTYPE, 0o755)
        yield from _packed(entry)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _entries(root: Path, dockerfile: str, extra_files: Mapping[str, Path]) -> list[Entry]:
    """Everything, sorted by name; extra files win over what lies at their place."""
    if not (root / dockerfile).is_file():
        raise ConfigError("There is no Dockerfile", root / dockerfile, "Run it in the repository")
    ignore = Ignore.read(root, dockerfile)
    found = {entry.name: entry for entry in _walk(root, "", ignore, {*extra_files})}
    found[dockerfile] = Entry(dockerfile, root / dockerfile, (root / dockerfile).stat())
    for name, source in extra_files.items():
        found.update((entry.name, entry) for entry in _staged(name, source))
    return [found[name] for name in sorted(found)]


def _staged(name: str, source: Path) -> Iterator[Entry]:
    if not source.exists():
        raise ConfigError("This should go into the image and is not there", source)
    if source.is_dir():
        yield from _walk(source, f"{name}/", Ignore(), set())
    else:
        yield Entry(name, source, source.stat())


def _walk(folder: Path | str, prefix: str, ignore: Ignore, taken: set[str]) -> Iterator[Entry]:
    """Files and links below a folder; sockets, pipes and devices are left out, as Docker does."""
    try:
        with os.scandir(folder) as children:
            for child in children:
                yield from _visit(child, f"{prefix}{child.name}", ignore, taken)
    except OSError as error:
        raise _unreadable(error) from error


def _visit(child: os.DirEntry[str], name: str, ignore: Ignore, taken: set[str]) -> Iterator[Entry]:
    if name in taken:
        return
    excluded = ignore.excludes(name)
    if child.is_dir(follow_symlinks=False):
        if not excluded or ignore.may_keep_below(name):
            yield from _walk(child.path, f"{name}/", ignore, taken)
    elif not excluded and (child.is_symlink() or child.is_file()):
        yield Entry(name, Path(child.path), child.stat(follow_symlinks=False))


def _content(entry: Entry) -> bytes:
    try:
        if entry.kind == "l":
            return hashlib.sha256(os.fsencode(os.readlink(entry.path))).digest()  # noqa: PTH115
        with entry.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise _unreadable(error) from error


def _packed(entry: Entry) -> Iterator[bytes]:
    try:
        if entry.kind == "l":
            link = os.fspath(entry.path.readlink())
            yield _header(entry.name, tarfile.SYMTYPE, 0o777, link=link)
            return
        size = entry.status.st_size
        yield _header(entry.name, tarfile.REGTYPE, 0o755 if entry.kind == "x" else 0o644, size)
        with entry.path.open("rb") as file:
            for start in range(0, size, CHUNK):
                wanted = min(CHUNK, size - start)
                piece = file.read(wanted)
                if len(piece) < wanted:
                    raise ConfigError("A file changed while it was read", entry.path, "Try again")
                yield piece
    except OSError as error:
        raise _unreadable(error) from error
    yield bytes(-size % tarfile.BLOCKSIZE)


def _header(name: str, kind: bytes, mode: int, size: int = 0, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.linkname, info.mtime = kind, mode, size, link, MTIME
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _parents(name: str) -> Iterator[str]:
    at = name.find("/")
    while at >= 0:
        yield name[:at]
        at = name.find("/", at + 1)


def _unreadable(error: OSError) -> ConfigError:
    return ConfigError(
        f"This cannot be read ({error.strerror})",
        error.filename or "",
        "Make it readable, or name it in .dockerignore",
    )
