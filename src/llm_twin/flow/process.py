"""Run a function in a child process of its own group, its output in a log file and on the terminal.

A fork costs milliseconds where a new interpreter costs tenths of a second, and what the child
imports, leaks or crashes on stays with the child.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from llm_twin.errors import TwinError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import IO

    Sink = Callable[[str], None]

GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Outcome:
    """How a child ended.

    Attributes:
        exit_code: 0 on success, the error's exit code, or 128 + the signal that ended it.
        result: what the function returned.
        error: one line about what went wrong, or "".
        signal: name of the signal that killed it, or "".
        cpu: CPU seconds of the child and the children it waited for.
        peak_mb: its largest resident memory, in MiB.

    """

    exit_code: int
    result: Any
    error: str
    signal: str
    cpu: float
    peak_mb: float


def run_in_child(
    work: Callable[[], Any], log: Path, sink: Sink, private: Sequence[IO[str]] = ()
) -> Outcome:
    """Fork, run the work, and pass its output on line by line until it ends.

    Args:
        work: called in the child; must return plain JSON types.
        log: file that receives everything the child prints.
        sink: receives each piece of output, for the terminal.
        private: open files the child must not share: locks that end with this process.

    Raises:
        KeyboardInterrupt: passed on after the child's whole group was ended.

    """
    output_read, output_write = os.pipe()
    answer_read, answer_write = os.pipe()
    alive_read, alive_write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        for fd in (output_read, answer_read, alive_write):
            os.close(fd)
        for handle in private:
            handle.close()
        _child(work, output_write, answer_write, alive_read)
    for fd in (output_write, answer_write, alive_read):
        os.close(fd)
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    try:
        answer, status, usage = _follow(pid, output_read, answer_read, log, sink)
    finally:
        for fd in (output_read, answer_read, alive_write):
            os.close(fd)
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return _outcome(status, answer, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / scale)


def _child(work: Callable[[], Any], output: int, answer: int, alive: int) -> NoReturn:
    """Do the work and leave without returning into the parent's code."""
    code = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout = open(1, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
        threading.Thread(target=_die_with_parent, args=(alive,), daemon=True).start()
        code, message = _work(work)
        os.write(answer, json.dumps(message, default=str).encode())
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _work(work: Callable[[], Any]) -> tuple[int, dict[str, Any]]:
    try:
        return 0, {"result": work()}
    except TwinError as error:
        return error.exit_code, {"error": str(error)}
    except KeyboardInterrupt:
        return 130, {"error": "interrupted"}
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        return code, {"error": f"exit code {code}" if code else "", "result": None}
    except BaseException as error:
        traceback.print_exc()
        return 1, {"error": f"{type(error).__name__}: {error}".partition("\n")[0]}


def _die_with_parent(alive: int) -> None:
    """Wait for the parent's end of the pipe to close; a killed parent leaves no orphans."""
    os.read(alive, 1)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _follow(pid: int, output: int, answer: int, log: Path, sink: Sink) -> tuple[bytes, int, Any]:
    """Pass output on until the child has ended; end its group when we are told to stop."""
    received = b""
    status, usage = None, None
    with selectors.DefaultSelector() as selector, log.open("ab") as file:
        selector.register(output, selectors.EVENT_READ)
        selector.register(answer, selectors.EVENT_READ)
        while selector.get_map():
            try:
                events = selector.select(timeout=0.1)
            except KeyboardInterrupt:
                _end_group(pid)
                raise
            for key, _ in events:
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fd)
                elif key.fd == answer:
                    received += data
                else:
                    file.write(data)
                    file.flush()
                    sink(data.decode("utf-8", "replace"))
            if status is None:
                ended, status_now, usage_now = os.wait4(pid, os.WNOHANG)
                if ended:
                    status, usage = status_now, usage_now
            elif not events:
                break  # a grandchild may hold the pipe open for ever
    if status is None:
        _, status, usage = os.wait4(pid, 0)
    return received, status, usage


def _end_group(pid: int) -> None:
    """Ask the child's group to stop, then insist."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    time.sleep(0.05)
                    continue
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            return


def _outcome(status: int, answer: bytes, cpu: float, peak_mb: float) -> Outcome:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        name = signal.Signals(-code).name
        return Outcome(128 - code, None, f"killed by {name}", name, cpu, peak_mb)
    try:
        message = json.loads(answer)
    except ValueError:
        message = {"error": f"ended with exit code {code} and no answer"}
        code = code or 1
    error = "" if code == 0 else message.get("error", "")
    return Outcome(code, message.get("result"), error, "", cpu, peak_mb)
