"""Opening the promoted bundle, whole and damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_corpora import settings_for

from llm_twin.corpus.document import Chunk
from llm_twin.errors import NotReadyError
from llm_twin.model.bundles import Bundles
from llm_twin.retrieval import Retriever, open_index
from llm_twin.retrieval.minilm import MiniLM
from llm_twin.serving.answer import answer
from llm_twin.serving.calibration import calibrate
from llm_twin.serving.twin import Twin, open_production
from llm_twin.settings import Settings


def promote(settings: Settings, chunks: list[Chunk], embedder: MiniLM | None) -> Path:
    bundles = Bundles(settings.home / "models")
    building = bundles.stage()
    name = embedder.name if embedder else ""
    index = open_index(settings, building / "index.db", "v1", name)
    index.upsert(chunks, embedder.embed([c.passage for c in chunks]) if embedder else None)
    learned = calibrate(Retriever(index, embedder), [], chunks)
    index.close()
    details = {"embedder": name, "calibration": learned}
    path = bundles.commit(building, "v1", details)
    bundles.promote("v1")
    return path


def test_a_promoted_bundle_answers(baker: list[Chunk], tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    promote(settings, baker, None)

    twin = open_production(settings)

    assert twin.version == "v1"
    assert twin.manifest["version"] == "v1"
    assert not answer("Why are rye loaves sticky?", twin).abstained
    assert answer("What is the capital of Mongolia?", twin).abstained
    twin.close()


def test_a_bundle_with_vectors_answers_with_them(
    baker: list[Chunk], minilm: MiniLM, embedder_home: Path, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, embedder_home=embedder_home)
    promote(settings, baker, minilm)

    twin = open_production(settings)

    assert twin.embedder is not None
    assert not answer("My hands stick to the rye, what helps?", twin).abstained
    twin.close()


def test_a_bundle_with_vectors_also_answers_by_words(
    baker: list[Chunk], minilm: MiniLM, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path)
    promote(settings, baker, minilm)

    twin = open_production(settings)

    assert twin.embedder is None
    assert not answer("Why are rye loaves sticky?", twin).abstained
    twin.close()


def test_without_a_bundle_it_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match=r"there is no twin yet: .*models. Make one: invoke ct"):
        open_production(settings_for(tmp_path))


def test_a_damaged_bundle_is_not_served(baker: list[Chunk], tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    path = promote(settings, baker, None)
    (path / "index.db").write_bytes(b"half")

    with pytest.raises(NotReadyError, match="invoke ct"):
        open_production(settings)


def test_a_bundle_without_details_is_opened_uncalibrated(
    baker: list[Chunk], tmp_path: Path
) -> None:
    settings = settings_for(tmp_path)
    path = promote(settings, baker, None)
    manifest = json.loads((path / "bundle.json").read_text())
    manifest["details"] = {"embedder": ""}
    (path / "bundle.json").write_text(json.dumps(manifest))

    twin = Twin.open(path, settings)

    assert not answer("Why are rye loaves sticky?", twin).abstained
    twin.close()
