"""Attachments: bytes in files, one row each; a file is named by us, never by who sends it."""

from __future__ import annotations

import base64
import contextlib
import os
import re
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, urlencode

from llm_twin.tracing.store.merge import LONGEST_TEXT, id_of, new_id
from llm_twin.tracing.store.routing import (
    MIB,
    Problem,
    Request,
    Response,
    json_response,
    ok,
    page,
    page_of,
    route,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llm_twin.tracing.store.store import Store

UPLOAD = "v1/private/attachment/upload"
DOWNLOAD = "v1/private/attachment/download"
# The id at which the SDK puts the bytes to the address it is given, in one piece.
ONE_PIECE = "BEMinIO"
UNKNOWN = "application/octet-stream"
# What the SDK leaves of an image or the like that it takes out of a field.
PLACEHOLDER = re.compile(r"\[((?:input|output|metadata)-attachment-\d+-\d+(?:-sdk)?\.\w+)\]")
SELECT = "SELECT mime, size, blob FROM attachment WHERE kind = ? AND entity = ? AND name = ?"


def _key(values: Mapping[str, object]) -> tuple[str, str, str]:
    kind = str(values.get("entity_type", "")).lower()
    if kind not in ("trace", "span"):
        raise Problem(400, "entity_type is trace or span")
    name = values.get("file_name")
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_TEXT:
        raise Problem(400, f"file_name is a text of 1 to {LONGEST_TEXT} characters")
    return kind, id_of(values.get("entity_id"), "entity_id"), name


def _named(store: Store, request: Request) -> tuple[str, str, str]:
    kind, entity, name = _key(request.query)
    return kind, entity, store.redactor.text(name)


def _base_url(encoded: object) -> str:
    try:
        url = base64.b64decode(str(encoded or ""), validate=True).decode()
    except ValueError:
        raise Problem(400, "path is the base64 of the server's address") from None
    return url.rstrip("/")


@route("POST", "v1/private/attachment/upload-start")
def start(store: Store, request: Request) -> Response:
    """Say where the bytes of an attachment are to be put."""
    values = request.json()
    kind, entity, name = _key(values)
    mime = str(values.get("mime_type") or UNKNOWN)
    query = urlencode(
        {"entity_type": kind, "entity_id": entity, "file_name": name, "mime_type": mime}
    )
    url = f"{_base_url(values.get('path'))}/{UPLOAD}?{query}"
    return json_response({"upload_id": ONE_PIECE, "pre_sign_urls": [url]})


@route("PUT", UPLOAD)
def upload(store: Store, request: Request) -> Response:
    """Keep the bytes; they are on the disk before their row is."""
    kind, entity, name = _named(store, request)
    body = request.plain() if request.redacted else store.redactor.document(request.plain())
    blob = new_id()
    _write(store, blob, body)
    try:
        with store.database.write() as db:
            for _, _, old in db.execute(SELECT, (kind, entity, name)).fetchall():
                store.discard(old)
            db.execute(
                "INSERT OR REPLACE INTO attachment VALUES (?, ?, ?, ?, ?, ?)",
                (kind, entity, name, request.query.get("mime_type") or UNKNOWN, len(body), blob),
            )
    except BaseException:
        (store.blobs / blob).unlink(missing_ok=True)
        raise
    return ok()


def _write(store: Store, blob: str, body: bytes) -> None:
    try:
        store.blobs.mkdir(parents=True, exist_ok=True)
        with (store.blobs / blob).open("xb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(store.blobs, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            (store.blobs / blob).unlink()
        raise Problem(503, f"the attachment cannot be written: {error.strerror}") from None


@route("POST", "v1/private/attachment/upload-complete")
def complete(store: Store, request: Request) -> Response:
    """Nothing is left to do: an attachment comes in one piece."""
    kind, entity, name = _key(request.json())
    with store.database.read() as db:
        _found(store, db.execute(SELECT, (kind, entity, name)).fetchone(), name)
    return ok()


def _found(store: Store, row: tuple[str, int, str] | None, name: str) -> tuple[str, int, BinaryIO]:
    if row is None or not (store.blobs / row[2]).is_file():
        raise Problem(404, f"attachment not found: {name[:100]}")
    return row[0], row[1], (store.blobs / row[2]).open("rb")


@route("GET", DOWNLOAD)
def download(store: Store, request: Request) -> Response:
    """The bytes of an attachment, as a file that no browser runs."""
    kind, entity, name = _named(store, request)
    with store.database.read() as db:
        mime, size, file = _found(store, db.execute(SELECT, (kind, entity, name)).fetchone(), name)
    headers = {
        "content-type": mime if mime.isascii() and mime.isprintable() else UNKNOWN,
        "content-length": str(size),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
        "content-security-policy": "sandbox",
        "x-content-type-options": "nosniff",
    }
    return Response(200, _parts(file), headers)


def _parts(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while part := file.read(MIB):
            yield part


@route("GET", "v1/private/attachment/list")
def listed(store: Store, request: Request) -> Response:
    """A page of a trace's or span's attachments, each with the address of its bytes."""
    number, size = page_of(request, default=100)
    kind, entity, _ = _key({**request.query, "file_name": "*"})
    base = _base_url(request.query.get("path"))
    with store.database.read() as db:
        rows = db.execute(
            "SELECT name, mime, size FROM attachment WHERE kind = ? AND entity = ? ORDER BY name",
            (kind, entity),
        ).fetchall()
    found = []
    for name, mime, length in rows:
        query = urlencode({"entity_type": kind, "entity_id": entity, "file_name": name})
        found.append({
            "link": f"{base}/{DOWNLOAD}?{query}", "file_name": name, "file_size": length,
            "mime_type": mime,
        })  # fmt: skip
    begin = (number - 1) * size
    return page(found[begin : begin + size], len(found), number)


@route("POST", "v1/private/attachment/delete")
def delete(store: Store, request: Request) -> Response:
    """Delete an attachment, or several of one trace or span by ``file_names``."""
    values = request.json()
    names = values.get("file_names") or [values.get("file_name")]
    with store.database.write() as db:
        for name in names:
            key = _key({**values, "file_name": name})
            for _, _, blob in db.execute(SELECT, key).fetchall():
                store.discard(blob)
            db.execute("DELETE FROM attachment WHERE kind = ? AND entity = ? AND name = ?", key)
    return ok()


def embedded(store: Store, kind: str, row: dict[str, Any]) -> dict[str, Any]:
    """Put what the SDK took out of a row and sent as attachments back into it, as data URLs."""
    with store.database.read() as db:
        sql = "SELECT name, mime, blob FROM attachment WHERE kind = ? AND entity = ?"
        known = {name: more for name, *more in db.execute(sql, (kind, row["id"]))}

    def url(match: re.Match[str]) -> str:
        mime, blob = known.get(match[1], (None, ""))
        path = store.blobs / blob
        if mime is None or not path.is_file():
            return match[0]
        return f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode()}"

    def put_back(value: Any) -> Any:
        if isinstance(value, str):
            return PLACEHOLDER.sub(url, value)
        if isinstance(value, list):
            return [put_back(item) for item in value]
        if isinstance(value, dict):
            return {name: put_back(item) for name, item in value.items()}
        return value

    fields = row.keys() & {"input", "output", "metadata"} if known else ()
    return row | {field: put_back(row[field]) for field in fields}
