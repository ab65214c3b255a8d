"""Traces as the service leaves them, with what readers thought of them."""

from llm_twin.tracing.store.merge import new_id, now
from llm_twin.tracing.store.routing import Request, dumps

PROJECT = "llm-twin"


def put(store, method, path, body):
    """Send a request that has to succeed."""
    answer = store.handle(Request(method, f"v1/private/{path}", body=dumps(body).encode()))
    assert answer.status < 300, answer.body


def told(question, answer="It is kept in the registry of runs.", **more):
    """A trace of an answer; ``correction``, ``abstained``, ``citations`` go where they belong."""
    metadata = {"model_version": "v1"}
    if "correction" in more:
        metadata["correction"] = more.pop("correction")
    output = {
        "text": answer,
        "citations": more.pop("citations", []),
        "abstained": more.pop("abstained", False),
    }
    return {
        "id": new_id(), "project_name": PROJECT, "name": "answer", "start_time": now(),
        "end_time": now(), "input": {"question": question, "k": 5}, "output": output,
        "metadata": metadata, **more,
    }  # fmt: skip


def seed(store, *traces):
    """Store traces; returns their ids."""
    for start in range(0, len(traces), 1000):
        put(store, "POST", "traces/batch", {"traces": list(traces[start : start + 1000])})
    return [trace["id"] for trace in traces]


def scored(store, trace_id, value, name="feedback", source="sdk"):
    """Score a trace."""
    score = {"id": trace_id, "project_name": PROJECT, "name": name, "value": value}
    body = {"scores": [score | {"source": source}]}
    put(store, "PUT", "traces/feedback-scores", body)
