"""Traces out of the store into a file, and back: one line of JSON each, with all that is theirs.

A line is a trace as it is stored, its spans, scores, comments and attachments; so what was imported
exports to the same lines. Parquet is for analysis alone and is not read again.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import importlib
import json
from itertools import islice
from typing import TYPE_CHECKING, Any

from llm_twin.errors import CorpusError, NotReadyError, SpaceError
from llm_twin.tracing.outgoing import record
from llm_twin.tracing.store.attachments import UPLOAD
from llm_twin.tracing.store.reading import without_nulls
from llm_twin.tracing.store.routing import Request, dumps

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from llm_twin.tracing.store.listing import Row
    from llm_twin.tracing.store.store import Store

STEP = 100
"""Lines imported in one go: all of them or none."""
COLUMNS = {
    "id": "string", "project_name": "string", "name": "string", "thread_id": "string",
    "start_time": "string", "end_time": "string", "duration": "float64", "input": "string",
    "output": "string", "metadata": "string", "tags": "string", "error_info": "string",
    "feedback_scores": "string", "usage": "string", "total_estimated_cost": "float64",
    "span_count": "int64",
}  # fmt: skip
"""Of a Parquet file; what is not plain is JSON; duration is in milliseconds."""


def whole(store: Store, identity: str) -> Row | None:
    """A trace with all that is its, as a line of an export holds it; None when there is none."""
    with store.database.read() as db:
        found = _entity(store, db, "trace", identity)
        sql = "SELECT id FROM span WHERE trace_id = ? ORDER BY id"
        spans = [_entity(store, db, "span", row[0]) for row in db.execute(sql, (identity,))]
    return found | {"spans": spans} if found else None


def _entity(store: Store, db: sqlite3.Connection, kind: str, identity: str) -> Row:
    found = record(db, kind, identity)
    if found is None:
        return {}
    where = "WHERE kind = ? AND entity = ? ORDER BY 1"
    scores = db.execute(
        f"SELECT name, author, value, source, reason, category FROM score {where}",  # noqa: S608
        (kind, identity),
    )
    keys = ("name", "author", "value", "source", "reason", "category_name")
    found["feedback_scores"] = [without_nulls(dict(zip(keys, row, strict=True))) for row in scores]
    comments = db.execute(f"SELECT id, body FROM comment {where}", (kind, identity))  # noqa: S608
    found["comments"] = [{"id": one, "text": json.loads(body)["text"]} for one, body in comments]
    files = db.execute(f"SELECT name, mime, blob FROM attachment {where}", (kind, identity))  # noqa: S608
    found["attachments"] = [
        {"file_name": name, "mime_type": mime, "data": base64.b64encode(data).decode()}
        for name, mime, blob in files
        if (data := _bytes(store.blobs / blob)) is not None
    ]
    return found


def _bytes(path: Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def export_jsonl(store: Store, traces: Iterable[Row], path: Path) -> int:
    """Write traces to a file, one a line; return how many.

    Raises:
        SpaceError: the file cannot be written.

    """
    with _written(path) as part, part.open("w", encoding="utf-8") as file:
        lines = (one for trace in traces if (one := whole(store, trace["id"])))
        return sum(1 for line in lines if file.write(dumps(line) + "\n"))


def export_parquet(store: Store, traces: Iterable[Row], path: Path) -> int:
    """Write traces to a Parquet file, a row each; return how many.

    Raises:
        NotReadyError: pyarrow is not installed.
        SpaceError: the file cannot be written.

    """
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise NotReadyError(
            "Parquet files need pyarrow, which is not installed",
            path,
            "Export lines of JSON: invoke traces.export --jsonl FILE",
        ) from None
    schema = arrow.schema(list(COLUMNS.items()))
    with store.database.read() as db:
        projects = dict(db.execute("SELECT id, name FROM project").fetchall())
    rows = (row | {"project_name": projects.get(row["project_id"])} for row in traces)
    count = 0
    with _written(path) as part, parquet.ParquetWriter(part, schema) as writer:
        while some := [_flat(row) for row in islice(rows, STEP)]:
            writer.write_table(arrow.Table.from_pylist(some, schema))
            count += len(some)
    return count


def _flat(row: Row) -> Row:
    values = ((name, row.get(name)) for name in COLUMNS)
    return {name: _plain(value) for name, value in values}


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else dumps(value)


@contextlib.contextmanager
def _written(path: Path) -> Iterator[Path]:
    """A file beside the one that is meant, which it replaces once it is whole."""
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise SpaceError(f"the file cannot be written ({error.strerror})", path) from None


def import_jsonl(store: Store, path: Path) -> tuple[int, int]:
    """Take in the lines of an export; return how many were, and how many were there already.

    Raises:
        CorpusError: the file cannot be read, or a line is none; what came before that is stored.

    """
    taken = there = 0
    try:
        with path.open(encoding="utf-8") as file:
            lines = enumerate(file, 1)
            while some := [_parsed(path, number, text) for number, text in islice(lines, STEP)]:
                fresh = [one for one in some if one[1] and whole(store, one[1]["id"]) != one[1]]
                _take(store, path, fresh)
                taken += len(fresh)
                there += sum(1 for one in some if one[1]) - len(fresh)
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"the traces cannot be read ({error})", path) from None
    return taken, there


Line = tuple[int, dict[str, Any]]


def _parsed(path: Path, number: int, text: str) -> Line:
    """A line's number and trace; an empty line holds none."""
    try:
        value = json.loads(text) if text.strip() else {}
        if value and not (isinstance(value, dict) and isinstance(value.get("id"), str)):
            raise ValueError("it is no object with an id")
        for one in (value, *value.get("spans", [])):
            for file in one.get("attachments", []):
                base64.b64decode(file["data"], validate=True)
    except (ValueError, TypeError, AttributeError, KeyError, binascii.Error) as error:
        raise CorpusError(f"line {number} is no trace ({error})", path) from None
    return number, value


def _take(store: Store, path: Path, lines: list[Line]) -> None:
    with store.database.write():
        for number, trace in lines:
            for request in _requests(trace):
                _handled(store, path, number, request)
    for number, trace in lines:
        for kind, one in _entities(trace):
            for file in one.get("attachments", []):
                _handled(store, path, number, _upload(kind, one["id"], file))


def _handled(store: Store, path: Path, number: int, request: Request) -> None:
    if said := refusal(store, request):
        raise CorpusError(f"line {number} was refused ({said})", path)


def refusal(store: Store, request: Request) -> str:
    """What the store answers to a request that it refuses; "" when it does as it is asked."""
    answer = store.handle(request)
    if answer.status < 300:
        return ""
    assert isinstance(answer.body, bytes)
    return str(json.loads(answer.body)["message"])


def _entities(trace: Row) -> Iterator[tuple[str, Row]]:
    yield "trace", trace
    for span in trace.get("spans", []):
        yield "span", span


def _requests(trace: Row) -> Iterator[Request]:
    for kind, one in _entities(trace):
        root = f"v1/private/{kind}s"
        yield _json("POST", f"{root}/batch", {f"{kind}s": [one]})
        place = {"id": one.get("id"), "project_name": one.get("project_name")}
        if scores := [{**score, **place} for score in one.get("feedback_scores", [])]:
            yield _json("PUT", f"{root}/feedback-scores", {"scores": scores})
        for comment in one.get("comments", []):
            yield _json("POST", f"{root}/{one['id']}/comments", comment)


def _json(method: str, path: str, body: Row) -> Request:
    return Request(method, path, body=dumps(body).encode())


def _upload(kind: str, entity: str, file: Row) -> Request:
    query = {"entity_type": kind, "entity_id": entity, "file_name": file["file_name"]}
    query["mime_type"] = file.get("mime_type", "")
    return Request("PUT", UPLOAD, query, body=base64.b64decode(file["data"]))
