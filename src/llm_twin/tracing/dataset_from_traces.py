"""Traces as items of an Opik dataset, for evaluation: what was asked and what to answer."""

from __future__ import annotations

import hashlib
import json
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from llm_twin.errors import ConfigError, SpaceError
from llm_twin.tracing.redaction import Redactor
from llm_twin.tracing.store.dataset_items import read_items
from llm_twin.tracing.store.datasets import find_dataset
from llm_twin.tracing.store.merge import new_id
from llm_twin.tracing.store.routing import Problem, Request, dumps
from llm_twin.tracing.transfer import refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llm_twin.settings import Settings
    from llm_twin.tracing.store.listing import Row
    from llm_twin.tracing.store.store import Store

STEP = 500


class Made(NamedTuple):
    """What became of the traces."""

    added: int
    known: int
    """Whose content the dataset has already."""
    redacted: int
    """Of those added, in which something private was found yet."""


def make(store: Store, settings: Settings, name: str, traces: Iterable[Row]) -> Made:
    """Add traces to a dataset, which is made when there is none; equal content goes in once.

    An item's data is ``input`` and ``expected_output``: the correction that a user gave, or else
    what was answered.

    Raises:
        ConfigError: the dataset has no name.

    """
    if not name.strip():
        raise ConfigError("the dataset needs a name")
    redactor, seen = Redactor.of(settings), _known(store, settings, name)
    known = redacted = 0
    items: list[Row] = []
    for trace in traces:
        found = _data(trace)
        data = redactor.redact(found)
        if (digest := _digest(data)) in seen:
            known += 1
            continue
        seen.add(digest)
        redacted += data != found
        items.append({"id": new_id(), "source": "trace", "trace_id": trace["id"], "data": data})
    group, rest = new_id(), iter(items)
    while some := list(islice(rest, STEP)):
        _put(store, settings, name, group, some)
    return Made(len(items), known, redacted)


def _data(trace: Row) -> Row:
    metadata = trace.get("metadata")
    corrected = metadata.get("correction") if isinstance(metadata, dict) else None
    return {"input": trace.get("input"), "expected_output": corrected or trace.get("output")}


def _digest(data: Row) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _known(store: Store, settings: Settings, name: str) -> set[str]:
    asked = {"dataset_name": name, "project_name": settings.trace_project}
    with store.database.read() as db:
        try:
            dataset = find_dataset(db, asked)["id"]
        except Problem:
            return set()
        return {_digest(item["data"]) for item in read_items(db, dataset, None)}


def _put(store: Store, settings: Settings, name: str, group: str, items: list[Row]) -> None:
    body = {"dataset_name": name, "project_name": settings.trace_project, "items": items}
    body["batch_group_id"] = group
    request = Request("PUT", "v1/private/datasets/items", body=dumps(body).encode())
    if said := refusal(store, request):
        raise SpaceError("the items cannot be stored", said)
