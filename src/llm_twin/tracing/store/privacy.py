"""What of a request is redacted before any function sees it, so that nothing else is written.

Ids, times and the names that things are found by stay as they are: names of projects, datasets and
experiments. Prompts do too, because they are published from Git and compared with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_twin.tracing.redaction import Redactor

KEPT = {
    "id", "ids", "project_name", "dataset_name", "experiment_name", "source", "type", "entity_type",
    "usage", "environment", "total_estimated_cost", "value", "path", "filters", "base_version",
}  # fmt: skip
"""Fields of a request that hold no text of a user's, or are compared with what is stored."""
KEPT_ENDINGS = ("_id", "_ids", "_at", "_time")
LISTS = {
    "traces", "spans", "scores", "assertion_results", "guardrails", "items", "experiment_items",
    "update", "comments", "edited_items", "added_items", "trace", "feedback_scores",
}  # fmt: skip
"""Fields that hold more such fields."""
UNTOUCHED = ("v1/private/prompts", "v1/private/environments")
NAMED = ("v1/private/projects", "v1/private/datasets", "v1/private/experiments")


def cleaned(redactor: Redactor, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a request to a path without what is private."""
    if path.startswith(UNTOUCHED):
        return body
    kept = KEPT | {"name"} if path.startswith(NAMED) else KEPT
    return {name: _cleaned(redactor, name, value, kept) for name, value in body.items()}


def _cleaned(redactor: Redactor, name: str, value: Any, kept: set[str]) -> Any:
    if name in ("thread_id", "thread_ids"):
        return _identified(redactor, value)
    if name in kept or name.endswith(KEPT_ENDINGS):
        return value
    if name in LISTS:
        rows = value if isinstance(value, list) else [value]
        clean = [_row(redactor, row, kept) for row in rows]
        return clean if isinstance(value, list) else clean[0]
    return redactor.redact(value)


def _row(redactor: Redactor, row: Any, kept: set[str]) -> Any:
    if not isinstance(row, dict):
        return redactor.redact(row)
    return {name: _cleaned(redactor, name, value, kept) for name, value in row.items()}


def _identified(redactor: Redactor, value: Any) -> Any:
    if isinstance(value, list):
        return [_identified(redactor, one) for one in value]
    return redactor.identifier(value) if isinstance(value, str) else redactor.redact(value)
