"""When automations fire: by the clock, on events, on numbers, and when nothing happens."""

import random
import sys
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from llm_twin.errors import FlowError, NotReadyError
from llm_twin.flow.automation import (
    Automations,
    absent,
    alert,
    call_webhook,
    cron,
    event,
    every,
    files_changed,
    from_payload,
    metric,
    run_ended,
    run_flow,
    webhook,
)
from llm_twin.flow.automation.plan import Simulation, due, simulate
from llm_twin.flow.automation.triggers import Event
from llm_twin.flow.automation.words import numbers, seconds, span, utc
from llm_twin.flow.stage import Registry

HOUR, DAY = 3600, 86400
NOW = 1_767_582_000.0  # 2026-01-05 03:00 UTC, a Monday


def moments(trigger, start, end):
    """When it fires between two times."""
    return [item.at for item in trigger.step(trigger.start(start), [], end)[0]]


def local(zone, *parts, fold=0):
    return datetime(*parts, fold=fold, tzinfo=ZoneInfo(zone)).timestamp()


def run(state="Completed", at=NOW, flow="ct", **metrics):
    data = {"run": "r1", "flow": flow, "state": state, "message": "", "parameters": {}}
    data["metrics"] = metrics
    return Event("run", flow, at, data, f"run:{flow}:{state}:{at}")


def fired(trigger, events, now=NOW, state=None):
    return trigger.step(state or trigger.start(NOW), events, now)[0]


def test_cron_in_a_time_zone():
    line = cron("17 3 * * 1", timezone="Europe/Berlin")
    assert [utc(at) for at in moments(line, NOW, NOW + 8 * DAY)] == ["2026-01-12T02:17:00Z"]
    assert utc(line.next_due(line.start(NOW), NOW)) == "2026-01-12T02:17:00Z"


def test_cron_in_the_hour_that_spring_leaves_out_is_due_right_after_it():
    berlin = "Europe/Berlin"
    night = cron("30 2 * * *", timezone=berlin)
    start, end = local(berlin, 2026, 3, 28, 12), local(berlin, 2026, 3, 30, 12)
    assert moments(night, start, end) == [
        local(berlin, 2026, 3, 29, 3, 0),
        local(berlin, 2026, 3, 30, 2, 30),
    ]
    twice = cron("15,45 2 * * *", timezone=berlin)
    assert moments(twice, start, local(berlin, 2026, 3, 29, 12)) == [
        local(berlin, 2026, 3, 29, 3, 0)
    ]


def test_cron_in_the_hour_that_autumn_repeats_is_due_once_and_hourly_ones_each_hour():
    berlin = "Europe/Berlin"
    start, end = local(berlin, 2026, 10, 24, 12), local(berlin, 2026, 10, 25, 12)
    night = cron("30 2 * * *", timezone=berlin)
    assert moments(night, start, end) == [local(berlin, 2026, 10, 25, 2, 30)]
    assert moments(night, local(berlin, 2026, 10, 25, 2, 15, fold=1), end) == []
    hourly = cron("30 * * * *", timezone=berlin)
    assert len(moments(hourly, start, end)) == 25


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "UTC"])
@pytest.mark.parametrize("line", ["30 2 * * *", "*/20 * * * *", "15,45 1-3 * * *"])
def test_what_is_due_does_not_depend_on_when_anybody_looked(line, zone):
    dice = random.Random(f"{line}{zone}")
    for month, day in ((3, 7), (3, 28), (10, 24), (10, 31)):
        start = local(zone, 2026, month, day, 12)
        end = start + 2 * DAY
        trigger = cron(line, timezone=zone)
        state, seen = trigger.start(start), []
        for now in sorted([*(dice.uniform(start, end) for _ in range(60)), end]):
            found, state = trigger.step(state, [], now)
            seen += [item.at for item in found]
        assert seen == moments(trigger, start, end)


def test_every_fires_at_multiples_and_survives_a_clock_that_is_set_back():
    hourly = every("1h")
    assert moments(hourly, NOW + 60, NOW + 2 * HOUR) == [NOW + HOUR, NOW + 2 * HOUR]
    found, state = hourly.step(hourly.start(NOW), [], NOW + HOUR)
    again, state = hourly.step(state, [], NOW - 3 * HOUR)
    assert again == []
    again, _ = hourly.step(state, [], NOW + HOUR)
    assert again[-1].key == found[0].key
    assert hourly.next_due(state, NOW) == NOW + HOUR


@pytest.mark.parametrize(
    ("catch_up", "hours"), [("latest", [5]), ("all", [1, 2, 3, 4, 5]), ("none", [])]
)
def test_catching_up(catch_up, hours):
    automations = Automations()
    automations.add("x", when=every("1h"), do=alert("x"), catch_up=catch_up)
    (item,) = automations
    found, state = due(item, item.when.start(NOW), [], NOW + 5.5 * HOUR)
    assert [(one.at - NOW) / HOUR for one in found] == hours
    found, _ = due(item, state, [], NOW + 6 * HOUR + 1)
    assert [(one.at - NOW) / HOUR for one in found] == [6]


def test_catching_up_is_bounded_and_quick_after_a_year():
    automations = Automations()
    automations.add("x", when=cron("* * * * *"), do=alert("x"), catch_up="all")
    (item,) = automations
    found, _ = due(item, item.when.start(NOW), [], NOW + 365 * DAY)
    assert len(found) == 100
    assert found[-1].at == NOW + 365 * DAY


def test_a_run_that_ended():
    trigger = run_ended("ct", states=("Failed", "Completed(Cached)"))
    events = [
        run("Completed"),
        run("Completed(Cached)"),
        run("Failed(TimedOut)"),
        run("Failed", flow="ci"),
    ]
    assert [item.key for item in fired(trigger, events)] == [events[1].key, events[2].key]
    assert fired(trigger, events)[1].reason == "run r1 of ct ended Failed(TimedOut)"
    assert len(fired(run_ended(), events)) == 4


def test_a_metric_fires_when_it_crosses_and_again_after_it_came_back():
    trigger = metric("ct.hit", below=0.7)
    values = [0.8, 0.6, 0.5, 0.7, 0.69]
    events = [run(at=NOW + i, **{"ct.hit": value}) for i, value in enumerate(values)]
    found = fired(trigger, [*events, run(other=1)])
    assert [item.payload["value"] for item in found] == [0.6, 0.69]
    assert found[0].reason == "it is 0.6: ct.hit below 0.7"


def test_a_metric_for_the_last_three_values_also_when_seen_one_at_a_time():
    trigger = metric("load.p95", above=3, for_last=3)
    state, found = trigger.start(NOW), []
    for i, value in enumerate([4, 4, 1, 4, 5, 6, 7, 1, 4]):
        one, state = trigger.step(
            state, [Event("event", "load", NOW + i, {"p95": value}, str(i))], NOW + i
        )
        found += [item.payload["value"] for item in one]
    assert found == [6]


def test_absence_fires_once_and_again_only_after_it_came():
    trigger = absent(run_ended("ct", states=("Completed",)), within="8d")
    state = trigger.start(NOW)
    assert trigger.next_due(state, NOW) == NOW + 8 * DAY
    found, state = trigger.step(state, [run("Failed", NOW + DAY)], NOW + 8 * DAY - 1)
    assert found == []
    found, state = trigger.step(state, [], NOW + 8 * DAY)
    assert [item.at for item in found] == [NOW + 8 * DAY]
    assert "8d without: a run of ct ends Completed" in found[0].reason
    assert trigger.next_due(state, NOW) is None
    found, state = trigger.step(state, [], NOW + 20 * DAY)
    assert found == []
    found, state = trigger.step(state, [run(at=NOW + 21 * DAY)], NOW + 30 * DAY)
    assert [item.at for item in found] == [NOW + 29 * DAY]


def test_absence_is_told_also_when_nobody_looked_until_it_was_over():
    trigger = absent(event("heartbeat"), within="1d")
    beats = [Event("event", "heartbeat", NOW + days * DAY, {}, str(days)) for days in (0.5, 2)]
    found = fired(trigger, beats, NOW + 2.5 * DAY)
    assert [item.at for item in found] == [NOW + 1.5 * DAY]


def test_webhooks_and_events_by_name_hand_on_their_payload():
    sent = Event("webhook", "corpus", NOW, {"repository": {"name": "notes"}}, "webhook:corpus:1")
    trigger = webhook("corpus", secret_env="S")
    other = Event("webhook", "other", NOW, {}, "k")
    (found,) = fired(trigger, [sent, other])
    assert from_payload("repository.name").get(found.payload) == "notes"
    assert from_payload("repository.branch", default="main").get(found.payload) == "main"
    with pytest.raises(FlowError, match=r"no such value: repository\.branch"):
        from_payload("repository.branch").get(found.payload)
    assert fired(event("drift"), [sent]) == []


def test_a_simulation_fires_what_a_daemon_would_have_and_looks_further_back_for_absence():
    automations = Automations()
    automations.add("often", when=every("1h"), do=run_flow("ct"))
    automations.add("quiet", when=absent(run_ended("ct"), within="8d"), do=alert("quiet"))
    automations.add("low", when=metric("ct.hit", below=0.7), do=alert("low"))
    events = [
        run(at=NOW - 9 * DAY, **{"ct.hit": 0.5}),
        run(at=NOW - DAY / 2, **{"ct.hit": 0.6}),
    ]
    found = simulate(automations, events, NOW - 7 * DAY, NOW)
    assert [item.automation for item in found].count("often") == 7 * 24
    assert [item.at for item in found if item.automation == "quiet"] == [NOW - DAY]
    assert [item for item in found if item.automation == "low"] == []
    assert found == sorted(found, key=lambda item: item.at)
    assert simulate(automations, [], NOW - HOUR, NOW)[0].action == "run ct"
    assert Simulation(automations, NOW).feed([], NOW) == []


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (lambda: cron("61 * * * *"), r"a cron line cannot be read \(Bad minute\): 61 \* \* \* \*"),
        (lambda: cron("@daily"), "minute hour day month weekday"),
        (lambda: cron("0 0 30 2 *"), "a cron line cannot be read"),
        (lambda: cron("0 0 */31 * MON#5"), "a cron line never comes due"),
        (lambda: cron("0 3 * * *", timezone="Mars/Olympus"), "no such time zone: Mars/Olympus"),
        (lambda: cron("0 3 * * *", timezone="../etc"), "no such time zone"),
        (lambda: every("0s"), "at least 1s"),
        (lambda: every("soon"), "not a length of time: 'soon'"),
        (lambda: files_changed(), "not a pattern to watch"),
        (lambda: files_changed("../x"), "not a pattern to watch: '../x'"),
        (lambda: webhook("a/b", secret_env="S"), "plain name"),
        (lambda: run_ended("ct", states=("Done",)), r"no run ends in such a state"),
        (lambda: run_ended("ct", states="Failed"), r'states=\("Failed", "Crashed"\)'),
        (lambda: metric("ct.x"), "needs a threshold: ct.x"),
        (lambda: metric("ct.x", below=1, for_last=0), "for_last of 1 or more"),
        (lambda: absent(every("1h"), within="1d"), "only the absence of an event"),
        (lambda: alert("x", severity="bad"), "no such severity: 'bad'"),
        (lambda: call_webhook(), "needs one address"),
        (lambda: call_webhook("ftp://x/y"), r"not a web address: ftp://x/\.\.\."),
    ],
)
def test_what_is_wrong_in_a_declaration_is_said_with_the_line_to_mend(declare, said):
    with pytest.raises(FlowError, match=said):
        declare()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "a b"}, "other characters"),
        ({"name": "x"}, "another one of that name"),
        ({"catch_up": "some"}, "catch_up='some' is not one of latest, all, none"),
        ({"overlap": "race"}, "overlap='race' is not one of queue, skip, cancel-previous"),
        ({"when": run_ended("ct"), "do": run_flow("ct")}, "would start the next"),
    ],
)
def test_an_automation_that_cannot_be_names_its_line(options, said):
    automations = Automations()
    automations.add("x", when=every("1h"), do=run_flow("ct"))
    chosen = {"name": "y", "when": every("1h"), "do": run_flow("ct"), **options}
    with pytest.raises(FlowError, match=said) as caught:
        automations.add(chosen.pop("name"), **chosen)
    assert caught.value.where.rpartition(":")[0] == __file__
    assert len(automations) == 1


def test_unknown_flows_and_parameters_are_found_before_anything_starts():
    registry = Registry()

    @registry.stage
    def ct(corpus: str = "") -> None:
        pass

    def check(do, *, when=None):
        automations = Automations()
        automations.add("a", when=webhook("h", secret_env="ONE"), do=alert("x"))
        automations.add("b", when=when or every("1h"), do=do)
        automations.check(registry)

    check(run_flow("ct", corpus="x"))
    with pytest.raises(FlowError, match=r"automation 'b': no such stage: nope \(Stages are: ct\)"):
        check(run_flow("nope"))
    with pytest.raises(FlowError, match="flow ct takes no corpsu"):
        check(run_flow("ct", corpsu="x"))
    with pytest.raises(FlowError, match="webhook h has the secret ONE elsewhere"):
        check(alert("x"), when=webhook("h", secret_env="TWO"))


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(NotReadyError, match=r"package: cronsim\. Type: pip install .*automate"):
        cron("0 3 * * *")


def test_words():
    assert [seconds(text) for text in ("90s", "5m", "2h", "8d", "1w", "1.5h")] == [
        90, 300, 7200, 8 * DAY, 7 * DAY, 5400
    ]  # fmt: skip
    assert [span(length) for length in (90, 300, 8 * DAY, 14 * DAY, 0.5)] == [
        "90s", "5m", "8d", "2w", "0.5s"
    ]  # fmt: skip
    nested = {"a": {"b": 1, "c": {"d": 0.5}}, "e": True, "f": "x", "g": float("nan")}
    assert numbers(nested) == {"a.b": 1, "a.c.d": 0.5}


def test_triggers_and_actions_read_as_a_person_would_say_them():
    said = [
        str(item)
        for item in (
            cron("17 3 * * 1"),
            every("6h"),
            files_changed("docs/**/*.md", settle="30s"),
            webhook("corpus", secret_env="S"),
            event("drift"),
            run_ended("ct", states=("Failed", "Crashed")),
            run_ended(),
            metric("ct.hit", below=0.7, for_last=3),
            metric("ct.loss", above=2, below=1),
            absent(event("x"), within="8d"),
            run_flow("ct", corpus="docs"),
            alert("failed"),
            call_webhook("https://example.org/x"),
            call_webhook(url_env="HOOK"),
        )
    ]
    assert said == [
        "cron 17 3 * * 1 (UTC)",
        "every 6h",
        "files docs/**/*.md change, settled for 30s",
        "webhook corpus",
        "event drift",
        "a run of ct ends Failed or Crashed",
        "a run of any flow ends",
        "ct.hit below 0.7 3 times",
        "ct.loss below 1 or above 2",
        "8d without: event x",
        "run ct corpus=docs",
        "alert error: failed",
        "call https://example.org/x",
        "call $HOOK",
    ]
