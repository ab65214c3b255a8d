"""The unmodified SDK, all of whose messages about traces go through the journal, redacted."""

from __future__ import annotations

import asyncio
import base64
import datetime
import enum
import json
import logging
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from reading_back import CARD, EMAIL, KEY, leaks, rows, run

from llm_twin.settings import Settings
from llm_twin.tracing import client
from llm_twin.tracing.client import Tracing
from llm_twin.tracing.store.routing import Request


@pytest.fixture
def tracing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracing]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("TWIN_COMMIT", "c0ffee")
    tracing = client.start(Settings(home=tmp_path / "home"), metadata={"host": "here"})
    yield tracing
    tracing.stop()


def test_the_user_interface_is_opiks_own(tracing: Tracing) -> None:
    import opik

    @opik.track(tags=["mine"])
    def ask(question: str) -> str:
        return question[::-1]

    assert ask("abc") == "cba"
    assert opik.flush_tracker() is None
    (trace,) = rows(tracing.store, "traces")
    assert (trace["input"], trace["output"]) == ({"question": "abc"}, {"output": "cba"})
    assert trace["metadata"] == {"commit": "c0ffee", "host": "here"}
    assert trace["tags"] == ["mine"]


def test_a_record_is_written_down_before_the_call_returns(tracing: Tracing) -> None:
    import opik

    taken: list[bytes] = []
    append = tracing.journal.append
    tracing.journal.append = lambda kind, item: (taken.append(item), append(kind, item))[1]

    @opik.track
    def ask() -> int:
        return len(taken)

    assert ask() == 0
    assert [json.loads(item)["name"] for item in taken] == ["ask", "ask"]


def test_coroutines_and_generators_are_traced_when_they_end(tracing: Tracing) -> None:
    import opik

    @opik.track
    async def wait(number: int) -> int:
        await asyncio.sleep(0)
        return number

    @opik.track
    def words() -> Iterator[str]:
        yield from ("a", "b")

    @opik.track
    async def letters() -> AsyncIterator[str]:
        for letter in ("x", "y"):
            yield letter

    async def all_of_it() -> list[Any]:
        await asyncio.gather(*(wait(number) for number in range(5)))
        return [letter async for letter in letters()]

    assert list(words()) == ["a", "b"]
    assert asyncio.run(all_of_it()) == ["x", "y"]
    assert tracing.flush(10)
    found = [(row["name"], str(row["output"]["output"])) for row in rows(tracing.store, "traces")]
    assert sorted(found) == [
        ("letters", "xy"),
        *[("wait", str(number)) for number in range(5)],
        ("words", "ab"),
    ]


def test_the_low_level_client_updates_and_scores(tracing: Tracing) -> None:
    import opik

    direct = opik.Opik()
    trace = direct.trace(name="direct", input={"q": EMAIL}, thread_id="t1")
    span = trace.span(name="step", type="llm")
    span.end(output={"n": 1})
    trace.update(metadata={"note": CARD}, tags=[EMAIL])
    trace.end(output={"a": 2})
    direct.log_traces_feedback_scores([{"id": trace.id, "name": "good", "value": 1, "reason": KEY}])
    direct.log_spans_feedback_scores([{"id": span.id, "name": "fine", "value": 0.5}])
    direct.get_threads_client().log_threads_feedback_scores(
        [{"id": "t1", "name": "calm", "value": 0.7}], project_name="llm-twin"
    )
    assert direct.flush(10)

    (found,) = rows(tracing.store, "traces")
    assert found["input"] == {"q": "[EMAIL]"}
    assert found["output"] == {"a": 2}
    assert found["metadata"]["note"] == "[CARD]"
    assert found["tags"] == ["[EMAIL]"]
    (score,) = found["feedback_scores"]
    assert (score["name"], score["value"], score["reason"]) == ("good", 1.0, "[KEY]")
    (step,) = rows(tracing.store, "spans")
    assert step["output"] == {"n": 1}
    assert step["feedback_scores"][0]["value"] == 0.5
    (thread,) = rows(tracing.store, "traces/threads")
    assert thread["feedback_scores"][0]["name"] == "calm"


class Colour(enum.Enum):
    RED = "red"


class Odd:
    def __repr__(self) -> str:
        return f"odd {EMAIL}"


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "value",
    [
        2**70, Broken(), {Broken(): Broken()}, Odd(), {(1, 2): EMAIL}, {Odd(): 1}, {1: "one"},
        "\ud800 half", b"\xff\xfe", {1, 2},
        float("nan"), Colour.RED, uuid.uuid4(), datetime.datetime.now(datetime.UTC), Path("p"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_whatever_is_traced_arrives(tracing: Tracing, value: object, tmp_path: Path) -> None:
    import opik

    @opik.track
    def keep(value: object) -> object:
        return [value]

    keep(value)
    assert tracing.flush(10)
    (trace,) = rows(tracing.store, "traces")
    assert "output" in trace["output"]
    assert leaks(tmp_path) == []


def test_an_anonymizer_of_the_users_is_heard(tracing: Tracing) -> None:
    from opik import hooks
    from opik.anonymizer.factory import create_anonymizer

    hooks.add_anonymizer(create_anonymizer([("zeus", "***")]))
    try:
        client_of = __import__("opik").Opik()
        client_of.trace(name="x", input={"q": "project zeus"})
        assert client_of.flush(10)
    finally:
        hooks.clear_anonymizers()

    assert rows(tracing.store, "traces")[0]["input"] == {"q": "project ***"}


def test_traces_are_recorded_locally_as_well(tracing: Tracing) -> None:
    import opik

    @opik.track
    def ask() -> str:
        return "yes"

    with opik.record_traces_locally() as storage:
        ask()
        (tree,) = storage.trace_trees

    assert (tree.name, tree.output) == ("ask", {"output": "yes"})


def test_an_experiments_items_arrive(tracing: Tracing) -> None:
    import opik

    direct = opik.Opik()
    dataset = direct.get_or_create_dataset("questions")
    dataset.insert([{"q": "1+1"}])
    trace = direct.trace(name="task")
    trace.end()
    experiment = direct.create_experiment("questions", name="first")
    from opik.api_objects.experiment.experiment_item import ExperimentItemReferences

    item = dataset.get_items()[0]["id"]
    experiment.insert([ExperimentItemReferences(dataset_item_id=item, trace_id=trace.id)])
    assert direct.flush(10)

    (found,) = experiment.get_items()
    assert (found.dataset_item_id, found.trace_id) == (item, trace.id)


def test_embedded_attachments_are_found_by_the_sdk(tracing: Tracing, tmp_path: Path) -> None:
    import opik

    picture = b"\x89PNG\r\n\x1a\n" + b"\x00" * 300_000
    encoded = "data:image/png;base64," + base64.b64encode(picture).decode()

    @opik.track
    def look(image: str, by: str) -> bool:
        return True

    look(encoded, EMAIL)
    direct = opik.Opik()
    assert tracing.flush(20)

    (found,) = rows(tracing.store, "traces", truncate="true")
    assert found["input"]["by"] == "[EMAIL]"
    assert len(json.dumps(found)) < 10_000
    (attachment,) = direct.get_attachment_client().get_attachment_list(
        project_name="llm-twin", entity_id=found["id"], entity_type="trace"
    )
    assert attachment.file_size == len(picture)


PLANTS = f"""
import logging, sys
logging.basicConfig(level=logging.INFO)
from llm_twin.settings import Settings
from llm_twin.tracing import client
EMAIL, CARD, KEY = {EMAIL!r}, {CARD!r}, {KEY!r}
(home / "tmp").mkdir()
tracing = client.start(Settings(home=home))
import opik
from opik import opik_context
@opik.track(tags=[f"by {{EMAIL}}"])
def fail(question, secrets):
    opik_context.update_current_trace(
        thread_id=EMAIL, metadata={{"deep": [{{"card": CARD, CARD: 1}}]}},
        feedback_scores=[{{"name": EMAIL, "value": 0.1, "reason": f"said {{KEY}}"}}],
    )
    opik_context.update_current_span(
        metadata={{"number": int(CARD.replace(" ", ""))}},
        attachments=[opik.Attachment(data=f"mail {{EMAIL}}".encode(), file_name=f"{{EMAIL}}.txt",
                                     content_type="text/plain")],
    )
    raise ValueError(f"no {{KEY}} for {{EMAIL}} with {{CARD}}")
try:
    fail(f"I am {{EMAIL}}", [KEY])
except ValueError:
    pass
trace = opik.Opik().trace(name=EMAIL, input={{"large": "x" * 300_000 + CARD}})
trace.update(output={{"key": KEY}}, tags=[CARD])
trace.end()
tracing.score(trace.id, "helpful", 0, f"wrong, says {{EMAIL}}")
"""


@pytest.mark.parametrize("end", ["tracing.flush(20); tracing.stop()", "os.kill(os.getpid(), 9)"])
def test_what_was_planted_is_nowhere(tmp_path: Path, end: str) -> None:
    """In no row, file, file name, temporary file or log: ended well, or killed on the way."""
    done = run(f"import os\n{PLANTS}\n{end}\n", tmp_path)

    assert leaks(tmp_path) == []
    assert not any(text in done.stdout + done.stderr for text in (EMAIL, CARD, KEY)), done.stderr
    assert (
        any((tmp_path / "traces" / "journal").iterdir())
        or (tmp_path / "traces" / "traces.db").exists()
    )


def test_a_full_disk_is_told_and_the_sdk_takes_over(
    tracing: Tracing, caplog: pytest.LogCaptureFixture
) -> None:
    import opik

    def full(kind: str, item: bytes) -> None:
        raise OSError(28, "No space left on device")

    tracing.journal.append = full
    with caplog.at_level(logging.ERROR):
        direct = opik.Opik()
        direct.trace(name="x", input={"by": EMAIL})
        assert direct.flush(20)

    assert "cannot be written down" in caplog.text
    assert rows(tracing.store, "traces")[0]["input"] == {"by": "[EMAIL]"}


def test_the_seam_in_the_sdk_is_where_it_is_expected() -> None:
    import opik
    from opik.message_processing import messages
    from opik.message_processing.streamer import Streamer

    assert opik.__version__ == "2.2.122"
    assert callable(Streamer.put)
    assert callable(Streamer.flush)
    known = {kind.__name__ for kind in messages.BaseMessage.__subclasses__()}
    assert {"CreateTraceMessage", "CreateSpanMessage", "UpdateTraceMessage"} <= known


def test_reading_goes_to_the_store(tracing: Tracing) -> None:
    import opik

    direct = opik.Opik()
    direct.trace(name="found").end()
    direct.trace(name="other").end()
    assert direct.flush(10)

    hits = direct.search_traces(filter_string='name = "found"')
    assert [hit.name for hit in hits] == ["found"]
    answer = tracing.store.handle(Request("GET", "is-alive/ping"))
    assert answer.status == 200
