"""``@traced``: next to nothing while off, Opik's own spans while on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reading_back import rows, run

from llm_twin.settings import Settings
from llm_twin.tracing import client, track
from llm_twin.tracing.client import Tracing


@pytest.fixture
def tracing(tmp_path: Path) -> Iterator[Tracing]:
    tracing = client.start(Settings(home=tmp_path))
    yield tracing
    tracing.stop()


@track.traced(
    "outer",
    before=lambda question, thread="": {
        "input": {"question": question},
        "thread_id": thread,
        "metadata": {"model_version": "v1"},
    },
    after=lambda result: {"output": {"text": result}},
)
def outer(question: str, thread: str = "") -> str:
    return inner(question).upper()


@track.traced(
    "inner",
    "llm",
    after=lambda result: {
        "output": {"text": result},
        "model": "small",
        "provider": "local",
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        "total_cost": 0.25,
        "metadata": {"ttft": 12.5},
    },
)
def inner(question: str) -> str:
    if question == "fail":
        raise ValueError("it broke")
    return f"echo {question}"


def test_nothing_is_imported_or_done_while_off(tmp_path: Path) -> None:
    done = run(
        "import sys\n"
        "from llm_twin.tracing import track\n"
        "@track.traced('f', before=lambda x: 1 / 0)\n"
        "def f(x): return x + 1\n"
        "track.annotate(output=1); track.annotate_trace(thread_id='t')\n"
        "print(f(1), repr(track.trace_id()), 'opik' in sys.modules, f.__name__)\n",
        tmp_path,
    )

    assert done.stdout == "2 '' False f\n", done.stderr


def test_the_answer_path_imports_no_opik(tmp_path: Path) -> None:
    done = run(
        "import sys\nimport llm_twin.serving.answer, llm_twin.serving.production\n"
        "print('opik' in sys.modules, 'httpx' in sys.modules)\n",
        tmp_path,
    )

    assert done.stdout == "False False\n", done.stderr


def test_a_call_is_a_trace_with_its_spans(tracing: Tracing) -> None:
    assert outer("hello", thread="talk-1") == "ECHO HELLO"
    assert tracing.flush(10)

    (trace,) = rows(tracing.store, "traces")
    assert (trace["name"], trace["thread_id"]) == ("outer", "talk-1")
    assert trace["input"] == {"question": "hello"}
    assert trace["output"] == {"text": "ECHO HELLO"}
    assert trace["metadata"]["model_version"] == "v1"
    parent, child = rows(tracing.store, "spans")
    assert (parent["name"], parent.get("parent_span_id")) == ("outer", None)
    assert (child["name"], child["type"]) == ("inner", "llm")
    assert child["parent_span_id"] == parent["id"]
    assert (child["model"], child["provider"]) == ("small", "local")
    assert child["usage"]["total_tokens"] == 7
    assert child["total_estimated_cost"] == 0.25
    assert child["ttft"] == 12.5


def test_an_error_passes_and_is_traced(tracing: Tracing) -> None:
    with pytest.raises(ValueError, match="it broke"):
        outer("fail")
    assert tracing.flush(10)

    (trace,) = rows(tracing.store, "traces")
    assert trace["error_info"]["exception_type"] == "ValueError"
    assert [span["error_info"]["message"] for span in rows(tracing.store, "spans")] == [
        "it broke",
        "it broke",
    ]


def test_the_id_of_the_last_trace_is_known_where_it_was_made(tracing: Tracing) -> None:
    seen: list[str] = []

    @track.traced("root")
    def root() -> None:
        seen.append(track.trace_id())
        track.annotate_trace(tags=["a"])

    thread = threading.Thread(target=lambda: seen.append(track.trace_id()))
    root()
    thread.start()
    thread.join(10)

    assert seen == [track.trace_id(), ""]
    assert tracing.flush(10)
    (trace,) = rows(tracing.store, "traces")
    assert (trace["id"], trace["tags"]) == (seen[0], ["a"])


def test_threads_trace_apart(tracing: Tracing) -> None:
    threads = [threading.Thread(target=outer, args=(str(number),)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert tracing.flush(10)
    traces: dict[Any, Any] = {row["id"]: row for row in rows(tracing.store, "traces")}
    spans = rows(tracing.store, "spans")
    assert sorted(int(row["input"]["question"]) for row in traces.values()) == list(range(12))
    for span in spans:
        assert span["output"]["text"].lower() == traces[span["trace_id"]]["output"]["text"].lower()
    assert len(spans) == 24


def test_a_function_is_traced_no_more_once_tracing_has_ended(tmp_path: Path) -> None:
    tracing = client.start(Settings(home=tmp_path))
    assert tracing.stop()

    assert outer("later") == "ECHO LATER"
    assert rows(tracing.store, "traces") == []
