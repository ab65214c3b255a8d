"""How versions of one trace or span become one: field by field, the newest writer wins.

The SDK sends one id more than once (when it starts, when it ends, when it is updated), retries can
turn the order around, and an update may come before what it updates. So each field has a stamp, the
time its writer gave or else the time it came; ``updated`` is the newest, ``newer`` holds the stamps
of the fields that differ from it. What comes twice changes nothing.
"""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime
from typing import Any

from llm_twin.tracing.store.routing import Problem

LONGEST_TEXT = 10_000
COMMON = {
    "project_name": str, "name": str, "start_time": datetime, "end_time": datetime,
    "input": object, "output": object, "metadata": object, "tags": list, "error_info": dict,
    "ttft": float, "source": str, "environment": str,
}  # fmt: skip
FIELDS: dict[str, dict[str, type]] = {
    "trace": COMMON | {"thread_id": str},
    "span": COMMON | {
        "trace_id": uuid.UUID, "parent_span_id": uuid.UUID, "type": str, "model": str,
        "provider": str, "usage": dict, "total_estimated_cost": float,
        "total_estimated_cost_version": str,
    },
}  # fmt: skip


def now() -> str:
    """This moment as it is stored."""
    return stamp_of(datetime.now(UTC))


def stamp_of(moment: datetime) -> str:
    """A moment as text that sorts by time: UTC, microseconds, Z."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def new_id() -> str:
    """A UUIDv7 of this moment; later ones of one process sort after earlier ones."""
    millisecond, rest = divmod(time.time_ns(), 1_000_000)
    fraction, random = (rest << 12) // 1_000_000, uuid.uuid4().int & ((1 << 62) - 1)
    return str(uuid.UUID(int=millisecond << 80 | 7 << 76 | fraction << 64 | 2 << 62 | random))


def time_of(value: object, field: str) -> str:
    """A time as it is stored; 400 when it is none."""
    try:
        return stamp_of(datetime.fromisoformat(str(value)))
    except (ValueError, OverflowError):
        raise Problem(400, f"{field} is no ISO 8601 time: {str(value)[:40]}") from None


def id_of(value: object, field: str = "id") -> str:
    """A UUID as it is stored; 400 when it is none."""
    try:
        return str(uuid.UUID(str(value)))
    except ValueError:
        raise Problem(400, f"{field} is no UUID: {str(value)[:40]}") from None


def ids_of(values: dict[str, Any]) -> list[str]:
    """The ``ids`` of a body as they are stored; 400 when one is no UUID."""
    return [id_of(value, "ids") for value in values.get("ids") or []]


def number_of(value: object, field: str) -> float:
    """A number as it is stored; 400 when it is none."""
    try:
        if isinstance(value, int | float):
            return float(value)
    except OverflowError:
        pass
    raise Problem(400, f"{field} is no number: {str(value)[:40]}")


def started_of(identity: str) -> str:
    """When a UUIDv7 was made: the start of what came without one."""
    value = uuid.UUID(identity)
    try:
        moment = datetime.fromtimestamp((value.int >> 80) / 1000, UTC)
    except ValueError:
        return now()
    return stamp_of(moment) if value.version == 7 else now()


def checked(kind: str, row: dict[str, Any]) -> dict[str, Any]:
    """The fields of a trace or span that say something, in the form that is stored.

    Raises:
        Problem: 400 when a field is not what it should be.

    """
    known = FIELDS[kind]
    return {
        field: _checked(field, known[field], value)
        for field, value in row.items()
        if value is not None and field in known
    }


def _checked(field: str, kind: Any, value: Any) -> Any:
    if kind is object:
        return value
    if kind is datetime:
        return time_of(value, field)
    if kind is uuid.UUID:
        return id_of(value, field)
    if kind is float:
        return number_of(value, field)
    if not isinstance(value, kind):
        raise Problem(400, f"{field} is no {kind.__name__}: {str(value)[:40]}")
    if kind is str:
        return value[:LONGEST_TEXT]
    if field == "usage":
        return {name: count for name, count in value.items() if isinstance(count, int | float)}
    return tags_of({field: value}) if field == "tags" else value


def merged(
    old: dict[str, Any], updated: str, newer: dict[str, str], fields: dict[str, Any], stamp: str
) -> tuple[dict[str, Any], str, dict[str, str]]:
    """Lay a version over what is stored.

    Args:
        old: the stored fields.
        updated: the stamp of those that ``newer`` does not name.
        newer: the stamps of those whose stamp differs.
        fields: the version's fields.
        stamp: its stamp.

    """
    stamps = {field: newer.get(field, updated) for field in old}
    for field, value in fields.items():
        if stamp >= stamps.get(field, ""):
            old[field], stamps[field] = value, stamp
    latest = max(updated, stamp)
    return old, latest, {field: at for field, at in stamps.items() if at != latest}


def tags_of(row: dict[str, Any], field: str = "tags") -> list[str]:
    """Tags, each once; 400 when they are no list."""
    tags = row.get(field) or []
    if not isinstance(tags, list):
        raise Problem(400, f"{field} is a list of texts")
    return list(dict.fromkeys(str(tag)[:LONGEST_TEXT] for tag in tags))


def retagged(tags: list[str], row: dict[str, Any]) -> list[str] | None:
    """Tags after ``tags_to_add`` and ``tags_to_remove``; None when a row names neither."""
    add, remove = tags_of(row, "tags_to_add"), tags_of(row, "tags_to_remove")
    if not add and not remove:
        return None
    base = tags if row.get("tags") is None else tags_of(row)
    return list(dict.fromkeys(tag for tag in [*base, *add] if tag not in remove))
