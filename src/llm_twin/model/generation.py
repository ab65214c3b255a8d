"""Instruction pairs that a language model writes about the author's passages, one by one.

Each passage is asked about once: what came back is kept in ``<folder>/generated.db`` by passage,
model and prompt, so that a second run asks nothing and a killed one goes on. Nothing is believed:
the answer's shape is checked, and a pair is kept only if the passage it is about supports it.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llm_twin.corpus.document import content_id
from llm_twin.errors import RemoteError
from llm_twin.model.endpoint import Endpoint, Reply, json_in
from llm_twin.model.grounding import Grounding
from llm_twin.model.rows import Pair
from llm_twin.model.sentences import size

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from llm_twin.corpus.document import Chunk
    from llm_twin.model.profile import Generation
    from llm_twin.settings import Settings

    Progress = Callable[[str], None]

KIND = "generated"
FILE = "generated.db"
PROMPT_VERSION = "1"
"""Raise it with any change of what is asked."""
SHORTEST_PASSAGE = 300
"""Characters, see ``sentences.size``."""
LEAST_GROUNDED = 0.3
ATTEMPTS = 2
"""So often a passage is asked about when the answer is not as asked for."""
TOKENS_PER_PAIR = 350
CHARACTERS_PER_TOKEN = 3
TELL_EVERY = 10
_MIGRATIONS = (
    """
    CREATE TABLE asked (
        key TEXT PRIMARY KEY, document_id TEXT NOT NULL, pairs TEXT NOT NULL,
        cost REAL NOT NULL
    );
    """,
)
_SYSTEM = (
    "You write training examples from an author's text. Use only what the text says, in the"
    " author's words and voice as far as you can: no preface, no praise, no summary of your own."
)
_USER = (
    "Write {count} different instruction-answer pairs about the passage below. Each instruction"
    " makes sense without seeing the passage and does not mention a passage, text or author. Each"
    " answer is 2 to 6 sentences and says what the passage says, in the passage's language.\n"
    'Answer with JSON alone: {{"pairs": [{{"instruction": "…", "answer": "…"}}]}}\n\n'
    "Title: {title}\n\nPassage:\n{text}"
)
_TEXT = {"type": "string"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "pairs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"instruction": _TEXT, "answer": _TEXT},
                "required": ["instruction", "answer"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["pairs"],
    "additionalProperties": False,
}


@dataclass
class Generated:
    """What a language model wrote and its passages support.

    Attributes:
        pairs: in the order of the passages.
        report: ``model``, ``passages`` that were to be asked about, how many of them ``asked``,
            ``remembered`` and ``left_out`` by the cap, ``failed`` by reason, ``written`` and
            ``rejected`` pairs, ``cost`` of this run, tokens, and ``verdict``, a sentence. Empty
            when no model is named.

    """

    pairs: list[Pair] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)


def generate(
    chunks: Sequence[Chunk],
    generation: Generation,
    settings: Settings,
    folder: Path,
    progress: Progress,
) -> Generated:
    """Ask the endpoint for pairs about passages, until the cap on the cost is reached.

    Args:
        chunks: to ask about; the training side, see ``model.dataset.train_chunks``.
        generation: model, numbers, prices and the cap.
        settings: address, key and timeout of the endpoint.
        folder: of the cache.
        progress: called with a line now and then.

    Raises:
        ConfigError: the settings cannot be used, or the endpoint refuses key, model or address.
        RemoteError: it is down, or answers no passage as asked for.
        SpaceError: the cache cannot be written.

    """
    if not generation.model:
        return Generated()
    from llm_twin.sqlite import open_database

    endpoint = Endpoint.of(settings, generation.model)
    wanted = _passages(chunks, generation.chunks)
    database = open_database(folder / FILE, "the generated pairs", _MIGRATIONS)
    with closing(database) as db:
        run = _Run(endpoint, generation, db, progress)
        found = list(run.all(wanted))
    pairs = [pair for pairs in found for pair in pairs]
    return Generated(pairs, run.report(len(wanted), len(pairs)))


def _passages(chunks: Sequence[Chunk], most: int) -> list[Chunk]:
    """Long enough passages, drawn by their hash, in their order."""
    fit = {chunk.id: chunk for chunk in chunks if size(chunk.text) >= SHORTEST_PASSAGE}
    drawn = set(sorted(fit, key=lambda key: content_id("generation", key))[:most])
    return [chunk for key, chunk in fit.items() if key in drawn]


class _Run:
    """One go over the passages."""

    def __init__(
        self, endpoint: Endpoint, generation: Generation, db: sqlite3.Connection, progress: Progress
    ) -> None:
        self.endpoint, self.generation, self.db, self.progress = endpoint, generation, db, progress
        self.counts: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.cost = 0.0

    def all(self, chunks: Sequence[Chunk]) -> Iterator[list[Pair]]:
        """The pairs of each passage."""
        grounding = Grounding([chunk.passage for chunk in chunks])
        for number, chunk in enumerate(chunks, start=1):
            rows = self._remembered(chunk)
            if rows is None and self.cost + self._expected(chunk) > self.generation.cost:
                self.counts["left_out"] += 1
            else:
                rows = self._asked(chunk) if rows is None else rows
                yield [
                    Pair(row["instruction"], row["answer"], KIND, chunk.document_id)
                    for row in rows
                    if self._is_grounded(grounding.of(row["answer"], number - 1).share)
                ]
            if number % TELL_EVERY == 0 or number == len(chunks):
                self.progress(self._line(number, len(chunks)))

    def _line(self, number: int, total: int) -> str:
        generation = self.generation
        cost = f"cost {self.cost:.4f} of at most {generation.cost:g}"
        if not (generation.price_in or generation.price_out):
            cost = "cost not known, as no prices are set"
        return f"generating pairs: {number}/{total} passages, {self.counts['asked']} asked, {cost}"

    def _key(self, chunk: Chunk) -> str:
        parts = (chunk.id, self.generation.model, str(self.generation.per_chunk), PROMPT_VERSION)
        return content_id(*parts, length=32)

    def _remembered(self, chunk: Chunk) -> list[dict[str, str]] | None:
        row = self.db.execute("SELECT pairs FROM asked WHERE key = ?", (self._key(chunk),))
        found = row.fetchone()
        if found is None:
            return None
        self.counts["remembered"] += 1
        rows: list[dict[str, str]] = json.loads(found[0])
        return rows

    def _expected(self, chunk: Chunk) -> float:
        """What asking may cost: the cap is never passed by a question that could be foreseen."""
        tokens = len(_question(chunk, self.generation.per_chunk) + _SYSTEM) / CHARACTERS_PER_TOKEN
        return self._price(tokens, self._most_tokens())

    def _most_tokens(self) -> int:
        return self.generation.per_chunk * TOKENS_PER_PAIR

    def _price(self, tokens_in: float, tokens_out: float) -> float:
        generation = self.generation
        return (tokens_in * generation.price_in + tokens_out * generation.price_out) / 1e6

    def _asked(self, chunk: Chunk) -> list[dict[str, str]]:
        """Ask, again if the answer is not as asked for; remember what came."""
        self.counts["asked"] += 1
        question, began = _question(chunk, self.generation.per_chunk), self.cost
        wrong = ""
        for _ in range(ATTEMPTS):
            reply = self.endpoint.ask(_SYSTEM, question, SCHEMA, self._most_tokens())
            self._count(reply, question)
            try:
                rows = _rows(reply.text, self.generation.per_chunk)
            except ValueError as error:
                wrong = str(error)
                if self.cost + self._expected(chunk) > self.generation.cost:
                    break
                continue
            self._remember(chunk, rows, self.cost - began)
            return rows
        self.failed[wrong] += 1
        if not self.counts["remembered"] and self.failed.total() == self.counts["asked"] == 5:
            raise RemoteError(
                f"the language model answers no passage as asked for ({wrong})",
                f"{self.endpoint.shown}, model {self.generation.model}",
                "Set data.generate.model to a model that can write JSON",
            )
        return []

    def _count(self, reply: Reply, question: str) -> None:
        """Add up tokens and cost; a server that does not tell is not taken to be free."""
        tokens_in = reply.tokens_in or len(_SYSTEM + question) // CHARACTERS_PER_TOKEN
        tokens_out = reply.tokens_out or len(reply.text) // CHARACTERS_PER_TOKEN
        self.counts["tokens_in"] += tokens_in
        self.counts["tokens_out"] += tokens_out
        self.cost += self._price(tokens_in, tokens_out)

    def _remember(self, chunk: Chunk, rows: list[dict[str, str]], cost: float) -> None:
        said = json.dumps(rows, ensure_ascii=False)
        row = (self._key(chunk), chunk.document_id, said, cost)
        self.db.execute("INSERT OR REPLACE INTO asked VALUES (?, ?, ?, ?)", row)

    def _is_grounded(self, share: float) -> bool:
        self.counts["written"] += 1
        self.rejected["ungrounded"] += share < LEAST_GROUNDED
        return share >= LEAST_GROUNDED

    def report(self, passages: int, kept: int) -> dict[str, Any]:
        """What became of the passages, and what it cost."""
        names = ("asked", "remembered", "left_out", "written", "tokens_in", "tokens_out")
        counts = {name: self.counts[name] for name in names}
        told = f"{kept:,} of {counts['written']:,} pairs about {passages:,} passages are grounded"
        if counts["left_out"]:
            told += (
                f"; {counts['left_out']:,} passages were not asked about, as they would have cost"
                f" more than {self.generation.cost:g}: raise data.generate.cost"
            )
        return {
            "model": self.generation.model,
            "passages": passages,
            **counts,
            "kept": kept,
            "cost": round(self.cost, 6),
            "failed": dict(sorted(self.failed.items())),
            "rejected": {reason: count for reason, count in self.rejected.items() if count},
            "verdict": told,
        }


def _question(chunk: Chunk, count: int) -> str:
    return _USER.format(count=count, title=chunk.prefix, text=chunk.text)


def _rows(text: str, most: int) -> list[dict[str, str]]:
    """The pairs in an answer.

    Raises:
        ValueError: it is not of the schema.

    """
    data = json_in(text)
    rows = data.get("pairs") if isinstance(data, dict) else None
    if not isinstance(rows, list) or not rows:
        raise ValueError("the answer has no list of pairs")
    for row in rows:
        if not isinstance(row, dict) or row.keys() != {"instruction", "answer"}:
            raise ValueError("a pair has other fields than instruction and answer")
        if not all(isinstance(value, str) and value.strip() for value in row.values()):
            raise ValueError("a pair's field is not a text")
    return [{name: row[name].strip() for name in ("instruction", "answer")} for row in rows[:most]]
