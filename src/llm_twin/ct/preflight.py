"""What can be known to be wrong before anything is written, and what a corpus stands at.

Nothing here imports torch or ZenML: an unchanged `invoke ct` gets no further than this.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from llm_twin.corpus import forgotten, open_source
from llm_twin.ct import stacks
from llm_twin.errors import ConfigError, NotReadyError, SpaceError
from llm_twin.model import feedback
from llm_twin.model.base import check as check_base
from llm_twin.model.gate import check as check_rule

if TYPE_CHECKING:
    from llm_twin.ct.config import CtConfig
    from llm_twin.settings import Settings

NAMELESS = ("minilm", "words")
NAMED = ("sentence-transformers", "openai")
LOCAL = "local"
MIB = 2**20
RUN_MB = 80
WEIGHTS_MB = 220
COPIES_OF_CORPUS = 12


def preflight(config: CtConfig, settings: Settings) -> None:
    """Raise the first thing that would stop a run.

    Raises:
        CorpusError: the corpus cannot be read.
        ConfigError: the profile asks for what is not there.
        SpaceError: the state folder cannot be written, or has too little space.
        NotReadyError: torch, a GPU or the base is missing, or curated feedback is not what it was.

    """
    check_embedder(settings)
    if config.feedback and (curated := feedback.current(settings.home)):
        feedback.read(curated)
    source = open_source(config.corpus, settings, config.exclude)
    source.check()
    files = source.files()
    for path in profile_files(config):
        if not path.is_file():
            raise ConfigError(
                "there is no such set", path, f"The profile {config.profile.name} names it"
            )
    check_rule(config.profile.gate, config.profile.evaluation)
    check_home(settings, sum(path.stat().st_size for path in files if path.exists()))
    if config.profile.remote.stack != LOCAL:
        stacks.check(config.profile.remote.stack, settings)
        return
    if importlib.util.find_spec("torch") is None:
        raise NotReadyError("torch is not installed", hint="Type: ./bootstrap --torch invoke ct")
    check_base(config.profile.training, config.profile.base)


def check_embedder(settings: Settings) -> None:
    """Raise ConfigError unless the embedder is of a known kind."""
    kind, _, model = settings.embedder.partition(":")
    if (kind in NAMELESS and not model) or (kind in NAMED and model):
        return
    raise ConfigError(
        "TWIN_EMBEDDER names no embedder",
        repr(settings.embedder),
        f"Use {', '.join(NAMELESS)}, {' or '.join(f'{kind}:MODEL' for kind in NAMED)}",
    )


def check_home(settings: Settings, corpus_bytes: int) -> None:
    """Raise SpaceError unless the state folder is a writable place with room for a run."""
    home = settings.home
    place = next(path for path in (home, *home.parents) if path.exists() or path.is_symlink())
    other = "Type: export TWIN_HOME=/another/folder"
    if not place.is_dir():
        raise SpaceError("the state folder is in the way of a file", place, other)
    if not os.access(place, os.W_OK | os.X_OK) or os.statvfs(place).f_flag & os.ST_RDONLY:
        raise SpaceError("the state folder cannot be written", place, f"Make it writable. {other}")
    needed = RUN_MB + COPIES_OF_CORPUS * corpus_bytes // MIB
    if settings.embedder == "minilm" and not has_weights(settings):
        needed += WEIGHTS_MB
    free = shutil.disk_usage(place).free // MIB
    if free < needed:
        raise SpaceError(
            f"{free} MB are free where a run needs about {needed} MB",
            place,
            f"Free some space. {other}",
        )


def has_weights(settings: Settings) -> bool:
    """Whether the embedded embedder has been fetched already."""
    folder = settings.embedder_home or settings.home / "embedder"
    return (folder / "model.safetensors").exists()


def profile_files(config: CtConfig) -> list[Path]:
    """What a profile names to learn from besides the corpus."""
    data = config.profile.data
    return [Path(name).expanduser() for name in (*data.instructions, *data.preferences)]


def corpus_files(config: CtConfig, settings: Settings) -> list[Path]:
    """The corpus' files, what is left out of it, and the curated feedback: inputs of the key."""
    curated = feedback.files(settings.home) if config.feedback else []
    left_out = [path for path in (settings.home / forgotten.FILE,) if path.exists()]
    return [*open_source(config.corpus, settings, config.exclude).files(), *left_out, *curated]


def corpus_revision(config: CtConfig, settings: Settings) -> dict[str, str]:
    """What a remote corpus stands at; nothing for local files, which are inputs themselves."""
    revision = open_source(config.corpus, settings, config.exclude).revision()
    return {"corpus": revision} if revision else {}
