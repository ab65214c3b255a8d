"""The part of Qdrant's REST interface that the index uses, over the client's own engine in memory.

It proves that requests and answers travel through the real client and a real socket. It does not
prove what only a Qdrant server does: its HNSW index, its payload indexes, its limits on the size of
a request, its clustering, its durability.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, TypeAdapter
from qdrant_client import QdrantClient, models


class Engine:
    """Answers one request after the other."""

    def __init__(self) -> None:
        self.client = QdrantClient(":memory:")
        self.requests: list[str] = []

    def answer(self, method: str, path: str, body: dict[str, Any]) -> Any:
        """The result of a request; LookupError where there is no such thing."""
        parts = path.strip("/").split("/")
        self.requests.append(f"{method} {'/'.join(parts[2:])}")
        if parts == ["aliases"]:
            return self.client.get_aliases()
        if parts == ["collections", "aliases"]:
            adapter = TypeAdapter(models.ChangeAliasesOperation)
            return self.client.update_collection_aliases(adapter.validate_python(body).actions)
        name, rest = parts[1], "/".join(parts[2:])
        found: Callable[[str, dict[str, Any]], Any] = getattr(self, NAMES[method, rest])
        return found(name, body)

    def exists(self, name: str, body: dict[str, Any]) -> Any:
        return {"exists": self.client.collection_exists(name)}

    def create(self, name: str, body: dict[str, Any]) -> Any:
        asked = models.CreateCollection.model_validate(body)
        return self.client.create_collection(
            name, vectors_config=asked.vectors, sparse_vectors_config=asked.sparse_vectors
        )

    def about(self, name: str, body: dict[str, Any]) -> Any:
        return self.client.get_collection(name)

    def index(self, name: str, body: dict[str, Any]) -> Any:
        return {"operation_id": 0, "status": "completed"}

    def upsert(self, name: str, body: dict[str, Any]) -> Any:
        points = models.PointsList.model_validate(body).points
        return self.client.upsert(name, points)

    def retrieve(self, name: str, body: dict[str, Any]) -> Any:
        return self.client.retrieve(name, body["ids"], with_payload=True)

    def scroll(self, name: str, body: dict[str, Any]) -> Any:
        asked = models.ScrollRequest.model_validate(body)
        points, following = self.client.scroll(
            name, scroll_filter=asked.filter, limit=asked.limit or 10, offset=asked.offset,
            with_payload=True, with_vectors=bool(asked.with_vector),
        )  # fmt: skip
        return {"points": _plain(points), "next_page_offset": following}

    def count(self, name: str, body: dict[str, Any]) -> Any:
        asked = models.CountRequest.model_validate(body)
        return self.client.count(name, count_filter=asked.filter, exact=True)

    def delete(self, name: str, body: dict[str, Any]) -> Any:
        return self.client.delete(name, TypeAdapter(models.PointsSelector).validate_python(body))

    def query(self, name: str, body: dict[str, Any]) -> Any:
        asked = models.QueryRequestBatch.model_validate(body)
        return self.client.query_batch_points(name, asked.searches)


NAMES = {
    ("GET", "exists"): "exists",
    ("PUT", ""): "create",
    ("GET", ""): "about",
    ("PUT", "index"): "index",
    ("PUT", "points"): "upsert",
    ("POST", "points"): "retrieve",
    ("POST", "points/scroll"): "scroll",
    ("POST", "points/count"): "count",
    ("POST", "points/delete"): "delete",
    ("POST", "points/query/batch"): "query",
}


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value


@contextmanager
def serving() -> Iterator[tuple[str, Engine]]:
    """A server on loopback; its address, and its engine to look into."""
    engine = Engine()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    result = engine.answer(
                        self.command, urlsplit(self.path).path, json.loads(body or b"{}")
                    )
                status, said = 200, {"result": _plain(result), "status": "ok", "time": 0.0}
            except (KeyError, ValueError) as error:
                status, said = 404, {"status": {"error": repr(error)}, "time": 0.0}
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            self.close_connection = True

        do_GET = do_PUT = do_POST = _answer

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", engine
        finally:
            server.shutdown()
            thread.join()
