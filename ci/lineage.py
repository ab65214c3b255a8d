"""`invoke lineage`: from an answer back to its texts, and from a text forward to its answers."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.tasks import task

from llm_twin.errors import TwinError
from llm_twin.flow.tasks import tell_errors
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from invoke.context import Context

    from llm_twin.loop.lineage import Graph, Node

ROOT = Path(__file__).resolve().parents[1]
MOST_SHOWN = 10


@task(
    help={
        "id": "a trace, model version, image digest, deployment, dataset digest, run, commit,"
        " document's id, path or link; or how an id begins",
        "json": "print JSON, with all of it",
    },
    auto_shortflags=False,
)
@tell_errors
def lineage(c: Context, id: str, json: bool = False) -> None:
    """Show what led to an answer, model, image or deployment, and what a document led to."""
    from llm_twin.loop.lineage import graph

    settings = Settings.load(root=ROOT)
    made = graph(settings, lambda reference: _labels(settings, reference))
    node = made.find(id)
    if json:
        print(json_format.dumps(_plain(made, node), ensure_ascii=False))
        return
    print(_line(made, node))
    for title, nodes in (("comes from", made.back(node)), ("led to", made.forward(node))):
        if nodes:
            print(title)
            _show(made, node, nodes)


def _show(made: Graph, node: Node, nodes: list[Node]) -> None:
    """List nodes by kind; of many only the direct and the last, and how many there are."""
    from llm_twin.loop.lineage import KINDS

    direct = made.causes[node] | made.effects[node]
    for kind in KINDS:
        found = [one for one in nodes if one[0] == kind]
        if kind == "document" and any(one in direct for one in found):
            shown = [one for one in found if one in direct]
        else:
            shown = found[-MOST_SHOWN:]
        for one in shown[-MOST_SHOWN:]:
            print(f"  {_line(made, one)}")
        if more := len(found) - len(shown[-MOST_SHOWN:]):
            print(f"  {kind:<10} and {more} more")


def _line(made: Graph, node: Node) -> str:
    about = ", ".join(f"{name} {text}" for name, text in made.about[node].items())
    return f"{node[0]:<10} {node[1]}{f'  ({about})' if about else ''}"


def _plain(made: Graph, node: Node) -> dict[str, Any]:
    def row(one: Node) -> dict[str, str]:
        return {**made.about[one], "kind": one[0], "id": one[1]}

    return {
        **row(node),
        "comes_from": [row(one) for one in made.back(node)],
        "led_to": [row(one) for one in made.forward(node)],
        "direct": [row(one) for one in sorted(made.causes[node] | made.effects[node])],
    }


def _labels(settings: Settings, reference: str) -> Mapping[str, str]:
    """The labels of an image that was built here; {} when its registry does not answer."""
    from llm_twin.delivery.layers import RegistryImage
    from llm_twin.delivery.reference import Reference
    from llm_twin.delivery.registry import open_registry

    ref = Reference.parse(reference)
    try:
        image = RegistryImage(open_registry(ref.host, settings), ref)
        config = image.config(image.manifests()[0])
    except TwinError:
        return {}
    return dict((config.get("config") or {}).get("Labels") or {})
