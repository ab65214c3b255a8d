"""What a cluster does with a job, without a cluster: its command as a process of its own.

The process gets an empty home and the environment that the job names, nothing of the test's but
where AWS is. ``/app`` is a folder of its own; a container has one, this machine need not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

LENT = ("PATH", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
        "AWS_DEFAULT_REGION", "TWIN_EMBEDDER_HOME")  # fmt: skip
# What the image's stage `train` sets.
IMAGE = {
    "ZENML_ANALYTICS_OPT_IN": "false",
    "ZENML_ENABLE_RICH_TRACEBACK": "false",
    "ZENML_LOGGING_COLORS_DISABLED": "true",
    "ZENML_LOGGING_VERBOSITY": "WARN",
    "SAGEMAKER_SUPPRESS_V2_WARNING": "1",
}
SITE = """
import os, socket
_makedirs, _chdir, _app = os.makedirs, os.chdir, {app!r}
os.makedirs = lambda name, *a, **k: _makedirs(_app if name == "/app" else name, *a, **k)
os.chdir = lambda path: _chdir(_app if path == "/app" else path)
socket.gethostname = lambda: {hostname!r}
"""


class Container:
    """A running job.

    Args:
        folder: for its home, its ``/app`` and its log; made anew.
        command: what the image would be started with.
        environment: as the job says it.
        hostname: as the process sees it.

    """

    def __init__(
        self, folder: Path, command: Sequence[str], environment: Mapping[str, str],
        hostname: str = "job",
    ) -> None:  # fmt: skip
        site, home, app = (folder / name for name in ("site", "home", "app"))
        for each in (site, home, app):
            each.mkdir(parents=True)
        (site / "sitecustomize.py").write_text(SITE.format(app=str(app), hostname=hostname))
        self.folder, self.log, self._read = folder, folder / "log", 0
        own = {name: os.environ[name] for name in LENT if name in os.environ}
        own |= {"HOME": str(home), "PYTHONPATH": str(site), "TWIN_HOME": str(home / "twin"),
                "PYTHONUNBUFFERED": "1", **IMAGE}  # fmt: skip
        first = sys.executable if command[0] == "python" else command[0]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [first, *command[1:]], env={**own, **environment}, cwd=home, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def ended(self) -> int | None:
        """Its exit code, like a container's: 137 for kill -9; None while it runs."""
        code = self.process.poll()
        return code if code is None or code >= 0 else 128 - code

    def fresh_lines(self) -> list[str]:
        """Whole lines of its output that were not returned yet."""
        data = self.log.read_bytes()[self._read :]
        whole = data if self.ended() is not None else data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return whole.decode("utf-8", "replace").splitlines()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to it and all that it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        self.process.wait(20)
