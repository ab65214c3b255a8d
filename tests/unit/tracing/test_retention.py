from datetime import UTC, datetime, timedelta

from remotes import attach, rows, score, span, trace

from llm_twin.settings import Settings
from llm_twin.tracing import outbox, retention, upkeep
from llm_twin.tracing.status import status
from llm_twin.tracing.store.merge import stamp_of
from llm_twin.tracing.store.store import Store


def aged(store, identity, days):
    moment = stamp_of(datetime.now(UTC) - timedelta(days=days))
    with store.database.write() as db:
        db.execute("UPDATE trace SET created = ? WHERE id = ?", (moment, identity))


def test_without_a_limit_nothing_is_dropped(tmp_path):
    store = Store(tmp_path)
    aged(store, trace(store), 1000)
    assert upkeep.sweep(store, Settings(home=tmp_path)) == 0
    assert status(store).dropped == {}


def test_traces_that_are_too_old_go_with_all_that_is_theirs(tmp_path):
    store = Store(tmp_path)
    old, new = trace(store), trace(store)
    for identity in (old, new):
        score(store, "span", span(store, identity))
        attach(store, "trace", identity)
    aged(store, old, 8)
    assert retention.sweep(store, Settings(home=tmp_path, trace_days=7)) == 1
    for table in ("trace", "span", "score", "attachment"):
        assert rows(store, f"SELECT count(*) FROM {table}") == [(1,)], table
    assert len(list(store.blobs.iterdir())) == 1
    assert status(store).dropped == {"age": 1}
    assert status(store).stored["trace"] == 2


def test_old_spans_whose_trace_never_came_go_too(tmp_path):
    store = Store(tmp_path)
    span(store, "00000000-0000-7000-8000-000000000001", id="00000000-0000-7000-8000-000000000002")
    span(store, trace(store))
    assert retention.sweep(store, Settings(home=tmp_path, trace_days=7)) == 1
    assert rows(store, "SELECT count(*) FROM span") == [(1,)]


def test_beyond_the_size_the_oldest_go_until_it_fits(tmp_path, monkeypatch):
    monkeypatch.setattr(retention, "STEP", 2)
    store = Store(tmp_path)
    identities = [trace(store, input="x" * 300_000) for _ in range(8)]
    dropped = retention.sweep(store, Settings(home=tmp_path, trace_mb=1))
    assert 4 <= dropped < 8
    kept = [row[0] for row in rows(store, "SELECT id FROM trace ORDER BY id")]
    assert kept == identities[dropped:]
    assert retention.size_of(store) <= 1024 * 1024
    assert status(store).dropped == {"size": dropped}


def test_what_cannot_be_made_smaller_is_left(tmp_path):
    store = Store(tmp_path)
    with store.database.write() as db:
        db.execute("INSERT INTO attachment VALUES ('trace', 'x', 'n', 'm', 9999999, 'b')")
    assert retention.sweep(store, Settings(home=tmp_path, trace_mb=1)) == 0


def test_a_remote_keeps_its_copy_of_what_is_dropped(tmp_path):
    store = Store(tmp_path)
    outbox.aim(store, Settings(home=tmp_path, opik_url="http://127.0.0.1:9/api"))
    identity = trace(store)
    aged(store, identity, 8)
    retention.sweep(store, Settings(home=tmp_path, trace_days=7))
    assert rows(store, "SELECT * FROM outbox") == []
