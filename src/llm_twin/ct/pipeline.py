"""The ZenML pipeline: collect, clean, chunk, index, dataset, train, evaluate, gate, promote.

Imports ZenML, so it is itself imported only inside a training run. Step annotations are read by
ZenML at run time and must stay real types (no postponed evaluation here). A step has several
outputs only if its return statement is literally a tuple: ZenML reads the source.
"""

import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from zenml import get_step_context, pipeline, step

from llm_twin.corpus import Chunk
from llm_twin.ct import promotion, work, zen
from llm_twin.errors import NotReadyError
from llm_twin.model import feedback
from llm_twin.model.dataset import Dataset
from llm_twin.model.gate import gate as judge
from llm_twin.settings import Settings

Rows = list[dict[str, Any]]
Report = dict[str, Any]
QUIET_SECONDS = 2.0


def say(text: str) -> None:
    """Print a line of progress at once."""
    print(f"  {text}", flush=True)


class Seldom:
    """Print a line of progress when the last one is two seconds old."""

    def __init__(self) -> None:
        self.told = time.monotonic()

    def __call__(self, text: str) -> None:
        if time.monotonic() - self.told >= QUIET_SECONDS:
            self.told = time.monotonic()
            say(text)


@step
def collect(
    corpus: str, exclude: list[str]
) -> tuple[Annotated[Rows, "documents"], Annotated[Report, "collected"]]:
    """Read documents from the corpus."""
    print("collect", flush=True)
    found, report = work.collect(corpus, exclude, Settings.load(), Seldom())
    return found, report


@step
def clean(
    documents: Rows,
) -> tuple[Annotated[Rows, "clean_documents"], Annotated[Report, "cleaned"]]:
    """Remove boilerplate and duplicates."""
    print("clean", flush=True)
    kept, report = work.tidy(documents)
    return kept, report


@step
def chunk(documents: Rows) -> Annotated[Rows, "chunks"]:
    """Cut documents into passages that fit the embedder."""
    print("chunk", flush=True)
    return work.split(documents, Settings.load(), say)


@step
def index(
    chunks: Rows, version: str
) -> tuple[Annotated[Path, "index"], Annotated[Report, "indexed"]]:
    """Bring the index to exactly these passages."""
    print("index", flush=True)
    settings = Settings.load()
    production = promotion.served(settings)
    folder = Path(tempfile.mkdtemp(prefix="llm-twin-"))
    previous = production.index_path if production else None
    report = work.build_index(chunks, previous, folder / "index.db", version, settings, say)
    return folder, report


@step
def corrections(folder: str) -> Annotated[Rows, "feedback"]:
    """Take what readers corrected, as it was curated."""
    print("corrections", flush=True)
    return [asdict(row) for row in feedback.read(Path(folder))]


@step
def dataset(
    documents: Rows, chunks: Rows, seed: int, corrected: Rows
) -> Annotated[Report, "dataset"]:
    """Split into training texts, held-out texts and questions; corrections come on top."""
    print("dataset", flush=True)
    return work.dataset_of(documents, chunks, seed, corrected)


@step
def train(
    data: Report, budget: float, seed: int
) -> tuple[Annotated[Path, "model"], Annotated[Report, "trained"]]:
    """Pretrain from scratch, then tune on the author's own sections."""
    from llm_twin.model.train import train as train_model

    print("train", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="llm-twin-")) / "model"
    report = train_model(Dataset.from_dict(data), folder, budget, say, seed)
    return folder, report.to_dict()


@step
def evaluate(
    model: Path, data: Report, chunks: Rows
) -> tuple[
    Annotated[Report, "candidate_metrics"],
    Annotated[Report, "production_metrics"],
    Annotated[Report, "calibration"],
]:
    """Score candidate and production on the same items, and calibrate when to decline."""
    print("evaluate", flush=True)
    settings = Settings.load()
    items = Dataset.from_dict(data)
    passages = [Chunk.from_dict(row) for row in chunks]
    candidate = work.evaluate(model, passages, items, settings, say)
    served = promotion.served(settings)
    production = {}
    if served and (reason := promotion.refusal(settings, served)):
        say(f"production {served.version} is not compared: {reason}")
    elif served:
        say(f"the same for production {served.version}")
        try:
            held = work.chunks_of(served, settings)
            production = work.evaluate(served.model_path, held, items, settings, say)
        except NotReadyError as error:
            say(f"it cannot be compared, so the candidate is judged as a first model: {error}")
    return candidate, production, promotion.calibration(passages, items, settings, say)


@step
def gate(
    candidate: Report, production: Report, data: Report, floor: float
) -> Annotated[Report, "verdict"]:
    """Say better, worse or cannot tell, and whether to promote."""
    print("gate", flush=True)
    served = promotion.served(Settings.load())
    before = served.manifest["details"].get("dataset") if served else None
    verdict = judge(candidate, production or None, floor, data_changed=before != data["digest"])
    for reason in verdict.reasons:
        say(reason)
    return {"promote": verdict.promote, "verdict": verdict.verdict, "reasons": verdict.reasons}


@step
def promote(
    version: str, index: Path, model: Path, calibration: Report, details: Report
) -> Annotated[str, "promoted"]:
    """Put the bundle together and switch production to it."""
    print("promote", flush=True)
    own = get_step_context().model.number
    promotion.promote(
        Settings.load(), version, index, model, {**details, **calibration, "zenml": str(own)}
    )
    zen.set_production(str(own))
    return version


@pipeline(
    name="ct",
    dynamic=True,
    enable_cache=False,
    enable_step_logs=False,
    enable_pipeline_logs=False,
    enable_artifact_metadata=False,
    enable_heartbeat=False,
)
def ct(
    corpus: str,
    exclude: list[str],
    budget: float,
    seed: int,
    floor: float,
    version: str,
    origin: dict[str, str],
    curated: str,
) -> None:
    """Continuous training over one corpus, and the corrections curated in a folder, if any."""
    raw, _ = collect(corpus, exclude)
    documents, _ = clean(raw)
    chunks = chunk(documents)
    found, indexed = index(chunks, version)
    data = dataset(documents, chunks, seed, corrections(curated) if curated else [])
    model, trained = train(data, budget, seed)
    candidate, production, calibration = evaluate(model, data, chunks)
    verdict = gate(candidate, production, data, floor)
    judged = verdict.load()
    if judged["promote"]:
        details = promotion.details(
            origin, indexed.load(), data.load(), trained.load(), candidate.load()
        )
        promote(version, found, model, calibration, {**details, "gate": judged["verdict"]})
