"""From an accepted candidate to the bundle that is served."""

from __future__ import annotations

import shutil
from contextlib import closing
from typing import TYPE_CHECKING, Any

from llm_twin.corpus import forgotten
from llm_twin.ct import work
from llm_twin.errors import NotReadyError
from llm_twin.model import durable
from llm_twin.model.bundles import Bundle, Bundles
from llm_twin.model.questions import withhold_headings
from llm_twin.retrieval import open_index

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from llm_twin.corpus import Chunk
    from llm_twin.model.dataset import Dataset
    from llm_twin.settings import Settings

    Progress = Callable[[str], None]

METRICS = ("language", "retrieval", "style", "answers", "refusal", "judged", "preference")


def served(settings: Settings) -> Bundle | None:
    """The promoted bundle; None when there is none, or only a damaged one to be replaced."""
    try:
        return Bundles(settings.home / "models").production()
    except NotReadyError:
        return None


def refusal(settings: Settings, bundle: Bundle) -> str:
    """Why a bundle may not serve any more: it saw what was to be forgotten by now; else empty."""
    saw = bundle.manifest["details"].get("documents") or ()
    return forgotten.refusal(settings.home, bundle.version, saw)


def calibration(
    chunks: Sequence[Chunk], dataset: Dataset, settings: Settings, progress: Progress
) -> dict[str, Any]:
    """When to decline, learned from the corpus' own questions; ``{"calibration": {...}}``."""
    from llm_twin.serving.calibration import calibrate

    progress("calibrating when to decline")
    withheld = withhold_headings(chunks, dataset.questions)
    asked = [question.text for question in dataset.questions]
    with work.searching(withheld, settings, progress) as retriever:
        return {"calibration": calibrate(retriever, asked, withheld)}


def details(
    origin: Mapping[str, str], known: Mapping[str, Any], data: Mapping[str, Any]
) -> dict[str, Any]:
    """What a bundle's manifest says about where it comes from.

    Args:
        origin: corpus, run and commit.
        known: ``indexed``, ``trained``, ``profile`` and the candidate's metrics.
        data: the dataset.

    """
    indexed, trained = known["indexed"], known["trained"]
    return {
        **origin,
        "embedder": indexed["embedder"],
        "chunks": indexed["chunks"],
        "dataset": data["digest"],
        "feedback": data["feedback"].get("digest", ""),
        "profile": known["profile"]["name"],
        "base": trained["base"],
        "parameters": trained["parameters"],
        "metrics": {
            part: {key: value for key, value in known[part].items() if key != "items"}
            for part in METRICS
            if part in known
        },
    }


def promote(
    settings: Settings, version: str, index: Path, model: Path, manifest: Mapping[str, Any]
) -> None:
    """Build the bundle from the index folder and the model folder, and switch to it atomically.

    Raises:
        NotReadyError: it learned from what was to be forgotten meanwhile.

    """
    bundles = Bundles(settings.home / "models")
    building = bundles.stage()
    shutil.copytree(index, building, dirs_exist_ok=True)
    shutil.copytree(model, building / "model")
    path, embedder = building / "index.db", str(manifest["embedder"])
    with closing(open_index(settings, path, version, embedder)) as held:
        documents = held.documents()
    forgotten.refuse(settings.home, version, documents, due=False)
    details = {**manifest, "documents": documents}
    bundles.commit(building, version, details)
    remember(settings, version, details)
    if settings.index_url:
        with closing(open_index(settings, path, version, embedder)) as served:
            served.promote(version)
    bundles.promote(version)


def remember(settings: Settings, version: str, details: Mapping[str, Any]) -> None:
    """Keep where a version comes from when its bundle is swept away."""
    folder = settings.home / "lineage"
    folder.mkdir(parents=True, exist_ok=True)
    names = ("corpus", "run", "commit", "dataset", "feedback", "gate", "documents", "zenml")
    kept = {name: details[name] for name in names if name in details}
    durable.write_json(folder / f"{version}.json", {"version": version, "details": kept})
