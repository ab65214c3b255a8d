"""Where an answer comes from, and where a document has gone: one graph over what is recorded.

Nothing is recorded for its sake but one small file for each promoted version, which outlives the
bundle. The rest is read where it is: deployments, builds, runs, and the traces' own metadata.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from llm_twin.corpus.document import content_id
from llm_twin.corpus.forgotten import requests
from llm_twin.errors import ConfigError, NotReadyError
from llm_twin.loop.texts import bundle_folders, chunks_in
from llm_twin.model.bundles import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from llm_twin.settings import Settings

    Labels = Callable[[str], Mapping[str, str]]

KINDS = ("document", "dataset", "commit", "run", "model", "image", "deployment", "trace")
"""In the order in which one leads to the other."""
SHORTEST = 4
VERSION = "org.opencontainers.image.version"
TRACED = {
    "model": "model_version", "dataset": "dataset_digest", "commit": "commit",
    "image": "image_digest", "run": "run_id",
}  # fmt: skip
Node = tuple[str, str]
"""A kind and an id."""


@dataclass
class Graph:
    """Nodes and what led to what.

    Attributes:
        about: what is known of a node beside its id: title, time, state.
        causes: what led to a node.
        effects: what a node led to.

    """

    about: dict[Node, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    causes: dict[Node, set[Node]] = field(default_factory=lambda: defaultdict(set))
    effects: dict[Node, set[Node]] = field(default_factory=lambda: defaultdict(set))

    def note(self, kind: str, name: str, **about: str) -> Node:
        """Know a node, and more about it than before."""
        self.about[kind, name].update({key: text for key, text in about.items() if text})
        return kind, name

    def link(self, cause: Node, effect: Node) -> None:
        """One led to the other; neither counts if it has no name."""
        if cause[1] and effect[1]:
            self.about[cause], self.about[effect]
            self.causes[effect].add(cause)
            self.effects[cause].add(effect)

    def back(self, node: Node) -> list[Node]:
        """Everything that led to it."""
        return _reached(self.causes, node)

    def forward(self, node: Node) -> list[Node]:
        """Everything that it led to."""
        return _reached(self.effects, node)

    def find(self, name: str) -> Node:
        """The node whose id begins like this; a document by its path or link too.

        Raises:
            NotReadyError: there is none.
            ConfigError: there are several, or what was given is too short.

        """
        if len(name) < SHORTEST:
            raise ConfigError("an id's beginning has at least 4 characters", repr(name))
        plain = name.removeprefix("sha256:")
        exact = [one for one in self.about if one[1].removeprefix("sha256:") == plain]
        exact = exact or [("document", content_id(name))] * (
            ("document", content_id(name)) in self.about
        )
        exact = exact or [one for one in self.about if name == self.about[one].get("link")]
        found = exact or [
            one for one in self.about if one[1].removeprefix("sha256:").startswith(plain)
        ]
        if not found:
            raise NotReadyError(
                "nothing that is recorded has this id",
                name,
                "See: invoke traces, invoke deployments",
            )
        if len(found) > 1:
            several = ", ".join(f"{kind} {known}" for kind, known in sorted(found)[:3])
            raise ConfigError("several ids begin like that", name, f"Like {several}")
        return found[0]


def _reached(steps: Mapping[Node, set[Node]], start: Node) -> list[Node]:
    seen, waiting = {start}, [start]
    while waiting:
        for node in steps.get(waiting.pop(), ()):
            if node not in seen:
                seen.add(node)
                waiting.append(node)
    return sorted(seen - {start}, key=lambda node: (KINDS.index(node[0]), node[1]))


def manifests(home: Path) -> dict[str, dict[str, Any]]:
    """What is known of each version ever promoted here: its manifest, or what was kept of it."""
    found: dict[str, dict[str, Any]] = {}
    kept = sorted((home / "lineage").glob("*.json"))
    for path in (*kept, *(folder / MANIFEST for folder in bundle_folders(home))):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            manifest = json.loads(path.read_text("utf-8"))
            found[str(manifest["version"])] = {**manifest, "details": dict(manifest["details"])}
    return found


def graph(settings: Settings, labels: Labels = lambda reference: {}) -> Graph:
    """Read everything that is recorded.

    Args:
        settings: the state folder.
        labels: of an image in its registry, by its reference; {} where that does not answer.

    """
    made = Graph()
    home = settings.home
    for version, manifest in manifests(home).items():
        _model(made, version, manifest)
    for wish in requests(home):
        for document, version in itertools.product(wish.documents, wish.models):
            made.link(("document", document), ("model", version))
    documents = _passages(made, home)
    _builds(made, home, labels)
    live = _deployments(made, home)
    _traces(made, settings.traces / "traces.db", documents)
    for trace in [node for node in made.about if node[0] == "trace"]:
        began = made.about[trace]["started"]
        own = [one for one in live if one[0] <= began and one[1] in made.causes[trace]]
        if own:
            made.link(max(own)[2], trace)
    return made


def _model(made: Graph, version: str, manifest: Mapping[str, Any]) -> None:
    details = manifest["details"]
    model = made.note(
        "model",
        version,
        created=str(manifest.get("created", "")),
        gate=str(details.get("gate", "")),
    )
    dataset = ("dataset", str(details.get("dataset") or ""))
    made.link(dataset, model)
    made.link(("commit", str(details.get("commit") or "")), model)
    made.link(("run", str(details.get("run") or "")), model)
    for document in details.get("documents") or ():
        made.link(("document", document), dataset if dataset[1] else model)
    if details.get("before"):
        made.note("model", version, before=str(details["before"]))


def _passages(made: Graph, home: Path) -> dict[str, str]:
    """Name the documents that bundles hold; return the document of each chunk."""
    found: dict[str, str] = {}
    for folder in bundle_folders(home):
        for chunk in chunks_in(folder):
            found[chunk.id] = chunk.document_id
            document = made.note("document", chunk.document_id, title=chunk.title, link=chunk.link)
            made.link(document, ("model", folder.name))
    return found


def _builds(made: Graph, home: Path, labels: Labels) -> None:
    rows = _rows(
        home / "runs.db",
        "SELECT run, result FROM stage_run WHERE stage = 'build-push' AND result != ''",
    )
    for run, text in rows:
        result = json.loads(text) or {}
        if reference := str(result.get("reference") or ""):
            known = labels(reference)
            image = made.note("image", str(result["digest"]), reference=reference)
            made.link(("run", run), image)
            made.link(("model", known.get(VERSION, "")), image)
            made.link(("commit", known.get("org.opencontainers.image.revision", "")), image)


def _deployments(made: Graph, home: Path) -> list[tuple[str, Node, Node]]:
    """Note all; return of those that came live when, with what in them, and the deployment."""
    live = []
    rows = _rows(
        home / "deployments.db", "SELECT id, target, digest, state, facts, ended FROM deployment"
    )
    for name, target, digest, state, text, ended in rows:
        facts = json.loads(text)
        deployment = made.note("deployment", name, target=target, state=state)
        model, image = ("model", str(facts.get("version") or "")), ("image", digest)
        made.link(image, deployment)
        made.link(model, image if digest else deployment)
        made.link(("commit", str(facts.get("commit") or "")), image if digest else deployment)
        if state == "Completed" and ended:
            since = datetime.fromtimestamp(ended, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            live += [(since, cause, deployment) for cause in (image, model) if cause[1]]
    return live


def _traces(made: Graph, path: Path, documents: Mapping[str, str]) -> None:
    fields = ", ".join(f"json_extract(body, '$.metadata.{name}')" for name in TRACED.values())
    query = f"SELECT id, started, {fields} FROM trace WHERE coalesce({fields}, '') != ''"  # noqa: S608
    answered = set()
    for name, started, *values in _rows(path, query):
        trace = made.note("trace", name, started=started)
        answered.add(name)
        for kind, value in zip(TRACED, values, strict=True):
            made.link((kind, str(value or "")), trace)
    query = (
        "SELECT trace_id, json_extract(body, '$.output.chunks') FROM span"
        " WHERE json_type(body, '$.output.chunks') = 'array'"
    )
    for name, text in _rows(path, query):
        for chunk in json.loads(text):
            document = chunk.get("document") or documents.get(chunk.get("id", ""), "")
            if name in answered:
                made.link(("document", document), ("trace", name))


def _rows(path: Path, query: str) -> Iterator[tuple[Any, ...]]:
    """Rows of a database that may not be there yet."""
    if path.is_file():
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as db:
            yield from db.execute(query)
