"""Prompt templates: Markdown files beside the code, each versioned by its own digest.

Only ``$name`` in the template itself is filled; what a question or a passage holds is never read
as a template.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from string import Template

from llm_twin.corpus.document import content_id
from llm_twin.errors import ConfigError

_DIVIDER = "\n---\n"


@dataclass(frozen=True)
class Prompt:
    """A template in two parts.

    Attributes:
        name: of its file, without ``.md``.
        version: digest of the file's text; changes with any edit.
        system: what the model is told about its role.
        user: what it is asked, with ``$question`` and perhaps ``$passages``.

    """

    name: str
    version: str
    system: str
    user: str

    def render(self, **values: str) -> tuple[str, str]:
        """Return the system and the user message.

        Raises:
            KeyError: the template asks for a value that was not given.

        """
        return self.system, Template(self.user).substitute(values)


@cache
def load_prompt(name: str) -> Prompt:
    """Read a template by name.

    Raises:
        ConfigError: there is no such template.

    """
    try:
        text = (files("llm_twin.serving") / "prompts" / f"{name}.md").read_text(encoding="utf-8")
    except OSError:
        raise ConfigError("there is no such prompt", name, f"Known: {', '.join(names())}") from None
    system, _, user = text.partition(_DIVIDER)
    return Prompt(name, content_id(text, length=12), system.strip(), user.strip())


def names() -> list[str]:
    """Return the names of all templates."""
    folder = files("llm_twin.serving") / "prompts"
    return sorted(
        item.name.removesuffix(".md") for item in folder.iterdir() if item.name.endswith(".md")
    )
