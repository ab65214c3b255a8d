"""Opik's prompt library beside the templates in Git, which are the truth: publish, and compare.

The library is that of the configured Opik, else that of the store in the state folder. A template
is published as a chat prompt, its ``$name`` as ``{{name}}``, so that it can be tried in Opik.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import unified_diff
from string import Template as Dollars
from typing import TYPE_CHECKING

from llm_twin.tracing.api import Api
from llm_twin.tracing.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llm_twin.settings import Settings

Messages = list[dict[str, str]]


class _Braces(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return f"{{{{{name}}}}}"


@dataclass(frozen=True)
class Template:
    """A template as Git has it.

    Attributes:
        name: its name in the library.
        version: digest of its file.
        system: what the model is told about its role.
        user: what it is asked, with ``$name`` where values go.

    """

    name: str
    version: str
    system: str
    user: str

    def messages(self) -> Messages:
        """Return it as Opik's chat prompts are written."""
        user = Dollars(self.user).substitute(_Braces())
        return [{"role": "system", "content": self.system}, {"role": "user", "content": user}]


@dataclass(frozen=True)
class Published:
    """Where a template is in the library.

    Attributes:
        name: of the template.
        version: like ``v3``.
        new: whether it was not there before.

    """

    name: str
    version: str
    new: bool


@dataclass(frozen=True)
class Difference:
    """A template that the library has otherwise.

    Attributes:
        name: of the template.
        version: what the library has, like ``v3``; empty: it does not know the name.
        diff: from the library's text to Git's, as lines of a unified diff.

    """

    name: str
    version: str
    diff: tuple[str, ...]


def publish(settings: Settings, templates: Sequence[Template]) -> list[Published]:
    """Bring the library up to Git; what is there already makes no version.

    Raises:
        RemoteError: the configured Opik does not answer, or refuses.
        SpaceError: the state folder cannot be written.

    """
    with _library(settings) as api:
        return [_publish(api, settings.trace_project, template) for template in templates]


def differences(settings: Settings, templates: Sequence[Template]) -> list[Difference]:
    """Return where library and Git disagree; nothing is changed.

    Raises:
        RemoteError: the configured Opik does not answer, or refuses.

    """
    found = []
    with _library(settings) as api:
        for template in templates:
            version, messages = _latest(api, settings.trace_project, template.name)
            if messages != template.messages():
                diff = unified_diff(
                    _lines(messages), _lines(template.messages()), "Opik", "Git", lineterm=""
                )
                found.append(Difference(template.name, version, tuple(diff)))
    return found


@contextmanager
def _library(settings: Settings) -> Iterator[Api]:
    if settings.opik_url:
        yield Api.remote(settings)
        return
    store = Store(settings.traces, settings)
    try:
        yield Api.here(store)
    finally:
        store.close()


def _publish(api: Api, project: str, template: Template) -> Published:
    version, messages = _latest(api, project, template.name)
    if messages == template.messages():
        return Published(template.name, version, new=False)
    made = api.ask(
        "POST",
        "prompts/versions",
        {
            "name": template.name,
            "project_name": project,
            "template_structure": "chat",
            "version": {
                "template": json.dumps(template.messages(), ensure_ascii=False),
                "type": "mustache",
                "metadata": {"digest": template.version},
            },
        },
    )
    return Published(template.name, made["version_number"], new=True)


def _latest(api: Api, project: str, name: str) -> tuple[str, Messages]:
    found = api.find("prompts/versions/retrieve", {"name": name, "project_name": project})
    if found is None:
        return "", []
    if found["template_structure"] == "chat":
        return found["version_number"], json.loads(found["template"])
    return found["version_number"], [{"role": "text", "content": found["template"]}]


def _lines(messages: Messages) -> list[str]:
    lines = []
    for message in messages:
        lines += [f"[{message['role']}]", *str(message["content"]).splitlines()]
    return lines
