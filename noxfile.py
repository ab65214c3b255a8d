"""Front door for nox: the checks, each in its own environment, filled by bootstrap."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
PYTHONS = ("3.11", "3.12", "3.13")
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"
LOCKS = {
    "serve": ("serve", "trace"),
    "ct": ("ct",),
    "train": ("ct", "remote"),
    "zenml-server": ("server",),
    "dev": ("dev",),
}
LOCK_PREFIXES_LEFT_OUT = ("torch", "triton", "nvidia-", "cuda-")
OPIK_ONLY = {"iniconfig", "pluggy", "pytest", "rapidfuzz", "watchfiles"}

nox.options.sessions = ["lint", "types", "workflows", "secrets", "tests", "chaos"]
nox.options.reuse_existing_virtualenvs = True
nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_missing_interpreters = True


def runs(version: str) -> bool:
    """Whether this Python is really there; a version manager's shim alone is not."""
    found = shutil.which(f"python{version}")
    if found is None:
        return False
    return subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0


INSTALLED = [version for version in PYTHONS if version == THIS or runs(version)]


def fill(session: nox.Session, *options: str) -> None:
    """Install the lock and the project into the session's environment."""
    launcher = [sys.executable, str(ROOT / "bootstrap"), "--into", session.virtualenv.location]
    session.run(*launcher, *options, external=True, silent=False)


@nox.session(python=INSTALLED)
def tests(session: nox.Session) -> None:
    """Unit, integration and acceptance tests with coverage; arguments go to pytest."""
    required = session.python == THIS
    fill(session, "--torch" if required else "--torch-if-offered")
    weights = os.environ.get("TWIN_EMBEDDER_HOME") or str(ROOT / ".twin" / "embedder")
    environment = {"TWIN_EMBEDDER_HOME": weights, "PYTHONUNBUFFERED": "1"}
    session.run("python", "-m", "llm_twin.retrieval.weights", env=environment)
    has_torch = bool(list(Path(session.virtualenv.location).glob("lib/*/site-packages/torch")))
    chosen = [] if has_torch else ["-m", "not torch"]
    if not has_torch:
        session.warn(f"no torch build for Python {session.python} here: no training tests")
    session.run("coverage", "erase")
    measured = ["python", "-m", "pytest", "--cov", "--cov-report=", "--cov-append", *chosen]
    if session.posargs:
        session.run(*measured, *session.posargs, env=environment)
        return
    measured += ["--numprocesses=logical", "--dist=loadfile"]
    # Apart from each other: what the one sets in its process is not for the other.
    for part in (["tests/unit"], ["tests/integration", "tests/acceptance"]):
        session.run(*measured, *part, env=environment)
    if has_torch:
        session.run("coverage", "report", "--fail-under=90")


@nox.session(python=THIS)
def chaos(session: nox.Session) -> None:
    """Kill flows at 200 random moments, fill the disk, cut the wire; arguments go to pytest."""
    fill(session)
    chosen = session.posargs or ["tests/chaos"]
    session.run("python", "-m", "pytest", "-s", *chosen, env={"PYTHONUNBUFFERED": "1"})


@nox.session(python=THIS)
def lint(session: nox.Session) -> None:
    """Style, formatting and the one-way imports."""
    fill(session)
    session.run("ruff", "check", ".", "bootstrap")
    session.run("ruff", "format", "--check", ".", "bootstrap")
    session.run("lint-imports", "--no-cache")


@nox.session(python=THIS)
def types(session: nox.Session) -> None:
    """Strict typing, torch's own annotations included."""
    fill(session, "--torch")
    session.run("mypy")


@nox.session(python=THIS)
def workflows(session: nox.Session) -> None:
    """GitHub's schema, zizmor's audits, and that every step is one line of ours."""
    fill(session)
    files = sorted(str(path) for path in ROOT.glob(".github/workflows/*.yml"))
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *files)
    session.run("zizmor", "--offline", "--no-progress", ".github")
    session.run("python", "-m", "pytest", "-q", "tests/unit/test_workflows.py")


@nox.session(python=THIS)
def secrets(session: nox.Session) -> None:
    """No secret in a tracked file."""
    fill(session)
    listed = subprocess.run(
        ["git", "ls-files", "-z"], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout
    files = [name for name in listed.split("\0") if name and not name.startswith("requirements/")]
    hook = str(Path(session.bin) / "detect-secrets-hook")
    if subprocess.run([hook, *files], check=False, cwd=ROOT).returncode:
        session.error("that looks like a secret; see above")


@nox.session(python=THIS)
def package(session: nox.Session) -> None:
    """Build sdist and wheel into dist/ and import the wheel from a new environment."""
    fill(session)
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.run("hatchling", "build")
    (wheel,) = (ROOT / "dist").glob("*.whl")
    fresh = Path(session.create_tmp()) / "venv"
    session.run("virtualenv", "-q", "--clear", str(fresh))
    session.run(
        str(fresh / "bin" / "python"), "-m", "pip", "install", "-q", "--no-deps", str(wheel),
        external=True,
    )  # fmt: skip
    session.run(
        str(fresh / "bin" / "python"), "-c",
        "import llm_twin, llm_twin.errors; print('llm-twin', llm_twin.__version__)",
        external=True,
    )  # fmt: skip


@nox.session(python=THIS, default=False)
def lock(session: nox.Session) -> None:
    """Write requirements/*.txt anew from pyproject.toml."""
    fill(session)
    for name, extras in LOCKS.items():
        compile_lock(session, name, extras)


def compile_lock(session: nox.Session, name: str, extras: tuple[str, ...]) -> None:
    """Resolve once, then again without torch, what only its CUDA builds and Opik's tools need."""
    command = [
        "uv", "pip", "compile", "pyproject.toml", *(f"--extra={extra}" for extra in extras),
        "--universal", "-q", "--python-version", PYTHONS[0], "--generate-hashes",
        "--no-emit-index-url", "--no-annotate", "--no-header", *session.posargs,
    ]  # fmt: skip
    target = ROOT / "requirements" / f"{name}.txt"
    session.run(*command, "-o", str(target))
    names = {line.partition("==")[0] for line in target.read_text().splitlines()}
    left_out = {package for package in names if package.startswith(LOCK_PREFIXES_LEFT_OUT)}
    if name != "dev":
        left_out |= names & OPIK_ONLY
    session.run(
        *command,
        *(f"--no-emit-package={package}" for package in sorted(left_out)),
        "-o",
        str(target),
    )
