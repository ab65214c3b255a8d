"""What a model writes when it is asked, and how far it repeats itself and what it learned from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_twin.corpus.document import content_id
from llm_twin.model import prose
from llm_twin.model.split import SHINGLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from llm_twin.model.dataset import Dataset
    from llm_twin.model.language_model import LocalModel

TOKENS_A_WORD = 2
REPEATED = 3
"""Words of the sequences that are counted for repetition."""


def write_samples(
    model: LocalModel,
    dataset: Dataset,
    count: int,
    words: int,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, str]:
    """Let a model answer the prompts of held-out pairs, each again when there are too few.

    Args:
        model: answers instructions.
        dataset: gives the prompts; without held-out pairs nothing is written.
        count: of texts.
        words: at which a text is cut off.
        seed: draws prompts and words; the same one gives the same texts.
        progress: told of every fourth text.

    Returns:
        Texts by id; the ids depend on prompts and seed alone, so two models' texts can be paired.

    """
    prompts = sorted(
        {pair.prompt for pair in dataset.heldout_pairs},
        key=lambda prompt: content_id("sample", str(seed), prompt),
    )
    written: dict[str, str] = {}
    for number in range(count if prompts else 0):
        turn, place = divmod(number, len(prompts))
        key = content_id("sample", str(seed), str(turn), prompts[place])
        draw = int(key[:8], 16)
        text = model.answer(prompts[place], max_tokens=words * TOKENS_A_WORD, seed=draw)
        written[key] = _cut(text, words)
        if (number + 1) % 4 == 0 or number + 1 == count:
            progress(f"wrote {number + 1} of {count} samples")
    return written


def _cut(text: str, words: int) -> str:
    """The first so many words of a text, as they stand."""
    for number, match in enumerate(prose.WORD.finditer(text), 1):
        if number == words:
            return text[: match.end()]
    return text.strip()


def _sequences(texts: Iterable[str], length: int) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for text in texts:
        words = prose.words(prose.plain(text))
        found += [tuple(words[at : at + length]) for at in range(len(words) - length + 1)]
    return found


def distinct(texts: Sequence[str]) -> float | None:
    """Share of the word sequences of all texts that are different; None without any."""
    found = _sequences(texts, REPEATED)
    return len(set(found)) / len(found) if found else None


def copied(texts: Sequence[str], known: Sequence[str]) -> float | None:
    """Share of the texts' word sequences that known texts say; None without any."""
    found = _sequences(texts, SHINGLE)
    wanted = set(found)
    said = {one for text in known for one in _sequences([text], SHINGLE) if one in wanted}
    return sum(one in said for one in found) / len(found) if found else None
