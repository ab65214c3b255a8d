"""Messages reach a real receiver once: retries, a dead channel's stand-in, kills in between."""

import sqlite3
import threading
import time
from contextlib import closing

import pytest
from alert_receiver import Receiver

from llm_twin.alerting import channels, outbox, worker
from llm_twin.alerting.conditions import event
from llm_twin.alerting.engine import Engine
from llm_twin.alerting.rules import Rule
from llm_twin.alerting.store import Store, record, resolve
from llm_twin.errors import BusyError, ConfigError, NotReadyError
from llm_twin.settings import Settings

RULE = Rule(name="training", when=event("ct.failed"), text="training failed")


@pytest.fixture
def receiver():
    found = Receiver()
    yield found
    found.close()


@pytest.fixture
def second():
    found = Receiver()
    yield found
    found.close()


def team(home, *urls, rule=RULE, dedup="1h"):
    settings = Settings(home=home, alert_urls="\n".join(urls), alert_timeout=2.0)
    engine = Engine(Store(home), [rule], dedup=dedup)
    return worker.Worker(home, engine, channels.load(settings))


def states(home):
    with closing(sqlite3.connect(home / "alerts.db")) as db:
        sql = "SELECT channel, state FROM delivery WHERE channel != 'log' ORDER BY id"
        return db.execute(sql).fetchall()


def test_a_message_arrives_once_at_the_default_and_in_the_log(tmp_path, receiver, second, capsys):
    record(tmp_path, "ct.failed", "run-1", {"message": "it broke"})
    found = team(tmp_path, f"ops={receiver.url}", f"spare={second.url}")
    assert found.once(5) == 0
    assert found.once(5) == 0
    ((got,), log) = receiver.got, (tmp_path / "alerts.log").read_text()
    assert (got["title"], got["type"]) == ("ERROR training: training failed", "failure")
    assert got["message"].startswith("it broke\nsince ")
    assert second.got == []
    assert log.count("ERROR training: training failed | it broke | since ") == 1
    assert capsys.readouterr().err.count("alert ") == 1
    assert resolve(tmp_path, "training", "run-2")
    found.once(5)
    assert [one["type"] for one in receiver.got] == ["failure", "info"]


def test_a_rule_can_name_several_channels(tmp_path, receiver, second):
    record(tmp_path, "ct.failed", "run-1", {})
    rule = Rule(name="training", when=event("ct.failed"), to=("ops", "spare", "gone"))
    assert team(tmp_path, f"ops={receiver.url}", f"spare={second.url}", rule=rule).once(5) == 0
    assert (len(receiver.got), len(second.got)) == (1, 1)
    assert states(tmp_path)[2] == ("gone", "nowhere")


def test_without_channels_the_log_is_all(tmp_path):
    record(tmp_path, "ct.failed", "run-1", {})
    assert team(tmp_path).once(5) == 0
    assert states(tmp_path) == [("", "nowhere")]
    assert "ERROR training" in (tmp_path / "alerts.log").read_text()


def test_a_receiver_that_returns_gets_it_once(tmp_path, receiver):
    receiver.close()
    record(tmp_path, "ct.failed", "run-1", {})
    found = team(tmp_path, f"ops={receiver.url}")
    assert found.once(0.2) == 1
    assert states(tmp_path) == [("ops", "waiting")]
    back = Receiver(receiver.port)
    try:
        # Another process, after this one was killed, knows what is left to do.
        assert team(tmp_path, f"ops={receiver.url}").once(10) == 0
        assert len(back.got) == 1
    finally:
        back.close()


def test_a_dead_channel_hands_over_to_the_next(tmp_path, receiver, second):
    receiver.status = 500
    record(tmp_path, "ct.failed", "run-1", {})
    assert team(tmp_path, f"ops={receiver.url}", f"spare={second.url}").once(20) == 0
    assert len(second.got) == 1
    assert states(tmp_path) == [("spare", "sent")]
    receiver.status = 200
    assert team(tmp_path, f"ops={receiver.url}", f"spare={second.url}").once(5) == 0
    assert receiver.got == []


@pytest.mark.parametrize("status", [404, 401])
def test_a_refusal_hands_over_at_once(tmp_path, receiver, second, status):
    receiver.status = status
    record(tmp_path, "ct.failed", "run-1", {})
    assert team(tmp_path, f"ops={receiver.url}", f"spare={second.url}").once(5) == 0
    assert len(second.got) == 1
    with closing(Store(tmp_path)) as store:
        error = store.db.execute("SELECT error FROM channel WHERE name = 'ops'").fetchone()[0]
    assert str(status) in error
    assert "secret-hook-path" not in error


def test_a_redirection_is_no_delivery(tmp_path, receiver):
    receiver.status = 302
    record(tmp_path, "ct.failed", "run-1", {})
    assert team(tmp_path, f"ops={receiver.url}").once(0.3) == 1
    assert receiver.got == []


def test_both_dead_keep_the_message_until_one_is_back(tmp_path, receiver, second):
    receiver.status = second.status = 404
    record(tmp_path, "ct.failed", "run-1", {})
    found = team(tmp_path, f"ops={receiver.url}", f"spare={second.url}")
    assert found.once(1) == 1
    second.status = receiver.status = 200
    assert found.once(15) == 0
    assert len(receiver.got) + len(second.got) == 1


def test_what_was_being_sent_when_the_process_died_waits_for_the_dedup_window(tmp_path, receiver):
    record(tmp_path, "ct.failed", "run-1", {})
    killed = team(tmp_path, f"ops={receiver.url}")
    killed.engine.step()
    now = time.time()
    outbox.route(killed.engine.store, ["ops"], now)
    for name in ("ops", "log"):
        outbox.sending(killed.engine.store, outbox.take(killed.engine.store, name, now), now - 50)
    assert team(tmp_path, f"ops={receiver.url}").once(0.3) == 1
    assert receiver.got == []
    # Nothing is in doubt about a file.
    assert "ERROR training" in (tmp_path / "alerts.log").read_text()
    with closing(Store(tmp_path)) as store:
        store.db.execute("UPDATE delivery SET state = 'sending' WHERE channel = 'ops'")
    assert team(tmp_path, f"ops={receiver.url}", dedup="10s").once(5) == 0
    assert "perhaps a repeat" in receiver.got[0]["message"]


def test_what_is_in_doubt_is_dropped_once_a_later_message_got_through(tmp_path, receiver):
    record(tmp_path, "ct.failed", "run-1", {})
    killed = team(tmp_path, f"ops={receiver.url}")
    killed.engine.step()
    outbox.route(killed.engine.store, ["ops"], time.time())
    taken = outbox.take(killed.engine.store, "ops", time.time())
    outbox.sending(killed.engine.store, taken, time.time())
    found = team(tmp_path, f"ops={receiver.url}")
    resolve(tmp_path, "training")
    found.once(5)
    found.once(0)
    assert [one["title"][:8] for one in receiver.got] == ["RESOLVED"]
    assert states(tmp_path) == [("ops", "superseded"), ("ops", "sent")]


def test_the_log_has_a_line_once_however_often_it_is_tried(tmp_path):
    (tmp_path / "alerts.log").write_text("a line without its end")
    log = channels.Log(tmp_path)
    one = outbox.Delivery(1, "log", "error", "firing", "ERROR x", "body", "[a.1]")
    log.send(one)
    log.send(one)
    lines = (tmp_path / "alerts.log").read_text().splitlines()
    assert lines[0] == "a line without its end"
    assert lines[1].endswith("Z ERROR x | body [a.1]")
    assert len(lines) == 2


def test_a_log_that_cannot_be_written_stops_nobody(tmp_path, receiver):
    (tmp_path / "alerts.log").mkdir()
    record(tmp_path, "ct.failed", "run-1", {})
    assert team(tmp_path, f"ops={receiver.url}").once(0.5) == 1
    assert len(receiver.got) == 1


def test_a_slow_channel_holds_up_no_other(tmp_path, receiver):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        slow = f"json://127.0.0.1:{silent.getsockname()[1]}/"
        record(tmp_path, "ct.failed", "run-1", {})
        rule = Rule(name="training", when=event("ct.failed"), to=("slow", "ops"))
        found = team(tmp_path, f"ops={receiver.url}", f"slow={slow}", rule=rule)
        assert found.once(1.0) == 1
        assert len(receiver.got) == 1
        found._join(time.monotonic() + 5)


def test_it_runs_until_stopped_and_is_the_only_one(tmp_path, receiver):
    stop = threading.Event()
    with worker.only_one(tmp_path):
        with (
            pytest.raises(BusyError, match="another process sees to the alerts"),
            worker.only_one(tmp_path),
        ):
            pass

        def later():
            record(tmp_path, "ct.failed", "run-1", {})
            deadline = time.monotonic() + 20
            while not receiver.got and time.monotonic() < deadline:
                time.sleep(0.02)
            stop.set()

        threading.Thread(target=later, daemon=True).start()
        team(tmp_path, f"ops={receiver.url}").run(stop)
    assert len(receiver.got) == 1


def test_a_store_that_fails_for_a_while_stops_nothing_for_good(tmp_path, receiver, capsys):
    record(tmp_path, "ct.failed", "run-1", {})
    found, stop = team(tmp_path, f"ops={receiver.url}"), threading.Event()
    with closing(sqlite3.connect(tmp_path / "alerts.db", isolation_level=None)) as db:
        db.execute("ALTER TABLE delivery RENAME TO gone")

        def mend():
            time.sleep(1.2)
            with closing(sqlite3.connect(tmp_path / "alerts.db")) as again:
                again.execute("ALTER TABLE gone RENAME TO delivery")
            deadline = time.monotonic() + 20
            while not receiver.got and time.monotonic() < deadline:
                time.sleep(0.02)
            stop.set()

        threading.Thread(target=mend, daemon=True).start()
        found.run(stop)
    assert len(receiver.got) == 1
    assert capsys.readouterr().err.count("error: alerts cannot be kept: no such table") == 1


def test_a_store_that_is_gone_ends_a_delivery_with_a_word(tmp_path, capsys):
    found = team(tmp_path)
    found.home = tmp_path / "alerts.db"
    found._drain("log")
    assert "error: alerts cannot be kept" in capsys.readouterr().err


def test_whatever_apprise_raises_is_a_failure_without_its_text(tmp_path):
    channel = channels.Apprise("ops", "json://127.0.0.1/secret", 1.0)
    channel._service = object()
    with pytest.raises(channels.Undelivered, match=r"^Apprise raised AttributeError$"):
        channel.send(outbox.Delivery(1, "ops", "error", "firing", "t", "b", "[a.1]"))


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        (
            "json://127.0.0.1/secret",
            r"cannot be read: TWIN_ALERT_URLS, line 1\. Write one name=url",
        ),
        ("ops=json://a\nops=json://b", "line 2"),
        ("log=json://a", "line 1"),
        ("ops=nonsense://secret", r"makes nothing of an alert channel's URL: ops\. Mend"),
    ],
)
def test_a_channel_that_cannot_be_is_told_without_its_url(tmp_path, urls, message, caplog):
    with pytest.raises(ConfigError, match=message) as caught:
        channels.load(Settings(home=tmp_path, alert_urls=urls))
    assert "secret" not in str(caught.value)


def test_without_apprise_it_says_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(NotReadyError, match=r"apprise\. Type: pip install 'llm-twin\[alert\]'"):
        channels.load(Settings(home=tmp_path, alert_urls="\nops=json://127.0.0.1"))


def test_only_urls_that_name_their_server_are_tried_before_sending():
    slack = channels.Apprise("s", "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/", 1.0)
    assert slack._address() == ("", 0)
    slack.reach()
    mail = channels.Apprise("m", "mailto://127.0.0.1:2525/?from=a@x.de&to=b@x.de", 1.0)
    assert mail._address() == ("127.0.0.1", 2525)
    assert channels.Apprise("j", "jsons://127.0.0.1/x", 1.0)._address() == ("127.0.0.1", 443)
