"""What a person is told, and what not: the engine over a real store, at times that are given."""

import time
from contextlib import closing
from dataclasses import dataclass

import pytest

from llm_twin.alerting import outbox, silences
from llm_twin.alerting.conditions import event, metric, no_traffic, run_state
from llm_twin.alerting.engine import Engine, Sources
from llm_twin.alerting.rules import Rule
from llm_twin.alerting.store import Event, Store, record, resolve
from llm_twin.errors import ConfigError, NotReadyError, RemoteError, UserError

T = 1_800_000_000.0


@dataclass
class Figure:
    value: float | None
    count: int = 100
    normal: float | None = None
    normal_count: int = 0


@pytest.fixture
def store(tmp_path):
    with closing(Store(tmp_path)) as found:
        yield found


def failed(at=T, run="run-1", **data):
    return Event("ct.failed", run, at, {"run": run, "message": "it broke", **data})


def training(**changes):
    given = {
        "name": "training",
        "when": event("ct.failed"),
        "text": "training failed",
        "look": "invoke runs.logs {run}",
        "resolves_on": event("ct.done"),
    }
    return Rule(**{**given, **changes})


def said(store):
    """(what, title) of every message, oldest first."""
    return store.db.execute("SELECT what, title FROM message ORDER BY id").fetchall()


def whats(store):
    return [what for what, _ in said(store)]


def body(store):
    return store.db.execute("SELECT body FROM message ORDER BY id DESC LIMIT 1").fetchone()[0]


def test_one_event_is_one_message_that_says_what_since_when_and_where_to_look(store):
    store.add([failed()])
    engine = Engine(store, [training()])
    engine.step(T + 1)
    engine.step(T + 2)
    assert said(store) == [("firing", "ERROR training: training failed")]
    (alert,) = store.open_alerts()
    assert body(store).splitlines() == [
        "it broke",
        "since 2027-01-15 08:00:00 UTC",
        "about: run-1",
        "look: invoke runs.logs run-1",
        f"invoke alerts.ack {alert.id}",
    ]


def test_a_thousand_repeats_are_one_message_and_a_count_in_the_next(store):
    engine = Engine(store, [training()])
    for part in range(10):
        store.add([failed(T + part, f"run-{part}-{n}") for n in range(100)])
        engine.step(T + part)
    assert whats(store) == ["firing"]
    store.add([Event("ct.done", "run-x", T + 20, {"run": "run-x"})])
    engine.step(T + 20)
    assert whats(store) == ["firing", "resolved"]
    assert "1,000 times" in body(store)
    assert "resolved by run-x after 20 s" in body(store)
    assert store.recent()[0].by == "run-x"


def test_a_repeat_after_the_dedup_window_is_told_with_what_came_in_between(store):
    engine = Engine(store, [training(dedup="10m")])
    for minute in (0, 1, 2, 9):
        store.add([failed(T + 60 * minute)])
        engine.step(T + 60 * minute)
    engine.step(T + 60 * 30)
    assert whats(store) == ["firing"]
    store.add([failed(T + 60 * 31)])
    engine.step(T + 60 * 31)
    assert whats(store) == ["firing", "again"]
    assert "4 more since the last message" in body(store)


def test_the_same_thing_seen_in_two_ways_counts_once(store):
    rule = training(when=run_state("ct", ["Failed"]) | event("ct.failed"))
    store.add(
        [
            failed(),
            Event("run", "run-1", T, {"run": "run-1", "flow": "ct", "state": "Failed(TimedOut)"}),
            Event("run", "run-2", T, {"run": "run-2", "flow": "other", "state": "Failed"}),
        ]
    )
    Engine(store, [rule]).step(T)
    (alert,) = store.open_alerts()
    assert alert.count == 1
    assert str(rule.when) == "run, flow ct, state Failed | ct.failed"


def test_an_event_told_twice_under_one_key_is_one(store):
    one = Event("ct.failed", "a", T, {}, "key")
    store.add([one])
    store.add([one])
    assert len(store.events()[0]) == 1


def test_problems_are_grouped_by_what_the_rule_names(store):
    rule = training(group_by=("target",))
    store.add([failed(run="a", target="local"), failed(run="b", target="sagemaker")])
    engine = Engine(store, [rule])
    engine.step(T)
    store.add([Event("ct.done", "c", T + 1, {"target": "local"})])
    engine.step(T + 1)
    assert whats(store) == ["firing", "firing", "resolved"]
    (left,) = store.open_alerts()
    assert left.about == {"target": "sagemaker"}


def test_what_ends_before_it_was_told_is_told_as_resolved_alone(store):
    store.add([failed(), Event("ct.done", "b", T + 1, {"run": "b"})])
    Engine(store, [training()]).step(T + 5)
    assert whats(store) == ["firing", "resolved"]
    outbox.route(store, ["ops"], T + 5)
    delivery = outbox.take(store, "ops", T + 5)
    assert delivery.what == "resolved"
    outbox.sent(store, delivery, T + 5)
    assert outbox.take(store, "ops", T + 5) is None


def test_an_older_event_ends_nothing(store):
    store.add([failed(T)])
    engine = Engine(store, [training()])
    engine.step(T)
    store.add([Event("ct.done", "b", T - 1, {})])
    engine.step(T + 1)
    assert len(store.open_alerts()) == 1


def test_for_duration_waits_and_forgets_what_passed(store):
    engine = Engine(store, [training(for_="10m")])
    store.add([failed()])
    engine.step(T + 60)
    assert [alert.state for alert in store.open_alerts()] == ["pending"]
    store.add([Event("ct.done", "b", T + 120, {})])
    engine.step(T + 121)
    assert (whats(store), store.recent()) == ([], [])
    store.add([failed(T + 200)])
    engine.step(T + 200)
    engine.step(T + 900)
    assert whats(store) == ["firing"]


def test_cooldown_keeps_a_flapping_problem_quiet_until_it_stays(store):
    engine = Engine(store, [training(cooldown="1h")])
    for turn in range(5):
        store.add([failed(T + 100 * turn), Event("ct.done", "b", T + 100 * turn + 50, {})])
        engine.step(T + 100 * turn + 60)
    assert whats(store) == ["firing", "resolved"]
    store.add([failed(T + 1000)])
    engine.step(T + 1000)
    assert whats(store) == ["firing", "resolved"]
    engine.step(T + 450 + 3601)
    assert whats(store) == ["firing", "resolved", "firing"]


@pytest.mark.parametrize("by_rule", [True, False])
def test_a_silence_holds_back_until_it_is_over(store, by_rule):
    engine = Engine(store, [training(for_="5s")])
    store.add([failed()])
    engine.step(T)
    target = "training" if by_rule else store.open_alerts()[0].id
    silences.silence(store, target, T + 100, "we know")
    engine.step(T + 10)
    assert whats(store) == []
    assert [one.reason for one in silences.listed(store, T + 10)] == ["we know"]
    engine.step(T + 101)
    assert whats(store) == ["firing"]
    assert silences.listed(store, T + 101) == []


def test_what_explains_a_problem_inhibits_it_for_the_same_run(store):
    dead = Rule(name="dead", when=event("zenml.dead"), resolves_on=event("ct.done"))
    engine = Engine(store, [training(inhibited_by=("dead",)), dead])
    store.add([Event("zenml.dead", "run-1", T, {"run": "run-1"}), failed(T + 1)])
    engine.step(T + 1)
    assert [title for _, title in said(store)] == ["ERROR dead: zenml.dead"]
    store.add([Event("ct.done", "run-2", T + 9, {})])
    engine.step(T + 9)
    assert whats(store) == ["firing", "resolved"]
    store.add([Event("zenml.dead", "run-3", T + 9000, {}), failed(T + 9001, "run-4")])
    engine.step(T + 9001)
    assert whats(store)[2:] == ["firing", "firing"]


def test_an_unacknowledged_alert_escalates_once(store):
    rule = training(escalate_after="15m", escalate_to=("phone",), to=("ops",))
    engine = Engine(store, [rule])
    store.add([failed()])
    for second in (0, 600, 901, 2000):
        engine.step(T + second)
    assert whats(store) == ["firing", "escalated"]
    assert "nobody acknowledged it, 15 min after it began" in body(store)
    (alert,) = store.open_alerts()
    store.add([Event("ct.done", "b", T + 3000, {})])
    engine.step(T + 3000)
    assert [one["channel"] for one in outbox.history(store, alert.id)] == [
        *("log", "ops"),
        *("log", "phone"),
        *("log", "ops", "phone"),
    ]


def test_an_acknowledged_alert_neither_escalates_nor_repeats_until_it_comes_back(store):
    engine = Engine(store, [training(escalate_after="15m", dedup="1m", cooldown="2h")])
    store.add([failed()])
    engine.step(T)
    (alert,) = store.open_alerts()
    assert silences.acknowledge(store, alert.id[:6], T + 10, "ada").by == "ada"
    store.add([failed(T + 3600)])
    engine.step(T + 3600)
    assert whats(store) == ["firing"]
    store.add([failed(T + 7300)])
    engine.step(T + 7300)
    assert whats(store) == ["firing", "again"]
    assert store.open_alerts()[0].state == "firing"


def test_what_is_over_or_not_there_cannot_be_acknowledged(store):
    engine = Engine(store, [training()])
    store.add([failed(), Event("ct.done", "b", T + 1, {})])
    engine.step(T + 1)
    with pytest.raises(UserError, match="this alert is resolved"):
        silences.acknowledge(store, store.recent()[0].id, T + 2)
    with pytest.raises(NotReadyError, match=r"no such alert: zz\. See which there are"):
        silences.acknowledge(store, "zz", T + 2)


def test_a_run_resolves_a_rule_and_the_message_names_it(tmp_path, store):
    store.add([failed()])
    Engine(store, [training()]).step(T)
    (alert,) = store.open_alerts()
    assert resolve(tmp_path, "training", by="run-9") == [alert.id]
    assert resolve(tmp_path, "training", by="run-9") == []
    assert whats(store) == ["firing", "resolved"]
    assert "resolved by run-9" in body(store)
    assert store.find(alert.id).by == "run-9"


def test_a_loop_escalates_at_once_with_its_reason(store):
    store.add([failed()])
    Engine(store, [training(escalate_to=("phone",))]).step(T)
    found = silences.escalate(store, "training", "the candidate was refused", T + 5)
    assert found == [store.open_alerts()[0].id]
    assert "the candidate was refused, 5 s after it began" in body(store)


# Figures


def measured(store, rule, *figures, start=T, apart=60.0):
    """Step once for each dict of figures."""
    turn = iter(figures)
    engine = Engine(store, [rule], Sources(figures=lambda minutes, until: next(turn)))
    for number in range(len(figures)):
        engine.step(start + number * apart)
    return engine


def test_a_bad_figure_fires_once_and_resolves_by_itself(store):
    rule = Rule(name="errors", when=metric("error_rate", above=0.1), text="answers fail")
    bad, good = {"error_rate": Figure(0.31, 52, 0.02, 4100)}, {"error_rate": Figure(0.0)}
    measured(store, rule, bad, bad, bad, good, good)
    assert whats(store) == ["firing", "resolved"]
    first = store.db.execute("SELECT body FROM message ORDER BY id").fetchone()[0]
    assert "error_rate 0.31 (52 in 15 min), normal 0.02 (4,100)" in first


def test_a_figure_has_to_stay_bad_for_a_while(store):
    rule = Rule(name="errors", when=metric("error_rate", above=0.1), for_="3m")
    bad, good = {"error_rate": Figure(0.5)}, {"error_rate": Figure(0.0)}
    measured(store, rule, bad, bad, good, bad, bad, bad, {})
    assert whats(store) == []
    measured(store, rule, *[bad] * 5, start=T + 6000)
    assert whats(store) == ["firing"]


def test_too_few_samples_neither_fire_nor_resolve(store):
    rule = Rule(name="errors", when=metric("error_rate", above=0.1, at_least=20))
    few, none = {"error_rate": Figure(1.0, 3)}, {"error_rate": Figure(None, 0)}
    measured(store, rule, few, none, {})
    assert store.recent() == []
    measured(store, rule, {"error_rate": Figure(1.0)}, few, none, {}, start=T + 600)
    assert [alert.state for alert in store.open_alerts()] == ["firing"]


@pytest.mark.parametrize(
    ("condition", "figures", "bad"),
    [
        (metric("score.x", below=0.6), {"score.x": Figure(0.5)}, True),
        (metric("score.x", worse_than_normal=1.5), {"score.x": Figure(0.5, 50, 0.9, 50)}, True),
        (metric("score.x", worse_than_normal=1.5), {"score.x": Figure(0.8, 50, 0.9, 50)}, False),
        (metric("p95", above=5, worse_than_normal=2), {"p95": Figure(9, 50, 2, 50)}, True),
        (metric("p95", above=5, worse_than_normal=2), {"p95": Figure(9, 50, 8, 50)}, False),
        (metric("p95", above=5, worse_than_normal=2), {"p95": Figure(9, 50, 8, 3)}, None),
        (metric("p95", above=5), {}, None),
        (no_traffic(30), {"requests_per_minute": Figure(0.0, 0, 2.0, 900)}, True),
        (no_traffic(30), {"requests_per_minute": Figure(0.1, 3, 2.0, 900)}, False),
        (no_traffic(30), {"requests_per_minute": Figure(0.0, 0, 0.0, 0)}, None),
    ],
)
def test_figures_against_bounds_and_normal(condition, figures, bad):
    assert condition.look(lambda minutes: figures).bad is bad
    assert str(condition)


def test_a_source_that_cannot_be_read_is_said_once_and_stops_nothing_else(store, capsys):
    def broken(*_):
        raise RemoteError("the history is gone", "runs.db")

    store.add([failed()])
    rules = [training(), Rule(name="errors", when=metric("error_rate", above=0.1))]
    engine = Engine(store, rules, Sources({"runs": broken}), figures_every=0)
    engine.step(T)
    engine.step(T + 1)
    assert whats(store) == ["firing"]
    assert capsys.readouterr().err == (
        "error: alerts: runs cannot be read: the history is gone: runs.db\n"
    )
    Engine(store, rules, Sources(figures=broken)).step(T + 2)
    assert "figures cannot be read" in capsys.readouterr().err


# Rules that cannot be


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: training(severity="bad"), r"no such severity: bad\. Say one of info"),
        (lambda: training(for_="soon"), r"not a length of time: 'soon'"),
        (lambda: metric("x"), r"a metric needs a bound: x"),
        (lambda: metric("x", worse_than_normal=0.5), r"a ratio of 1 or more: x, 0\.5"),
        (
            lambda: Engine(None, [training(), training()]),
            r"two alert rules have one name: training",
        ),
        (lambda: Engine(None, [training(inhibited_by=("no",))]), r"by a rule that is not there"),
        (lambda: Engine(None, [training(inhibited_by=("training",))]), r"in a circle"),
    ],
)
def test_a_rule_that_cannot_be_is_found_when_it_is_declared(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_an_alert_whose_rule_is_gone_stays_and_can_be_resolved(tmp_path, store):
    store.add([failed()])
    Engine(store, [training()]).step(T)
    Engine(store, []).step(T + 9999)
    assert whats(store) == ["firing"]
    assert len(resolve(tmp_path, store.open_alerts()[0].id)) == 1


# Recording


def test_recorded_means_in_the_next_message_without_parameters_or_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("SHOP_TOKEN", "xyzzy-plugh-1")
    text = "Traceback (most recent call last):\n  File x\nValueError: no shelf-7 for a@b.de"
    text += " xyzzy-plugh-1"
    record(
        tmp_path,
        "ct.failed",
        "run-7",
        {"message": text, "parameters": {"corpus": "shelf-7"}, "traceback": "tb", "n": 3},
        key="k",
    )
    record(tmp_path, "ct.failed", "run-7", {}, key="k")
    with closing(Store(tmp_path)) as store:
        (event_,), _ = store.events()
        Engine(store, [training()]).step(time.time())
        assert event_.data == {"message": "ValueError: no [...] for [EMAIL] [...]", "n": 3}
        assert "[EMAIL]" in body(store)
        assert "look: invoke runs.logs run-7" in body(store)


def test_what_cannot_be_recorded_is_said_and_not_raised(tmp_path, capsys):
    home = tmp_path / "file"
    home.write_text("in the way")
    record(home, "ct.failed", "run-1", {})
    assert "error: an event could not be kept (ct.failed run-1)" in capsys.readouterr().err


def test_a_setting_that_is_wrong_costs_no_event(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TWIN_TRACE_PATTERNS", "(")
    record(tmp_path, "ct.failed", "run-1", {"message": "a@b.de", "deep": [{"env": "x", "k": {1}}]})
    assert "alerts are redacted by the defaults" in capsys.readouterr().err
    with closing(Store(tmp_path)) as store:
        assert store.events()[0][0].data == {"message": "[EMAIL]", "deep": [{"k": [1]}]}


def test_a_store_of_a_newer_version_is_left_alone(tmp_path, store):
    store.db.execute("PRAGMA user_version = 99")
    with pytest.raises(NotReadyError, match="a newer version wrote the alerts"):
        Store(tmp_path)


def test_what_is_over_for_long_is_forgotten_with_its_messages(store):
    engine = Engine(store, [training(), training(name="other", resolves_on=None)])
    store.add([failed(), Event("ct.done", "b", T + 1, {})])
    engine.step(T + 1)
    store.forget(T + 9)
    assert [alert.rule for alert in store.recent()] == ["other"]
    assert whats(store) == ["firing"]
    assert store.events() == ([], 0)
    engine.step(T + 10)
    assert whats(store) == ["firing"]


def test_a_long_text_is_cut_for_a_pager(store):
    store.add([failed(message="m" * 5000, run=f"run-{n}") for n in range(9)])
    Engine(store, [training(text="t" * 500)]).step(T)
    ((_, title),) = said(store)
    assert len(title) == 120
    assert len(body(store)) < 500
    assert "run-8, run-7, run-6 and more" in body(store)
