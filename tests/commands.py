"""What a user types, for tests that look at all of it from outside."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Commands:
    """Commands in the repository, with an environment of their own."""

    environment: dict[str, str]

    def start(self, *line: str) -> subprocess.Popen[str]:
        """Begin one; what it prints and its errors come as one text."""
        return subprocess.Popen(
            [sys.executable, "-m", "invoke", *line],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
            env=self.environment,
        )  # fmt: skip

    def invoke(self, *line: str) -> tuple[int, str]:
        """Run one; return its exit code and what it printed."""
        process = self.start(*line)
        out, _ = process.communicate(timeout=500)
        return process.returncode, out
