"""What was traced, written down before the Opik SDK queues it, so that a kill loses nothing.

The SDK keeps what it was told in memory for two seconds and in threads that do not survive a fork.
Here a record is one line in a file of this process when `Journal.append` returns: the kernel has
it, whatever happens to the process. A thread carries lines on to the store within milliseconds,
many at a time, and empties the file. A process holds a lock on its file while it lives; the file
of one that died is carried on by whoever runs next. Carrying on twice does no harm: the store
merges by id.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING

from llm_twin.tracing.delivery import carry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from llm_twin.tracing.delivery import Deliver

LOGGER = logging.getLogger(__name__)
CHUNK = 4 * 1024 * 1024
MOST_UNWRITTEN = 1000
GATHER_SECONDS = 0.1
"""Lines are safe in the file; carrying many at a time costs half as much."""
RETRY_SECONDS = 1.0
ORPHANS_SECONDS = 15.0

_journals: weakref.WeakSet[Journal] = weakref.WeakSet()


class _Segment:
    """A file of lines that this process has locked."""

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.size = size
        self.carried = 0

    @classmethod
    def create(cls, folder: Path) -> _Segment:
        """Make one. It gets its name once it is locked, so nobody takes it for a dead one's."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{time.time_ns()}-{os.getpid()}.journal"
        unnamed = path.with_suffix(".new")
        descriptor = os.open(unnamed, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        unnamed.rename(path)
        return cls(path, descriptor, 0)

    @classmethod
    def adopt(cls, path: Path) -> _Segment | None:
        """Lock the file of a process that died; None when its process lives or it is gone."""
        with contextlib.suppress(FileNotFoundError, PermissionError, BlockingIOError):
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise
            return cls(path, descriptor, os.fstat(descriptor).st_size)
        return None

    def append(self, line: bytes) -> None:
        """Write a line whole, or raise OSError and leave the file as it was."""
        try:
            written = os.write(self.descriptor, line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes could be written")
        except OSError:
            os.ftruncate(self.descriptor, self.size)
            raise
        self.size += len(line)

    def ahead(self) -> bytes:
        """Whole lines that were not carried yet, perhaps not all; b"" when there are none."""
        length = CHUNK
        while True:
            chunk = os.pread(self.descriptor, length, self.carried)
            end = chunk.rfind(b"\n") + 1
            if end or len(chunk) < length:
                return chunk[:end]
            length *= 2

    def close(self, *, remove: bool) -> None:
        """Unlock; remove first, or another might carry on what is in the store already."""
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


class Journal:
    """The journal of this process, and of the ones that it forks.

    Args:
        folder: where the files are, shared by all processes of an installation.
        deliver: ``(method, path, body) -> status``; a request to the store.

    """

    def __init__(self, folder: Path, deliver: Deliver) -> None:
        self.folder = folder
        self._deliver = deliver
        self._reset()
        _journals.add(self)

    def _reset(self) -> None:
        self._segment: _Segment | None = None
        self._unwritten: list[bytes] = []
        self._carrying = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._last_look = 0.0

    def append(self, kind: str, item: bytes) -> None:
        """Write a record down; a SIGKILL at any moment after this returns loses nothing.

        Only a span may wait for a few milliseconds, for its trace's end to be written with it.

        Args:
            kind: a name in `delivery.ROUTES`; may be followed by a space and an id.
            item: JSON without a newline.

        Raises:
            OSError: the disk is full or the folder cannot be written.

        """
        with self._lock:
            self._unwritten.append(b"%s\t%s\n" % (kind.encode(), item))
            if kind != "spans" or self._carrying or len(self._unwritten) > MOST_UNWRITTEN:
                try:
                    self._write()
                except OSError:
                    del self._unwritten[-1]
                    raise
        self._start()
        if not self._wake.is_set():
            self._wake.set()

    def _write(self) -> None:
        if self._unwritten:
            if self._segment is None:
                self._segment = _Segment.create(self.folder)
            self._segment.append(b"".join(self._unwritten))
            self._unwritten.clear()

    def begin(self) -> None:
        """Start carrying on what processes that died left behind."""
        self._start()

    def waiting(self) -> int:
        """Bytes of this process that are not in the store yet."""
        with self._lock:
            segment = self._segment
            unwritten = sum(map(len, self._unwritten))
            return unwritten + (segment.size - segment.carried if segment else 0)

    def flush(self, timeout: float) -> bool:
        """Wait until everything appended so far is in the store; False when time runs out."""
        deadline = time.monotonic() + timeout
        while self.waiting():
            if time.monotonic() > deadline:
                return False
            self._start()
            self._wake.set()
            time.sleep(0.002)
        return True

    def recover(self) -> int:
        """Carry on what dead processes left; return how many files that were.

        Raises:
            Unavailable: the store cannot take it now; nothing is lost.

        """
        return sum(1 for segment in self._orphans() if self._finish(segment))

    def close(self, timeout: float = 1.5) -> bool:
        """Carry on what is left and stop; what does not get through in time waits in its file."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout)
        stopped = self._thread is None or not self._thread.is_alive()
        with self._lock:
            try:
                self._write()
            except OSError as error:
                LOGGER.error("%d spans are lost: %s", len(self._unwritten), error)
                stopped = False
            segment = self._segment
            if segment is not None and stopped:
                done = segment.carried == segment.size
                segment.close(remove=done)
                self._segment = None
                return done
        return stopped

    def _start(self) -> None:
        if self._thread is None:
            with self._lock:
                if self._thread is None and not self._closing:
                    self._thread = threading.Thread(
                        target=self._run, name="trace-journal", daemon=True
                    )
                    self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                self._round()
            except Exception as error:
                # Whatever it is, the thread must live on and the lines stay where they are.
                LOGGER.warning("traces wait in %s: %s", self.folder, error or type(error).__name__)
                if self._closing:
                    return
                time.sleep(RETRY_SECONDS)
            else:
                if self._closing and not self.waiting():
                    return
                self._wake.wait(ORPHANS_SECONDS)
                time.sleep(0 if self._closing else GATHER_SECONDS)

    def _round(self) -> None:
        self._wake.clear()
        with self._lock:
            self._write()
            self._carrying = True
        try:
            if self._segment is not None:
                self._carry_on(self._segment)
                self._begin_anew(self._segment)
            if time.monotonic() - self._last_look > ORPHANS_SECONDS and not self._closing:
                self._last_look = time.monotonic()
                self.recover()
        finally:
            self._carrying = False

    def _carry_on(self, segment: _Segment) -> None:
        while lines := segment.ahead():
            carry(lines, self._deliver, self.folder)
            segment.carried += len(lines)

    def _begin_anew(self, segment: _Segment) -> None:
        with self._lock:
            if segment.size and segment.carried == segment.size:
                os.ftruncate(segment.descriptor, 0)
                segment.size = segment.carried = 0

    def _orphans(self) -> Iterator[_Segment]:
        own = self._segment.path if self._segment else None
        for path in sorted(self.folder.glob("*.journal")):
            if path != own and (segment := _Segment.adopt(path)):
                yield segment

    def _finish(self, segment: _Segment) -> bool:
        done = False
        try:
            self._carry_on(segment)
            done = True
        finally:
            segment.close(remove=done)
        return done

    def after_fork(self) -> None:
        """Forget the parent's file, locks and thread; the first record makes the child's own."""
        if self._segment is not None:
            os.close(self._segment.descriptor)
        self._reset()


def _after_fork() -> None:
    for journal in list(_journals):
        journal.after_fork()


os.register_at_fork(after_in_child=_after_fork)
