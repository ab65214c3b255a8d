"""What features cost: ours beside the Handbook's way, unchanged again, one change, and growth.

Run: ``python benchmarks/features.py handbook CORPUS.json [CHUNKS]``,
``python benchmarks/features.py again [DOCUMENTS]`` or
``python benchmarks/features.py growth [MOST_CHUNKS] [--ray] [--qdrant]``.

``handbook`` cleans, cuts and embeds the same articles both ways, one after the other in one
process. The Handbook's way is written anew from what it does: all but letters and ``.,!?`` become
spaces; articles are cut into 1,000 to 2,000 characters of whole sentences, posts into 500
characters at paragraphs and then windows of 256 tokens with 50 of overlap; vectors in fp32, ten
passages at a time, padded. Both ways of cutting are shown. Its sentence-transformers are not
installed here; the same weights run in transformers on torch. Both have one thread: torch's threads
wait for each other by spinning, which on a machine that others use is all that is measured.

``growth`` leaves the model out (words alone): it is what reading, cleaning, cutting and writing
cost besides. The engine behind ``--qdrant`` is the client's own, in memory and in this process.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_twin.corpus.chunks import chunk
from llm_twin.corpus.cleaning import clean
from llm_twin.corpus.sources import open_source
from llm_twin.ct import features
from llm_twin.ct.scale import open_workers
from llm_twin.retrieval import open_embedder
from llm_twin.settings import Settings

TEXT = """
The ferry to the island leaves at seven and carries eleven cars at most. A hive in winter keeps warm
by shivering together around the queen. Molten glass is turned on the pipe so that gravity never
wins on one side. Sourdough rises slowly because wild yeast is patient and cold dough is slow. The
old mill by the river grinds corn for three villages when the water is high enough. Every spring the
carpenter plants a row of ash trees for the handles that his grandchildren will need. A rope is laid
from three strands, each twisted against the next, and that is why it holds. The baker counts loaves
before dawn and the ferryman counts cars after it, and both are wrong on Mondays. Bees that leave in
spring take the old queen along and a third of the honey that winter left. Whoever blows glass in
the cold has to be quick, since what is thin is stiff before it is round. In the harbour they say
that a boat knows its own weight and that a captain learns it. The river takes back what the mill
was lent, a little each year, and nobody writes it down.
"""
WORDS_A_DOCUMENT = 1000
OVERLAP, PIECE, CHARACTERS, TOGETHER = 50, 256, 500, 10


class Timer:
    """CPU seconds of this process and its ended children, and seconds, by step."""

    def __init__(self) -> None:
        self.cpu: dict[str, float] = {}
        self.wall: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        begun, spent = time.perf_counter(), cpu_seconds()
        yield
        self.wall[step] = time.perf_counter() - begun
        self.cpu[step] = cpu_seconds() - spent


def cpu_seconds() -> float:
    """Of this process and its children that ended."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def peak_mb() -> int:
    """Most memory that this process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def make_corpus(folder: Path, count: int, seed: int = 0) -> None:
    """Articles of sentences drawn from a word model of a small text; the same for one seed."""
    rng = random.Random(seed)
    words = TEXT.split()
    following = defaultdict(list)
    for one, other in zip(words, [*words[1:], words[0]], strict=True):
        following[one].append(other)
    folder.mkdir(parents=True)
    for number in range(count):
        sections, word = [], rng.choice(words)
        for part in range(5):
            said = []
            for at in range(WORDS_A_DOCUMENT // 5):
                # A number now and then: articles of one small vocabulary would all be copies.
                said.append(word if at % 4 else f"{word.strip('.,')}{rng.randrange(10**6)}")
                word = rng.choice(following[word] if rng.random() < 0.8 else words)
            sections.append(f"## Part {part + 1}\n\n{' '.join(said)}.")
        text = "\n\n".join(sections)
        (folder / f"{number:06}.md").write_text(f"# Article {number}\n\n{text}\n", "utf-8")


def handbook_clean(text: str) -> str:
    """Letters, digits and ``.,!?``."""
    return re.sub(r"\s+", " ", re.sub(r"[^\w\s.,!?]", " ", text)).strip()


def cut_as_article(text: str) -> list[str]:
    """Whole sentences up to 2,000 characters; what ends below 1,000 is lost."""
    pieces, held = [], ""
    for sentence in re.split(r"(?<!\w\.\w.)(?<![A-Z][a-z]\.)(?<=[.?!])\s", text):
        if len(held) + len(sentence) <= 2000:
            held += f"{sentence} "
            continue
        pieces.append(held)
        held = f"{sentence} "
    pieces.append(held)
    return [piece.strip() for piece in pieces if len(piece) >= 1000]


def cut_as_post(text: str, tokenizer: Any) -> list[str]:
    """500 characters at paragraphs, as far as there are any; then windows of 256 tokens."""
    pieces, held = [], ""
    for part in re.split(r"(?<=\n\n)", text):
        if held and len(held) + len(part) > CHARACTERS:
            pieces.append(held)
            held = ""
        held += part
    pieces.append(held)
    windows = []
    for piece in pieces:
        ids = tokenizer(piece, add_special_tokens=False)["input_ids"]
        start = 0
        while start < len(ids):
            windows.append(tokenizer.decode(ids[start : start + PIECE]))
            if start + PIECE >= len(ids):
                break
            start += PIECE - OVERLAP
    return windows


def handbook_embedder(folder: Path) -> tuple[Any, Callable[[list[str]], Any]]:
    """MiniLM in fp32 from the safetensors that ours is quantised from; mean of the last layer."""
    import torch

    torch.set_num_threads(1)
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]", unk_token="[UNK]", mask_token="[MASK]",
    )  # fmt: skip
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536,
        vocab_size=30522,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict(load_file(str(folder / "model.safetensors")), strict=False)
    model.eval()

    def embed(texts: list[str]) -> Any:
        taken = tokenizer(
            texts, padding=True, truncation=True, max_length=PIECE, return_tensors="pt"
        )
        taken.pop("token_type_ids", None)
        with torch.inference_mode():
            states = model(**taken).last_hidden_state
        mask = taken["attention_mask"][..., None]
        return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1)).numpy()

    return tokenizer, embed


def against_the_handbook(corpus: str, most: int) -> dict[str, Any]:
    """Both ways over the same articles, ``most`` chunks of each embedded."""
    os.environ["OMP_NUM_THREADS"] = "1"
    settings = Settings.load()
    documents = open_source(corpus, settings).read(None, lambda _: None).documents
    ours = Timer()
    embedder = open_embedder(settings)
    if embedder is None:
        raise SystemExit("TWIN_EMBEDDER=words has nothing to compare")
    tokenizer, embed = handbook_embedder(settings.embedder_home or Path())
    count = embedder.count_tokens
    embedder.embed(["warm"] * 2), embed(["warm"] * TOGETHER)
    with ours("clean"):
        cleaned = clean(documents).documents
    with ours("cut"):
        passages = [
            part.passage for one in cleaned for part in chunk(one, count, min(embedder.window, 256))
        ]
    with ours("embed"):
        vectors = embedder.embed(passages[:most])
    found = {"ours": _figures(ours, len(documents), passages, len(vectors), count)}
    ways = {"articles": cut_as_article, "posts": lambda text: cut_as_post(text, tokenizer)}
    for way, cut in ways.items():
        theirs = Timer()
        with theirs("clean"):
            plain = [handbook_clean(one.text) for one in documents]
        with theirs("cut"):
            windows = [part for text in plain for part in cut(text)]
        some = windows[:most]
        with theirs("embed"):
            for start in range(0, len(some), TOGETHER):
                embed(some[start : start + TOGETHER])
        found[f"handbook, {way}"] = _figures(theirs, len(documents), windows, len(some), count)
    return {"documents": len(documents), **found}


def _figures(
    timer: Timer, documents: int, passages: list[str], embedded: int, count: Callable[[str], int]
) -> dict[str, Any]:
    """Per chunk and per document; tokens that the model's window leaves out."""
    sizes = [count(text) for text in passages]
    lost = sum(max(size - PIECE, 0) for size in sizes)
    whole = timer.cpu["clean"] + timer.cpu["cut"] + timer.cpu["embed"] * len(sizes) / embedded
    return {
        "chunks": len(sizes),
        "tokens": sum(sizes),
        "never_embedded": round(lost / sum(sizes), 4),
        "cpu": {step: round(spent, 3) for step, spent in timer.cpu.items()},
        "seconds": {step: round(spent, 3) for step, spent in timer.wall.items()},
        "embedded": embedded,
        "chunks_a_second": round(embedded / timer.wall["embed"], 1),
        "chunks_a_cpu_second": round(embedded / timer.cpu["embed"], 1),
        "tokens_a_cpu_second": round(
            sum(min(size, PIECE) for size in sizes[:embedded]) / timer.cpu["embed"]
        ),
        "cpu_all_documents": round(whole, 2),
        "documents_a_cpu_second": round(documents / whole, 2),
    }


@contextmanager
def place() -> Iterator[tuple[Path, Settings]]:
    """A folder that goes when the block ends, and settings with their state in it."""
    folder = Path(tempfile.mkdtemp(prefix="features-"))
    try:
        yield folder, replace(Settings.load(), home=folder / "home", embedder="words", index_url="")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def bring(corpus: Path, settings: Settings, workers: Any = None) -> dict[str, Any]:
    """One run, with its cost."""
    timer = Timer()
    with timer("run"):
        report = features.bring_up_to_date(str(corpus), (), settings, lambda _: None, workers)
    names = ("opened", "cleaned", "cut", "embedded", "written", "deleted", "chunks")
    cost = {"cpu": round(timer.cpu["run"], 2), "wall": round(timer.wall["run"], 2)}
    return {name: report[name] for name in names} | cost | {"seconds": report["seconds"]}


def again(count: int) -> dict[str, Any]:
    """First, unchanged, and one article changed."""
    with place() as (folder, settings):
        corpus = folder / "corpus"
        make_corpus(corpus, count)
        time.sleep(2.1)
        first, unchanged = bring(corpus, settings), bring(corpus, settings)
        with (corpus / f"{count // 2:06}.md").open("a", encoding="utf-8") as file:
            file.write("\nThe ferry was late that day, and nobody in the harbour said why.\n")
        time.sleep(2.1)
        changed = bring(corpus, settings)
        return {"documents": count, "first": first, "unchanged": unchanged, "one": changed}


def growth(most: int, ray: bool, qdrant: bool) -> dict[str, Any]:
    """Cost of a whole run at growing sizes, and the power of the size that it grows with."""
    rows = []
    with open_workers("ray" if ray else "local") as workers:
        chunks = 1000
        while chunks <= most:
            with place() as (folder, settings), server(qdrant) as url:
                make_corpus(folder / "corpus", max(1, chunks // 10))
                row = bring(folder / "corpus", replace(settings, index_url=url), workers)
                row |= {"peak_mb": peak_mb()}
                rows.append(row | {"cpu_ms_a_chunk": round(1000 * row["cpu"] / row["chunks"], 3)})
                print(json.dumps(rows[-1]), flush=True)
            chunks *= 10
    return {"rows": rows, "power": power([(row["chunks"], row["cpu"]) for row in rows])}


@contextmanager
def server(wanted: bool) -> Iterator[str]:
    """Address of a server, or nothing."""
    if not wanted:
        yield ""
        return
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.integration.qdrant_rest import serving

    with serving() as (url, _):
        yield url


def power(points: list[tuple[int, float]]) -> float | None:
    """Least-squares slope in logarithms: 1 is a cost in proportion."""
    if len(points) < 2:
        return None
    logs = [(math.log(size), math.log(max(cost, 1e-9))) for size, cost in points]
    middle = [sum(values) / len(logs) for values in zip(*logs, strict=True)]
    over = sum((x - middle[0]) * (y - middle[1]) for x, y in logs)
    return round(over / sum((x - middle[0]) ** 2 for x, _ in logs), 3)


def main() -> int:
    """Run what was asked for and print figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("handbook", "again", "growth"))
    parser.add_argument("values", nargs="*")
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--qdrant", action="store_true")
    asked = parser.parse_args()
    if asked.what == "handbook":
        most = int(asked.values[1]) if asked.values[1:] else sys.maxsize
        found = against_the_handbook(asked.values[0], most)
    elif asked.what == "again":
        found = again(int((asked.values or ["10000"])[0]))
    else:
        found = growth(int((asked.values or ["10000"])[0]), asked.ray, asked.qdrant)
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
