"""The prompt templates in Git and Opik's prompt library: published, and checked against each other.

Commands over the store or the configured Opik, not recorded stages.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from invoke.collection import Collection
from invoke.exceptions import Exit
from invoke.tasks import task

from llm_twin.flow.tasks import tell_errors
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from invoke.context import Context

    from llm_twin.tracing.prompt_library import Template

ROOT = Path(__file__).resolve().parents[1]


def templates() -> list[Template]:
    """Every template of the answer path."""
    from llm_twin.serving.prompts import load_prompt, names
    from llm_twin.tracing.prompt_library import Template

    found = [load_prompt(name) for name in names()]
    return [Template(each.name, each.version, each.system, each.user) for each in found]


@task(auto_shortflags=False)
@tell_errors
def publish(c: Context) -> None:
    """Put the prompt templates into Opik's prompt library; what is there already stays as it is."""
    from llm_twin.tracing import prompt_library

    for each in prompt_library.publish(Settings.load(root=ROOT), templates()):
        print(f"{each.name} {each.version} {'published' if each.new else 'unchanged'}")


@task(auto_shortflags=False)
@tell_errors
def check(c: Context) -> None:
    """Fail when Opik's prompt library and the templates in Git disagree."""
    from llm_twin.tracing.prompt_library import differences

    known = templates()
    found = differences(Settings.load(root=ROOT), known)
    for each in found:
        print(f"{each.name}: {each.version or 'not'} in the library", *each.diff, sep="\n")
    if found:
        named = ", ".join(each.name for each in found)
        raise Exit(
            f"error: library and Git disagree: {named}. Type: invoke prompts.publish", code=1
        )
    print(f"library and Git agree: {', '.join(each.name for each in known)}")


prompts = Collection("prompts", publish, check)
