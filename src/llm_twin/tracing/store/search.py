"""Reading many: streams with a cursor, pages with an order, counts, whether there is anything.

Conditions on columns go to SQLite, the others are tried row by row while the newest come first, so
a search that finds enough reads no further.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from llm_twin.tracing.store import reading, threads
from llm_twin.tracing.store.attachments import embedded
from llm_twin.tracing.store.filters import FIELDS, PLAIN, Filter, parse
from llm_twin.tracing.store.merge import id_of, time_of
from llm_twin.tracing.store.projects import asked
from llm_twin.tracing.store.reading import shown
from llm_twin.tracing.store.records import SPOKEN, chunks, marks
from llm_twin.tracing.store.routing import (
    Problem,
    Request,
    Response,
    dumps,
    json_response,
    ndjson,
    page,
    page_of,
    route,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from llm_twin.tracing.store.store import Store

STEP = 200
MOST = 2000
# Fields that are columns, by kind: SQLite compares them without reading the rest of a row.
COLUMNS = {
    "trace": {"id": "id", "start_time": "started", "thread_id": "thread_id COLLATE NOCASE"},
    "span": {"id": "id", "start_time": "started", "trace_id": "trace_id", "type": "type"},
    "thread": {"id": "name COLLATE NOCASE", "status": "status"},
}
SIGNS = ("=", ">", ">=", "<", "<=")


@dataclass
class Query:
    """What is asked for: the rows of a kind, the conditions on them for SQLite and for `fitting`.

    Attributes:
        kind: trace, span or thread.
        where: conditions in SQL, all of which hold.
        values: what stands for their question marks.
        filters: the conditions that SQLite cannot decide.
        text: what one of the texts has to contain, in lower case.

    """

    kind: str
    where: list[str]
    values: list[Any]
    filters: list[Filter]
    text: str = ""

    @classmethod
    def of(cls, store: Store, kind: str, asks: dict[str, Any]) -> Query:
        """Read a search's body or a list's parameters; 400 when something in it is none."""
        query = cls(kind, [], [], [], str(asks.get("search") or "").lower())
        of_trace = kind == "span" and asks.get("trace_id")
        if not of_trace or asks.get("project_id") or asks.get("project_name"):
            with store.database.read() as db:
                # The sign keeps SQLite from preferring the project's index to the trace's.
                query._add(f"{'+' * bool(of_trace)}project_id = ?", asked(db, asks) or "")
        if kind == "thread":
            query.where.append(SPOKEN)
        else:
            query._narrow(asks)
        for one in parse(kind, asks.get("filters"), store.redactor.identifier):
            column = COLUMNS[kind].get(one.field)
            if column and one.operator in SIGNS:
                query._add(f"{column} {one.operator} ?", one.value)
            else:
                query.filters.append(one)
        return query

    def _narrow(self, asks: dict[str, Any]) -> None:
        for name, sign in (("from_time", ">="), ("to_time", "<=")):
            if asks.get(name):
                self._add(f"started {sign} ?", time_of(asks[name], name))
        if self.kind == "span":
            for name in ("trace_id", "type"):
                if asks.get(name):
                    self._add(f"{name} = ?", str(asks[name]))

    def _add(self, sql: str, value: Any) -> None:
        self.where.append(sql)
        self.values.append(value)

    @property
    def simple(self) -> bool:
        """Whether SQLite alone can answer which rows are meant."""
        return not self.text and not self.filters

    def rows(self, db: sqlite3.Connection, before: str | None, limit: int) -> list[dict[str, Any]]:
        """Up to ``limit`` rows with a smaller id, the newest first, whether they fit or not."""
        columns = threads.COLUMNS if self.kind == "thread" else reading.COLUMNS
        where = " AND ".join([*self.where, *(["id < ?"] if before else [])])
        found = db.execute(
            f"SELECT {columns} FROM {self.kind} WHERE {where} ORDER BY id DESC LIMIT ?",  # noqa: S608
            [*self.values, *([before] if before else []), limit],
        ).fetchall()
        if self.kind == "thread":
            return threads.publics(db, found)
        return [reading.base(self.kind, row) for row in found]

    def fitting(
        self, db: sqlite3.Connection, rows: list[dict[str, Any]], full: bool
    ) -> list[dict[str, Any]]:
        """Those that meet the conditions; with all that is known of them when ``full``."""
        plain = [one for one in self.filters if one.plain]
        other = [one for one in self.filters if not one.plain]
        rows = [row for row in rows if all(one.meets(row) for one in plain) and self._says(row)]
        if self.kind != "thread" and (full or other):
            rows = reading.enrich(db, self.kind, rows)
        return [row for row in rows if all(one.meets(row) for one in other)]

    def _says(self, row: dict[str, Any]) -> bool:
        names = ("id", "name", "input", "output", "first_message", "last_message", "thread_id")
        return not self.text or any(self.text in dumps(row.get(name)).lower() for name in names)


def identity(kind: str, row: dict[str, Any]) -> str:
    """What a row is found and ordered by."""
    return str(row["thread_model_id" if kind == "thread" else "id"])


def scan(
    store: Store, query: Query, cursor: str | None = None, full: bool = True
) -> Iterator[dict[str, Any]]:
    """Every row that fits, the newest first; read in steps, none of which holds a lock for long."""
    while True:
        with store.database.read() as db:
            rows = query.rows(db, cursor, STEP)
            fitting = query.fitting(db, rows, full)
        yield from fitting
        if len(rows) < STEP:
            return
        cursor = identity(query.kind, rows[-1])


def _stream(store: Store, request: Request, kind: str, cursor_name: str) -> Response:
    asks = request.json()
    limit = asks.get("limit") or 500
    if not isinstance(limit, int) or not 0 < limit <= MOST:
        raise Problem(400, f"limit is a whole number from 1 to {MOST}")
    cursor = asks.get(cursor_name)
    query = Query.of(store, kind, asks)
    rows = scan(store, query, id_of(cursor, cursor_name) if cursor else None)
    truncate, exclude = bool(asks.get("truncate")), asks.get("exclude") or []
    if not (truncate or asks.get("strip_attachments")):
        rows = (embedded(store, kind, row) for row in rows)
    return ndjson(shown(row, truncate, exclude) for row in islice(rows, limit))


def _truth(request: Request, name: str) -> bool:
    return request.query.get(name, "").lower() == "true"


def _listed(request: Request, name: str) -> list[Any]:
    try:
        value = json.loads(request.query.get(name) or "[]")
    except ValueError:
        raise Problem(400, f"{name} is no JSON list") from None
    return value if isinstance(value, list) else []


def _page(store: Store, request: Request, kind: str) -> Response:
    number, size = page_of(request)
    order = _listed(request, "sorting")
    query = Query.of(store, kind, dict(request.query))
    begin = (number - 1) * size
    if query.simple and not order:
        total, ids = _plain_page(store, query, begin, size)
    else:
        keys = _ordered(store, query, order)
        total, ids = len(keys), keys[begin : begin + size]
    with store.database.read() as db:
        rows = _by_ids(db, kind, ids)
    truncate, exclude = _truth(request, "truncate"), _listed(request, "exclude")
    if not (truncate or _truth(request, "strip_attachments")):
        rows = [embedded(store, kind, row) for row in rows]
    return page(
        [shown(row, truncate, exclude) for row in rows],
        total,
        number,
        sortableBy=sorted(FIELDS[kind]),
    )


def _plain_page(store: Store, query: Query, begin: int, size: int) -> tuple[int, list[str]]:
    where = f"FROM {query.kind} WHERE {' AND '.join(query.where)}"
    with store.database.read() as db:
        total = db.execute(f"SELECT count(*) {where}", query.values).fetchone()[0]
        ids = db.execute(
            f"SELECT id {where} ORDER BY id DESC LIMIT ? OFFSET ?", [*query.values, size, begin]
        ).fetchall()
    return total, [row[0] for row in ids]


def _by_ids(db: sqlite3.Connection, kind: str, ids: list[str]) -> list[dict[str, Any]]:
    if kind != "thread":
        return reading.by_ids(db, kind, ids)
    found = {}
    for part in chunks(ids):
        sql = f"SELECT {threads.COLUMNS} FROM thread WHERE id IN ({marks(part)})"  # noqa: S608
        rows = threads.publics(db, db.execute(sql, part).fetchall())
        found.update({row["thread_model_id"]: row for row in rows})
    return [found[one] for one in ids if one in found]


def _ordered(store: Store, query: Query, order: list[Any]) -> list[str]:
    """The ids of all that fit, in the order asked for; only keys are held, not rows."""
    known = FIELDS[query.kind]
    sorts = [_sorting(one, known) for one in order]
    full = any(name not in PLAIN for name, _, _ in sorts)
    keys = [
        (identity(query.kind, row), [_key(query.kind, row, name, key) for name, key, _ in sorts])
        for row in scan(store, query, full=full)
    ]
    for index, (_, _, falling) in reversed(list(enumerate(sorts))):
        keys.sort(key=lambda pair, at=index: pair[1][at], reverse=falling)  # type: ignore[misc]
    return [one for one, _ in keys]


def _sorting(one: Any, known: dict[str, str]) -> tuple[str, str, bool]:
    name, _, key = str(one.get("field") if isinstance(one, dict) else one).partition(".")
    if name not in known:
        raise Problem(400, f"rows cannot be sorted by: {name[:100]}")
    return name, key, str(one.get("direction", "DESC")).upper() == "DESC"


def _key(kind: str, row: dict[str, Any], name: str, key: str) -> tuple[int, float, str]:
    """A value that sorts: nothing, then numbers, then text."""
    value = Filter(kind, name, key, "=", None, FIELDS[kind][name])._of(row)
    if value is None:
        return 0, 0.0, ""
    if isinstance(value, int | float):
        return 1, float(value), ""
    return 2, 0.0, value if isinstance(value, str) else dumps(value)


def _exists(store: Store, request: Request, kind: str) -> Response:
    query = request.query
    where, values = ["1"], []
    with store.database.read() as db:
        if query.get("project_id") or query.get("project_name"):
            where.append("project_id = ?")
            values.append(asked(db, dict(query)) or "")
        if query.get("source"):
            where.append("json_extract(body, '$.source') = ?")
            values.append(query["source"])
        if kind == "trace" and _truth(request, "thread_only"):
            where.append("thread_id IS NOT NULL")
        sql = f"SELECT 1 FROM {kind} WHERE {' AND '.join(where)} LIMIT 1"  # noqa: S608
        found = db.execute(sql, values).fetchone()
    return json_response({"exists": found is not None})


def _route(kind: str, path: str, cursor_name: str) -> None:
    @route("POST", f"{path}/search")
    def search(store: Store, request: Request) -> Response:
        return _stream(store, request, kind, cursor_name)

    @route("GET", path)
    def listing(store: Store, request: Request) -> Response:
        return _page(store, request, kind)

    @route("GET", f"{path}/exists")
    def exists(store: Store, request: Request) -> Response:
        return _exists(store, request, kind)


_route("trace", "v1/private/traces", "last_retrieved_id")
_route("span", "v1/private/spans", "last_retrieved_id")
_route("thread", "v1/private/traces/threads", "last_retrieved_thread_model_id")
