"""A forked child's life: make it a process of its own, do the work, answer, never come back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from llm_twin.errors import TwinError
from llm_twin.flow.tree import COOKIE, Tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm_twin.flow.process import Work

HERE = str(Path(__file__).parent)


def run_child(
    work: Work, output: int, answer: int, alive: int, others: Sequence[int], mask: set[int]
) -> NoReturn:
    """Do the work, send the answer and end, whatever comes.

    Args:
        work: what to do.
        output: where standard output and errors go.
        answer: where the answer goes, as JSON: ``result``, or ``error`` and ``retry``.
        alive: a pipe that ends when the parent does.
        others: what else was inherited, to be closed.
        mask: the signals to hold back from now on; until now, all that stop were.

    """
    code = 1
    try:
        try:
            _settle_in(work, output, alive, others)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            code, text = _work(work)
            with open(answer, "wb") as pipe:
                pipe.write(text)
            with contextlib.suppress(OSError, ValueError, AttributeError):  # it may close them
                sys.stdout.flush()
                sys.stderr.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    finally:  # interrupted on its way out, it must not run on into its parent's code
        os.kill(os.getpid(), signal.SIGKILL)


def _settle_in(work: Work, output: int, alive: int, others: Sequence[int]) -> None:
    """Become a process of its own: group, signals, streams, and a watch on the parent."""
    for fd in others:
        os.close(fd)
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ[COOKIE] = work.cookie
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for fd in (1, 2):
        stream = open(fd, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115
        setattr(sys, "stdout" if fd == 1 else "stderr", stream)
    tree = Tree(os.getpid(), work.cookie, alive, os.fstat(alive))
    threading.Thread(target=_die_with_parent, args=(tree,), daemon=True).start()


def _work(work: Work) -> tuple[int, bytes]:
    """Exit code and answer."""
    try:
        answer = json.dumps({"result": work.function()}, default=str).encode()
        for thread in threading.enumerate():  # Python waits for them when a program ends, too
            if not thread.daemon and thread is not threading.current_thread():
                thread.join()
        return 0, answer
    except KeyboardInterrupt:
        return 130, b'{"error": "interrupted"}'
    except BaseException as error:
        code, said = _blame(error)
        return code, json.dumps({"error": said, "retry": work.wants_retry(error)}).encode()


def _blame(error: BaseException) -> tuple[int, str]:
    if isinstance(error, TwinError):
        return error.exit_code, str(error)
    if isinstance(error, SystemExit):
        if isinstance(error.code, str):
            _tell(error.code)
        code = error.code % 256 if isinstance(error.code, int) else 1
        return code or 1, f"exit code {code or 1}"
    frames = error.__traceback__
    while frames and frames.tb_next and frames.tb_frame.f_code.co_filename.startswith(HERE):
        frames = frames.tb_next
    _tell("".join(traceback.format_exception(type(error), error, frames)).rstrip())
    return 1, f"{type(error).__name__}: {error}".partition("\n")[0]


def _tell(text: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # the stage may have closed it
        print(text, file=sys.stderr)


def _die_with_parent(tree: Tree) -> None:
    """Wait for the parent's end of the pipe to close; a killed parent leaves no orphans."""
    os.read(tree.fd, 1)
    tree.kill()
