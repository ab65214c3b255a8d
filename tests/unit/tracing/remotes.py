"""A second store behind real HTTP plays the remote; a test may let it fail as it likes."""

import json
import socket
import threading
import time
from contextlib import contextmanager

import uvicorn

from llm_twin.tracing.store.merge import new_id, now
from llm_twin.tracing.store.mounts import asgi
from llm_twin.tracing.store.routing import Request
from llm_twin.tracing.store.store import Store


class RemoteStore(Store):
    """Answers with what ``fault(request)`` returns, if anything."""

    def __init__(self, home):
        super().__init__(home)
        self.fault = lambda request: None
        self.asked = []

    def handle(self, request):
        self.asked.append((request.method, request.path))
        return self.fault(request) or super().handle(request)


@contextmanager
def serving(store, port=0, key=""):
    """Serve a store; yields its address."""
    listener = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(asgi(store, key), log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def ask(store, method, path, body=None, query=None):
    """A request as the SDK makes it; the answer's JSON, if it has any."""
    content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    answer = store.handle(Request(method, f"v1/private/{path}", query or {}, body=content))
    assert answer.status < 300, answer.body
    whole = answer.body if isinstance(answer.body, bytes) else b"".join(answer.body)
    return json.loads(whole) if whole.strip() and b"\n" not in whole else whole


def trace(store, **more):
    """Store a trace; returns its id."""
    row = {"id": new_id(), "name": "answer", "project_name": "twin", "start_time": now()}
    row |= {"last_updated_at": now(), **more}
    ask(store, "POST", "traces/batch", {"traces": [row]})
    return row["id"]


def span(store, trace_id, **more):
    """Store a span of a trace; returns its id."""
    row = {"id": new_id(), "trace_id": trace_id, "name": "retrieve", "project_name": "twin"}
    row |= {"type": "tool", "start_time": now(), "last_updated_at": now(), **more}
    ask(store, "POST", "spans/batch", {"spans": [row]})
    return row["id"]


def score(store, kind, entity, name="helpful", value=1, **more):
    """Score a trace or span."""
    row = {"id": entity, "project_name": "twin", "name": name, "value": value, "source": "sdk"}
    ask(store, "PUT", f"{kind}s/feedback-scores", {"scores": [row | more]})


def attach(store, kind, entity, name="notes.txt", data=b"attached"):
    """Attach a file."""
    query = {"entity_type": kind, "entity_id": entity, "file_name": name, "mime_type": "text/plain"}
    ask(store, "PUT", "attachment/upload", data, query)


def rows(store, sql, *values):
    """Rows of the database."""
    with store.database.read() as db:
        return db.execute(sql, values).fetchall()
