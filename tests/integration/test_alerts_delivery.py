"""What goes wrong reaches a real HTTP receiver and a real mail server, once each, from `invoke`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from email import message_from_bytes
from email.policy import default
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller

from llm_twin.alerting.store import Store, record

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/unit/alerting"))
from alert_receiver import Receiver  # noqa: E402

CANARY = "canary-4711-parameter"
TASKS = """
import os, sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from ci.alerts import alerts
from llm_twin.flow import Registry
from llm_twin.flow.tasks import collection
registry = Registry()

@registry.stage
def ct(corpus: str = "", how: str = "well") -> None:
    '''Train.

    Args:
        corpus: from where.
        how: it ends.
    '''
    if how == "hang":
        Path("hangs").touch()
        time.sleep(60)
    if how == "badly":
        raise ValueError(f"no corpus {{corpus}} with password=hunter2 for ada@example.org")

namespace = collection(registry, Path(__file__).resolve().parent)
namespace.add_collection(alerts)
"""


class Mail:
    """Keeps the mails that a real SMTP server on loopback takes."""

    def __init__(self):
        self.got = []
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.controller = Controller(self, hostname="127.0.0.1", port=self.port)
        self.controller.start()

    async def handle_DATA(self, server, session, envelope):
        self.got.append(message_from_bytes(envelope.content, policy=default))
        return "250 OK"

    @property
    def url(self):
        return f"mailto://127.0.0.1:{self.port}/?from=twin@example.org&to=ops@example.org&mode=insecure"


@pytest.fixture
def mail():
    found = Mail()
    yield found
    found.controller.stop()


@pytest.fixture
def hook():
    found = Receiver()
    yield found
    found.close()


@pytest.fixture
def project(tmp_path, hook, mail):
    (tmp_path / "tasks.py").write_text(TASKS.format(root=str(ROOT)))
    return tmp_path


def environment(project, hook, mail):
    urls = f"hook={hook.url}\n+mail={mail.url}"
    return {**os.environ, "TWIN_HOME": str(project / "home"), "TWIN_ALERT_URLS": urls}


def start(project, env, *line):
    return subprocess.Popen(
        [sys.executable, "-m", "invoke", *line],
        cwd=project,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def invoke(project, env, *line):
    process = start(project, env, *line)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def until(true, seconds=30):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def killed_run(project, env):
    process = start(project, env, "ct", "--how", "hang", "--corpus", CANARY)
    until((project / "hangs").exists)
    process.kill()
    process.wait(20)
    process.stdout.close()
    process.stderr.close()


def failing_step(project, env):
    invoke(project, env, "ct", "--how", "badly", "--corpus", CANARY)


def told(kind, subject, **data):
    def happen(project, env):
        secret = {"message": f"key=sk-{'a' * 24}", "parameters": {"corpus": CANARY}}
        for _ in range(3):
            record(project / "home", kind, subject, {**secret, **data})

    return happen


PROBLEMS = {
    "ERROR training-failed": failing_step,
    "ERROR training-failed, killed": killed_run,
    "WARNING gate-refused": told("gate.refused", "run-1"),
    "CRITICAL zenml-dead": told("zenml.dead", "run-2", run="run-2"),
    "ERROR deployment-failed": told("deploy.rolled_back", "dep-1", target="local"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_each_problem_is_one_message_at_each_receiver(project, hook, mail, problem):
    env = environment(project, hook, mail)
    watch = start(project, env, "alerts.watch")
    try:
        assert "telling log, hook, mail" in watch.stdout.readline()
        PROBLEMS[problem](project, env)
        until(lambda: hook.got and mail.got)
        time.sleep(2)
    finally:
        watch.send_signal(signal.SIGTERM)
        _, err = watch.communicate(timeout=30)
    (posted,), (mailed,) = hook.got, mail.got
    expected = problem.partition(",")[0]
    assert posted["title"].startswith(f"{expected}: ")
    assert mailed["subject"] == posted["title"]
    text = mailed.get_body(("plain",)).get_content()
    assert text.split() == posted["message"].split()
    everything = str(posted) + mailed.as_string() + err
    everything += (project / "home" / "alerts.log").read_text()
    for secret in (CANARY, "hunter2", "ada@example.org", "sk-aaaa", "Traceback"):
        assert secret not in everything
    assert "look: invoke " in text
    assert "since 2" in text


def test_an_outage_and_a_kill_cost_no_message_and_no_repeat(project, hook, mail):
    env = environment(project, hook, mail)
    hook.close()
    home = project / "home"
    for _ in range(20):
        record(home, "gate.refused", "run-1", {"message": "worse than the one that serves"})
    for _ in range(3):
        watch = start(project, env, "alerts.watch")
        assert watch.stdout.readline()
        until(lambda: mail.got)
        time.sleep(0.5)
        watch.kill()
        watch.communicate(timeout=20)
    back = Receiver(hook.port)
    try:
        code, _, err = invoke(project, env, "alerts.watch", "--once")
        assert (code, len(back.got), len(mail.got)) == (0, 1, 1), err
        assert "20 times" in back.got[0]["message"]
        assert invoke(project, env, "alerts.watch", "--once")[0] == 0
        assert len(back.got) == 1
    finally:
        back.close()


def test_what_a_person_does_about_an_alert(project, hook, mail):
    env = environment(project, hook, mail)
    home = project / "home"
    assert "No alerts" in invoke(project, env, "alerts")[1]
    assert "no alerts yet" in invoke(project, env, "alerts.show", "x")[2]
    assert "training-failed" in invoke(project, env, "alerts", "--rules")[1]
    record(home, "gate.refused", "run-1", {"message": "worse"})
    assert invoke(project, env, "alerts.watch", "--once")[0] == 0
    with closing(Store(home)) as store:
        (alert,) = store.open_alerts()
    code, shown, _ = invoke(project, env, "alerts.show", alert.id[:5])
    assert code == 0
    assert "firing to hook: sent, 1 tries" in shown
    assert "is acknowledged by" in invoke(project, env, "alerts.ack", alert.id)[1]
    assert "acknowledged" in invoke(project, env, "alerts")[1]
    line = ("alerts.silence", "gate-refused", "--for", "2h", "--reason", "known")
    assert "gate-refused is silent until" in invoke(project, env, *line)[1]
    assert "gate-refused is silent until" in invoke(project, env, "alerts")[1]
    assert "no such alert" in invoke(project, env, "alerts.silence", "nonsense")[2]
    assert (
        "1 resolved" in invoke(project, env, "alerts.resolve", "gate-refused", "--by", "run-9")[1]
    )
    assert '"by": "run-9"' in invoke(project, env, "alerts", "--json")[1]
    assert '"messages": [{' in invoke(project, env, "alerts.show", alert.id, "--json")[1]
    assert "mail took the test message" in invoke(project, env, "alerts.test", "mail")[1]
    assert "no such channel: nope" in invoke(project, env, "alerts.test", "nope")[2]
    hook.status = 404
    code, _, err = invoke(project, env, "alerts.test", "hook")
    assert code == 1
    assert "the test message was not delivered: hook: " in err
    code, shown, _ = invoke(project, env, "alerts.simulate", "--since", "1d")
    assert "WARNING gate-refused: the new model was not promoted" in shown
    assert "1 messages in 1d; nothing was sent" in shown
    assert '"what": "firing"' in invoke(project, env, "alerts.simulate", "--json")[1]
