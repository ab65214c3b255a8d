"""Is the gate right as often as it says? Planted differences, real questions, the real gate.

The questions and their ranks are those of this repository's own documentation, searched by words
before and after a real change: passages of half the length, or a tenth of the documents fewer. What
that moves up and down is the noise. Items are drawn anew for each of 100 trials, and then

* nothing is planted: the noise has either sign with equal chance;
* a drop: answers are lost until the mean is five points (0.05) lower;
* a gain: answers that were not first become first, until it is five points higher.

A judge's scores are simulated: an item's worth, what another wording of the same answer moves it
by, and the judge's own noise, which repeats average out.

    python -m benchmarks.gate > gate.md
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from llm_twin.corpus import Chunk
from llm_twin.ct import tasks, work
from llm_twin.model import questions as asking
from llm_twin.model.evaluation import evaluate_retrieval
from llm_twin.model.gate import compare, gate
from llm_twin.model.profile import Gate
from llm_twin.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
TRIALS = 100
POINTS = 0.05
WINDOW = 256
FEWER = 10
"""One document of so many is taken away."""
COUNTS = (60, 120, 169, 240, 360, 480, 600, 720, 960)
ENOUGH = {"cannot tell": 95, "worse": 95, "better": 90}
PLANTED = {"cannot tell": 0.0, "worse": -POINTS, "better": POINTS}
WORDING, JUDGE = 0.1, 0.2
"""Standard deviations, on a scale from 0 to 1: of an answer said anew, of a judge asked again."""
LANGUAGE = 0.05
"""Standard deviation of a passage's bits per character between two trainings on the same texts."""

RULE = Gate(floors={})

Pairs = list[tuple[float, float]]
Draw = Callable[[random.Random, int, float], Pairs]


def real_ranks() -> dict[str, Pairs]:
    """Pairs of reciprocal ranks of every question, before and after two real changes."""
    settings = Settings(home=Path(tempfile.mkdtemp(prefix="gate-")), embedder="words")
    rows, _ = work.collect(str(ROOT), ("src/*.md", "benchmarks/*"), settings, lambda _: None)
    documents, _ = work.tidy(rows)
    chunks = passages(documents, settings, WINDOW)
    asking.MOST_QUESTIONS = sys.maxsize
    asked = asking.make_questions(chunks)
    before = ranks(asked, chunks, settings)
    shorter = ranks(asked, passages(documents, settings, WINDOW // 2), settings)
    rest = [one for at, one in enumerate(documents) if at % FEWER]
    fewer = passages(rest, settings, WINDOW)
    kept = {chunk.document_id for chunk in fewer}
    left = ranks([one for one in asked if one.document_id in kept], fewer, settings)
    changes = {"other passages": shorter, "fewer documents": left}
    return {
        change: [(after[name], before[name]) for name in after] for change, after in changes.items()
    }


def passages(documents: work.Rows, settings: Settings, window: int) -> list[Chunk]:
    """Cut documents into passages of so many tokens at most."""
    tasks.LARGEST_WINDOW = window
    return [Chunk.from_dict(row) for row in work.split(documents, settings, lambda _: None)]


def ranks(
    asked: list[asking.Question], chunks: list[Chunk], settings: Settings
) -> dict[str, float]:
    """Reciprocal rank of each question's document, the questions' headings withheld."""
    held = asking.withhold_headings(chunks, asked)
    with work.searching(held, settings, lambda _: None) as retriever:

        def search(text: str, k: int) -> list[str]:
            return [hit.chunk.document_id for hit in retriever.search(text, k)]

        items = evaluate_retrieval(asked, search)["items"]
    return {item["id"]: item["value"] for item in items}


def ranks_from(pool: Pairs) -> Draw:
    """Draw pairs of ranks, candidate first; the pool's two sides are swapped at random."""

    def draw(random_: random.Random, count: int, planted: float) -> Pairs:
        picked = [random_.sample(random_.choice(pool), 2) for _ in range(count)]
        mean = sum(map(sum, pool)) / len(pool) / 2
        room = mean if planted < 0 else 1 - mean
        moved = 1.0 if planted > 0 else 0.0
        share = abs(planted) / room
        return [(moved if random_.random() < share else ours, theirs) for ours, theirs in picked]

    return draw


def judged(repeats: int) -> Draw:
    """Draw pairs of a judge's mean scores."""

    def score(random_: random.Random, worth: float) -> float:
        said = worth + random_.gauss(0, WORDING)
        asked = [said + random_.gauss(0, JUDGE) for _ in range(repeats)]
        return sum(round(min(1.0, max(0.0, one)) * 4) / 4 for one in asked) / repeats

    def draw(random_: random.Random, count: int, planted: float) -> Pairs:
        worths = [0.2 + 0.6 * random_.betavariate(4, 2) for _ in range(count)]
        return [(score(random_, worth + planted), score(random_, worth)) for worth in worths]

    return draw


def compared(draw: Draw, count: int, planted: float, seed: int) -> str:
    """The verdict on one set of items alone."""
    ours, theirs = zip(*draw(random.Random(seed), count, planted), strict=True)
    return compare(ours, theirs, higher_is_better=True).verdict


def gated(draw: Draw, count: int, planted: float, seed: int) -> str:
    """The verdict of the whole gate: ranks, and a model trained again on the same texts."""
    random_ = random.Random(seed)
    pairs = draw(random_, count, planted)
    bits = [2.4 + random_.gauss(0, 0.5) for _ in range(count)]
    sides = []
    for side, again in ((0, LANGUAGE), (1, 0.0)):
        values = [one + random_.gauss(0, again) for one in bits]
        language = [{"id": str(at), "value": value} for at, value in enumerate(values)]
        found = [{"id": str(at), "value": pair[side]} for at, pair in enumerate(pairs)]
        sides.append(
            {
                "language": {"items": language, "bits_per_character": 2.4, "unigram": 3.0},
                "retrieval": {"items": found, "n": count, "hit@5": 1.0},
            }
        )
    ours, theirs = sides
    return gate(ours, theirs, RULE, data_changed=False).verdict


def main() -> None:
    """Print Markdown: how often of 100 each verdict is right, by the number of items."""
    began = time.process_time()
    pools = real_ranks()
    print("# The gate's calibration\n")
    for change, pool in pools.items():
        moved = sum(ours != theirs for ours, theirs in pool) / len(pool)
        print(f"* {change}: {moved:.0%} of {len(pool)} real questions rank otherwise")
    kinds = {
        **{f"rank, {change}": (compared, ranks_from(pool)) for change, pool in pools.items()},
        "the whole gate, other passages": (gated, ranks_from(pools["other passages"])),
        **{f"judge, asked {n} ×": (compared, judged(n)) for n in (1, 3, 5)},
    }
    print(f"\nRight of {TRIALS}:\n")
    print("| items judged by | items | nothing: cannot tell | −5 points: worse | +5: better | |")
    print("|---|---|---|---|---|---|")
    for name, (verdict, draw) in kinds.items():
        for count in COUNTS:
            right = {
                word: sum(verdict(draw, count, planted, seed) == word for seed in range(TRIALS))
                for word, planted in PLANTED.items()
            }
            enough = all(right[word] >= least for word, least in ENOUGH.items())
            cells = " | ".join(str(right[word]) for word in PLANTED)
            print(f"| {name} | {count} | {cells} | {'enough' if enough else ''} |", flush=True)
            if enough:
                break
    print(f"\n{time.process_time() - began:.0f} CPU seconds.")


if __name__ == "__main__":
    main()
