"""Lists of datasets, experiments and prompts: Opik's filters, sorting, pages and streams over rows.

A workspace has few of these beside its traces, so the rows are compared here, not in SQL.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llm_twin.tracing.store.routing import Problem, Request, Response, page, page_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Row = dict[str, Any]

TEXT: dict[str, Callable[[str, str], bool]] = {
    "contains": lambda have, want: want in have,
    "not_contains": lambda have, want: want not in have,
    "starts_with": lambda have, want: have.startswith(want),
    "ends_with": lambda have, want: have.endswith(want),
    "in": lambda have, want: have in _listed(want),
    "not_in": lambda have, want: have not in _listed(want),
}
ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda have, want: have == want,
    "!=": lambda have, want: have != want,
    ">": lambda have, want: have > want,
    ">=": lambda have, want: have >= want,
    "<": lambda have, want: have < want,
    "<=": lambda have, want: have <= want,
}


def expressions(filters: object) -> list[Row]:
    """Filters as Opik sends them: a list of field, key, operator and value, or that as JSON.

    Raises:
        Problem: 400, they are neither, or name an operator that there is not.

    """
    rows = _parsed(filters, "filters")
    for row in rows:
        if row.get("operator") not in {*TEXT, *ORDER, "is_empty", "is_not_empty"}:
            raise Problem(400, f"no such filter operator: {row.get('operator')}")
    return rows


def _parsed(value: object, name: str) -> list[Row]:
    try:
        rows = json.loads(value) if isinstance(value, str) and value else value
    except ValueError:
        rows = value
    if not rows:
        return []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Problem(400, f"{name} is no JSON list of objects")
    return rows


def matches(row: Mapping[str, Any], filters: Iterable[Row]) -> bool:
    """Whether a row fits all filters."""
    return all(_fits(value_of(row, item), item) for item in filters)


def value_of(row: Mapping[str, Any], item: Row) -> Any:
    """What a filter looks at: a field, a key within it, a score by its name."""
    field, key = str(item.get("field") or ""), str(item.get("key") or "")
    value = row.get(field)
    if field == "full_data":
        return row.get("data")
    if field.startswith("usage."):
        return (row.get("usage") or {}).get(field.removeprefix("usage."))
    if not key:
        return value
    if isinstance(value, list):
        return next((one.get("value") for one in value if one.get("name") == key), None)
    return _within(value, key)


def _within(value: Any, key: str) -> Any:
    for part in [key] if isinstance(value, dict) and key in value else key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _fits(have: Any, item: Row) -> bool:
    operator, want = item["operator"], str(item.get("value") or "")
    if operator in ("is_empty", "is_not_empty"):
        return bool((have in (None, "", [], {})) == (operator == "is_empty"))
    if have is None:
        return operator in ("!=", "not_contains", "not_in")
    if operator in ORDER:
        return ORDER[operator](*_comparable(have, want))
    if isinstance(have, list) and all(isinstance(one, str) for one in have):
        found = any(want.lower() == one.lower() for one in have)
        return found == (operator in ("contains", "in"))
    fold = not operator.endswith("in")
    return TEXT[operator](*((_text(one).lower() if fold else _text(one)) for one in (have, want)))


def _comparable(have: Any, want: str) -> tuple[Any, Any]:
    if isinstance(have, (int, float)) and not isinstance(have, bool):
        try:
            return float(have), float(want)
        except ValueError:
            return str(have), want
    return _text(have), want


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _listed(text: str) -> list[str]:
    """A filter's list of values: JSON, or words with commas between them."""
    if text.startswith("["):
        try:
            return [str(one) for one in json.loads(text)]
        except ValueError:
            raise Problem(400, f"the value is no JSON list: {text[:100]}") from None
    return [one.strip() for one in text.split(",")]


def in_order(rows: list[Row], sorting: str | None) -> list[Row]:
    """Rows sorted as asked (JSON list of field and direction); rows without the field last."""
    for rule in reversed(_parsed(sorting, "sorting")):
        field, _, key = str(rule.get("field")).partition(".")
        item = {"field": field, "key": key}
        with_it = [row for row in rows if value_of(row, item) is not None]
        without = [row for row in rows if value_of(row, item) is None]
        with_it.sort(key=lambda row: _sortable(value_of(row, item)))
        rows = (with_it[::-1] if rule.get("direction") == "DESC" else with_it) + without
    return rows


def _sortable(value: Any) -> tuple[bool, Any]:
    number = isinstance(value, (int, float))
    return (not number, value if number else _text(value).lower())


def answer(
    request: Request, rows: list[Row], show: Callable[[Row], Row] = lambda row: row
) -> Response:
    """One page of rows, after the request's filters and sorting.

    Args:
        request: names the page, the filters and the sorting.
        rows: all of them, as they are stored.
        show: adds the figures about a row; asked for those of the page alone when that will do.

    """
    filters, sorting = expressions(request.query.get("filters")), request.query.get("sorting")
    number, size = page_of(request)
    start, stop = (number - 1) * size, number * size
    if not (filters or sorting):
        return page([show(row) for row in rows[start:stop]], len(rows), number)
    rows = in_order([row for row in map(show, rows) if matches(row, filters)], sorting)
    return page(rows[start:stop], len(rows), number)


def limit_of(body: Row, default: int, name: str = "limit") -> int:
    """How many rows a stream may have, at most ``default``; 400 when it is no number."""
    limit = body.get(name) or default
    if not isinstance(limit, int) or limit < 1:
        raise Problem(400, f"{name} is a whole number from 1")
    return min(limit, default)


def after(rows: list[Row], last_id: str | None, limit: int) -> list[Row]:
    """The next rows of a stream that runs from the newest id to the oldest."""
    return [row for row in rows if not last_id or row["id"] < last_id][:limit]
