"""The two kinds of rows that a model is tuned on."""

from __future__ import annotations

from dataclasses import dataclass

CORRECTION = "correction"
"""The kind of what a reader said."""


@dataclass(frozen=True)
class Pair:
    """An instruction and what the author wrote there.

    Attributes:
        prompt: the instruction.
        completion: the answer to learn.
        kind: what made it: ``heading``, ``question``, ``continuation``, ``summary`` (of the
            corpus), ``correction`` (a reader), ``handbook`` (an imported set), ``generated``.
        document_id: the document that it was made of, or "".

    """

    prompt: str
    completion: str
    kind: str = "heading"
    document_id: str = ""

    @property
    def answers(self) -> tuple[str, ...]:
        """What a model would learn to say."""
        return (self.completion,)


@dataclass(frozen=True)
class Preference:
    """A question, the answer that is wanted, and a worse one.

    Attributes:
        prompt: the question.
        chosen: the answer that is wanted.
        rejected: the worse one.
        kind: what made it: ``correction`` (a reader), ``sibling``, ``neighbour``, ``shuffled``,
            ``generic`` (of the corpus, see ``model.preferences``), ``handbook``.
        document_id: the document that the wanted answer is of, or "".

    """

    prompt: str
    chosen: str
    rejected: str
    kind: str = CORRECTION
    document_id: str = ""

    @property
    def answers(self) -> tuple[str, ...]:
        """What a model would learn to say, and not to say."""
        return (self.chosen, self.rejected)
