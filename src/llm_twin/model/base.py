"""The weights that training starts from: found, checked against their pin, fetched.

``python -m llm_twin.model.base FOLDER`` prints what to write as the revision of a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_twin.errors import ConfigError, NotReadyError
from llm_twin.model import durable, runtime

if TYPE_CHECKING:
    from llm_twin.model import profile

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_FETCHED = [*WEIGHTS, "*.json", "*.txt", "*.model", "*.jinja", "LICENSE*"]
_PIPELINES = "ForCausalLM", "LMHeadModel"
"""How the architectures of causal language models end."""
REACH = 10.0
"""Seconds that the hub may take to answer."""


def digest(folder: Path) -> str:
    """Return ``sha256:`` and 64 hex digits over the names and contents of a folder's weights.

    Raises:
        ConfigError: there are none.

    """
    files = sorted({path for pattern in WEIGHTS for path in folder.glob(pattern)})
    if not files:
        raise ConfigError("the folder holds no weights", folder, f"Looked for {' '.join(WEIGHTS)}")
    said = "".join(f"{path.name} {durable.sha256_of(path)}\n" for path in files)
    return f"sha256:{hashlib.sha256(said.encode()).hexdigest()}"


def check(training: profile.Training, base: profile.Base) -> None:
    """Find what can be known to be wrong before training, in seconds and without writing.

    torch is imported only if the profile asks for a GPU or bf16, the hub asked only for a base
    that is on it and not yet here.

    Raises:
        ConfigError: the base is not what the profile says, or cannot be trained.
        NotReadyError: a GPU, a library, the base or the hub is not there.

    """
    runtime.prepare()
    _check_libraries(training)
    if training.device == "cuda" or training.precision == "bf16":
        device_for(training)
    if not base.scratch:
        _check_base(base)


def device_for(training: profile.Training) -> str:
    """Return ``cpu`` or ``cuda``.

    Raises:
        NotReadyError: there is no GPU, or the device cannot do what the profile asks for.

    """
    if training.device == "cpu" and training.precision == "fp32":
        return "cpu"
    import torch

    found = torch.cuda.is_available()
    quantized = training.lora is not None and training.lora.quantize == "4bit"
    if not found and (training.device == "cuda" or quantized):
        raise NotReadyError(
            "this profile needs a GPU, and torch finds none",
            hint="Use --profile laptop or --profile tiny, or run it where a GPU is",
        )
    device = "cuda" if found and training.device != "cpu" else "cpu"
    if training.precision == "bf16" and not _knows_bf16(device):
        raise NotReadyError(
            "this profile computes in bf16, which this device cannot do",
            device,
            "Set training.precision to fp32 in the profile",
        )
    return device


def _knows_bf16(device: str) -> bool:
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    processor = Path("/proc/cpuinfo")
    return processor.is_file() and "amx_bf16" in processor.read_text(encoding="utf-8")


def _check_libraries(training: profile.Training) -> None:
    needed = ["trl"]
    if training.lora:
        needed += ["peft", *(["bitsandbytes"] if training.lora.quantize == "4bit" else [])]
    for name in needed:
        if find_spec(name) is None:
            raise NotReadyError(
                f"{name} is not installed, and this profile needs it",
                hint="Set training.lora.quantize to none, or: pip install bitsandbytes"
                if name == "bitsandbytes"
                else "Install what trains: ./bootstrap invoke ct",
            )


def _check_base(base: profile.Base) -> None:
    folder = Path(base.model).expanduser()
    if base.revision.startswith("sha256:") or folder.is_dir():
        _check_folder(folder, base)
    elif not _cached(base):
        _check_hub(base)


def _check_folder(folder: Path, base: profile.Base) -> None:
    if not (folder / "config.json").is_file():
        raise ConfigError(
            "there is no base model", folder, "Give a folder with config.json, or a name on the hub"
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ConfigError("the base's config.json cannot be read", folder, str(error)) from None
    check_causal(config, base)
    found = digest(folder)
    if found != base.revision:
        raise ConfigError(
            f"the base's weights are not the pinned ones: found {found}, pinned {base.revision}",
            folder,
            "If they are wanted, write the found one as base.revision in the profile",
        )


def check_causal(config: dict[str, Any], base: profile.Base) -> None:
    """Refuse what is not a causal language model.

    Raises:
        ConfigError: its ``config.json`` names another architecture.

    """
    named = config.get("architectures") or []
    if not any(str(one).endswith(_PIPELINES) for one in named):
        raise ConfigError(
            f"the base is not a causal language model but {', '.join(named) or 'unnamed'}",
            base.model,
            "Choose one whose architecture ends in ForCausalLM",
        )


def _cached(base: profile.Base) -> Path | None:
    """The snapshot that is here already, if its weights are."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = Path(snapshot_download(base.model, revision=base.revision, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):
        return None
    return found if any(any(found.glob(pattern)) for pattern in WEIGHTS) else None


def _check_hub(base: profile.Base) -> None:
    from huggingface_hub import HfApi

    with runtime.online(), _explained(base):
        info = HfApi().model_info(base.model, revision=base.revision, timeout=REACH)
    _check_commit(str(info.sha), base)
    if info.config:
        check_causal(info.config, base)


def _check_commit(found: str, base: profile.Base) -> None:
    if found != base.revision:
        raise ConfigError(
            f"the base's revision moved: found {found}, pinned {base.revision}",
            base.model,
            "If it is wanted, write the found one as base.revision in the profile",
        )


class _explained:
    """Turns what the hub's client raises into what to do about it."""

    def __init__(self, base: profile.Base) -> None:
        self.base = base

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from huggingface_hub import errors

        where = f"{self.base.model} at {self.base.revision}"
        if isinstance(error, errors.GatedRepoError):
            raise NotReadyError(
                "the base model asks for consent", where, "Give it on the hub and set HF_TOKEN"
            ) from None
        if isinstance(error, errors.RevisionNotFoundError):
            raise ConfigError(
                f"the base's revision is gone: found none, pinned {self.base.revision}",
                self.base.model,
                "Look at the model's commits and pin one of them",
            ) from None
        if isinstance(error, (errors.RepositoryNotFoundError, errors.HFValidationError)):
            raise ConfigError(
                "there is no such model on the hub", self.base.model, "Or it needs HF_TOKEN"
            ) from None
        if isinstance(error, (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)):
            raise NotReadyError("the base model is not here", where, self._download()) from None
        if isinstance(error, Exception):
            why = " ".join(str(error).split())[:200]
            raise NotReadyError(
                f"the hub cannot be reached ({type(error).__name__}: {why})",
                where,
                self._download(),
            ) from None

    def _download(self) -> str:
        command = f"hf download {self.base.model} --revision {self.base.revision}"
        if os.environ.get("HF_HUB_OFFLINE") and not os.environ.get(runtime.SET_OFFLINE):
            return f"HF_HUB_OFFLINE is set: unset it, or where there is a network: {command}"
        return f"Download it first where there is a network: {command}"


def fetch(base: profile.Base) -> Path:
    """Return the folder of a base's weights, downloaded if need be.

    Raises:
        ConfigError: it is not what is pinned.
        NotReadyError: it is not here and cannot be had.

    """
    folder = Path(base.model).expanduser()
    if base.revision.startswith("sha256:") or folder.is_dir():
        return folder
    if cached := _cached(base):
        return cached
    from huggingface_hub import snapshot_download

    with runtime.online(), _explained(base):
        found = Path(snapshot_download(base.model, revision=base.revision, allow_patterns=_FETCHED))
    _check_commit(found.name, base)
    return found


if __name__ == "__main__":
    print(digest(Path(sys.argv[1])))
