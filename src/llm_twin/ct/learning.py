"""From clean documents to a dataset, and from a dataset to a model, as a profile says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm_twin.corpus import Chunk, Document
from llm_twin.model.card import verdicts
from llm_twin.model.dataset import make_dataset, train_chunks
from llm_twin.model.generation import generate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from llm_twin.model.dataset import Dataset
    from llm_twin.model.feedback import Correction
    from llm_twin.model.profile import Data, Profile
    from llm_twin.settings import Settings

    Progress = Callable[[str], None]
    Rows = list[dict[str, Any]]


def dataset(
    document_rows: Rows,
    chunk_rows: Rows,
    seed: int,
    corrected: Sequence[Correction],
    data: Data,
    settings: Settings,
    progress: Progress,
) -> Dataset:
    """Make the dataset of a corpus, asking a language model for pairs if the profile names one.

    Raises:
        CorpusError: there is too little text.
        ConfigError: a set that the profile names cannot be read.
        RemoteError: the language model does not answer.

    """
    documents = [Document.from_dict(row) for row in document_rows]
    chunks = [Chunk.from_dict(row) for row in chunk_rows]
    shown = train_chunks(documents, chunks, seed)
    written = generate(shown, data.generate, settings, settings.home / "cache", progress)
    made = make_dataset(documents, chunks, seed, corrected, data, written.pairs)
    made.sources["generated"] = written.report
    return made


def figures(made: dict[str, Any]) -> dict[str, Any]:
    """What a summary says of a dataset."""
    return {
        "digest": made["digest"],
        "pairs": len(made["pairs"]),
        "preferences": len(made["preferences"]),
        "heldout": len(made["heldout_texts"]),
        "questions": len(made["questions"]),
        "sources": made["sources"],
        "verdicts": verdicts(made["sources"]),
    }


def train(
    dataset: Dataset,
    folder: Path,
    profile: Profile,
    seed: int,
    settings: Settings,
    progress: Progress,
) -> dict[str, Any]:
    """Train a model into a folder; curves go to Comet too where a key for it is set.

    Raises:
        TwinError: the base cannot be had, the loss is not a number, memory does not suffice.

    """
    from llm_twin.model import comet
    from llm_twin.model.train import train as train_model

    checkpoints = settings.checkpoints or settings.home / "checkpoints"
    said = {**profile.model_dump(), "dataset": dataset.digest, "seed": seed}
    with comet.listener(experiment(profile, dataset.digest), said, settings) as told:
        report = train_model(
            dataset,
            folder,
            profile.training,
            profile.base,
            progress,
            seed,
            checkpoints=checkpoints,
            listener=told,
        )
    return report.to_dict()


def experiment(profile: Profile, digest: str) -> str:
    """How Comet calls a training of a dataset as a profile says."""
    return f"{profile.name} {digest[:8]}"


def tell_comet(
    profile: Profile, digest: str, metrics: Mapping[str, Mapping[str, Any]], settings: Settings
) -> None:
    """Send an evaluation's figures where the curves went, where a key for Comet is set."""
    from llm_twin.model import comet

    shown = {
        group: {name: value for name, value in figures.items() if name != "items"}
        for group, figures in metrics.items()
    }
    with comet.listener(experiment(profile, digest), {}, settings) as told:
        if told:
            told.figures(shown)
