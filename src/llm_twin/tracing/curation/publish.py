"""Curated rows as a version of an Opik dataset, and as the folder that training takes.

What did not change makes no new version of either. Items of the dataset that others made stay, and
so does what a person wrote into an open question.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

from llm_twin.errors import ConfigError, SpaceError
from llm_twin.model import feedback
from llm_twin.tracing.store.dataset_items import read_items
from llm_twin.tracing.store.dataset_versions import latest_version
from llm_twin.tracing.store.datasets import find_dataset
from llm_twin.tracing.store.merge import now
from llm_twin.tracing.store.routing import Problem, Request, dumps
from llm_twin.tracing.transfer import refusal

if TYPE_CHECKING:
    from llm_twin.model.feedback import Correction
    from llm_twin.settings import Settings
    from llm_twin.tracing.curation.clean import Curated
    from llm_twin.tracing.store.listing import Row
    from llm_twin.tracing.store.store import Store

DESCRIPTION = "What readers made of answers, as invoke curate chose it"
ROOT = "v1/private/datasets"


class Published(NamedTuple):
    """Where curated rows are."""

    digest: str
    """Of the rows to learn from, and their folder's name; "" when there are none."""
    version: str
    """Of the Opik dataset, like ``v3``."""
    changed: bool
    """Whether training will find other rows than before."""


def publish(store: Store, settings: Settings, name: str, made: Curated) -> Published:
    """Write a version of the dataset and of the folder, where they differ from the last.

    Raises:
        ConfigError: the dataset has no name.
        SpaceError: the store or the state folder cannot be written.

    """
    if not name.strip():
        raise ConfigError("the dataset needs a name")
    before = feedback.current(settings.home)
    where = {"dataset_name": name, "project_name": settings.trace_project}
    version = _dataset(store, where, made)
    about = {"created": now(), "dataset": name, "version": version, "rejected": made.counts()}
    try:
        digest = feedback.keep(settings.home, made.rows, about)
    except OSError as error:
        raise SpaceError(
            f"the feedback cannot be written ({error.strerror})", settings.home
        ) from None
    return Published(digest, version, digest != (before.name if before else ""))


def _dataset(store: Store, where: Row, made: Curated) -> str:
    items = {item["id"]: item for row in (*made.rows, *made.open) for item in [_item(where, row)]}
    with store.database.write() as db:
        try:
            dataset = find_dataset(db, where)["id"]
        except Problem:
            if not items:
                return ""
            body = {"name": where["dataset_name"], "description": DESCRIPTION, **where}
            _ask(store, "POST", ROOT, body)
            dataset = find_dataset(db, where)["id"]
        held = {
            row["id"]: row["data"]
            for row in read_items(db, dataset, None)
            if row["id"] == _item_id(row.get("trace_id", ""), where)
        }
        latest = latest_version(db, dataset)
        change = {
            "added_items": [item for key, item in items.items() if key not in held],
            "edited_items": [
                item
                for key, item in items.items()
                if held.get(key, item["data"]) != item["data"] and "expected_output" in item["data"]
            ],
            "deleted_ids": sorted(held.keys() - items.keys()),
        }
        if any(change.values()):
            about = {"change_description": f"{len(made.rows)} corrected, {len(made.open)} open"}
            about["base_version"] = latest["id"] if latest else ""
            query = {"override": "true"}
            _ask(store, "POST", f"{ROOT}/{dataset}/items/changes", change | about, query)
            latest = latest_version(db, dataset)
        return str(latest["version_name"]) if latest else ""


def _ask(
    store: Store, method: str, path: str, body: Row, query: dict[str, str] | None = None
) -> None:
    if said := refusal(store, Request(method, path, query or {}, body=dumps(body).encode())):
        raise SpaceError("the dataset cannot be stored", said)


def _item(where: Row, row: Correction) -> Row:
    data: dict[str, Any] = {"input": {"question": row.question}, "why": row.why}
    if row.wanted:
        data |= {"expected_output": row.wanted, "cites": list(row.cites)}
    if row.answer:
        data["rejected_output"] = row.answer
    return {
        "id": _item_id(row.trace_id, where),
        "source": "trace",
        "trace_id": row.trace_id,
        "data": data,
    }


def _item_id(trace_id: str, where: Row) -> str:
    """A UUIDv7 of the trace's time, its own in each dataset; "" without a trace."""
    names = json.dumps([trace_id, *where.values()])
    own = int(hashlib.sha256(names.encode()).hexdigest()[:15], 16)
    return str(uuid.UUID(int=uuid.UUID(trace_id).int >> 60 << 60 | own)) if trace_id else ""
