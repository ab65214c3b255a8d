"""Answers in a real store, written by the requests that Opik's SDK sends."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from llm_twin.tracing.store.merge import new_id, stamp_of
from llm_twin.tracing.store.routing import Request
from llm_twin.tracing.store.store import Store

PROJECT = "llm-twin"
PASSAGE = (
    "A vector database stores embeddings and finds the nearest ones by cosine similarity. "
    "Qdrant keeps its payload beside each vector."
)
QUOTE = "A vector database stores embeddings and finds the nearest ones by cosine similarity."


class Traced:
    """Writes answers into a store as the twin's tracing does."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def send(self, method: str, path: str, body: dict[str, Any]) -> None:
        request = Request(method, f"v1/private/{path}", body=json.dumps(body).encode())
        assert self.store.handle(request).status < 300

    def answer(
        self,
        text: str = f"{QUOTE} [1]",
        *,
        ago: float = 60.0,
        seconds: float = 1.0,
        ended: bool = True,
        project: str = PROJECT,
        cost: float | None = None,
        **more: Any,
    ) -> str:
        """Write a trace with the spans retrieve and generate; return its id."""
        began = datetime.now(UTC) - timedelta(seconds=ago)
        times: dict[str, Any] = {"start_time": stamp_of(began), "last_updated_at": stamp_of(began)}
        if ended:
            times["end_time"] = stamp_of(began + timedelta(seconds=seconds))
        trace = new_id()
        citations = [{"title": "Databases", "heading": "", "link": "", "quote": QUOTE}]
        body = {
            "id": trace,
            "project_name": project,
            "name": "answer",
            "input": {"question": "What does a vector database do with embeddings?", "k": 5},
            "output": {"text": text, "citations": citations, "abstained": False},
            "source": "sdk",
            **times,
            **more,
        }
        self.send("POST", "traces/batch", {"traces": [body]})
        self.span(trace, "retrieve", {"chunks": [{"id": "c1", "score": 0.9, "text": PASSAGE}]})
        self.span(trace, "generate", {"text": text}, total_estimated_cost=cost, **times)
        return trace

    def span(self, trace: str, name: str, output: dict[str, Any], **more: Any) -> None:
        """Write one span."""
        span = {
            "id": new_id(),
            "trace_id": trace,
            "project_name": PROJECT,
            "name": name,
            "output": output,
            "start_time": stamp_of(datetime.now(UTC)),
            **{key: value for key, value in more.items() if value is not None},
        }
        self.send("POST", "spans/batch", {"spans": [span]})

    def scores(self, trace: str) -> dict[str, dict[str, Any]]:
        """The trace's feedback scores by name, as Opik's readers see them."""
        answer = self.store.handle(Request("GET", f"v1/private/traces/{trace}"))
        assert isinstance(answer.body, bytes)
        found = json.loads(answer.body).get("feedback_scores") or []
        return {score["name"]: score for score in found}

    def values(self, trace: str) -> dict[str, float]:
        """The scores' values alone."""
        return {name: score["value"] for name, score in self.scores(trace).items()}
