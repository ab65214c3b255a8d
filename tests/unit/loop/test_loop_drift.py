"""Drift: false alarms stay as rare as they should, a planted change is found, and said."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime

import numpy as np
import pytest

from ci import drift as command
from llm_twin.alerting.store import Store as Alerts
from llm_twin.errors import ConfigError
from llm_twin.flow.automation.ledger import events_after
from llm_twin.flow.store import Store as Runs
from llm_twin.loop import asked, drift
from llm_twin.loop.drift import Decline, decline, declined, shift
from llm_twin.loop.watching import look
from llm_twin.model.bundles import Bundles
from llm_twin.settings import Settings
from llm_twin.tracing.store.merge import new_id
from llm_twin.tracing.store.routing import Request
from llm_twin.tracing.store.store import Store

DAY = 86400.0
TOPICS = np.random.default_rng(7).normal(size=(11, 48))
BREAD = ("sourdough", "rye", "yeast", "crust", "oven", "dough", "flour", "starter", "loaf", "salt")
SEA = ("ferry", "island", "harbour", "tide", "captain", "rope", "anchor", "gull", "sail", "storm")
PARTS = ("How do I keep the {} from the {}?", "Why does {} need {}?", "What of {} and {}?",
         "When is {} better than {}?", "Can one have {} without {}?")  # fmt: skip


def vectors(seed, count, new=0.0, thread=1):
    """Questions over ten topics, a share of them over an eleventh; some to a conversation."""
    draw = np.random.default_rng(seed)
    topics = np.repeat(draw.integers(0, 10, size=-(-count // thread)), thread)[:count]
    topics = np.where(draw.random(count) < new, 10, topics)
    found = TOPICS[topics] + 1.2 * draw.normal(size=(count, 48))
    rows = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
    return rows, [str(number // thread) for number in range(count)]


def compared(seed, new=0.0, thread=1, one_by_one=False):
    (before, threads), (now, others) = (
        vectors(seed, 120, thread=thread),
        vectors(seed + 10_000, 60, new, thread),
    )
    if one_by_one:
        threads, others = [str(n) for n in range(120)], [str(n) for n in range(60)]
    return shift(before, now, (threads, others), seed)


# The tests of two samples


@pytest.fixture
def quick(monkeypatch):
    """Fewer permutations, where a test is done hundreds of times."""
    monkeypatch.setattr(drift, "PERMUTATIONS", 199)


def test_questions_that_did_not_change_raise_no_more_alarms_than_the_level_says(quick):
    found = [compared(seed).p for seed in range(100)]
    assert sum(p <= 0.01 for p in found) <= 3
    # They are spread as chance spreads them, so the test is not merely silent.
    assert 30 <= sum(p <= 0.5 for p in found) <= 70


def test_what_one_person_asks_in_one_conversation_is_no_drift(quick):
    seeds = range(25)
    assert sum(compared(seed, thread=5).p <= 0.01 for seed in seeds) <= 1
    ignoring = sum(compared(seed, thread=5, one_by_one=True).p <= 0.01 for seed in seeds)
    assert ignoring > 10


def test_a_new_topic_is_found_and_its_questions_are_named(quick):
    found = [compared(seed, new=0.35) for seed in range(20)]
    assert sum(one.p <= 0.01 for one in found) >= 18
    assert np.mean([one.new for one in found]) > 0.2
    planted = np.random.default_rng(10_003)
    planted.integers(0, 10, size=60)
    is_new = planted.random(60) < 0.35
    assert all(is_new[one] for one in found[3].newest[:5])


def test_the_same_questions_again_are_no_drift_at_all():
    rows, threads = vectors(1, 40)
    same = shift(np.repeat(rows[:1], 40, axis=0), np.repeat(rows[:1], 40, axis=0), (threads,) * 2)
    assert (same.p, same.distance, same.new, same.newest) == (1.0, 0.0, 0.0, [])


def values(seed, count, mean, thread=1):
    draw = np.random.default_rng(seed)
    found = {}
    for number in range(count):
        found.setdefault(str(number // thread), []).append(float(draw.random() < mean))
    return found


def test_a_score_that_fell_is_found_and_one_that_did_not_is_not(quick):
    same = [decline(values(s, 200, 0.8), values(s + 999, 60, 0.8), s).p for s in range(100)]
    assert sum(p <= 0.01 for p in same) <= 3
    fell = [decline(values(s, 200, 0.8), values(s + 999, 60, 0.45), s).p for s in range(20)]
    assert sum(p <= 0.01 for p in fell) >= 18
    rose = decline(values(1, 200, 0.5), values(2, 60, 0.9))
    assert rose.p > 0.9


def test_several_scores_together_raise_no_more_alarms_than_one():
    def fallen(*ps):
        return declined({str(n): Decline(p, 0.9, 0.5, 60) for n, p in enumerate(ps)}, 0.01)

    assert fallen(0.004, 0.004, 0.004) == []
    assert fallen(0.0033, 0.005, 0.5) == ["0", "1"]
    assert fallen(0.5, 0.002, 0.009) == ["1"]
    little = {"answered": Decline(0.0005, 0.90, 0.86, 1000)}
    assert declined(little, 0.01) == []


# What is in the trace store


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name, value in {"TWIN_HOME": str(tmp_path), "TWIN_EMBEDDER": "words"}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def settings():
    return Settings.load()


def ask(words, begin, count, seed=0, score=None, source="sdk", mail=""):
    """Traces of answers, through the API that the SDK uses; one each hour from a time on."""
    draw = np.random.default_rng(seed)
    rows, spans, given = [], [], []
    for number in range(count):
        at = datetime.fromtimestamp(begin + number * 3600, UTC).isoformat()
        text = draw.choice(PARTS).format(*draw.choice(words, size=2, replace=False)) + mail
        row = {"id": new_id(), "name": "answer", "start_time": at, "end_time": at,
               "project_name": "llm-twin"}  # fmt: skip
        rows.append({**row, "source": source, "input": {"question": text},
                     "output": {"text": "So it is."}})  # fmt: skip
        spans.append({**row, "id": new_id(), "trace_id": row["id"], "name": "retrieve",
                      "output": {"chunks": [{"id": "c", "score": 0.7, "text": text}]}})  # fmt: skip
        if score is not None:
            value = float(draw.random() < score)
            given.append({"id": row["id"], "name": "answered", "value": value, "source": "sdk",
                          "project_name": "llm-twin"})  # fmt: skip
            given.append({**given[-1], "name": "latency", "value": 0.0})
    with closing(Store(settings().traces, settings())) as store:
        send(store, "POST", "traces/batch", {"traces": rows})
        send(store, "POST", "spans/batch", {"spans": spans})
        if given:
            send(store, "PUT", "traces/feedback-scores", {"scores": given})
    return [row["id"] for row in rows]


def send(store, method, path, body):
    answer = store.handle(Request(method, f"v1/private/{path}", body=json.dumps(body).encode()))
    assert answer.status < 300


def promote(home, version="v1"):
    bundles = Bundles(home / "models")
    building = bundles.stage()
    (building / "index.db").write_bytes(b"")
    bundles.commit(building, version, {})
    return bundles.promote(version)


def looked(served=None, now=None, **more):
    with closing(Store(settings().traces, settings())) as store:
        return look(settings(), store, served, now=now, **more)


def test_too_few_questions_are_said_and_tell_automations_nothing_of_drift(home, capsys):
    command.drift.body(None)
    assert "too few questions to compare: 0 recent ones and 0 of" in capsys.readouterr().out
    ask(BREAD, time.time() - 2 * DAY, 29)
    found = looked()
    assert found.counts == (0, 29)
    assert found.numbers() == {"questions": {"recent": 29}, "scores": {}}
    with closing(Runs(home)) as runs:
        (event,) = events_after(runs.db, 0)
    assert (event.kind, event.name) == ("event", "drift")
    assert "drift.questions.drifted" not in event.metrics


def test_without_a_version_the_window_is_compared_with_the_time_before(home):
    now = time.time()
    ask(BREAD, now - 20 * DAY, 100, seed=1)
    ask(BREAD, now - 6 * DAY, 60, seed=2)
    same = looked(now=now)
    assert (same.drifted, same.counts, same.told()) == (False, (100, 60), {})
    ask(SEA, now - 3 * DAY, 40, seed=3, mail=" Write to ada@example.org")
    found = looked(now=now)
    assert found.drifted
    assert found.questions.new > 0.3
    assert found.coverage == (0.7, 0.7)
    assert 0 < len(found.new) <= 5
    assert all(any(word in text for word in SEA) for text in found.new)
    assert not any("ada@" in text for text in found.new)
    assert "people ask about something else" in found.told()["questions"]
    told = json.dumps(found.numbers())
    assert "Write" not in told
    assert found.numbers()["questions"]["drifted"] == 1


def test_experiments_and_other_projects_are_no_traffic(home):
    now = time.time()
    ask(BREAD, now - 20 * DAY, 60)
    ask(SEA, now - 3 * DAY, 60, source="experiment")
    assert looked(now=now).counts == (60, 0)


def test_a_version_is_compared_with_what_was_asked_before_it_was_trained(home):
    made = time.time()
    ask(BREAD, made - 5 * DAY, 100, seed=1)
    served = promote(home)
    ask(SEA, made + 3600, 60, seed=2)
    found = looked(served, now=made + 3 * DAY)
    assert found.drifted
    assert found.against == "those asked before v1 was trained"
    assert found.counts == (100, 60)


def test_the_reference_of_a_version_outlives_its_traces_and_holds_no_text(home):
    made = time.time()
    ids = ask(BREAD, made - 5 * DAY, 100, seed=1)
    served = promote(home)
    ask(BREAD, made + 3600, 60, seed=2)
    before = looked(served, now=made + 3 * DAY)
    with closing(Store(settings().traces, settings())) as store:
        send(store, "POST", "traces/delete", {"ids": ids})
    after = looked(served, now=made + 3 * DAY)
    assert after.counts == before.counts == (100, 60)
    assert after.questions == before.questions
    (kept,) = (home / asked.FOLDER).iterdir()
    assert b"sourdough" not in kept.read_bytes()
    other = promote(home, "v2")
    asked.keep(home, "v2", "other", asked.Asked(np.zeros((1, 2), np.float32), ["t"], []))
    assert [path.name for path in (home / asked.FOLDER).iterdir()] == ["v2.npz"]
    assert asked.kept(home, "v2", asked.HASHED) is None
    (home / asked.FOLDER / "v2.npz").write_bytes(b"cut")
    assert asked.kept(home, "v2", "other") is None
    assert looked(other, now=made + 3 * DAY).questions is None


def test_scores_that_fell_are_told_to_automations_and_alert_rules(home, capsys):
    now = time.time()
    ask(BREAD, now - 20 * DAY, 120, seed=1, score=0.9)
    ask(BREAD, now - 5 * DAY, 80, seed=2, score=0.5)
    command.drift.body(None)
    out = capsys.readouterr().out
    assert "answers score less than before: answered 0." in out
    assert "latency" not in out
    with closing(Runs(home)) as runs:
        (event,) = events_after(runs.db, 0)
    assert event.metrics["drift.scores.drifted"] == 1
    assert event.metrics["drift.questions.drifted"] == 0
    assert event.metrics["drift.scores.answered.before"] > 0.8
    with closing(Alerts(home)) as alerts:
        assert [one.kind for one in alerts.events()[0]] == ["drift.scores"]


def test_the_stage_keeps_no_question(home, capsys):
    now = time.time()
    ask(BREAD, now - 20 * DAY, 60, seed=1)
    ask(SEA, now - 3 * DAY, 60, seed=3)
    result = command.watch_drift()
    assert result["questions"]["drifted"] == 1
    kept = json.dumps(result) + capsys.readouterr().out
    assert not any(word in kept for word in SEA)
    command.drift.body(None, json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["new"]
    assert said["questions"]["p"] == result["questions"]["p"]
    command.drift.body(None)
    assert "  new: " in capsys.readouterr().out


def test_while_traces_are_sampled_those_that_still_wait_for_it_do_not_count(home, monkeypatch):
    now = time.time()
    ask(BREAD, now - 7 * DAY, 60)
    ask(BREAD, now - 1800, 1)
    assert looked(now=now).counts[1] == 61
    monkeypatch.setenv("TWIN_TRACE_RATE", "0.5")
    assert looked(now=now).counts[1] < 61


def test_the_drawn_traces_are_the_same_each_time(home, monkeypatch):
    monkeypatch.setattr(asked, "MOST", 20)
    ask(BREAD, time.time() - 6 * DAY, 50)
    with closing(Store(settings().traces, settings())) as store:
        rows = asked.traffic(store, "llm-twin", 0, time.time())
        one, two = (asked.questions(store, rows, asked.hashed) for _ in range(2))
    assert (len(rows), len(one)) == (50, 20)
    assert one.texts == two.texts


@pytest.mark.parametrize("given", [{"window": "soon"}, {"level": 0.0}, {"level": 1.0}])
def test_bad_input_is_refused(given):
    with pytest.raises(ConfigError):
        command.check(**{"window": "7d", "level": 0.01, **given})


def test_questions_are_embedded_by_the_real_model_and_kept_by_digest(
    home, monkeypatch, embedder_home
):
    monkeypatch.setenv("TWIN_EMBEDDER_HOME", str(embedder_home))
    monkeypatch.setenv("TWIN_EMBEDDER", "minilm")
    said = []
    with asked.embedding(settings(), said.append) as (space, embed):
        rows = embed(["How do I feed the sourdough?", "When does the ferry leave?"])
    assert rows.shape == (2, 384)
    assert said == []
    assert space != asked.HASHED
    with closing(sqlite3.connect(home / "cache" / "embeddings.db")) as db:
        assert db.execute("SELECT count(*) FROM vectors").fetchone() == (2,)


def test_without_its_embedder_it_says_so_and_compares_words(home, monkeypatch):
    monkeypatch.setenv("TWIN_EMBEDDER", "sentence-transformers")
    said = []
    with asked.embedding(settings(), said.append) as (space, embed):
        same, other = embed(["Feeding the sourdough", "feed a SOURDOUGH"]), embed(["the ferry"])
    assert space == asked.HASHED
    assert "compared by words alone: TWIN_EMBEDDER" in said[0]
    assert float(same[0] @ same[1]) == pytest.approx(1)
    assert float(same[0] @ other[0]) == 0
