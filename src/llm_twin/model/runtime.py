"""torch and the Hugging Face libraries, made ready: offline, quiet, few threads.

Offline, but for ``online``: a base model may be fetched where the user did not forbid it. Every
module of this package that needs them calls ``prepare`` before it imports them, because several of
these settings are read once, at import.
"""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from llm_twin.errors import NotReadyError

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENVIRONMENT = {
    # Threads that wait must sleep: on a busy machine spinning ones burn CPU seconds, the very
    # thing that is budgeted (measured: 2 s a step instead of 0.05).
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_DISABLED": "true",
    "DO_NOT_TRACK": "1",
}

_OFFLINE = "HF_HUB_OFFLINE"
SET_OFFLINE = "LLM_TWIN_SET_HF_HUB_OFFLINE"
"""Set together with ``HF_HUB_OFFLINE``, so that a child process knows who wanted it."""

_calm: bool | None = None
"""Whether torch was, or will be, loaded after the wait policy was set; None: not looked yet."""


def prepare() -> None:
    """Set the environment and check that what trains is installed; idempotent.

    Raises:
        NotReadyError: torch or a library of the ``train`` extra is missing.

    """
    global _calm
    if _calm is None:
        _calm = "torch" not in sys.modules or "OMP_WAIT_POLICY" in os.environ
    if _OFFLINE not in os.environ:
        os.environ[SET_OFFLINE] = "1"
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("torch", "transformers"):
        if find_spec(name) is None:
            raise NotReadyError(
                f"{name} is not installed",
                hint="Install what trains: ./bootstrap invoke ct",
            )


def training_threads() -> int:
    """Two; one when somebody else loaded torch before its threads could be told to sleep."""
    return 2 if _calm else 1


@contextmanager
def threads(most: int) -> Iterator[None]:
    """Let torch use at most so many threads inside the block, never more than there are cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(most, os.cpu_count() or 1)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run the block with that seed and put the caller's random state back."""
    import random

    import numpy
    import torch

    python, array = random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        numpy.random.set_state(array)


@contextmanager
def online() -> Iterator[None]:
    """Let the Hugging Face hub be asked inside the block, unless the user set HF_HUB_OFFLINE."""
    prepare()
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    if os.environ.get(SET_OFFLINE):
        constants.HF_HUB_OFFLINE = False
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """Let a GPU choose only arithmetic that gives the same bits each time, where there is some."""
    import torch

    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings and logging of the training libraries inside the block."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
