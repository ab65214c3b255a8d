"""Who is alive and who holds what: file locks, which the kernel drops when a process dies.

A process id can be reused and is never guessed at.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from typing import TYPE_CHECKING

from llm_twin.errors import BusyError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO


# Seconds. Somebody may be looking, or what a killed holder forked be about to close its copy.
PATIENCE = (0.0, 0.005, 0.02, 0.05, 0.1, 0.2)


def hold(path: Path) -> IO[str] | None:
    """Lock a file for as long as the returned handle stays open; None when another holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = path.open("a+")
    for seconds in PATIENCE:
        time.sleep(seconds)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
    handle.close()
    return None


def is_held(path: Path) -> bool:
    """Whether some living process holds the file, or may do so: nobody can tell."""
    try:
        with path.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def claim(folder: Path, name: str, by: str) -> IO[str]:
    """Lock a name: at most one holder at a time on this store.

    Args:
        folder: where locks are kept.
        name: what is claimed.
        by: who claims it, for whoever comes second; ends with the id of its run.

    Raises:
        BusyError: another process holds it; the message says which.

    """
    handle = hold(folder / name)
    if handle is None:
        holder = (folder / name).read_text().strip()
        watch = f", or watch it: invoke runs.logs {holder.split()[-1]}" if holder else ""
        raise BusyError(
            f"invoke {name} is running already", holder or "another process", f"Wait for it{watch}"
        )
    handle.truncate(0)
    handle.write(by)
    handle.flush()
    return handle
