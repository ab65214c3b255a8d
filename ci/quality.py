"""The checks: each stage runs the nox session of its name; ``ci`` is all of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from llm_twin.errors import TwinError
from llm_twin.flow import stage

ROOT = Path(__file__).resolve().parents[1]


def nox(session: str) -> None:
    """Run a nox session and let its output through.

    Raises:
        TwinError: the session failed.

    """
    command = [sys.executable, "-m", "nox", "--noxfile", str(ROOT / "noxfile.py"), "-s", session]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if subprocess.run(command, check=False, cwd=ROOT, env=environment).returncode:
        raise TwinError(f"nox -s {session} failed", hint=f"Run it alone: nox -s {session}")


@stage
def lint() -> None:
    """Check style, formatting and the one-way imports (nox -s lint)."""
    nox("lint")


@stage
def types() -> None:
    """Check types strictly (nox -s types)."""
    nox("types")


@stage
def workflows() -> None:
    """Check the workflow files: schema, security, and that they stay thin (nox -s workflows)."""
    nox("workflows")


@stage
def secrets() -> None:
    """Look for secrets in tracked files (nox -s secrets)."""
    nox("secrets")


@stage
def tests() -> None:
    """Run the tests on every Python in 3.11 to 3.13 that is installed (nox -s tests)."""
    nox("tests")


@stage
def package() -> None:
    """Build sdist and wheel and try the wheel in a new environment (nox -s package)."""
    nox("package")


@stage(needs=["lint", "types", "workflows", "secrets", "tests"])
def ci() -> None:
    """Run what ci.yml runs."""
    print("every check passed")
