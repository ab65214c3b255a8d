"""Opik's filters: a list of conditions, all of which a row has to meet.

As there, text is compared without regard to case, and what is missing counts as an empty text, as
no tokens and no cost, but as no time and no duration at all.
"""

from __future__ import annotations

import json
import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.tracing.store.merge import time_of
from llm_twin.tracing.store.routing import Problem, dumps

if TYPE_CHECKING:
    from collections.abc import Callable

ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, ">": operator.gt, ">=": operator.ge, "<": operator.lt,
    "<=": operator.le,
}  # fmt: skip
TEXT = ORDER | {
    "contains": operator.contains,
    "not_contains": lambda text, part: part not in text,
    "starts_with": str.startswith,
    "ends_with": str.endswith,
}
NEGATIVE = {"!=": "=", "not_contains": "contains", "not_in": "in"}
EMPTY = {"is_empty", "is_not_empty"}
OPERATORS = {
    "text": {*TEXT, "in", "not_in", *EMPTY},
    "time": set(ORDER),
    "number": {*ORDER, *EMPTY},
    "object": {*TEXT, *EMPTY},
    "list": {"=", "!=", "contains", "not_contains", "in", "not_in", *EMPTY},
    "scores": {*ORDER, *EMPTY},
    "presence": EMPTY,
}
COMMON = {
    "id": "text", "start_time": "time", "end_time": "time", "created_at": "time",
    "last_updated_at": "time", "duration": "number", "total_estimated_cost": "number",
    "usage": "number", "usage.total_tokens": "number", "usage.prompt_tokens": "number",
    "usage.completion_tokens": "number", "tags": "list", "feedback_scores": "scores",
    "environment": "text", "created_by": "text", "annotation_queue_ids": "list",
}  # fmt: skip
RECORD = COMMON | {
    "name": "text", "input": "text", "output": "text", "input_json": "object",
    "output_json": "object", "metadata": "object", "error_info": "presence", "source": "text",
    "ttft": "number",
}  # fmt: skip
FIELDS = {
    "trace": RECORD | {
        "llm_span_count": "number", "span_count": "number", "span_feedback_scores": "scores",
        "thread_id": "text", "guardrails": "text", "experiment_id": "list", "providers": "list",
    },
    "span": RECORD | {
        "model": "text", "provider": "text", "type": "text", "trace_id": "text",
        "parent_span_id": "text",
    },
    "thread": COMMON | {
        "first_message": "text", "last_message": "text", "number_of_messages": "number",
        "status": "text",
    },
}  # fmt: skip
# What is known of a row before its spans, scores and the like were looked up.
PLAIN = {
    "id", "start_time", "end_time", "created_at", "last_updated_at", "duration", "tags", "name",
    "environment", "created_by", "input", "output", "input_json", "output_json", "metadata",
    "error_info", "source", "ttft", "thread_id", "model", "provider", "type", "trace_id",
    "parent_span_id",
}  # fmt: skip
NONE_IS_ZERO = {"total_estimated_cost", "llm_span_count", "span_count", "usage"}


@dataclass(frozen=True)
class Filter:
    """One condition on rows of a kind."""

    kind: str
    field: str
    key: str
    operator: str
    value: Any
    type: str

    @property
    def plain(self) -> bool:
        """Whether it needs nothing that other tables know."""
        return self.kind != "thread" and (
            self.field in PLAIN or (self.kind == "span" and self.type == "number")
        )

    def meets(self, row: dict[str, Any]) -> bool:
        """Whether a row meets it."""
        value = self._of(row)
        if self.operator in EMPTY:
            return (value in (None, "", [], {})) == (self.operator == "is_empty")
        if self.type in ("time", "number", "scores"):
            return value is not None and ORDER[self.operator](value, self.value)
        if self.type == "list":
            return self._meets_list(value or [])
        return self._meets_text(_text(value))

    def _of(self, row: dict[str, Any]) -> Any:
        field = self.field.partition(".")[0]
        if field == "usage":
            key = self.key or self.field.partition(".")[2]
            return float((row.get("usage") or {}).get(key, 0))
        if field in NONE_IS_ZERO:
            return row.get(field) or 0
        if self.type == "scores":
            return _score(row.get(field) or [], self.key)
        if field == "guardrails":
            checks = [c for v in row.get("guardrails_validations") or [] for c in v["checks"]]
            failed = any(check["result"] == "failed" for check in checks)
            return ("failed" if failed else "passed") if checks else None
        if field == "experiment_id":
            return [row["experiment"]["id"]] if row.get("experiment") else []
        value = row.get(field.removesuffix("_json"))
        return at(value, self.key) if self.key else value

    def _meets_list(self, values: list[str]) -> bool:
        texts = [str(value).lower() for value in values]
        positive = NEGATIVE.get(self.operator, self.operator)
        if positive == "contains":
            met = any(self.value in text for text in texts)
        else:
            wanted = self.value if positive == "in" else [self.value]
            met = any(text in wanted for text in texts)
        return met != (self.operator in NEGATIVE)

    def _meets_text(self, text: str) -> bool:
        if self.operator in ("in", "not_in"):
            return (text in self.value) == (self.operator == "in")
        if self.type == "object" and self.operator in ORDER:
            one, other = _number(text), _number(self.value)
            if one is not None and other is not None:
                return ORDER[self.operator](one, other)
            if self.operator not in ("=", "!="):
                return False
        return TEXT[self.operator](text, self.value)


def _score(scores: list[dict[str, Any]], key: str) -> Any:
    """The value of a score by its name; without a name, whether there are any."""
    if not key:
        return scores or None
    return next((one["value"] for one in scores if one["name"].lower() == key.lower()), None)


def at(value: Any, path: str) -> Any:
    """What an object holds under a key or a path like ``a.b[0].c``; None when nothing is there."""
    if isinstance(value, dict) and path in value:
        return value[path]
    for part in re.findall(r"[^.\[\]]+", path.removeprefix("$")):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal():
            value = value[int(part)] if int(part) < len(value) else None
        else:
            return None
    return value


def _text(value: Any) -> str:
    if value is None:
        return ""
    return (value if isinstance(value, str) else dumps(value)).lower()


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def parse(kind: str, given: Any, identifier: Callable[[str], str] = str) -> list[Filter]:
    """Read a list of conditions, or its JSON; ``identifier`` says how ids of threads are stored.

    Raises:
        Problem: 400 when a field, an operator or a value is none.

    """
    if isinstance(given, str):
        try:
            given = json.loads(given or "[]")
        except ValueError:
            raise Problem(400, "filters is no JSON list") from None
    given = given or []
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise Problem(400, "filters is a list of objects")
    return [_parsed(kind, one, identifier) for one in given]


def _parsed(kind: str, one: dict[str, Any], identifier: Callable[[str], str]) -> Filter:
    field, sign = str(one.get("field")), str(one.get("operator"))
    type_ = FIELDS[kind].get(field)
    if type_ is None:
        raise Problem(400, f"{kind}s have no field to filter by: {field[:100]}")
    if sign not in OPERATORS[type_]:
        raise Problem(400, f"{field} cannot be compared by: {sign[:100]}")
    key, value = str(one.get("key") or ""), one.get("value")
    if field == ("id" if kind == "thread" else "thread_id") and isinstance(value, str):
        value = identifier(value)
    if type_ == "scores" and not key and sign not in EMPTY:
        raise Problem(400, f"{field} needs the name of a score as its key")
    return Filter(kind, field, key, sign, _value(field, type_, sign, value), type_)


def _value(field: str, type_: str, sign: str, value: Any) -> Any:
    if sign in EMPTY:
        return None
    if type_ == "time":
        return time_of(value, field)
    if type_ in ("number", "scores"):
        number = _number(value)
        if number is None:
            raise Problem(400, f"{field} is compared with a number, not: {str(value)[:100]}")
        return number
    if sign in ("in", "not_in"):
        return {str(item).strip().lower() for item in _several(value)}
    return str(value if value is not None else "").lower()


def _several(value: Any) -> list[Any]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            raise Problem(400, f"the value is no JSON list: {value[:100]}") from None
    return value if isinstance(value, list) else str(value).split(",")
