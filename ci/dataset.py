"""What a twin would learn from, as a folder to look at, to track and to publish: `ct.dataset`."""

from __future__ import annotations

import json as json_format
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.tasks import task

from llm_twin.flow.tasks import tell_errors
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from invoke.context import Context

    from llm_twin.ct.config import CtConfig
    from llm_twin.model.dataset import Dataset

    Progress = Callable[[str], None]

ROOT = Path(__file__).resolve().parents[1]
OUT = "dataset"


def make(config: CtConfig, settings: Settings, progress: Progress) -> Dataset:
    """The dataset that training with this configuration would make.

    Raises:
        CorpusError: the corpus cannot be read, or is too small.
        ConfigError: a set that the profile names cannot be read.
        RemoteError: the language model that the profile names does not answer.

    """
    from llm_twin.ct import learning, work
    from llm_twin.model import feedback

    rows, _ = work.tidy(work.collect(config.corpus, config.exclude, settings, progress)[0])
    chunks = work.split(rows, settings, progress)
    folder = feedback.current(settings.home) if config.feedback else None
    corrections = feedback.read(folder) if folder else []
    data = config.profile.data
    return learning.dataset(rows, chunks, config.seed, corrections, data, settings, progress)


@task(
    help={
        "corpus": "folder, file, URL; default: as for invoke ct",
        "exclude": "patterns of files to leave out, separated by commas",
        "profile": "name in configs/ct or a .yaml file; default: laptop",
        "seed": "of the split",
        "out": f"folder to write it to; default: {OUT} in the state folder",
        "push": "upload it to the Hugging Face hub: the profile's data.hub, with HF_TOKEN",
        "repository": "author/name on the hub, instead of the profile's data.hub",
        "public": "with --push: a repository that is made now is public",
        "json": "print the manifest as JSON",
    },
    auto_shortflags=False,
)
@tell_errors
def dataset(
    c: Context,
    corpus: str = "",
    exclude: str = "",
    profile: str = "",
    seed: int = 0,
    out: str = "",
    push: bool = False,
    repository: str = "",
    public: bool = False,
    json: bool = False,
) -> None:
    """Write what a twin would learn from to a folder, and say where it comes from."""
    from ci.training import config_of
    from llm_twin.model import dataset_files
    from llm_twin.model.card import summary

    settings = Settings.load(root=ROOT)
    config = config_of(corpus, exclude, profile=profile).with_seed(seed)
    place = repository or config.profile.data.hub
    if push:
        _check_push(place)
    folder = Path(out).expanduser() if out else settings.home / OUT
    made = make(config, settings, _silent if json else print)
    manifest = dataset_files.write(made, folder)
    pushed = _push(folder, place, public) if push else {}
    if json:
        print(json_format.dumps({**manifest, "folder": str(folder), "pushed": pushed}))
        return
    print("\n".join(summary(made)))
    print(f"written      {folder}, digest {manifest['digest']}")
    if pushed:
        print(f"pushed       {pushed['url']}, commit {pushed['commit']}")


def _silent(text: str) -> None:
    """Nothing: what is printed is JSON."""


def _check_push(repository: str) -> None:
    """Refuse what cannot be pushed before minutes are spent on making it."""
    from llm_twin.model.hub import check_access

    check_access(repository, os.environ.get("HF_TOKEN", ""))


def _push(folder: Path, repository: str, public: bool) -> dict[str, Any]:
    from llm_twin.model.hub import push

    return push(folder, repository, os.environ.get("HF_TOKEN", ""), private=not public)
