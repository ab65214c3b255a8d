"""An opened production bundle: everything that answering needs, opened once and used often."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_twin.errors import NotReadyError
from llm_twin.serving.abstention import Calibration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llm_twin.model.bundles import Bundle
    from llm_twin.retrieval.ports import Embedder, Hit, Index
    from llm_twin.settings import Settings

WORDS = "words"
"""The embedder's name in a manifest when there is none."""


@dataclass(frozen=True)
class Twin:
    """A version of the twin, ready to answer.

    Attributes:
        version: of the bundle.
        index: its passages.
        embedder: of the index, or None to search by words alone.
        calibration: when to say "I don't know".
        model_path: folder of the trained model; may be missing.
        manifest: the bundle's.

    """

    version: str
    index: Index
    embedder: Embedder | None
    calibration: Calibration = field(default_factory=Calibration)
    model_path: Path = Path("model")
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, bundle_path: Path, settings: Settings) -> Twin:
        """Open a bundle for reading.

        Raises:
            NotReadyError: the bundle is missing or damaged.
            RemoteError: the embedder's weights or endpoint cannot be had.

        """
        from llm_twin.model.bundles import Bundle
        from llm_twin.retrieval import open_embedder, open_index

        bundle = Bundle.open(bundle_path)
        details = _details(bundle)
        name = str(details.get("embedder", WORDS))
        embedder = None if name in ("", WORDS) else open_embedder(settings, _quiet)
        if bundle.index_path.exists():
            settings = replace(settings, index_url="")
        index = open_index(settings, bundle.index_path, bundle.version, name, readonly=True)
        return cls(
            version=bundle.version,
            index=index,
            embedder=embedder,
            calibration=Calibration.from_dict(details.get("calibration") or {}),
            model_path=bundle.model_path,
            manifest=bundle.manifest,
        )

    @property
    def provenance(self) -> dict[str, str]:
        """Where its answers come from, as their traces say it."""
        details = self.manifest.get("details") or {}
        names = {"dataset_digest": "dataset", "commit": "commit", "run_id": "run"}
        found = {name: str(details.get(key) or "") for name, key in names.items()}
        return {"model_version": self.version} | {name: it for name, it in found.items() if it}

    def search(self, question: str, k: int) -> list[Hit]:
        """Return the k best passages, best first."""
        from llm_twin.retrieval import Retriever

        return Retriever(self.index, self.embedder).search(question, k)

    def close(self) -> None:
        """Release the index."""
        self.index.close()


def open_production(settings: Settings) -> Twin:
    """Open the promoted version.

    Raises:
        NotReadyError: nothing was promoted yet, or the bundle is damaged.

    """
    from llm_twin.model.bundles import Bundles

    folder = settings.home / "models"
    bundle = Bundles(folder).production()
    if bundle is None:
        raise NotReadyError(
            "there is no twin yet",
            folder,
            "Make one: invoke ct; if the gate refused it, see why: invoke runs",
        )
    return Twin.open(bundle.path, settings)


def _details(bundle: Bundle) -> Mapping[str, Any]:
    details = bundle.manifest.get("details")
    return details if isinstance(details, dict) else {}


def _quiet(line: str) -> None:
    """Swallow progress: an answer is all that is printed."""
