"""Attachments: uploaded as the SDK does it, read back, put back into their rows, deleted."""

from __future__ import annotations

import base64
import gzip
from pathlib import Path

import pytest
from store_calls import Caller, parsed, row

from llm_twin.tracing.store.merge import new_id
from llm_twin.tracing.store.routing import Request, Response
from llm_twin.tracing.store.store import Store

BASE = base64.b64encode(b"http://127.0.0.1:5173/api/").decode()
PICTURE = bytes(range(256)) * 5


class Desk(Caller):
    """A store that attachments are sent to."""

    def upload(self, entity: str, name: str, data: bytes, mime: str = "image/png") -> Response:
        """Ask for an address and put the bytes there."""
        start = {"file_name": name, "mime_type": mime, "entity_type": "trace", "path": BASE}
        answer = self.do("POST", "attachment/upload-start", start | {"entity_id": entity})
        assert answer["upload_id"] == "BEMinIO"
        [url] = answer["pre_sign_urls"]
        return self.request("PUT", url, data)

    def request(self, method: str, url: str, body: bytes = b"", **headers: str) -> Response:
        """Send bytes to an address below the store's."""
        from urllib.parse import parse_qsl, urlsplit

        parts = urlsplit(url)
        assert url.startswith("http://127.0.0.1:5173/api/")
        path = parts.path.removeprefix("/api/")
        return self.store.handle(Request(method, path, dict(parse_qsl(parts.query)), headers, body))

    def files(self) -> list[Path]:
        """What is in the folder of attachments."""
        return sorted(self.store.blobs.iterdir()) if self.store.blobs.is_dir() else []

    def listed(self, entity: str, **more: object) -> list[dict[str, object]]:
        """A trace's attachments."""
        query = {"entity_type": "trace", "entity_id": entity, "path": BASE, **more}
        return list(self.get("attachment/list", **query)["content"])


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_what_was_uploaded_is_listed_and_read_back(desk: Desk) -> None:
    trace = new_id()
    assert desk.upload(trace, "a b.png", PICTURE).status == 204
    [found] = desk.listed(trace)
    assert (found["file_name"], found["file_size"], found["mime_type"]) == (
        "a b.png",
        len(PICTURE),
        "image/png",
    )
    answer = desk.request("GET", str(found["link"]))
    assert b"".join(answer.body) == PICTURE  # type: ignore[arg-type]
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''a%20b.png"
    complete = {"entity_type": "trace", "entity_id": trace, "file_name": "a b.png"}
    desk.do("POST", "attachment/upload-complete", complete)


def test_the_same_name_again_replaces_the_bytes(desk: Desk) -> None:
    trace = new_id()
    for data in (PICTURE, b"\xff" * 3):
        desk.upload(trace, "a", data)
    assert [one["file_size"] for one in desk.listed(trace)] == [3]
    assert len(desk.files()) == 1


def test_a_name_that_climbs_out_of_the_folder_is_only_a_name(desk: Desk, tmp_path: Path) -> None:
    trace = new_id()
    before = {path.name for path in tmp_path.iterdir()}
    for name in ("../../evil", "/etc/passwd", "..", "a\0b"):
        assert desk.upload(trace, name, PICTURE).status == 204
    assert {one["file_name"] for one in desk.listed(trace)} == {
        "../../evil",
        "/etc/passwd",
        "..",
        "a\0b",
    }
    assert {path.name for path in tmp_path.iterdir()} - before == {"attachments"}
    assert len(desk.files()) == 4


def test_text_is_redacted_and_so_are_names(desk: Desk) -> None:
    trace = new_id()
    desk.upload(trace, "jane@example.org.txt", b"write to jane@example.org", "text/plain")
    [found] = desk.listed(trace)
    assert "jane" not in str(found)
    assert desk.files()[0].read_bytes() == b"write to [EMAIL]"
    asked = {"entity_type": "trace", "entity_id": trace, "file_name": "jane@example.org.txt"}
    answer = desk.ask("GET", "attachment/download", **asked)
    assert b"".join(answer.body) == b"write to [EMAIL]"  # type: ignore[arg-type]


def test_what_the_sdk_took_out_of_a_row_is_put_back(desk: Desk) -> None:
    name = "input-attachment-1-1795445191217-sdk.png"
    trace = row(input={"images": [f"[{name}]", "[input-attachment-1-2-sdk.gif]"], "n": 1})
    desk.traces(trace)
    desk.upload(trace["id"], name, PICTURE)
    url = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"
    whole = {"images": [url, "[input-attachment-1-2-sdk.gif]"], "n": 1}
    path = f"traces/{trace['id']}"
    assert desk.get(path)["input"] == whole
    assert desk.get(path, strip_attachments="true")["input"] == trace["input"]
    assert desk.search("traces")[0]["input"] == whole
    assert desk.search("traces", strip_attachments=True)[0]["input"] == trace["input"]
    listed = desk.get("traces", project_name="twin")["content"]
    assert listed[0]["input"] == whole
    desk.files()[0].unlink()
    assert desk.get(path)["input"] == trace["input"]


def test_an_attachment_goes_with_its_trace_or_alone(desk: Desk) -> None:
    trace = row()
    desk.traces(trace)
    for name in ("a", "b", "c"):
        desk.upload(trace["id"], name, PICTURE)
    entity = {"entity_type": "trace", "entity_id": trace["id"]}
    desk.do("POST", "attachment/delete", entity | {"file_name": "a"})
    desk.do("POST", "attachment/delete", entity | {"file_names": ["b", "unknown"]})
    assert [one["file_name"] for one in desk.listed(trace["id"])] == ["c"]
    assert len(desk.files()) == 1
    desk.do("DELETE", f"traces/{trace['id']}")
    assert desk.files() == []


def test_bytes_may_come_as_gzip_and_no_more_than_allowed(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.store = Store(tmp_path, attachment_limit=1000)
    trace = new_id()
    path = "v1/private/attachment/upload"
    query = {"entity_type": "trace", "entity_id": trace, "file_name": "a"}
    packed = Request("PUT", path, query, {"content-encoding": "gzip"}, gzip.compress(b"x" * 900))
    assert desk.store.handle(packed).status == 204
    assert [one["file_size"] for one in desk.listed(trace)] == [900]
    bomb = Request("PUT", path, query, {"content-encoding": "gzip"}, gzip.compress(b"x" * 10**6))
    answer = desk.store.handle(bomb)
    assert (answer.status, parsed(answer)["message"]) == (
        413,
        "the body has more than 1000 bytes; send it in smaller parts",
    )


def test_a_folder_that_cannot_be_written_loses_nothing_silently(desk: Desk) -> None:
    desk.store.blobs.write_text("in the way")
    answer = desk.upload(new_id(), "a", PICTURE)
    assert answer.status == 503
    assert "the attachment cannot be written" in parsed(answer)["message"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"entity_type": "prompt"}, "entity_type is trace or span"),
        ({"entity_id": "x"}, "entity_id is no UUID: x"),
        ({"file_name": ""}, "file_name is a text of 1 to 10000 characters"),
        ({"path": "%"}, "path is the base64 of the server's address"),
    ],
)
def test_what_cannot_be_attached_is_refused(desk: Desk, change: dict[str, str], words: str) -> None:
    start = {"entity_type": "trace", "entity_id": new_id(), "file_name": "a", "path": BASE}
    assert desk.refusal("POST", "attachment/upload-start", start | change) == f"400 {words}"


def test_what_is_not_attached_is_not_found(desk: Desk) -> None:
    asked = {"entity_type": "trace", "entity_id": new_id(), "file_name": "a"}
    assert desk.refusal("GET", "attachment/download", **asked) == "404 attachment not found: a"
