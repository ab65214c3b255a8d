"""How well the style figures tell an author from others and from language models.

Usage: python -m benchmarks.style --corpus PATH [--control NAME=PATH]... [--seeds N]

For each seed, holds out a quarter of the corpus's documents and of each control's texts, learns
from the rest and scores the pieces held out. Prints, for pieces of 100 and 250 words, the area
under the ROC curve of the author's pieces against each control's, and the share told right: for the
classifier, for cosine delta and for Burrows's classic delta, which is measured here and used
nowhere. A control NAME may repeat; one named llm or other takes the place of what is shipped. With
a "+" before it (``+chat=PATH``) nothing is learned from it: an author or a language model that the
style has never seen.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm_twin.corpus import clean, open_source
from llm_twin.model import delta as deltas
from llm_twin.model import prose
from llm_twin.model.classifier import features
from llm_twin.model.controls import AUTHOR, controls
from llm_twin.model.style import Style
from llm_twin.settings import Settings

SIZES = (100, 250)
HELD = 0.25


def main(arguments: Sequence[str]) -> int:
    """Print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--control", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args(arguments)
    settings = Settings.load()
    author = read(asked.corpus, settings)
    extra: dict[str, list[str]] = {}
    for name, _, path in (text.partition("=") for text in asked.control):
        extra[name] = [*extra.get(name, []), *read(path, settings)]
    unseen = {name[1:]: texts for name, texts in extra.items() if name.startswith("+")}
    others = controls({name: texts for name, texts in extra.items() if not name.startswith("+")})
    for name, texts in {AUTHOR: author, **others, **unseen}.items():
        seen = "never learned from" if name in unseen else ""
        print(f"{name:12} {sum(len(text.split()) for text in texts):7,} words {seen}")
    rows = [trial(author, others, unseen, seed) for seed in range(asked.seeds)]
    show(rows)
    return 0


def read(path: str, settings: Settings) -> list[str]:
    """Return the cleaned documents of a corpus, or the answers of an instruction set."""
    if Path(path).suffix == ".json":
        found = list(answers(json.loads(Path(path).read_text(encoding="utf-8"))))
        if found:
            return found
    documents = open_source(path, settings).read(None, lambda line: None).documents
    return [document.text for document in clean(documents).documents]


def answers(data: object) -> list[str]:
    """Return every text under a key ``answer`` or ``output``."""
    if isinstance(data, Mapping):
        own = [data[key] for key in ("answer", "output") if isinstance(data.get(key), str)]
        return own + [text for value in data.values() for text in answers(value)]
    if isinstance(data, list):
        return [text for value in data for text in answers(value)]
    return []


def trial(
    author: Sequence[str],
    others: Mapping[str, Sequence[str]],
    unseen: Mapping[str, Sequence[str]],
    seed: int,
) -> dict[tuple[str, int, str], float]:
    """Learn from one side and score the other: figures by measure, size and what is compared."""
    sides = {name: parted(texts, seed) for name, texts in {AUTHOR: author, **others}.items()}
    began = time.process_time()
    style = Style.learn(
        sides[AUTHOR][0], {name: side[0] for name, side in sides.items() if name != AUTHOR}, seed
    )
    found = {("classifier", 0, "CPU seconds"): time.process_time() - began}
    if style.accuracy is None:
        raise SystemExit(style.why)
    found["classifier", 0, "accuracy it reports itself"] = style.accuracy
    judged = {**{name: side[1] for name, side in sides.items()}, **unseen}
    for size in SIZES:
        pieces = {
            name: prose.pieces(map(prose.plain, texts), size) for name, texts in judged.items()
        }
        for measure, scored in measures(style, pieces).items():
            own = scored[AUTHOR][:, 0]
            for name, table in scored.items():
                if name != AUTHOR:
                    found[measure, size, f"AUC {name}"] = area(own, table[:, 0])
                if name in style.classes:
                    right = table.argmax(axis=1) == style.classes.index(name)
                    found[measure, size, f"right {name}"] = float(right.mean())
                found[measure, size, f"mean {name}"] = float(table[:, 0].mean())
    return found


def parted(texts: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Return learned and held-out texts, drawn anew by each seed."""
    order = np.random.default_rng(seed).permutation(len(texts))
    held = set(order[: max(1, round(HELD * len(texts)))].tolist())
    return (
        [text for place, text in enumerate(texts) if place not in held],
        [text for place, text in enumerate(texts) if place in held],
    )


def measures(
    style: Style, pieces: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return the scores of pieces, the author's class first, higher is nearer."""
    judge, vocabulary = style._judge, style._vocabulary
    assert judge is not None
    found: dict[str, dict[str, NDArray[np.float64]]] = {
        "classifier": {}, "cosine delta": {}, "Burrows's delta": {},
    }  # fmt: skip
    for name, texts in pieces.items():
        counted = deltas.frequencies(texts, vocabulary)
        found["classifier"][name] = judge.classifier.probabilities(features(texts))
        found["cosine delta"][name] = -judge.delta.distances(counted)
        apart = judge.delta.scores(counted)[:, None, :] - judge.delta.centroids
        found["Burrows's delta"][name] = -np.abs(apart).mean(axis=2)
    return found


def area(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    """Return the chance that an inside score is higher than an outside one."""
    left, right = inside[:, None], outside[None, :]
    return float(np.mean((left > right) + 0.5 * (left == right)))


def show(rows: Sequence[Mapping[tuple[str, int, str], float]]) -> None:
    """Print each figure's mean over the seeds, and its range."""
    last: tuple[str, int] | None = None
    for measure, size, what in sorted(rows[0]):
        if last != (measure, size):
            last = (measure, size)
            print(f"\n{measure}" + (f", {size} words" if size else ""))
        values = [row[measure, size, what] for row in rows]
        print(f"  {what:28} {np.mean(values):6.3f}  ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
