"""Continuous training as a stage: `invoke ct`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_twin.flow import stage
from llm_twin.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
NOT_DOCUMENTATION = ("src/*.md", "src/*.txt", "benchmarks/*")


def check(corpus: str, exclude: str, budget: str, **_: Any) -> None:
    """Find what is wrong with the input before anything is written."""
    from llm_twin.ct.preflight import preflight

    preflight(_config(corpus, exclude, budget), Settings.load(root=ROOT))


def corpus_files(corpus: str, exclude: str, budget: str, **_: Any) -> list[Path]:
    """The files of the corpus, as inputs of the key."""
    from llm_twin.ct.preflight import corpus_files as files

    return files(_config(corpus, exclude, budget), Settings.load(root=ROOT))


def corpus_revision(corpus: str, exclude: str, budget: str, **_: Any) -> dict[str, str]:
    """What a remote corpus stands at, as a part of the key."""
    from llm_twin.ct.preflight import corpus_revision as revision

    return revision(_config(corpus, exclude, budget), Settings.load(root=ROOT))


def production() -> list[Path]:
    """The promoted bundle and every file that its manifest lists."""
    from llm_twin.model.bundles import production_files

    return production_files(Settings.load(root=ROOT).home / "models")


def _config(corpus: str, exclude: str, budget: str) -> Any:
    from llm_twin.ct.config import CtConfig

    chosen = corpus or Settings.load(root=ROOT).corpus
    if chosen:
        return CtConfig.of(chosen, exclude, budget)
    return CtConfig.of(str(ROOT), ",".join([exclude, *NOT_DOCUMENTATION]), budget)


@stage(
    cached=True,
    single=True,
    check=check,
    find_inputs=corpus_files,
    facts=corpus_revision,
    kept=production,
    env=["TWIN_CORPUS", "TWIN_EMBEDDER", "TWIN_EMBEDDER_URL", "TWIN_INDEX_URL"],
)
def ct(corpus: str = "", exclude: str = "", budget: str = "60s", seed: int = 0) -> dict[str, Any]:
    """Train a twin on a corpus, evaluate it, and promote it if the gate lets it through.

    Args:
        corpus: folder, file, Git URL, feed or export; default: this repository's own documentation.
        exclude: patterns of files to leave out, separated by commas.
        budget: CPU time for training, like 60s or 2m.
        seed: of everything random.
    """
    from llm_twin.ct.run import run_ct

    return run_ct(_config(corpus, exclude, budget).with_seed(seed), Settings.load(root=ROOT))
