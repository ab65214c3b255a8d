"""How well the twin tells questions that its corpus answers from those that it does not.

Usage: python benchmarks/abstention.py CORPUS [QUESTIONS.json]

Trains nothing: indexes the corpus, calibrates on it alone, then asks hand-written questions. Prints
the area under the ROC curve against far and near questions, and the share of each kind answered.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from llm_twin.corpus import chunk, clean, open_source
from llm_twin.corpus.document import Chunk
from llm_twin.model.questions import make_questions, withhold_headings
from llm_twin.retrieval import CachedEmbedder, Retriever, open_embedder, open_index
from llm_twin.retrieval.ports import Embedder
from llm_twin.serving.abstention import Calibration, evidence
from llm_twin.serving.answer import answer
from llm_twin.serving.calibration import calibrate
from llm_twin.serving.twin import Twin
from llm_twin.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS = Path(__file__).with_name("abstention_questions.json")
WINDOW = 256


def main(arguments: Sequence[str]) -> int:
    """Print the report for a corpus."""
    if not arguments:
        print(__doc__)
        return 2
    path = Path(arguments[1]) if len(arguments) > 1 else QUESTIONS
    questions = json.loads(path.read_text(encoding="utf-8"))
    settings = Settings.load(root=ROOT)
    chunks = read(arguments[0], settings)
    with tempfile.TemporaryDirectory() as folder:
        for embedder in (open_cached(settings), None):
            report(chunks, embedder, questions, Path(folder), settings)
    return 0


def read(corpus: str, settings: Settings) -> list[Chunk]:
    """Return the corpus's chunks, each id once."""
    embedder = open_embedder(settings)
    count = embedder.count_tokens if embedder else (lambda text: len(text) // 4)
    documents = clean(open_source(corpus, settings).read(None, lambda line: None).documents)
    chunks = [part for one in documents.documents for part in chunk(one, count, WINDOW)]
    return list({part.id: part for part in chunks}.values())


def open_cached(settings: Settings) -> Embedder | None:
    """Return the embedder, remembering vectors between runs."""
    embedder = open_embedder(settings)
    path = settings.home / "cache" / "embeddings.db"
    return CachedEmbedder(embedder, path) if embedder else None


def report(
    chunks: list[Chunk],
    embedder: Embedder | None,
    questions: dict[str, list[str]],
    folder: Path,
    settings: Settings,
) -> None:
    """Calibrate, ask and print, once with and once without vectors."""
    name = embedder.name if embedder else "words"
    asked = make_questions(chunks)
    held = list({part.id: part for part in withhold_headings(chunks, asked)}.values())
    headings = [question.text for question in asked]
    retriever = search_over(held, embedder, folder / f"{name}.held")
    began = time.process_time()
    learned = calibrate(retriever, headings, held)
    seconds = time.process_time() - began
    index = search_over(chunks, embedder, folder / name).index
    served = open_embedder(replace(settings, embedder="minilm")) if embedder else None
    twin = Twin("benchmark", index, served, Calibration.from_dict(learned))
    print(f"\n{name}: {len(chunks)} chunks, line {learned['thresholds']}, "
          f"calibrated in {seconds:.1f} CPU-s on {learned['questions']} questions")  # fmt: skip
    inside = evidences(twin, questions["in"])
    for kind in ("in", "far", "near"):
        answered = np.mean([not answer(text, twin).abstained for text in questions[kind]])
        line = f"  {kind:5} {len(questions[kind]):3} questions, answered {answered:6.1%}"
        if kind != "in":
            line += f", AUC {area(inside, evidences(twin, questions[kind])):.3f}"
        print(line)
    print(f"  one answer: {milliseconds(twin, questions['in']):.0f} CPU-ms (median)")


def search_over(chunks: list[Chunk], embedder: Embedder | None, folder: Path) -> Retriever:
    """Index the chunks and return a search over them."""
    folder.mkdir()
    local = Settings(home=folder)
    index = open_index(local, folder / "index.db", "1", embedder.name if embedder else "")
    index.upsert(chunks, embedder.embed([part.passage for part in chunks]) if embedder else None)
    return Retriever(index, embedder)


def evidences(twin: Twin, questions: Sequence[str]) -> list[float]:
    """Return the evidence for each question."""
    return [
        evidence(
            text,
            twin.search(text, 5),
            twin.calibration.vocabulary,
            vectors=twin.embedder is not None,
        )
        for text in questions
    ]


def area(inside: Sequence[float], outside: Sequence[float]) -> float:
    """Return the chance that an inside question has more evidence than an outside one."""
    left, right = np.array(inside)[:, None], np.array(outside)[None, :]
    return float(np.mean((left > right) + 0.5 * (left == right)))


def milliseconds(twin: Twin, questions: Sequence[str]) -> float:
    """Return the median CPU time of an answer, warm."""
    times = []
    for text in questions:
        began = time.process_time()
        answer(text, twin)
        times.append((time.process_time() - began) * 1000)
    return float(np.median(times))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
