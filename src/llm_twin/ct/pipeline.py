"""The ZenML pipeline: collect, clean, chunk, index, dataset, train, evaluate, gate, tell, promote.

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
from zenml.client import Client
from zenml.types import HTMLString, MarkdownString

from llm_twin.corpus import Chunk
from llm_twin.ct import learning, promotion, work, zen
from llm_twin.ct import luggage as packed
from llm_twin.ct import report as reporting
from llm_twin.ct.evaluation import Evaluation
from llm_twin.ct.foreign import foreign_questions
from llm_twin.model import curves, feedback
from llm_twin.model.card import card
from llm_twin.model.dataset import Dataset
from llm_twin.model.gate import gate as judge
from llm_twin.model.profile import Profile
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
def unpack(luggage: Path) -> Annotated[Report, "unpacked"]:
    """Put what was sent along into this machine's state folder."""
    print("unpack", flush=True)
    return packed.unpack(luggage, Settings.load())


@step
def hand_over(version: str) -> Annotated[Path, "bundle"]:
    """Give the promoted bundle back to whoever sent the luggage."""
    print("hand over", flush=True)
    return Settings.load().home / "models" / version


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
    kept, report = work.tidy(documents, Settings.load())
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
    documents: Rows, chunks: Rows, seed: int, corrected: Rows, profile: Report
) -> tuple[Annotated[Report, "dataset"], Annotated[MarkdownString, "data_card"]]:
    """Split into training texts, held-out texts and questions; corrections come on top."""
    print("dataset", flush=True)
    data = Profile.model_validate(profile).data
    rows = [feedback.Correction.from_dict(row) for row in corrected]
    made = learning.dataset(documents, chunks, seed, rows, data, Settings.load(), say)
    return made.to_dict(), MarkdownString(card(made))


@step
def train(
    data: Report, seed: int, profile: Report
) -> tuple[Annotated[Path, "model"], Annotated[Report, "trained"]]:
    """Tune the base on the author's texts; a base from scratch is pretrained first."""
    print("train", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="llm-twin-")) / "model"
    said = Profile.model_validate(profile)
    report = learning.train(Dataset.from_dict(data), folder, said, seed, Settings.load(), say)
    return folder, report


@step
def evaluate(
    model: Path, data: Report, chunks: Rows, trained: Report, profile: Report
) -> tuple[
    Annotated[Report, "candidate_metrics"],
    Annotated[Report, "production_metrics"],
    Annotated[Report, "calibration"],
]:
    """Score candidate and production on the same items, and calibrate when to decline."""
    print("evaluate", flush=True)
    passages = [Chunk.from_dict(row) for row in chunks]
    items, said, settings = (
        Dataset.from_dict(data),
        Profile.model_validate(profile),
        Settings.load(),
    )
    foreign = foreign_questions(passages)
    both = Evaluation(items, said, settings, items.seed, say, foreign)
    calibration = promotion.calibration(passages, items, settings, say)
    candidate = both.score(model, passages, calibration["calibration"])
    if trained["preference"]:
        candidate["preference"] = trained["preference"]
    return candidate, both.production(), calibration


@step
def gate(
    candidate: Report, production: Report, data: Report, profile: Report
) -> Annotated[Report, "verdict"]:
    """Say better, worse or cannot tell, and whether to promote."""
    print("gate", flush=True)
    served = promotion.served(Settings.load())
    before = served.manifest["details"].get("dataset") if served else None
    verdict = judge(
        candidate,
        production or None,
        Profile.model_validate(profile).gate,
        data_changed=before != data["digest"],
    )
    for reason in verdict.reasons:
        say(reason)
    return verdict.to_dict()


@step
def tell(model: Path, known: Report, candidate: Report) -> Annotated[HTMLString, "report"]:
    """Draw what happened, for whoever opens the run in ZenML, and tell Comet the figures."""
    said, digest = Profile.model_validate(known["profile"]), known["dataset"]["digest"]
    learning.tell_comet(said, digest, candidate, Settings.load())
    drawn = reporting.html({**known, "curves": curves.read(model / curves.FILE)})
    return HTMLString(drawn)


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
    seed: int,
    profile: Report,
    version: str,
    origin: dict[str, str],
    curated: str,
    luggage: str = "",
) -> None:
    """Continuous training over one corpus, and the corrections curated in a folder, if any.

    With luggage (the id of an artifact) it runs on another machine than it was started on.
    """
    named = corpus
    if luggage:
        sent = unpack(Client().get_artifact_version(luggage)).load()
        corpus, curated = sent["corpus"], sent["curated"]
        moved = packed.with_paths(Profile.model_validate(profile), sent["paths"])
        profile = moved.model_dump(mode="json")
    raw, collected = collect(corpus, exclude)
    documents, cleaned = clean(raw)
    chunks = chunk(documents)
    found, indexed = index(chunks, version)
    asked = corrections(curated) if curated else []
    data, _ = dataset(documents, chunks, seed, asked, profile)
    model, trained = train(data, seed, profile)
    candidate, production, calibration = evaluate(model, data, chunks, trained, profile)
    verdict = gate(candidate, production, data, profile)
    judged, figures, learned = verdict.load(), candidate.load(), data.load()
    known = {
        "corpus": named,
        "collected": collected.load(),
        "cleaned": cleaned.load(),
        "indexed": indexed.load(),
        "dataset": learning.figures(learned),
        "trained": trained.load(),
        **figures,
        "production": production.load(),
        "verdict": judged,
        "version": version if judged["promote"] else None,
        "profile": profile,
    }
    tell(model, known, candidate)
    if judged["promote"]:
        details = promotion.details(origin, known, learned)
        promote(version, found, model, calibration, {**details, "gate": judged["verdict"]})
        if luggage:
            hand_over(version)
