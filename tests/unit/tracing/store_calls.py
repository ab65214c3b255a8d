"""Asks a store as an Opik client does, and makes rows for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llm_twin.tracing.store.merge import new_id
from llm_twin.tracing.store.routing import Request, Response
from llm_twin.tracing.store.store import Store

PROJECT = "twin"
START = "2026-11-23T10:00:00.000000Z"
EARLY, LATE = "2026-11-23T10:00:01Z", "2026-11-23T10:00:02Z"
Row = dict[str, Any]


class Caller:
    """One store and what it answers."""

    def __init__(self, home: Path) -> None:
        self.store = Store(home)

    def ask(self, method: str, path: str, body: object = None, /, **query: object) -> Response:
        """Send a request; the body as JSON."""
        texts = {name: str(value) for name, value in query.items() if value is not None}
        sent = b"" if body is None else json.dumps(body).encode()
        return self.store.handle(Request(method, f"v1/private/{path}", texts, {}, sent))

    def do(self, method: str, path: str, body: object = None) -> Any:
        """Send what has to succeed; return its JSON, if it has some."""
        answer = self.ask(method, path, body)
        assert answer.status < 300, answer.body
        return parsed(answer)

    def get(self, path: str, /, **query: object) -> Any:
        """Read what has to be there."""
        answer = self.ask("GET", path, **query)
        assert answer.status == 200, answer.body
        return parsed(answer)

    def refusal(self, method: str, path: str, body: object = None, /, **query: object) -> str:
        """Send what has to be refused; return the status and the message."""
        answer = self.ask(method, path, body, **query)
        assert 400 <= answer.status < 600, answer
        return f"{answer.status} {parsed(answer)['message']}"

    def traces(self, *rows: Row) -> None:
        """Store versions of traces in one batch."""
        self.do("POST", "traces/batch", {"traces": list(rows)})

    def spans(self, *rows: Row) -> None:
        """Store versions of spans in one batch."""
        self.do("POST", "spans/batch", {"spans": list(rows)})

    def search(self, kind: str, *filters: Row, **asks: object) -> list[Row]:
        """Rows that fit, the newest first."""
        body = {"project_name": PROJECT, "filters": list(filters), **asks}
        answer = self.ask("POST", f"{kind}/search", body)
        assert answer.status == 200, answer.body
        assert not isinstance(answer.body, bytes)
        return [json.loads(line) for line in answer.body]


def parsed(answer: Response) -> Any:
    """The JSON of an answer; None when it has none."""
    body = answer.body if isinstance(answer.body, bytes) else b"".join(answer.body)
    return json.loads(body) if body else None


def row(**fields: object) -> Row:
    """A trace, or a span when it has a ``trace_id``."""
    return {
        "id": new_id(),
        "project_name": PROJECT,
        "name": "answer",
        "start_time": START,
        **fields,
    }


def condition(field: str, operator: str, value: object = "", key: str = "") -> Row:
    """A filter as the SDK sends it."""
    return {"field": field, "operator": operator, "value": value, "key": key}
