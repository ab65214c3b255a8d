"""The stage cache: what a stage left behind, kept under its key and put back when the key returns.

A branch switch then costs no rerun, and a laptop takes over what CI has made. An entry says what
one key left; it names its files' blobs and is written last, so what it names is there. Writers
sign entries, and a reader that requires it believes no others. All of it may be deleted.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_twin.errors import BusyError
from llm_twin.flow.blobs import Blobs
from llm_twin.flow.entry import Entry, FileEntry
from llm_twin.flow.outputs import CacheDamaged, find_outputs, is_there, move, place_for
from llm_twin.flow.remote import Remote, blob_name, entry_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llm_twin.settings import Settings

__all__ = ["Cache", "CacheDamaged", "Entry", "FileEntry", "Pruned", "Usage", "open_cache"]

SOURCES = ("ci", "local")
PRUNE_SECONDS = 10.0  # how long to wait for others to finish
PRUNE_SHARE = 20  # the size is looked at after each 20th of it that was added


@dataclass(frozen=True)
class Usage:
    """What the local cache holds.

    Attributes:
        entries: how many stages' outcomes.
        blobs: how many different files.
        bytes: on disk.
        oldest: when the entry that was not used for longest was used, or 0.0.
        stages: for each stage its entries and the bytes that these name.

    """

    entries: int
    blobs: int
    bytes: int
    oldest: float
    stages: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Pruned:
    """What was evicted: entries, blobs, and the bytes of both."""

    entries: int
    blobs: int
    bytes: int


class Cache:
    """Entries and blobs in a folder, and in S3 as well when a remote is given.

    Args:
        home: the state folder; nothing is read or made before it is needed.
        remote: ``s3://bucket/prefix``, or "".
        secret: signs what is archived and checks what is found; "": neither.
        signed: whether an entry without a valid signature counts as a miss.
        timeout: seconds the remote has for an answer.
        max_bytes: what the folder may hold before the least recently used entries go.

    """

    def __init__(
        self,
        home: Path,
        *,
        remote: str = "",
        secret: str = "",
        signed: bool = False,
        timeout: float = 2.0,
        max_bytes: int = 2 * 2**30,
    ) -> None:
        self.folder = home / "cache" / "stages"
        self.max_bytes = max_bytes
        self._blobs = Blobs(self.folder)
        self._secret = secret
        self._signed = signed
        self._remote = Remote(remote, timeout) if remote else None

    @property
    def trouble(self) -> str:
        """Why the remote was given up, one sentence; "" while it works."""
        return self._remote.trouble if self._remote else ""

    @property
    def shared(self) -> bool:
        """Whether a remote is configured and has not been given up."""
        return self._remote is not None and not self._remote.trouble

    def prepare(self) -> None:
        """Load boto3 and find credentials, so that processes forked from here need not."""
        if self._remote:
            self._remote.prepare()

    def give_up(self, trouble: str) -> None:
        """Leave the remote alone from now on: another process of this run found it wanting."""
        if self._remote:
            self._remote.trouble = trouble

    def find(self, key: str) -> Entry | None:
        """Return the newest valid local entry of a key; the remote is not asked."""
        found = [entry for source in SOURCES if (entry := self._read(key, source))]
        if not found:
            return None
        newest = max(found, key=lambda entry: entry.created)
        with contextlib.suppress(OSError):
            os.utime(self._path(newest))
        return newest

    def fetch(self, key: str) -> Entry | None:
        """Bring a valid entry of a key here from the remote with every blob; None if it cannot."""
        for source in SOURCES if self._remote else ():
            entry = self._read_remote(key, source)
            if entry and self._bring(entry):
                return entry
        return None

    def evidence(self, key: str) -> dict[str, Entry]:
        """Return the newest entry of a key for each source, local or remote."""
        found = {}
        for source in SOURCES:
            both = (self._read(key, source), self._read_remote(key, source))
            if entries := [entry for entry in both if entry]:
                found[source] = max(entries, key=lambda entry: entry.created)
        return found

    def restore(self, entry: Entry, root: Path) -> list[str]:
        """Put an entry's files below the root and return the paths of those that were not there.

        Everything is checked before anything is written, and each file appears complete or not
        at all. Other files in the same folders stay.

        Raises:
            CacheDamaged: a blob is not what it was, or a path leads out of the root.
            SpaceError: a file cannot be written.

        """
        root = Path(os.path.realpath(root))
        ready: dict[str, Path] = {}
        try:
            with self._blobs.lock():
                for name, file in entry.files.items():
                    if not is_there(place_for(root, name, file), file):
                        ready[name] = self._blobs.take(file)
                # Links last and each place checked again, so that no link redirects a file.
                for name in sorted(ready, key=lambda name: bool(entry.files[name].target)):
                    move(ready[name], place_for(root, name, entry.files[name]))
        except CacheDamaged:
            self.forget(entry.key)
            raise
        finally:
            for path in ready.values():
                path.unlink(missing_ok=True)
        return list(ready)

    def archive(
        self,
        *,
        key: str,
        stage: str,
        source: str,
        run: str,
        root: Path,
        paths: Iterable[str],
        result: Any = None,
        evidence: Mapping[str, str] | None = None,
    ) -> Entry:
        """Keep outputs, given as paths of files, links and folders, and what the stage returned.

        Raises:
            FlowError: an output is missing, is no file, or leads out of the root.
            SpaceError: the cache cannot be written.

        """
        outputs = find_outputs(root, paths)
        plain = json.loads(json.dumps(result, default=str))
        with self._blobs.lock():
            files = {name: self._blobs.keep(path) for name, path in outputs.items()}
            entry = Entry(key, stage, source, run, time.time(), files, plain, dict(evidence or {}))
            entry = entry.signed(self._secret) if self._secret else entry
            self._write(entry)
        self._prune_if_grown()
        return entry

    def push(self, entry: Entry) -> bool:
        """Copy an entry and its blobs to the remote; whether all of it is there now."""
        if self._remote is None:
            return False
        with self._blobs.lock():
            if not all(map(self._blobs.has, entry.files.values())):
                self.forget(entry.key)
                return False
            digests = {file.digest for file in entry.files.values() if not file.target}
            name = entry_name(entry.key, entry.source)
            blobs = {digest: self._blobs.path(digest) for digest in digests}
            return self._remote.upload(blobs, name, entry.to_json().encode())

    def forget(self, key: str) -> None:
        """Drop the local entries of a key."""
        for source in SOURCES:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                (self.folder / entry_name(key, source)).unlink()

    def usage(self) -> Usage:
        """Count what the local cache holds."""
        with self._blobs.lock():
            found = self._entries()
            blobs = [path.stat().st_size for path in self.folder.glob(blob_name("*"))]
        stages: dict[str, tuple[int, int]] = {}
        for _, _, entry in found:
            if entry:
                count, size = stages.get(entry.stage, (0, 0))
                stages[entry.stage] = (count + 1, size + entry.size)
        total = sum(blobs) + sum(status.st_size for _, status, _ in found)
        oldest = found[-1][1].st_mtime if found else 0.0
        return Usage(len(found), len(blobs), total, oldest, stages)

    def prune(self, max_bytes: int | None = None, *, wait: float = PRUNE_SECONDS) -> Pruned:
        """Evict the least recently used entries until the rest fits, and blobs that none names.

        Args:
            max_bytes: what may stay; default: what the cache may hold.
            wait: seconds to wait for processes that archive or restore right now.

        Raises:
            BusyError: they took longer.

        """
        limit = self.max_bytes if max_bytes is None else max_bytes
        entries = freed = total = 0
        kept: set[str] = set()
        with self._blobs.lock(alone_within=wait):
            blobs = {p.name: (p, p.stat().st_size) for p in self.folder.glob(blob_name("*"))}
            for path, status, entry in self._entries():
                named = {file.digest for file in entry.files.values()} if entry else set()
                new = (named - kept) & blobs.keys()
                total += status.st_size + sum(blobs[digest][1] for digest in new)
                if entry and total <= limit:
                    kept |= new
                    continue
                path.unlink(missing_ok=True)
                entries += 1
                freed += status.st_size
            gone = [blobs[digest] for digest in blobs.keys() - kept]
            for path, size in gone:
                path.unlink()
                freed += size
            for path in (*self.folder.glob("tmp/*"), self.folder / "added"):
                path.unlink(missing_ok=True)  # what is in tmp belongs to nobody who lives
        return Pruned(entries, len(gone), freed)

    def _path(self, entry: Entry) -> Path:
        return self.folder / entry_name(entry.key, entry.source)

    def _entries(self) -> list[tuple[Path, os.stat_result, Entry | None]]:
        """All entry files, the most recently used first; None for what is no entry."""
        found = []
        for path in self.folder.glob(entry_name("*", "*")):
            with contextlib.suppress(FileNotFoundError):  # forgotten by another process
                found.append((path, path.stat(), Entry.from_json(path.read_bytes())))
        return sorted(found, key=lambda item: -item[1].st_mtime_ns)

    def _read(self, key: str, source: str) -> Entry | None:
        try:
            data = (self.folder / entry_name(key, source)).read_bytes()
        except OSError:
            return None
        return self._accept(data, key, source)

    def _read_remote(self, key: str, source: str) -> Entry | None:
        data = self._remote.read(entry_name(key, source)) if self._remote else None
        return self._accept(data, key, source) if data else None

    def _accept(self, data: bytes, key: str, source: str) -> Entry | None:
        """Return the entry if it is one, of this key and source, and signed as it must be."""
        entry = Entry.from_json(data)
        if entry is None or (entry.key, entry.source) != (key, source):
            return None
        needed = self._signed or (self._secret and entry.signature)
        return entry if not needed or entry.is_signed(self._secret) else None

    def _write(self, entry: Entry) -> None:
        temporary = self._blobs.temporary()
        temporary.write_text(entry.to_json(), "utf-8")
        self._blobs.settle(temporary, self._path(entry))
        with (self.folder / "added").open("ab") as added:  # its size is the sum in KiB
            added.write(b"." * (entry.size // 1024 + 1))

    def _prune_if_grown(self) -> None:
        with contextlib.suppress(BusyError, FileNotFoundError):  # others add, or prune: later
            added = (self.folder / "added").stat().st_size * 1024
            if added * PRUNE_SHARE > self.max_bytes:
                self.prune(wait=0)

    def _bring(self, entry: Entry) -> bool:
        """Download what an entry names and is not here, then keep the entry."""
        if self._remote is None or entry.size > self.max_bytes:
            return False
        with self._blobs.lock():
            missing = [file for file in entry.files.values() if not self._blobs.has(file)]
            wanted = {file.digest: (file.size, self._blobs.temporary()) for file in missing}
            try:
                if not self._remote.download(wanted):
                    return False
                for digest, (_, path) in wanted.items():
                    self._blobs.settle(path, self._blobs.path(digest))
            finally:
                for _, path in wanted.values():
                    path.unlink(missing_ok=True)
            self._write(entry)
        self._prune_if_grown()
        return True


def open_cache(settings: Settings) -> Cache:
    """The cache that the settings describe; nothing is opened before it is used."""
    return Cache(
        settings.home,
        remote=settings.cache,
        secret=settings.cache_secret,
        signed=settings.cache_signed,
        timeout=settings.cache_timeout,
        max_bytes=settings.cache_size * 2**20,
    )
