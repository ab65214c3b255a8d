"""Files named after the SHA-256 of their content: equal ones are kept once, damage is found out.

Any number of processes add and read at the same time, sharing a lock; whoever removes has it alone,
so nothing vanishes between being found and being named. A name appears when its file is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from typing import TYPE_CHECKING

from llm_twin.errors import BusyError, SpaceError
from llm_twin.flow.entry import DIGEST, FileEntry
from llm_twin.flow.outputs import CacheDamaged, link_target
from llm_twin.flow.remote import CHUNK, blob_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import IO


class Blobs:
    """A folder of blobs; hold its lock while you use it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def lock(self, alone_within: float | None = None) -> Iterator[None]:
        """Share the folder with others, or have it alone after so many seconds at most.

        Raises:
            BusyError: the others took longer.
            SpaceError: anything below it failed to read or write a file.

        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "lock").open("a") as handle:
                if alone_within is None:
                    fcntl.flock(handle, fcntl.LOCK_SH)
                else:
                    _flock_alone(handle, alone_within)
                try:
                    yield
                finally:
                    fcntl.flock(handle, fcntl.LOCK_UN)  # a forked stage may hold a copy of it
        except OSError as error:
            raise SpaceError(
                f"the cache cannot be used ({error.strerror or error})",
                error.filename or self.folder,
                "Make room, for example: invoke cache.prune",
            ) from error

    def path(self, digest: str) -> Path:
        """Where the blob of a digest is, if there is one; CacheDamaged if it is no digest."""
        if not DIGEST.fullmatch(digest):
            raise CacheDamaged("a cache entry names no blob", repr(digest))
        return self.folder / blob_name(digest)

    def has(self, file: FileEntry) -> bool:
        """Whether the content is here, by name and size."""
        try:
            return bool(file.target) or self.path(file.digest).stat().st_size == file.size
        except (OSError, CacheDamaged):
            return False

    def keep(self, path: Path) -> FileEntry:
        """Copy a file to its blob, unless there is one, and say what it is."""
        if path.is_symlink():
            return FileEntry("", 0, 0, link_target(path))
        copy = self.temporary()
        digest, size = _copy(path, copy)
        file = FileEntry(digest, size, path.stat().st_mode & 0o777)
        if self.has(file):
            copy.unlink()
        else:
            self.settle(copy, self.path(digest))
        return file

    def take(self, file: FileEntry) -> Path:
        """Return a checked copy, or the link, that is ready to be moved to where it belongs.

        Raises:
            CacheDamaged: the blob is missing, or is not what it was; then it is removed.

        """
        copy = self.temporary()
        if file.target:
            copy.symlink_to(file.target)
            return copy
        blob = self.path(file.digest)
        try:
            found = _copy(blob, copy)
        except FileNotFoundError:
            raise CacheDamaged("a cached file is missing", blob) from None
        if found != (file.digest, file.size):
            copy.unlink()
            blob.unlink(missing_ok=True)
            raise CacheDamaged("a cached file is not what it was", blob)
        copy.chmod(file.mode & 0o777)
        return copy

    def temporary(self) -> Path:
        """A new name for a file that is not complete yet."""
        folder = self.folder / "tmp"
        folder.mkdir(exist_ok=True)
        return folder / os.urandom(12).hex()

    def settle(self, temporary: Path, final: Path) -> None:
        """Give a complete file its name, once it is on the disk."""
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(final)


def _copy(source: Path, target: Path) -> tuple[str, int]:
    """Copy a file's bytes; return their SHA-256 and number."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as read, target.open("wb") as write:
        while chunk := read.read(CHUNK):
            digest.update(chunk)
            size += write.write(chunk)
    return digest.hexdigest(), size


def _flock_alone(handle: IO[str], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise BusyError(
                    "other processes use the cache", handle.name, "Try again in a minute"
                ) from None
            time.sleep(0.02)
