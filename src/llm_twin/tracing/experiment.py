"""An evaluation as an Opik experiment, so that two models can be compared question by question.

The questions become items of a dataset, once each; what a model made of one is a trace with its
scores. All of it goes into the store on this machine, or nothing does.
"""

from __future__ import annotations

import hashlib
import importlib.util
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.tracing.api import Api
from llm_twin.tracing.store.merge import new_id, now
from llm_twin.tracing.store.records import MOST_ROWS
from llm_twin.tracing.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llm_twin.settings import Settings

Row = dict[str, Any]
PAGE = 1000


@dataclass(frozen=True)
class Item:
    """A question of an evaluation and what a model made of it.

    Attributes:
        key: names the question, the same in every evaluation.
        question: as it was asked.
        expected: what was to be found or said.
        output: what the model found or said.
        scores: by name.

    """

    key: str
    question: str
    expected: str
    output: Row
    scores: Mapping[str, float]

    @classmethod
    def of_retrieval(cls, id: str, value: float, question: str, document_id: str) -> Item:
        """Where a search found the document of a question: at rank ``1 / value``, or not at all."""
        return cls(
            id,
            question,
            document_id,
            {"rank": round(1 / value) if value else None},
            {"reciprocal_rank": value, "hit@1": float(value == 1), "hit@5": float(value >= 1 / 5)},
        )


def record(
    settings: Settings,
    dataset: str,
    name: str,
    items: Sequence[Item],
    metadata: Mapping[str, object],
    scores: Mapping[str, float],
) -> str:
    """Keep an evaluation; return the experiment's id, or "" where there is nothing to trace with.

    Args:
        settings: the state folder, and whether to trace at all.
        dataset: its name in Opik.
        name: the experiment's, like the version of the model.
        items: what was evaluated.
        metadata: what tells this model from others.
        scores: of the model as a whole, by name.

    Raises:
        SpaceError: the state folder cannot be written.
        RemoteError: the store refuses it.

    """
    if not settings.trace or importlib.util.find_spec("opik") is None:
        return ""
    store = Store(settings.traces, settings)
    try:
        with store.database.write():
            return _record(
                Api.here(store),
                {"project_name": settings.trace_project, "dataset_name": dataset},
                {"name": name, "metadata": dict(metadata), "experiment_scores": _scores(scores)},
                items,
            )
    finally:
        store.close()


def _record(api: Api, where: Row, experiment: Row, items: Sequence[Item]) -> str:
    known = _questions(api, where, items)
    experiment_id = new_id()
    api.ask("POST", "experiments", {"id": experiment_id, **where, **experiment})
    project, at = {"project_name": where["project_name"]}, now()
    traces, scores, links = [], [], []
    for item in items:
        trace_id = new_id()
        traces.append(
            {
                "id": trace_id, **project, "name": "evaluation", "source": "experiment",
                "start_time": at, "end_time": at, "input": {"question": item.question},
                "output": item.output, "metadata": experiment["metadata"],
            }
        )  # fmt: skip
        scores += [{"id": trace_id, **project, **score} for score in _scores(item.scores)]
        links.append(
            {
                "id": new_id(), "experiment_id": experiment_id, "trace_id": trace_id,
                "dataset_item_id": known[item.key],
            }
        )  # fmt: skip
    for method, path, field, rows in (
        ("POST", "traces/batch", "traces", traces),
        ("PUT", "traces/feedback-scores", "scores", scores),
        ("POST", "experiments/items", "experiment_items", links),
    ):
        for part in _parts(rows):
            api.ask(method, path, {field: part})
    api.ask("POST", "experiments/finish", {"ids": [experiment_id]})
    return experiment_id


def _scores(scores: Mapping[str, float]) -> list[Row]:
    return [{"name": name, "value": value, "source": "sdk"} for name, value in scores.items()]


def _questions(api: Api, where: Row, items: Sequence[Item]) -> dict[str, str]:
    """Ids of the dataset's items by key, after those that are new to it were added."""
    ids = {item.key: _item_id(*where.values(), item.key) for item in items}
    held = {row["id"] for row in _held(api, where)}
    fresh = {ids[item.key]: item for item in items if ids[item.key] not in held}
    rows = [
        {
            "id": item_id, "source": "sdk",
            "data": {"question": item.question, "expected": item.expected},
        }
        for item_id, item in fresh.items()
    ]  # fmt: skip
    group = new_id()
    for part in _parts(rows):
        api.ask("PUT", "datasets/items", {**where, "batch_group_id": group, "items": part})
    return ids


def _item_id(*names: str) -> str:
    """A UUIDv7, as Opik wants them, of these names: what is stored beside it may be redacted."""
    digest = int(hashlib.sha256("\n".join(names).encode()).hexdigest()[:19], 16)
    return str(uuid.UUID(int=7 << 76 | digest & ~(3 << 62) | 2 << 62))


def _held(api: Api, where: Row) -> Iterator[Row]:
    dataset = api.find("datasets/retrieve", where)
    page = 1
    while dataset:
        path = f"datasets/{dataset['id']}/items"
        rows = api.ask("GET", path, page=str(page), size=str(PAGE))["content"]
        yield from rows
        if len(rows) < PAGE:
            return
        page += 1


def _parts(rows: list[Row]) -> Iterator[list[Row]]:
    for start in range(0, len(rows), MOST_ROWS):
        yield rows[start : start + MOST_ROWS]
