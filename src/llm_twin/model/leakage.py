"""What training rows must not say: the texts, pairs and questions that a model is judged by.

Of the LLM Engineer's Handbook's own instruction set, 28 % of the test instructions are in the
training half word for word. Here every row is checked against the whole held-out side.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from llm_twin.model.near_duplicates import words_of
from llm_twin.model.rows import CORRECTION

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llm_twin.model.dataset import Dataset
    from llm_twin.model.questions import Question
    from llm_twin.model.rows import Pair, Preference

RUN = 13
"""So many words in a row, or a whole shorter text of at least `SHORT`, are a copy."""
SHORT = 6
ASKED = 4
"""A held-out question of so many words is asked wherever these stand in a row."""

Words = tuple[str, ...]


class Leak(NamedTuple):
    """A training row that says what the model is judged by.

    Attributes:
        part: ``pairs`` or ``preferences``.
        place: of the row in it, from 0.
        reason: ``held-out text``, ``held-out prompt`` or ``evaluation question``.

    """

    part: str
    place: int
    reason: str


class Judged:
    """The held-out side, to look training rows up in.

    Args:
        texts: held-out passages and answers.
        prompts: of held-out rows.
        questions: for retrieval; those about held-out sections may not be in a prompt at all.
        known: training passages: a run of words that these hold too is nobody's secret.

    """

    def __init__(
        self,
        texts: Sequence[str],
        prompts: Iterable[str],
        questions: Iterable[Question],
        known: Iterable[str],
    ) -> None:
        self._prompts = {words_of(prompt) for prompt in prompts}
        asked = [(words_of(question.text), question.heldout) for question in questions]
        self._asked = {words for words, _ in asked}
        self._held_out = {words for words, held in asked if held}
        self._held = _by_length(words for words, held in asked if held and len(words) >= ASKED)
        spoken = [words_of(text) for text in dict.fromkeys(texts)]
        self._short = _by_length(words for words in spoken if SHORT <= len(words) < RUN)
        self._runs = {run for words in spoken for run in _runs(words, RUN)}
        for text in known:
            words = words_of(text)
            self._runs.difference_update(_runs(words, RUN))
            for length, short in self._short.items():
                short.difference_update(_runs(words, length))

    def reason(self, prompt: str, *answers: str, reader: bool = False) -> str:
        """Why a row may not be learned from; "" when it may.

        Args:
            prompt: of the row.
            answers: of the row, the bad one too.
            reader: the row is a reader's, who may ask what retrieval is asked about a text that
                is learned from.

        """
        asked = words_of(prompt)
        if asked in self._prompts:
            return "held-out prompt"
        if _holds(asked, self._held) or asked in (self._held_out if reader else self._asked):
            return "evaluation question"
        said = [asked, *map(words_of, answers)]
        return "held-out text" if any(map(self._copies, said)) else ""

    def _copies(self, words: Words) -> bool:
        return not self._runs.isdisjoint(_runs(words, RUN)) or _holds(words, self._short)


def leaks(dataset: Dataset) -> list[Leak]:
    """The training rows of a dataset that say what its held-out side says, in their order."""
    held: list[Pair | Preference] = [*dataset.heldout_pairs, *dataset.heldout_preferences]
    judged = Judged(
        [*dataset.heldout_texts, *(row.answers[0] for row in held)],
        [row.prompt for row in held],
        dataset.questions,
        dataset.train_texts,
    )
    parts: dict[str, Sequence[Pair | Preference]] = {
        "pairs": dataset.pairs,
        "preferences": dataset.preferences,
    }
    return [
        Leak(part, place, reason)
        for part, rows in parts.items()
        for place, row in enumerate(rows)
        if (reason := judged.reason(row.prompt, *row.answers, reader=row.kind == CORRECTION))
    ]


def _runs(words: Words, length: int) -> Iterable[Words]:
    return (words[at : at + length] for at in range(len(words) - length + 1))


def _by_length(texts: Iterable[Words]) -> dict[int, set[Words]]:
    found: defaultdict[int, set[Words]] = defaultdict(set)
    for words in texts:
        found[len(words)].add(words)
    return dict(found)


def _holds(words: Words, wanted: dict[int, set[Words]]) -> bool:
    return any(not texts.isdisjoint(_runs(words, length)) for length, texts in wanted.items())


def verdict(leaks: Sequence[Leak], rows: int, left_out: int) -> str:
    """One sentence on whether the rows keep to themselves what the model is judged by."""
    if leaks:
        reasons = Counter(leak.reason for leak in leaks)
        told = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))
        return f"{len(leaks):,} of {rows:,} training rows leak: {told}"
    before = f"; {left_out:,} that did were left out" if left_out else ""
    return f"none of {rows:,} training rows says what the model is judged by{before}"
