"""What writes an answer from passages: an OpenAI-compatible endpoint, or the small model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Protocol

from llm_twin.errors import ConfigError, NotReadyError

if TYPE_CHECKING:
    from pathlib import Path

    from llm_twin.model.language_model import LocalModel
    from llm_twin.serving.twin import Twin
    from llm_twin.settings import Settings

    Mode = Literal["local", "openai"]

LOCAL_TEMPERATURE = 0.7
SCRATCH = "scratch"
LOCAL_TOKENS = 120
"""The small model was trained on short windows; longer output only drifts."""


@dataclass(frozen=True)
class Completion:
    """What a model wrote.

    Attributes:
        text: its words.
        model: which model it says it is.
        prompt_tokens: tokens read, 0 when the model does not tell.
        completion_tokens: tokens written, 0 when the model does not tell.
        cost: in US dollars, None when nobody tells.
        first_token_ms: milliseconds until its first words were here; 0: they came all at once.

    """

    text: str
    model: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    first_token_ms: float = 0.0

    def span(self) -> dict[str, Any]:
        """Return what the trace says of it, in the names of `track.annotate`."""
        usage = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}
        return {
            "output": {"text": self.text},
            "model": self.model,
            "usage": usage | {"total_tokens": sum(usage.values())},
            "total_cost": self.cost,
            "metadata": {"ttft": self.first_token_ms},
        }


class LLM(Protocol):
    """Completes a chat of one system and one user message."""

    @property
    def mode(self) -> Mode:
        """How the answer is labelled."""
        ...

    @property
    def model(self) -> str:
        """The model's name."""
        ...

    @property
    def prompt(self) -> str:
        """Name of the template it is asked with."""
        ...

    @property
    def note(self) -> str:
        """What a reader should know about its answers, or ""."""
        ...

    def complete(self, system: str, user: str, max_tokens: int) -> Completion:
        """Write at most ``max_tokens`` tokens."""
        ...


def open_llm(name: str, settings: Settings, twin: Twin) -> LLM | None:
    """Return what ``TWIN_LLM`` or ``--llm`` names; None for quotations alone.

    Args:
        name: ``""`` or ``extractive``, ``local`` or ``openai``.
        settings: address, model, key and timeout of the endpoint.
        twin: holds the trained model.

    Raises:
        ConfigError: the name is not known, or the endpoint's settings are incomplete.
        NotReadyError: the trained model or torch is missing.

    """
    if name in ("", "extractive"):
        return None
    if name == "local":
        return LocalLLM.open(twin.model_path, twin.version)
    if name == "openai":
        from llm_twin.serving.openai import OpenAILLM

        return OpenAILLM.open(settings)
    raise ConfigError(
        "there is no such LLM", repr(name), "Use --llm local, --llm openai or leave it out"
    )


@dataclass(frozen=True)
class LocalLLM:
    """The model that the CT pipeline made of the author's texts: small and from scratch, or tuned.

    Attributes:
        language_model: from the bundle.
        model: its name in answers.
        base: what it was tuned from; ``scratch`` is asked without passages, which it cannot use.

    """

    language_model: LocalModel
    model: str
    base: str = SCRATCH
    mode: Mode = "local"

    @classmethod
    def open(cls, folder: Path, version: str) -> LocalLLM:
        """Load the bundle's model.

        Raises:
            NotReadyError: torch or the model is missing.

        """
        if find_spec("torch") is None or find_spec("transformers") is None:
            raise NotReadyError(
                "the local model needs torch and transformers, which are not installed",
                folder,
                "Type: ./bootstrap --torch, or leave --llm out",
            )
        if not folder.is_dir():
            raise NotReadyError("the twin holds no trained model", folder, "Make one: invoke ct")
        from llm_twin.model.language_model import MANIFEST, LocalModel

        loaded = LocalModel.load(folder)
        said = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        base = str((said.get("base") or {}).get("model", SCRATCH))
        name = "local smoke model" if base == SCRATCH else f"{base}, tuned:"
        return cls(loaded, f"{name} {version}", base)

    @property
    def prompt(self) -> str:
        """Name of the template that it is asked with."""
        return "local" if self.base == SCRATCH else "answer"

    @property
    def note(self) -> str:
        """What a reader has to know of its answers."""
        if self.base == SCRATCH:
            return (
                "written by the small model trained here from scratch: it proves the path from "
                "texts to a served model and does not know what it says"
            )
        return f"written by {self.base}, tuned here on the author's texts"

    def complete(self, system: str, user: str, max_tokens: int) -> Completion:
        """Continue the user message; the small model was trained without system messages."""
        small = self.base == SCRATCH
        text = self.language_model.answer(
            user,
            max_tokens=min(max_tokens, LOCAL_TOKENS) if small else max_tokens,
            temperature=LOCAL_TEMPERATURE,
            system="" if small else system,
        )
        return Completion(text.strip(), self.model, cost=0.0)
