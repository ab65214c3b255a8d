"""Sampling: the share, what is always kept, and that what goes is counted."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from reading_back import rows

from llm_twin.settings import Settings
from llm_twin.tracing.sampling import chosen, sweep
from llm_twin.tracing.store.merge import new_id
from llm_twin.tracing.store.routing import Request
from llm_twin.tracing.store.store import Store

HOUR = 3600.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, trace_rate=0.0, trace_grace=HOUR)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    store = Store(settings.traces)
    sweep(store, settings, time.time() - HOUR)
    yield store
    store.close()


def _send(store: Store, method: str, path: str, body: dict[str, Any]) -> None:
    answer = store.handle(Request(method, f"v1/private/{path}", body=json.dumps(body).encode()))
    assert answer.status < 300, answer.body


def _trace(store: Store, seconds: float | None = 1.0, **fields: Any) -> str:
    start = datetime.now(UTC)
    row = {"id": new_id(), "project_name": "llm-twin", "start_time": start.isoformat(), **fields}
    if seconds is not None:
        row["end_time"] = (start + timedelta(seconds=seconds)).isoformat()
    _send(store, "POST", "traces/batch", {"traces": [row]})
    return str(row["id"])


def _span(store: Store, trace: str, **fields: Any) -> str:
    row = {"id": new_id(), "trace_id": trace, "project_name": "llm-twin", **fields}
    _send(store, "POST", "spans/batch", {"spans": [row]})
    return str(row["id"])


def _score(store: Store, path: str, value: float, **named: str) -> None:
    score = {"name": "helpful", "value": value, "source": "sdk", "project_name": "llm-twin"}
    _send(store, "PUT", f"{path}/feedback-scores", {"scores": [{**score, **named}]})


def _left(store: Store) -> list[str]:
    return [row["id"] for row in rows(store, "traces")]


def _dropped(store: Store) -> int:
    with store.database.read() as db:
        query = "SELECT number FROM tally WHERE name = 'dropped' AND what = 'sampling'"
        return int((db.execute(query).fetchone() or [0])[0])


def test_the_share_is_kept_and_every_process_chooses_the_same() -> None:
    ids = [f"trace-{number}" for number in range(10_000)]
    tenth = {one for one in ids if chosen(one, 0.1)}

    assert 900 < len(tenth) < 1100
    assert tenth < {one for one in ids if chosen(one, 0.5)}
    assert [chosen(ids[0], rate) for rate in (0, 1)] == [False, True]


def test_a_plain_trace_goes_after_its_grace_with_its_spans_and_is_counted(
    store: Store, settings: Settings
) -> None:
    trace = _trace(store)
    _span(store, trace)

    assert sweep(store, settings) == 0
    assert _left(store) == [trace]
    assert sweep(store, settings, time.time() + HOUR + 5) == 1
    assert (_left(store), rows(store, "spans"), _dropped(store)) == ([], [], 1)


def test_what_tells_something_is_kept(store: Store, settings: Settings) -> None:
    error = {"exception_type": "E", "traceback": "t"}
    failed, slow, endless = _trace(store, error_info=error), _trace(store, 11), _trace(store, None)
    experiment = _trace(store, source="experiment")
    broken, disliked, doubtful, threaded = (_trace(store, thread_id=f"t{n}") for n in range(4))
    _span(store, broken, error_info=error)
    _score(store, "traces", 0.2, id=disliked)
    _score(store, "spans", 0.2, id=_span(store, doubtful))
    _score(store, "traces/threads", 0.2, thread_id="t3")
    liked = _trace(store)
    _score(store, "traces", 0.9, id=liked)

    assert sweep(store, settings, time.time() + HOUR + 5) == 1
    assert set(_left(store)) == {
        failed, slow, endless, experiment, broken, disliked, doubtful, threaded,
    }  # fmt: skip


def test_many_traces_are_swept_in_steps_and_the_share_stays(
    store: Store, settings: Settings
) -> None:
    half = Settings(home=settings.home, trace_rate=0.5)
    start = datetime.now(UTC).isoformat()
    made = [{"id": new_id(), "project_name": "llm-twin", "start_time": start} for _ in range(1200)]
    for row in made:
        row["end_time"] = start
    for step in (made[:1000], made[1000:]):
        _send(store, "POST", "traces/batch", {"traces": step})
    expected = {str(row["id"]) for row in made if chosen(str(row["id"]), 0.5)}

    assert sweep(store, half, time.time() + HOUR + 5) == 1200 - len(expected)
    assert set(_left(store)) == expected
    assert sweep(store, half, time.time() + HOUR + 6) == 0


def test_what_was_there_before_sampling_began_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = _trace(store)
    later = time.time() + HOUR + 5
    sweep(store, Settings(home=tmp_path, trace_rate=1.0), later)

    assert sweep(store, Settings(home=tmp_path, trace_rate=0.0), later + 1) == 0
    assert _left(store) == [first]
    store.close()
