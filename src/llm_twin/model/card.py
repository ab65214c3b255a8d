"""A dataset as a person and the Hugging Face hub read it: what is in it, from where, what is not.

The same dataset has the same card, byte for byte: it names no time, machine or path.
"""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from llm_twin.model.pairs import MOST, MOST_HEADINGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llm_twin.model.dataset import Dataset
    from llm_twin.model.rows import Pair, Preference

LICENSE = "other"
SAMPLED = 60
"""Answers whose language is looked at."""
LICENSE_NOTE = (
    "The answers are the author's words: whoever holds the rights in the texts holds them in these"
    " rows. Publish them only as far as the texts' licence allows; rows of imported sets keep the"
    " licence of their set."
)
_KINDS = {
    "heading": "what the author wrote under a heading",
    "question": "what follows a question in the text",
    "continuation": "how a passage goes on",
    "summary": "the first sentences of a document",
    "handbook": "imported sets, as far as grounded",
    "generated": "written by a language model, as far as grounded",
    "correction": "readers' corrections",
    "sibling": "against another section of the same document",
    "neighbour": "against the most alike passage of another document",
    "shuffled": "against its own sentences out of order",
    "generic": "against an assistant's opening of the same text",
}


def card(dataset: Dataset) -> str:
    """The card as Markdown, with the hub's front matter."""
    return "\n".join([*_front(dataset), *_body(dataset)]) + "\n"


def summary(dataset: Dataset) -> list[str]:
    """The card on a few lines, for a terminal."""
    sources = dataset.sources
    lines = [
        f"texts        {len(dataset.train_texts):,} to learn from, {len(dataset.heldout_texts):,}"
        f" held out by {dataset.split_by}, {len(dataset.questions):,} questions",
        f"pairs        {_counted(sources.get('pairs', {}))}; held out"
        f" {len(dataset.heldout_pairs):,}",
        f"preferences  {_counted(sources.get('preferences', {}))}; held out"
        f" {len(dataset.heldout_preferences):,}; chosen is the longer one in"
        f" {sources.get('longer_chosen', 0.5):.0%}",
        f"left out     {_counted(sources.get('left_out', {}))}",
        f"leakage      {sources.get('leakage', 'not looked for')}",
    ]
    lines += [f"{_named(one):<12} {one['verdict']}" for one in sources.get("imports", [])]
    if written := sources.get("generated"):
        lines.append(f"generated    {written['verdict']}")
    return lines + [f"note         {note}" for note in sources.get("notes", [])]


def verdicts(sources: Mapping[str, Any]) -> list[str]:
    """What a summary says of a dataset's sources: leakage, each imported set, what is missing."""
    told = [f"leakage: {sources['leakage']}"] if "leakage" in sources else []
    told += [f"{_named(one).strip()}: {one['verdict']}" for one in sources.get("imports", [])]
    if written := sources.get("generated"):
        told.append(f"generated: {written['verdict']}")
    return told + list(sources.get("notes", []))


def _named(report: Mapping[str, Any]) -> str:
    return f"{report['name'] or report['what']} "


def _counted(counts: Mapping[str, int]) -> str:
    told = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    return f"{sum(counts.values()):,}" + (f" ({told})" if told else "")


def _front(dataset: Dataset) -> Iterator[str]:
    yield "---"
    yield f"license: {LICENSE}"
    found = languages(dataset)
    if found:
        yield "language:"
        yield from (f"- {language}" for language in found)
    yield "task_categories:"
    yield "- text-generation"
    yield "tags:"
    yield "- llm-twin"
    yield "configs:"
    for name, (train, held) in _parts(dataset).items():
        files = {"train": (name, train), "test": (f"heldout_{name}", held)}
        if name == "questions":
            files = {"test": (name, held)}
        # The hub cannot show an empty file.
        shown = [(split, file) for split, (file, rows) in files.items() if rows]
        if shown:
            yield f"- config_name: {name}"
            yield "  data_files:"
        for split, file in shown:
            yield f"  - split: {split}"
            yield f"    path: {file}.jsonl"
    yield "---"


def _parts(dataset: Dataset) -> dict[str, tuple[Sequence[Any], Sequence[Any]]]:
    return {
        "instructions": (dataset.pairs, dataset.heldout_pairs),
        "preferences": (dataset.preferences, dataset.heldout_preferences),
        "texts": (dataset.train_texts, dataset.heldout_texts),
        "questions": ((), dataset.questions),
    }


def _body(dataset: Dataset) -> Iterator[str]:
    sources = dataset.sources
    yield "\n# What a twin learns from\n"
    yield f"Digest `{dataset.digest}`, split by {dataset.split_by} with seed {dataset.seed}.\n"
    yield from _sizes(dataset)
    for part, title in (("pairs", "Instruction pairs"), ("preferences", "Preference pairs")):
        yield f"\n## {title}\n"
        yield from _kinds(sources.get(part, {}), sources.get(f"heldout_{part}", {}))
    yield (
        f"\nAt most {MOST_HEADINGS:,} pairs are of headings, {MOST:,} of each other kind, and"
        " continuations are at most half as many as the others; of more, some are drawn."
    )
    yield (
        f"The chosen answer is the longer one in {sources.get('longer_chosen', 0.5):.0%} of"
        " preferences: length should say nothing."
    )
    yield from _left_out(sources)
    yield "\n## Leakage\n"
    yield f"By runs of words, prompts and questions: {sources.get('leakage', 'not looked for')}."
    yield (
        f"{dataset.dropped:,} held-out passages were dropped, because training texts say the same."
    )
    yield (
        f"{sum(question.heldout for question in dataset.questions):,} of"
        f" {len(dataset.questions):,} questions are about held-out sections; the others judge"
        " retrieval alone, which learns from no row."
    )
    yield "\n## Licence\n"
    yield LICENSE_NOTE


def _sizes(dataset: Dataset) -> Iterator[str]:
    yield "| part | training rows | characters | held-out rows | characters |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    texts = (dataset.train_texts, dataset.heldout_texts)
    pairs = [_answers(rows) for rows in (dataset.pairs, dataset.heldout_pairs)]
    both = [_answers(rows) for rows in (dataset.preferences, dataset.heldout_preferences)]
    for name, (train, held) in {"texts": texts, "instructions": pairs, "preferences": both}.items():
        cells = (len(train), sum(map(len, train)), len(held), sum(map(len, held)))
        yield f"| {name} | " + " | ".join(f"{cell:,}" for cell in cells) + " |"


def _answers(rows: Sequence[Pair | Preference]) -> list[str]:
    return ["".join((row.prompt, *row.answers)) for row in rows]


def _kinds(train: Mapping[str, int], held: Mapping[str, int]) -> Iterator[str]:
    if not (train or held):
        yield "None."
        return
    yield "| kind | training | held out | what it is |"
    yield "| --- | ---: | ---: | --- |"
    for kind, told in _KINDS.items():
        if kind in train or kind in held:
            yield f"| {kind} | {train.get(kind, 0):,} | {held.get(kind, 0):,} | {told} |"


def _left_out(sources: Mapping[str, Any]) -> Iterator[str]:
    yield "\n## Left out\n"
    left = sources.get("left_out", {})
    yield from (f"- {count:,} rows: {reason}" for reason, count in left.items())
    for one in sources.get("imports", []):
        yield f"- {_named(one).strip()}: {one['verdict']}."
        yield from (f"  - {count:,}: {reason}" for reason, count in one["rejected"].items())
    yield from (f"- {note}." for note in sources.get("notes", []))
    if not (left or sources.get("imports") or sources.get("notes")):
        yield "Nothing."


def languages(dataset: Dataset) -> list[str]:
    """ISO codes of the languages that at least a tenth of some texts is in; the commonest first.

    Empty where py3langid is not installed.
    """
    if find_spec("py3langid") is None:
        return []
    import py3langid  # type: ignore[import-untyped]

    texts = dataset.train_texts[:: max(1, len(dataset.train_texts) // SAMPLED)][:SAMPLED]
    counts = Counter(str(py3langid.classify(text[:600])[0]) for text in texts)
    ordered = sorted(counts, key=lambda code: (-counts[code], code))
    return [code for code in ordered if counts[code] >= 0.1 * len(texts)]
