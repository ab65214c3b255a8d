"""A version as a process of this machine, where there is no container engine."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llm_twin.delivery.deploy.backends import STOP_SECONDS, environment
from llm_twin.delivery.deploy.detached import Detached
from llm_twin.delivery.smoke_question import find_question
from llm_twin.errors import NotReadyError
from llm_twin.model import durable
from llm_twin.model.bundles import PRODUCTION, Bundle

if TYPE_CHECKING:
    from llm_twin.delivery.deploy.steps import Deployment
    from llm_twin.settings import Settings


class Process:
    """``python -m llm_twin.serving`` over a bundle of its own, which no promotion changes.

    Args:
        settings: the service's.
        deployment: gives the version, and the name of the folder.

    """

    def __init__(self, settings: Settings, deployment: Deployment) -> None:
        self._settings = settings
        self._deployment = deployment
        self._version = deployment.options.get("version") or ""
        self._deployments = settings.home / "deployments"
        self._folder = self._deployments / deployment.id
        self._process = Detached(self._folder / "process")

    def fetch(self) -> dict[str, str]:
        """Link the bundle's files, so that they stay when the version is swept away.

        Raises:
            NotReadyError: the version is gone.

        """
        models = self._folder / "models"
        link = models / PRODUCTION
        if not link.is_symlink():
            source = self._find()
            durable.remove(models)
            models.mkdir(parents=True)
            others = shutil.ignore_patterns(*(f"*{end}" for end in durable.SQLITE_SIDE_FILES))
            shutil.copytree(source, models / self._version, ignore=others, copy_function=_link)
            link.symlink_to(self._version)
            durable.sync_tree(models)
        bundle = Bundle.open(models / link.readlink())
        question, citation = find_question(bundle, self._settings)
        commit = str(bundle.manifest.get("details", {}).get("commit", ""))
        facts = {
            "version": self._version,
            "commit": commit,
            "question": question,
            "citation": citation,
        }
        return {name: fact for name, fact in facts.items() if fact}

    def start(self) -> None:
        """Start it on a free port."""
        environ = environment(self._settings, self._deployment) | {
            "TWIN_HOME": str(self._folder),
            "TWIN_TRACE_HOME": str(self._settings.traces),
            "TWIN_EMBEDDER_HOME": str(self._settings.embedder_home),
        }
        command = [sys.executable, "-m", "llm_twin.serving", "--port", "0"]
        self._process.start(command, environ)

    def url(self) -> str:
        """The first of the addresses that its first line names."""
        if not self._process.runs():
            return ""
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            first = self._process.log.read_text().partition("\n")[0]
            return str(json.loads(first)["urls"][0])
        return ""

    def ended(self) -> str:
        """Its last words."""
        return "" if self._process.runs() else self._process.last_words() or "without a word"

    def stop(self) -> None:
        """End it; its bundle stays."""
        self._process.stop(grace=STOP_SECONDS)

    def remove(self) -> None:
        """End it and remove its folder."""
        self.stop()
        durable.remove(self._folder)

    def _find(self) -> Path:
        places = {self._settings.home, *self._deployments.glob("*")} - {self._folder}
        for place in places:
            if (found := place / "models" / self._version / "bundle.json").is_file():
                return found.parent
        raise NotReadyError(
            "this version of the twin is gone", self._version, "Deploy another: invoke deploy"
        )


def _link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
