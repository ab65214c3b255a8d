"""Run functions in child processes, each with a group of its own and its output in a log file.

A fork costs milliseconds where a new interpreter costs tenths of a second, and what a child
imports, leaks or crashes on stays with it. Nothing here starts a thread in the parent, so that
forking stays safe.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import selectors
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from llm_twin.flow.child import run_child
from llm_twin.flow.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import IO

    Sink = Callable[[str], None]

    class Stream(Protocol):
        """What output passes through on its way to the log, to have its secrets masked."""

        def feed(self, data: bytes) -> bytes: ...
        def idle(self) -> bytes: ...
        def close(self) -> bytes: ...


GRACE_SECONDS = 5.0
IDLE_SECONDS = 0.2
# More than any pipe holds; something left behind may write for ever.
MOST_READS = 64


@dataclass(frozen=True)
class Work:
    """What a child does.

    Attributes:
        name: of the stage; also the name of the child among others.
        cookie: tells its descendants from other processes, in their environment.
        function: called in the child; must return plain JSON types.
        wants_retry: whether an error that it raised is worth another attempt.
        log: file that everything printed is appended to.
        sink: receives each piece of output as text.
        stream: masks the output on its way.
        timeout: seconds until its process tree is ended.

    """

    name: str
    cookie: str
    function: Callable[[], Any]
    wants_retry: Callable[[BaseException], bool]
    log: Path
    sink: Sink
    stream: Stream
    timeout: float | None = None


@dataclass(frozen=True)
class Outcome:
    """How a child ended.

    Attributes:
        exit_code: 0 on success, the error's exit code, or 128 + the signal that ended it.
        result: what the function returned.
        error: one line about what went wrong, or "".
        signal: name of the signal that killed it, or "".
        crashed: whether it was killed, or ended without an answer.
        retry: whether the error is worth another attempt.
        stopped: why we ended it: ``timeout``, ``cancelled`` or "".
        cpu: CPU seconds of the child and the children it waited for.
        peak_mb: its largest resident memory, in MiB.

    """

    exit_code: int
    result: Any
    error: str
    signal: str
    crashed: bool
    retry: bool
    stopped: str
    cpu: float
    peak_mb: float


class _Child:
    """One running child as its parent sees it."""

    def __init__(
        self, work: Work, tree: Tree, log: IO[bytes], output: int, answer: int, alive: int
    ) -> None:
        self.work = work
        self.tree = tree
        self.pid = tree.group
        self.log = log
        self.output = output
        self.answer = answer
        self.alive = alive
        self.exit_fd = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else -1
        self.decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self.received = bytearray()
        self.deadline = time.monotonic() + work.timeout if work.timeout else None
        self.heard = time.monotonic()
        self.held_back = False
        self.muted = False
        self.stopped = ""
        self.kill_at = 0.0

    @property
    def fds(self) -> list[int]:
        mine = [self.output, self.answer, self.alive, self.exit_fd, self.log.fileno()]
        return [fd for fd in mine if fd >= 0]

    def show(self, data: bytes, last: bool = False) -> None:
        if self.muted:
            return
        if data:
            self.log.write(data)
        if text := self.decode(data, last):
            self.work.sink(text)


class Children:
    """The children of one run. Call ``wait`` again and again: it moves everything on."""

    def __init__(self, private: Sequence[IO[str]] = ()) -> None:
        """Start with none.

        Args:
            private: open files that no child may share: locks that end with this process.

        """
        self._private = private
        self._children: dict[str, _Child] = {}
        self._selector = selectors.DefaultSelector()
        self._stragglers: dict[int, float] = {}
        while (fd := os.open(os.devnull, os.O_RDWR)) < 3:  # or a pipe would become standard output
            pass
        os.close(fd)

    def __len__(self) -> int:
        return len(self._children)

    def start(self, work: Work) -> None:
        """Fork a child that does the work."""
        log = work.log.open("ab", buffering=0)
        output_read, output_write = os.pipe()
        answer_read, answer_write = os.pipe()
        alive_read, alive_write = os.pipe()
        pipe = os.fstat(alive_read)
        others = [handle.fileno() for handle in self._private]
        others += [fd for child in self._children.values() for fd in child.fds]
        others += [output_read, answer_read, alive_write, log.fileno(), self._selector.fileno()]
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        pid = os.fork()
        if pid == 0:
            run_child(work, output_write, answer_write, alive_read, others, set(mask))
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for fd in (output_write, answer_write, alive_read):
            os.close(fd)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        tree = Tree(pid, work.cookie, alive_read, pipe)
        child = _Child(work, tree, log, output_read, answer_read, alive_write)
        self._children[work.name] = child
        for fd in (output_read, answer_read):
            os.set_blocking(fd, False)
        for fd in (output_read, answer_read, child.exit_fd):
            if fd >= 0:
                self._selector.register(fd, selectors.EVENT_READ, child)

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        """Pass output on for up to some seconds; return as soon as children have ended."""
        until = time.monotonic() + seconds
        while True:
            patience = max(0.0, min(until - time.monotonic(), 0.1 if self._children else seconds))
            exited = set()
            for key, _ in self._selector.select(patience):
                child: _Child = key.data
                if key.fd == child.exit_fd:
                    exited.add(child.work.name)
                else:
                    self._read(child, key.fd)
            now = time.monotonic()
            self._end_stragglers(now)
            ended = []
            for name, child in list(self._children.items()):
                if (name in exited or child.exit_fd < 0) and (outcome := self._collect(child)):
                    ended.append((name, outcome))
                else:
                    self._watch(child, now)
            if ended or now >= until:
                return ended

    def stop(self, name: str, why: str, at_once: bool = False) -> None:
        """Ask a child's whole tree to stop; what is left after a grace is killed."""
        child = self._children[name]
        child.stopped = child.stopped or why
        if at_once:
            child.tree.kill()
        elif not child.kill_at:
            child.kill_at = time.monotonic() + GRACE_SECONDS
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGINT)

    def names(self) -> list[str]:
        """Names of the stages that are running."""
        return list(self._children)

    def close(self) -> None:
        """End what is left, unheard: log and sink may be why; and give everything back."""
        for name, child in self._children.items():
            child.muted = True
            self.stop(name, "cancelled", at_once=True)
        while self._children:
            self.wait(0.1)
        until = time.monotonic() + 1.0
        self._end_stragglers(time.monotonic())
        while self._stragglers and time.monotonic() < until:
            time.sleep(0.002)
            self._end_stragglers(time.monotonic())
        self._end_stragglers(float("inf"))
        self._selector.close()

    def _read(self, child: _Child, fd: int) -> bool:
        """Take what a pipe holds; whether there was anything."""
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return False
        if not data:
            with contextlib.suppress(KeyError):
                self._selector.unregister(fd)
            return False
        if fd == child.answer:
            child.received += data
        else:
            child.heard = time.monotonic()
            child.held_back = True
            child.show(child.work.stream.feed(data))
        return True

    def _watch(self, child: _Child, now: float) -> None:
        if child.held_back and now - child.heard > IDLE_SECONDS:
            child.held_back = False
            child.show(child.work.stream.idle())
        if child.deadline and now > child.deadline and not child.stopped:
            self.stop(child.work.name, "timeout")
        if child.kill_at and now > child.kill_at:
            child.kill_at = now + 0.5
            child.tree.kill()

    def _collect(self, child: _Child) -> Outcome | None:
        """Take an ended child's last words and remove it."""
        if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        while self._read(child, child.answer):
            pass
        for _ in range(MOST_READS):
            if not self._read(child, child.output):
                break
        # Not reaped yet, so the group's number still belongs to it.
        if child.stopped:
            child.tree.kill()
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGTERM)
            self._stragglers[child.pid] = time.monotonic() + 1.0
        _, status, usage = os.wait4(child.pid, 0)
        del self._children[child.work.name]
        for fd in (child.output, child.answer, child.exit_fd):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(fd)
        for fd in (child.output, child.answer, child.alive, child.exit_fd):
            if fd >= 0:
                os.close(fd)
        with child.log:
            child.show(child.work.stream.close(), last=True)
        scale = 2**20 if sys.platform == "darwin" else 2**10
        return _outcome(child, status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / scale)

    def _end_stragglers(self, now: float) -> None:
        """What a stage left running in its own group was asked to stop; insist."""
        for group, deadline in list(self._stragglers.items()):
            try:
                os.killpg(group, signal.SIGKILL if now > deadline else 0)
            except (ProcessLookupError, PermissionError):
                del self._stragglers[group]


def _outcome(child: _Child, status: int, cpu: float, peak_mb: float) -> Outcome:
    code = os.waitstatus_to_exitcode(status)
    message: dict[str, Any] = {}
    name, error = "", f"ended with exit code {code} and no answer"
    if code < 0:
        name = next((item.name for item in signal.Signals if item == -code), f"signal {-code}")
        error, code = f"killed by {name}", 128 - code
    else:
        with contextlib.suppress(ValueError):
            message = json.loads(child.received)
            error = message.get("error", "")
    crashed, retry = not message, bool(message.get("retry"))
    result, exit_code = message.get("result"), code or int(crashed)
    return Outcome(exit_code, result, error, name, crashed, retry, child.stopped, cpu, peak_mb)
