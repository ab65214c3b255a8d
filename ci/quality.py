"""The checks: each stage runs the nox session of its name, and only when what it looks at changed.

``ci`` is all of them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from llm_twin.errors import TwinError
from llm_twin.flow import stage
from llm_twin.flow.context import context

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ["noxfile.py", "bootstrap", "pyproject.toml"]
CODE = ["src/**/*.py", "ci/**/*.py", "tasks.py", *TOOLS]
TESTS = ["tests/**/*", "benchmarks/**/*"]
DOCUMENTS = ["docs/**/*", "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "LICENSE", ".ci/run"]
WORKFLOWS = [".github/**/*"]
IMAGE = ["Dockerfile", ".dockerignore", "requirements/*"]
KILLED = ["src/llm_twin/flow/**/*.py", "src/llm_twin/delivery/**/*.py"]


def nox(session: str) -> None:
    """Run a nox session and let its output through.

    Raises:
        TwinError: the session failed.

    """
    command = [sys.executable, "-m", "nox", "--noxfile", str(ROOT / "noxfile.py"), "-s", session]
    environment = {"PYTHONUNBUFFERED": "1"}
    if context().run_command(*command, cwd=ROOT, env=environment, check=False).exit_code:
        raise TwinError(f"nox -s {session} failed", hint=f"Run it alone: nox -s {session}")


def tracked_files() -> list[Path]:
    """The files that Git knows of and that are there."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


@stage(cached=True, inputs=[*CODE, "tests/**/*.py", "benchmarks/**/*.py"])
def lint() -> None:
    """Check style, formatting and the one-way imports (nox -s lint)."""
    nox("lint")


@stage(cached=True, inputs=CODE)
def types() -> None:
    """Check types strictly (nox -s types)."""
    nox("types")


@stage(cached=True, inputs=[*CODE, *WORKFLOWS, "tests/unit/test_workflows.py", "tests/conftest.py"])
def workflows() -> None:
    """Check the workflow files: schema, security, and that they stay thin (nox -s workflows)."""
    nox("workflows")


@stage(cached=True, inputs=TOOLS, find_inputs=tracked_files)
def secrets() -> None:
    """Look for secrets in tracked files (nox -s secrets)."""
    nox("secrets")


@stage(cached=True, needs=["lint", "types", "workflows", "secrets", "dockerfile"])
def checks() -> None:
    """Run every check that needs no test run: style, types, workflows, secrets, Dockerfile."""
    print("every check passed")


@stage(cached=True, inputs=[*CODE, *TESTS, *DOCUMENTS, *WORKFLOWS, *IMAGE])
def tests() -> None:
    """Run the tests on every Python in 3.11 to 3.13 that is installed (nox -s tests)."""
    nox("tests")


@stage(cached=True, inputs=[*KILLED, "tests/chaos/*", "tests/integration/*", *TOOLS])
def chaos() -> None:
    """Kill flows and deployments at any moment and see that nothing is lost (nox -s chaos)."""
    nox("chaos")


@stage(
    cached=True,
    inputs=["src/**/*", "pyproject.toml", "README.md", "LICENSE", *TOOLS],
    outputs=["dist/*.whl", "dist/*.tar.gz"],
)
def package() -> None:
    """Build sdist and wheel and try the wheel in a new environment (nox -s package)."""
    nox("package")


@stage(cached=True, needs=["checks", "layers", "tests", "chaos"])
def ci() -> None:
    """Run what ci.yml runs; what did not change since it passed is not run again."""
    print("everything passed")
