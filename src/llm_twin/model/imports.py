"""Rows by others than the author, let in as far as the author's passages support them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llm_twin.model.grounding import Grounding
from llm_twin.model.handbook_sets import read_instructions, read_preferences
from llm_twin.model.rows import Pair, Preference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm_twin.corpus.document import Chunk
    from llm_twin.model.handbook_sets import Imported
    from llm_twin.model.profile import Data


@dataclass
class Foreign:
    """What came from elsewhere and is grounded.

    Attributes:
        pairs: to learn from.
        preferences: to learn from.
        heldout_pairs: to be judged by.
        heldout_preferences: to be judged by.
        reports: one for each set: ``name``, ``sha256``, ``rows``, ``grounded``, ``median`` and
            ``best`` share, ``rejected`` by reason, and the ``verdict`` as a sentence.

    """

    pairs: list[Pair] = field(default_factory=list)
    preferences: list[Preference] = field(default_factory=list)
    heldout_pairs: list[Pair] = field(default_factory=list)
    heldout_preferences: list[Preference] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)


def take_in(
    data: Data, generated: Sequence[Pair], chunks: Sequence[Chunk], heldout: Sequence[Chunk]
) -> Foreign:
    """Read the sets that are named, and keep what is grounded; the same for generated pairs.

    Args:
        data: names the sets, and how much has to be grounded.
        generated: pairs by a language model.
        chunks: of both sides.
        heldout: those of the held-out side; what is grounded there is not learned from.

    Raises:
        ConfigError: a set cannot be read, or a row of it is malformed.

    """
    taken = Foreign()
    instructions = [read_instructions(path) for path in data.instructions]
    preferences = [read_preferences(path) for path in data.preferences]
    if not (instructions or preferences or generated):
        return taken
    sift = _Sift(chunks, heldout, data.grounding)
    for one in instructions:
        taken.pairs += sift.keep(one.train)
        taken.heldout_pairs += sift.keep(one.test, judged=True)
        taken.reports.append(sift.report(one, "instruction"))
    for one in preferences:
        taken.preferences += sift.keep(one.train)
        taken.heldout_preferences += sift.keep(one.test, judged=True)
        taken.reports.append(sift.report(one, "preference"))
    if generated:
        taken.pairs += sift.keep(generated)
        taken.reports.append(sift.report(None, "generated"))
    return taken


class _Sift:
    """Keeps what is grounded, and remembers why the rest is not kept."""

    def __init__(self, chunks: Sequence[Chunk], heldout: Sequence[Chunk], least: float) -> None:
        held = {chunk.id for chunk in heldout}
        self._grounding = Grounding([chunk.passage for chunk in chunks])
        self._chunks, self._held, self._least = chunks, held, least
        self._shares: list[float] = []
        self._rejected: Counter[str] = Counter()

    def keep(self, rows: Sequence[Any], judged: bool = False) -> list[Any]:
        """The grounded rows; those to learn from only if a training passage supports them."""
        kept = []
        for row in rows:
            found = self._grounding.of(row.completion if isinstance(row, Pair) else row.chosen)
            self._shares.append(found.share)
            if found.share < self._least or found.place < 0:
                self._rejected["ungrounded"] += 1
            elif not judged and self._chunks[found.place].id in self._held:
                self._rejected["about held-out texts"] += 1
            else:
                kept.append(row)
        return kept

    def report(self, one: Imported | None, what: str) -> dict[str, Any]:
        """What became of the rows since the last report."""
        shares, rejected = sorted(self._shares), self._rejected
        self._shares, self._rejected = [], Counter()
        grounded = len(shares) - rejected["ungrounded"]
        told: dict[str, Any] = {
            "what": what,
            "name": one.name if one else "",
            "sha256": one.sha256 if one else "",
            "rows": len(shares),
            "grounded": grounded,
            "median": round(shares[len(shares) // 2], 3),
            "best": round(shares[-1], 3),
            "rejected": dict(sorted(rejected.items())),
        }
        return {**told, "verdict": _verdict(told, self._least)}


def _verdict(told: dict[str, Any], least: float) -> str:
    figures = (
        f"their words and trigrams are in one passage to {told['median']:.0%} by the median and"
        f" {told['best']:.0%} at best, where {least:.0%} is asked for"
    )
    if not told["grounded"]:
        end = "all are left out, as training on them would ruin the voice"
    elif told["grounded"] < told["rows"]:
        end = "the others are left out"
    else:
        end = "all may be taken"
    count = f"{told['grounded']:,} of {told['rows']:,} rows"
    return f"{count} are grounded in these texts ({figures}); {end}"
