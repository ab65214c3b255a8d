from remotes import RemoteStore, ask, attach, rows, score, serving, span, trace

from llm_twin.settings import Settings
from llm_twin.tracing import outbox, status, upkeep
from llm_twin.tracing.store.routing import problem
from llm_twin.tracing.store.store import Store


def test_an_empty_store_has_stored_forwarded_and_dropped_nothing(tmp_path):
    found = status.status(Store(tmp_path))
    assert (found.stored, found.kept) == (
        {"trace": 0, "span": 0},
        {"trace": 0, "span": 0, "score": 0},
    )
    assert (found.remote, found.queued, found.parked, found.dropped) == ("", {}, {}, {})
    assert (found.journal_bytes, found.refused_records, found.queued_seconds) == (0, 0, 0)


def test_figures_say_what_became_of_everything(tmp_path):
    there = RemoteStore(tmp_path / "there")
    with serving(there) as url:
        settings = Settings(home=tmp_path / "here", opik_url=url)
        here = Store(settings.traces)
        gone = trace(here)
        kept = trace(here)
        span(here, kept)
        attach(here, "trace", kept)
        score(here, "trace", kept)
        ask(here, "POST", "traces/delete", {"ids": [gone]})
        upkeep.forward(here, settings)
        there.fault = lambda request: problem(400, "no") if "scores" in request.path else None
        score(here, "trace", kept, value=0.2)
        upkeep.forward(here, settings)
        trace(here)
    with here.database.write() as db:
        db.execute("UPDATE outbox SET since = since - 50")
        outbox.count(db, "dropped", "age", 3)
    outbox.tell(here, "it rains", "settings")
    journal = settings.traces / "journal"
    journal.mkdir()
    (journal / "1-2.journal").write_bytes(b"traces\t{}\n")
    (journal / "refused.ndjson").write_bytes(b'{"status":400}\n      \n{}\n')
    found = status.status(here)
    assert found.remote == f"{url}/"
    assert found.stored == {"trace": 3, "span": 1}
    assert found.kept == {"trace": 2, "span": 1, "score": 1, "attachment": 1}
    assert found.forwarded == {"trace": 1, "span": 1, "score": 1, "attachment": 1}
    assert (found.queued, found.parked) == ({"trace": 1}, {"score": 1})
    assert found.refusals[0]["status"] == 400
    assert found.dropped == {"age": 3}
    assert (found.journal_bytes, found.refused_records) == (10, 2)
    assert found.queued_seconds >= 50
    assert (found.error, found.halted) == ("it rains", True)
    lines = status.metrics(here).splitlines()
    for expected in (
        'llm_twin_traces_stored_total{kind="trace"} 3',
        'llm_twin_traces_kept{kind="trace"} 2',
        'llm_twin_traces_forwarded_total{kind="span"} 1',
        'llm_twin_traces_queued{kind="trace"} 1',
        'llm_twin_traces_parked{kind="score"} 1',
        'llm_twin_traces_dropped_total{reason="age"} 3',
        "llm_twin_traces_journal_bytes 10",
        "llm_twin_traces_refused_records 2",
        "llm_twin_traces_forwarding_failed 1",
        "# TYPE llm_twin_traces_stored_total counter",
    ):
        assert expected in lines, expected
    there.close()


def test_what_is_queued_is_one_row_for_an_entity_however_often_it_changes(tmp_path):
    here = Store(tmp_path)
    outbox.aim(here, Settings(home=tmp_path, opik_url="http://127.0.0.1:9/api"))
    identity = trace(here)
    for number in range(3):
        ask(here, "PATCH", f"traces/{identity}", {"project_name": "twin", "output": number})
    assert rows(here, "SELECT kind, entity FROM outbox") == [("trace", identity)]
    assert rows(here, "SELECT seq FROM outbox")[0][0] > 3
