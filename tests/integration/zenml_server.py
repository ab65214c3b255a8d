"""A real ZenML server in a process of its own, for what ZenML refuses to do without one.

Its environment is made once, from the lock, and kept in ``TWIN_TEST_CACHE``: it cannot be that of
the tests, because ``zenml[server]`` holds FastAPI back.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements" / "zenml-server.txt"
CACHE = Path(os.environ.get("TWIN_TEST_CACHE") or "/var/tmp/llm-twin-tests")
PASSWORD = "a-test-password"  # pragma: allowlist secret
STARTING = 120.0


@dataclass(frozen=True)
class Server:
    """Where it listens, and the API key of a service account."""

    url: str
    key: str


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment_of_server() -> Path:
    """The folder of its virtual environment, made when the lock is new."""
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
    home = CACHE / f"zenml-server-{digest}-{sys.version_info.major}.{sys.version_info.minor}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "zenml-server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            _make(home)
    return home


def _make(home: Path) -> None:
    making = home.with_name(f"{home.name}.making")
    shutil.rmtree(making, ignore_errors=True)
    # Relocatable, so that it works under its final name.
    uv = str(Path(sys.executable).with_name("uv"))
    commands = (
        [uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, str(making)],
        [uv, "pip", "install", "--quiet", "--python", str(making), "--no-deps",
         "--require-hashes", "--requirement", str(LOCK)],
    )  # fmt: skip
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, timeout=500)
        if done.returncode:
            pytest.fail(f"no environment for a ZenML server: {done.stderr[-2000:]}", pytrace=False)
    making.rename(home)


@contextlib.contextmanager
def running(home: Path) -> Iterator[Server]:
    """A server with its database in a folder; ends with the block."""
    python = environment_of_server() / "bin" / "python"
    url = f"http://127.0.0.1:{(port := free_port())}"
    home.mkdir(parents=True, exist_ok=True)
    environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment |= {
        "HOME": str(home),
        "ZENML_CONFIG_PATH": str(home / "config"),
        "ZENML_SERVER": "true",
        "ZENML_SERVER_DEPLOYMENT_TYPE": "other",
        "ZENML_SERVER_AUTO_ACTIVATE": "1",
        "ZENML_DEFAULT_USER_NAME": "admin",
        "ZENML_DEFAULT_USER_PASSWORD": PASSWORD,
        "ZENML_SERVER_JWT_SECRET_KEY": "0" * 64,
        "ZENML_ANALYTICS_OPT_IN": "false",
        "ZENML_LOGGING_VERBOSITY": "WARN",
    }
    command = [str(python), "-m", "uvicorn", "zenml.zen_server.zen_server_api:app"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=home)
        try:
            _wait(url, process, home / "server.log")
            yield Server(url, _key(url))
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(15)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + STARTING
    while time.monotonic() < end and process.poll() is None:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{url}/health", timeout=2) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.2)
    pytest.fail(f"the ZenML server does not start:\n{log.read_text()[-3000:]}", pytrace=False)


def _key(url: str) -> str:
    """Make a service account and a key of it, as its dashboard does."""
    form = urllib.parse.urlencode({"username": "admin", "password": PASSWORD}).encode()
    token = _ask(f"{url}/api/v1/login", form, "")["access_token"]
    account = {"name": "ci", "active": True}
    made = _ask(f"{url}/api/v1/service_accounts", json.dumps(account).encode(), token)
    key = json.dumps({"name": "ci"}).encode()
    answer = _ask(f"{url}/api/v1/service_accounts/{made['id']}/api_keys", key, token)
    return str(answer["body"]["key"])


def _ask(url: str, body: bytes, token: str) -> dict:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    if not token:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, data=body, headers=headers), timeout=30
        ) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        pytest.fail(f"the ZenML server refused {url}: {error.read()[:500]!r}", pytrace=False)
