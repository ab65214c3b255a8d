"""From clean documents to a dataset, and from a dataset to a model, as a profile says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm_twin.corpus import Chunk, Document
from llm_twin.model.card import card, verdicts
from llm_twin.model.dataset import make_dataset, train_chunks
from llm_twin.model.feedback import Correction
from llm_twin.model.generation import generate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llm_twin.model.dataset import Dataset
    from llm_twin.model.profile import Data, Profile
    from llm_twin.settings import Settings

    Progress = Callable[[str], None]
    Rows = list[dict[str, Any]]


def dataset(
    document_rows: Rows,
    chunk_rows: Rows,
    seed: int,
    corrected: Sequence[dict[str, Any]],
    data: Data,
    settings: Settings,
    progress: Progress,
) -> tuple[dict[str, Any], str]:
    """Make the dataset of a corpus; return it as plain data, and its card as Markdown.

    Raises:
        CorpusError: there is too little text.
        ConfigError: a set that the profile names cannot be read.

    """
    documents = [Document.from_dict(row) for row in document_rows]
    chunks = [Chunk.from_dict(row) for row in chunk_rows]
    corrections = [Correction.from_dict(row) for row in corrected]
    shown = train_chunks(documents, chunks, seed)
    written = generate(shown, data.generate, settings, settings.home / "cache", progress)
    made = make_dataset(documents, chunks, seed, corrections, data, written.pairs)
    return made.to_dict(), card(made)


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
    name, said = f"{profile.name} {dataset.digest[:8]}", profile.model_dump()
    with comet.listener(name, {**said, "dataset": dataset.digest, "seed": seed}, settings) as told:
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
