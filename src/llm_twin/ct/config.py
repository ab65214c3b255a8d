"""What one run of continuous training is asked to do."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from llm_twin.model.profile import Profile

LAPTOP = Profile(name="laptop")


@dataclass(frozen=True)
class CtConfig:
    """The parameters of `invoke ct`, parsed.

    Attributes:
        corpus: path or address of the texts.
        exclude: fnmatch patterns of files to leave out.
        profile: what is trained, how, on what, and where.
        seed: of everything random.
        feedback: whether to learn from what `invoke curate` left, if it left something.

    """

    corpus: str
    exclude: tuple[str, ...] = ()
    profile: Profile = LAPTOP
    seed: int = 0
    feedback: bool = True

    @classmethod
    def of(cls, corpus: str, exclude: str = "", profile: Profile = LAPTOP) -> CtConfig:
        """Parse what a command line gives; patterns are separated by commas."""
        patterns = tuple(part.strip() for part in exclude.split(",") if part.strip())
        return cls(corpus, patterns, profile)

    def with_seed(self, seed: int) -> CtConfig:
        """Return the same with another seed."""
        return dataclasses.replace(self, seed=seed)
