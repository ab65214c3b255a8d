"""What a sender of webhooks sees, and what is kept of what it sent."""

import contextlib
import http.client
import json
import socket
import sqlite3
import threading
import time

import pytest

from llm_twin.errors import ConfigError
from llm_twin.flow.automation import Automations, absent, alert, event, webhook
from llm_twin.flow.automation import hooks as receiving
from llm_twin.flow.automation.actions import signature
from llm_twin.flow.automation.hooks import hook_secrets, open_receiver
from llm_twin.flow.automation.ledger import events_after
from llm_twin.flow.store import Store

KEY = b"not a real one"
BODY = b'{"corpus": "docs"}'


@pytest.fixture
def store(tmp_path):
    with contextlib.closing(Store(tmp_path / ".twin")) as opened:
        yield opened


@pytest.fixture
def said():
    return []


@pytest.fixture
def receiver(store, said):
    opened = open_receiver({"corpus": KEY}, store.home, "127.0.0.1", 0, said.append)
    thread = threading.Thread(target=opened.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield opened
    opened.shutdown()
    thread.join(timeout=30)
    opened.server_close()


def post(receiver, body=BODY, path="/hooks/corpus", key=KEY, method="POST", **headers):
    """Send it and return status and message."""
    given = {"X-Hub-Signature-256": signature(key, body)}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection(*receiver.server_address, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, body, given)
        answer = connection.getresponse()
        text = answer.read()
    return answer.status, json.loads(text)["message"] if method == "POST" else ""


def received(store):
    return [(item.name, item.data) for item in events_after(store.db, 0)]


def test_a_signed_post_is_an_event_before_it_is_acknowledged(receiver, store, said):
    assert post(receiver, X_GitHub_Delivery="d-1") == (202, "accepted")
    assert received(store) == [("corpus", {"corpus": "docs"})]
    assert said == ["webhook corpus received: 'd-1'"]


def test_a_redelivery_is_accepted_and_is_no_second_event(receiver, store, said):
    for header in ("X_GitHub_Delivery", "Idempotency_Key"):
        assert post(receiver, **{header: "same"})[0] == 202
    assert post(receiver, X_GitHub_Delivery="same") == (202, "accepted before")
    assert len(received(store)) == 1
    assert said[-1] == "webhook corpus came again: 'same'"
    assert post(receiver)[1] == post(receiver)[1] == "accepted"
    assert len(received(store)) == 3


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"key": b"another"}, 401),
        ({"X_Hub_Signature_256": ""}, 401),
        ({"X_Hub_Signature_256": "sha256=\u00e9"}, 401),
        ({"path": "/hooks/other"}, 404),
        ({"path": "/corpus"}, 404),
        ({"path": "/"}, 404),
        ({"body": b"not json"}, 400),
        ({"body": b"[1]"}, 400),
        ({"body": b"[" * 100_000}, 400),
        ({"body": b"\xff"}, 400),
        ({"body": b" " * (1 << 20) + b"{}"}, 413),
        ({"Content_Length": "x"}, 411),
        ({"method": "GET"}, 501),
    ],
)
def test_anything_else_is_refused_and_leaves_nothing(receiver, store, options, status):
    assert post(receiver, **options)[0] == status
    assert received(store) == []


def test_githubs_ping_is_answered_and_starts_nothing(receiver, store):
    assert post(receiver, X_GitHub_Event="ping") == (200, "pong")
    assert received(store) == []


def test_a_body_of_a_megabyte_is_taken(receiver, store):
    body = json.dumps({"text": "x" * ((1 << 20) - 12)}).encode()
    assert len(body) == 1 << 20
    assert post(receiver, body)[0] == 202


def test_what_cannot_be_recorded_is_not_acknowledged(receiver, store, capsys):
    with contextlib.closing(sqlite3.connect(store.path)) as db:
        db.execute("ALTER TABLE event RENAME TO away")
        db.commit()
        assert post(receiver) == (503, "it could not be recorded; send it again")
        db.execute("ALTER TABLE away RENAME TO event")
        db.commit()
    assert "webhook corpus was not recorded" in capsys.readouterr().err
    assert post(receiver)[0] == 202


def test_slow_senders_are_cut_off_and_hold_up_nobody(receiver, store, monkeypatch, capsys):
    monkeypatch.setattr(receiving, "MOST_SECONDS", 3.0)
    with contextlib.ExitStack() as stack:
        head = b"POST /hooks/corpus HTTP/1.1\r\nContent-Length: 9\r\n\r\n"
        slow = []
        for start in [b"POST /ho", head] * 8:
            sender = stack.enter_context(socket.create_connection(receiver.server_address))
            sender.sendall(start)
            sender.settimeout(30)
            slow.append(sender)
        while receiver.slots._value:
            time.sleep(0.01)
        with socket.create_connection(receiver.server_address) as one_too_many:
            one_too_many.settimeout(30)
            assert one_too_many.recv(1) == b""
        for sender in slow:
            with contextlib.suppress(ConnectionError):
                while sender.recv(4096):
                    pass
        while receiver.slots._value < receiving.MOST_AT_ONCE:
            time.sleep(0.01)
    monkeypatch.undo()
    assert post(receiver)[0] == 202
    assert len(received(store)) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_hook_without_its_secret_is_refused_and_the_others_are_not(monkeypatch, capsys):
    monkeypatch.setenv("ONE_SECRET", "x")
    automations = Automations()
    automations.add("a", when=webhook("one", secret_env="ONE_SECRET"), do=alert("x"))
    quiet = absent(webhook("two", secret_env="TWO_SECRET"), within="1d")
    automations.add("b", when=quiet, do=alert("x"))
    automations.add("c", when=event("x"), do=alert("x"))
    assert hook_secrets(automations) == {"one": b"x"}
    assert capsys.readouterr().err == (
        "error: webhook two is refused: a secret is not set: TWO_SECRET."
        " Type: export TWO_SECRET=...\n"
    )


def test_an_address_that_is_taken_or_impossible(receiver, store):
    for host, port in (receiver.server_address, ("127.0.0.1", 99999)):
        with pytest.raises(ConfigError, match=rf"cannot listen .*{port}.* automate --port"):
            open_receiver({"x": KEY}, store.home, host, port, print)


def test_listening_on_the_loopback_of_ipv6(store):
    opened = open_receiver({"x": KEY}, store.home, "::1", 0, print)
    assert opened.server_address[0] == "::1"
    opened.server_close()
