import json
import sqlite3
import subprocess
import sys

import pytest
from remotes import RemoteStore, ask, attach, rows, score, serving, span, trace

from llm_twin.errors import BusyError, ConfigError
from llm_twin.model import feedback
from llm_twin.model.feedback import Correction
from llm_twin.settings import Settings
from llm_twin.tracing import forget, outbox, upkeep
from llm_twin.tracing.redaction import Redactor
from llm_twin.tracing.store.merge import new_id
from llm_twin.tracing.store.store import Store

NAME = "Ödön von Horváth"


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path)


@pytest.fixture
def store(settings):
    opened = Store(settings.traces, settings)
    yield opened
    opened.close()


def forgotten(store, settings, **what):
    found = forget.find(store, settings, **what)
    forget.forget(store, settings, found)
    return found


def nowhere(settings, text):
    """No file of the state folder holds a text in any of its spellings."""
    spellings = {text, text.lower(), json.dumps(text)[1:-1]}
    for path in settings.home.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert not any(one.encode() in data for one in spellings), path
    return True


def tag(store, _):
    thread = rows(store, "SELECT id FROM thread")[0][0]
    ask(store, "PATCH", f"traces/threads/{thread}", {"tags": [NAME]})


PLACES = {
    "a trace": lambda s: trace(s, input={"q": f"Who is {NAME}?"}),
    "an error": lambda s: trace(s, error_info={"exception_type": "E", "traceback": NAME}),
    "a span": lambda s: span(s, trace(s), output={"text": NAME}),
    "a span alone": lambda s: span(s, new_id(), name=NAME),
    "a score": lambda s: score(s, "trace", trace(s), reason=f"says {NAME}"),
    "a span's score": lambda s: score(s, "span", span(s, trace(s)), name=NAME),
    "a score without a trace": lambda s: score(s, "trace", new_id(), reason=NAME),
    "a comment": lambda s: ask(s, "POST", f"traces/{trace(s)}/comments", {"text": NAME}),
    "a file": lambda s: attach(s, "trace", trace(s), data=f"letter to {NAME}".encode()),
    "a file's name": lambda s: attach(s, "span", span(s, trace(s)), name=f"{NAME}.txt"),
    "a tag": lambda s: trace(s, tags=[NAME]),
    "a thread's tag": lambda s: tag(s, trace(s, thread_id="t")),
    "a guardrail": lambda s: ask(
        s, "POST", "guardrails", {"guardrails": [{"entity_id": trace(s), "name": NAME}]}
    ),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_text_is_gone_from_every_file_wherever_it_was(store, settings, place):
    other = trace(store, input="something else")
    PLACES[place](store)
    found = forgotten(store, settings, contains=NAME.upper())
    assert sum(found.counts().values()) >= 1
    assert nowhere(settings, NAME)
    assert rows(store, "SELECT id FROM trace") == [(other,)]
    assert not store.blobs.exists() or list(store.blobs.iterdir()) == []


def test_dataset_items_that_mention_it_or_were_made_of_it_go_in_all_versions(store, settings):
    identity = trace(store, input=NAME)
    kept = {"id": new_id(), "source": "sdk", "data": {"q": "else"}}
    made = {"id": new_id(), "source": "trace", "trace_id": identity, "data": {"q": "made of it"}}
    said = {"id": new_id(), "source": "sdk", "data": {"q": NAME}}
    for items in ([kept, made, said], [said | {"data": {"q": "changed"}}]):
        body = {"dataset_name": "d", "items": items, "batch_group_id": new_id()}
        ask(store, "PUT", "datasets/items", body)
    found = forgotten(store, settings, contains=NAME)
    assert found.counts() == {
        "trace": 1, "thread": 0, "span": 0, "dataset item": 2, "refused record": 0,
            "correction": 0,
    }  # fmt: skip
    assert rows(store, "SELECT id FROM dataset_item") == [(kept["id"],)]
    assert nowhere(settings, NAME)


def test_a_conversation_goes_whole_also_under_its_pseudonym(store, settings):
    private = "anna@example.com"
    for _ in range(2):
        span(store, trace(store, thread_id=private, input="hello"))
    other = trace(store, thread_id="other")
    stored = rows(store, "SELECT DISTINCT thread_id FROM trace WHERE id != ?", other)[0][0]
    assert stored == Redactor.of(settings).identifier(private) != private
    talk = {"project_name": "twin", "thread_id": private, "name": "calm", "value": 1}
    ask(store, "PUT", "traces/threads/feedback-scores", {"scores": [talk]})
    found = forgotten(store, settings, thread=private)
    assert (len(found.ids["trace"]), len(found.ids["thread"])) == (2, 1)
    assert rows(store, "SELECT id FROM trace") == [(other,)]
    assert rows(store, "SELECT name FROM thread") == [("other",)]
    assert rows(store, "SELECT * FROM score") == []
    assert nowhere(settings, stored)


def test_what_the_journal_left_and_what_was_refused_goes_too(store, settings):
    journal = settings.traces / "journal"
    journal.mkdir()
    line = {"id": new_id(), "name": NAME, "project_name": "twin", "start_time": "2026-01-01"}
    (journal / "1-1.journal").write_text(f"traces\t{json.dumps(line)}\n")
    refused = journal / "refused.ndjson"
    refused.write_text(f'{{"body":"{NAME}"}}\n{{"body":"else"}}\n')
    found = forgotten(store, settings, contains=NAME)
    assert found.counts()["trace"] == 1
    assert found.counts()["refused record"] == 1
    assert nowhere(settings, NAME)
    assert refused.read_text().strip() == '{"body":"else"}'


def test_what_is_not_of_a_conversation_stays_and_is_told(store, settings):
    ask(store, "POST", "prompts", {"name": "p", "template": f"You are {NAME}"})
    found = forgotten(store, settings, contains=NAME)
    assert (found.stays, sum(found.counts().values())) == ({"prompt version": 1}, 0)


def test_the_remote_is_told_and_nothing_parked_or_queued_mentions_it(store, settings, tmp_path):
    there = RemoteStore(tmp_path / "there")
    with serving(there) as url:
        aimed = Settings(home=settings.home, opik_url=url)
        upkeep.forward(store, aimed)
        identity = trace(store, input=NAME)
        upkeep.forward(store, aimed)
        score(store, "trace", identity, name=f"like {NAME}")
        for one in outbox.head(store, 9):
            outbox.park(store, one, 400, f"no such score: like {NAME}")
        attach(store, "trace", identity, name=f"{NAME}.txt")
        outbox.tell(store, f"cannot take {NAME}")
        forgotten(store, settings, contains=NAME)
        assert rows(store, "SELECT kind, entity FROM outbox") == [("trace", identity)]
        assert rows(store, "SELECT * FROM parked") == []
        for path in settings.traces.glob("traces.db*"):
            assert NAME.encode() not in path.read_bytes()
        assert rows(there, "SELECT id FROM trace") == [(identity,)]
        upkeep.forward(store, aimed)
        assert rows(there, "SELECT id FROM trace") == []
    there.close()


def test_what_was_curated_from_it_is_forgotten_too(store, settings):
    told = trace(store, thread_id="t")
    rows_kept = [
        Correction(told, "Who?", "A poet."),
        Correction(new_id(), f"Who is {NAME}?", "A poet."),
        Correction(new_id(), "Who else?", "A painter."),
    ]
    feedback.keep(settings.home, rows_kept, {})
    assert forgotten(store, settings, thread="t").counts()["correction"] == 1
    assert forgotten(store, settings, contains=NAME).counts()["correction"] == 1
    assert feedback.read(feedback.current(settings.home)) == rows_kept[2:]
    assert nowhere(settings, NAME)
    assert nowhere(settings, told)


@pytest.mark.parametrize("what", [{}, {"thread": "t", "contains": "c"}])
def test_one_thing_to_forget_has_to_be_named(store, settings, what):
    with pytest.raises(ConfigError, match="Give --thread ID or --contains TEXT"):
        forget.find(store, settings, **what)


def test_a_reader_that_does_not_let_go_is_told_of(store, settings, monkeypatch):
    monkeypatch.setattr(forget, "BUSY_SECONDS", 0.1)
    trace(store, input=NAME)
    reader = (
        "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('BEGIN'); db.execute('SELECT * FROM trace').fetchall()\n"
        "print('reads', flush=True)\nsys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", reader, str(store.database.path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert other.stdout.readline() == "reads\n"
        with pytest.raises(BusyError, match="it is deleted, but its bytes are in the file yet"):
            forgotten(store, settings, contains=NAME)
    finally:
        other.kill()
        other.communicate(timeout=10)
    forgotten(store, settings, contains=NAME)
    assert nowhere(settings, NAME)
    assert sqlite3.connect(store.database.path).execute("PRAGMA integrity_check").fetchone() == (
        "ok",
    )
