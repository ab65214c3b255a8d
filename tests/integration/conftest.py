"""A real container engine and a base image, for every test that needs them.

Nothing can be pulled in many places, so the base image is made once with debootstrap and kept in
``TWIN_TEST_CACHE`` (default: a folder in /var/tmp).
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from llm_twin.delivery.engine import Address, Engine, find_engine
from llm_twin.errors import NotReadyError

CACHE = Path(os.environ.get("TWIN_TEST_CACHE") or "/var/tmp/llm-twin-tests")
BASE_IMAGE = "llm-twin-base:test"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PACKAGES = "python3,python3-venv,ca-certificates"


@contextlib.contextmanager
def started_engine(size_mb: int = 0, options: Sequence[str] = ()) -> Iterator[Engine]:
    """A dockerd of its own with all it keeps in a temporary folder; ends with the block.

    Its ``process`` can be killed. With ``size_mb`` its disk holds no more than that;
    ``options`` are more of dockerd's own.
    """
    home = Path(tempfile.mkdtemp(prefix="twin-", dir="/var/tmp"))
    bridge = f"tw{os.getpid() % 10**6}x{home.name[-4:]}"
    data = home / "data"
    data.mkdir()
    run = lambda *command: subprocess.run(command, check=True, timeout=30)  # noqa: E731
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        stack.callback(_unmount, home)
        if size_mb:
            run("mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(data))
        # With docker0 it would share addresses with a second dockerd on this machine.
        run("ip", "link", "add", bridge, "type", "bridge")
        stack.callback(subprocess.run, ["ip", "link", "delete", bridge], timeout=30)
        run("ip", "address", "add", f"10.{os.getpid() % 200 + 20}.{id(home) // 64 % 250}.1/24",
            "dev", bridge)  # fmt: skip
        log = stack.enter_context((home / "dockerd.log").open("wb"))
        # One that starts flushes the packet filter's chains of every other: with them, nobody
        # else could publish a port meanwhile. Its userland proxy does without.
        process = subprocess.Popen(
            ["dockerd", "--host", f"unix://{home}/docker.sock", "--data-root", str(data),
             "--exec-root", str(home / "run"), "--pidfile", str(home / "pid"),
             "--bridge", bridge, "--iptables=false", *options],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        stack.callback(_end, process)
        engine = _connected(f"unix://{home}/docker.sock", process, home / "dockerd.log")
        object.__setattr__(engine, "process", process)
        yield engine


def _unmount(folder: Path) -> None:
    """The disk of limited size, and what an engine that was killed has left mounted."""
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for place in reversed([place for place in mounted if Path(place).is_relative_to(folder)]):
        subprocess.run(["umount", "--lazy", place], timeout=30)


def _connected(host: str, process: subprocess.Popen[bytes], log: Path) -> Engine:
    for _ in range(300):
        with contextlib.suppress(NotReadyError):
            return Engine.connect(Address(host))
        if process.poll() is not None:
            break
        time.sleep(0.1)
    pytest.fail(f"dockerd does not start:\n{log.read_text()[-2000:]}", pytrace=False)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(30)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The engine that answers, else one of our own; ``DOCKER_HOST`` names it meanwhile."""
    with contextlib.ExitStack() as stack:
        try:
            found = find_engine()
        except NotReadyError:
            if os.geteuid() or not shutil.which("dockerd"):
                pytest.skip("needs a container engine, or root and dockerd to start one")
            found = stack.enter_context(started_engine())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("DOCKER_HOST", found.address.host)
        yield found


@pytest.fixture(scope="session")
def base_image(engine: Engine) -> str:
    """The name of an image with Debian's Python and this machine's certificates."""
    return imported_base(engine)


@pytest.fixture(scope="session")
def own_engine() -> Callable[..., contextlib.AbstractContextManager[Engine]]:
    """Start an engine that a test may fill or kill."""
    if os.geteuid() or not shutil.which("dockerd"):
        pytest.skip("needs root and dockerd to start an engine of its own")
    return started_engine


def imported_base(engine: Engine) -> str:
    """Bring the base image into an engine that does not have it; return its name."""
    if not engine.image_id(BASE_IMAGE):
        if os.geteuid() == 0 and shutil.which("debootstrap"):
            engine.api.import_image_from_file(str(_rootfs()), *BASE_IMAGE.split(":"))
        else:
            _pull_base(engine)
    return BASE_IMAGE


def _pull_base(engine: Engine) -> None:
    """Where nobody may make one, the image that the Dockerfile names does as well."""
    repository, tag = "python", "3.11-slim-bookworm"
    list(engine.api.pull(repository, tag=tag, stream=True))
    if not engine.image_id(f"{repository}:{tag}"):
        pytest.skip("needs root and debootstrap, or a network, for a base image")
    engine.api.tag(f"{repository}:{tag}", *BASE_IMAGE.split(":"))


def _rootfs() -> Path:
    archive = CACHE / "base-bookworm-1.tar"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            _debootstrap(archive)
    return archive


def _debootstrap(archive: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        root, log = Path(folder, "rootfs"), Path(folder, "log")
        with log.open("wb") as out:
            made = subprocess.run(
                ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm",
                 str(root)], stdout=out, stderr=out, timeout=580,
            )  # fmt: skip
        if made.returncode:
            pytest.fail(f"debootstrap failed:\n{log.read_text()[-2000:]}", pytrace=False)
        shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
        partial = Path(folder, "rootfs.tar")
        leave = ["--exclude=./var/cache/apt/archives/*.deb", "--exclude=./var/lib/apt/lists/*"]
        command = ["tar", "-C", str(root), "--numeric-owner", *leave, "-cf", str(partial), "."]
        subprocess.run(command, check=True, timeout=120)
        partial.rename(archive)


@pytest.fixture
def saved(engine: Engine) -> Callable[[str], io.BytesIO]:
    """An image as ``docker save`` writes it."""
    return lambda name: io.BytesIO(b"".join(engine.api.get_image(name)))
