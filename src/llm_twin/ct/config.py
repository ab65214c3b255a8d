"""What one run of continuous training is asked to do."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from llm_twin.errors import ConfigError

UNITS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class CtConfig:
    """The parameters of `invoke ct`, parsed.

    Attributes:
        corpus: path or address of the texts.
        exclude: fnmatch patterns of files to leave out.
        budget: CPU seconds for training.
        seed: of everything random.
        floor: least hit@5 on questions made from headings that lets a first model through.
        feedback: whether to learn from what `invoke curate` left, if it left something.

    """

    corpus: str
    exclude: tuple[str, ...] = ()
    budget: float = 60.0
    seed: int = 0
    floor: float = 0.5
    feedback: bool = True

    @classmethod
    def of(cls, corpus: str, exclude: str = "", budget: str = "60s") -> CtConfig:
        """Parse what a command line gives.

        Raises:
            ConfigError: the budget is not a positive time.

        """
        patterns = tuple(part.strip() for part in exclude.split(",") if part.strip())
        return cls(corpus, patterns, seconds(budget))

    def with_seed(self, seed: int) -> CtConfig:
        """Return the same with another seed."""
        return dataclasses.replace(self, seed=seed)


def seconds(text: str) -> float:
    """Parse a time like ``60s``, ``2m``, ``1.5h`` or ``90``.

    Raises:
        ConfigError: it is not a positive time.

    """
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "s")
    try:
        value = float(number) * UNITS[unit]
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError("a budget is a time above zero", repr(text), "Write it like --budget 60s")
    return value
