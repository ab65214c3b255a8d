"""ZenML's alerter and hooks in real pipelines: once a run, nothing dumped, nothing in the way."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm_twin.alerting.approval import answer, recent, request

PASSWORD = "hunter2-of-the-channel"  # pragma: allowlist secret
PARAMETER = "s3://bucket/of-the-parameter"
URL = f"team=json://twin:{PASSWORD}@127.0.0.1:9/x"

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
from invoke import Collection, Program
from ci.alert_setup import TASKS
Program(namespace=Collection(*TASKS)).run()
"""
PIPELINES = f'''
import json, os, sys
from pathlib import Path

from llm_twin.ct import zen
from llm_twin.settings import Settings

settings = Settings.load()
zen.prepare(settings)
os.environ["ZENML_CUSTOM_SOURCE_ROOT"] = str(Path(__file__).parent)

from zenml import pipeline, step
from zenml.client import Client
from zenml.hooks import alerter_failure_hook, alerter_success_hook

HOOKS = {{
    "on_failure": "llm_twin.alerting.hooks.run_failed",
    "on_success": "llm_twin.alerting.hooks.run_succeeded",
}}


@step
def first() -> int:
    return 1


@step
def second(one: int, wrong: bool, place: str) -> int:
    if wrong:
        raise ValueError(f"cannot read {{place}}")
    return 2


@step
def third(one: int, wrong: bool, place: str) -> int:
    if wrong:
        raise ValueError(f"cannot read {{place}}")
    return 3


@step(on_failure=alerter_failure_hook, on_success=alerter_success_hook, enable_cache=False)
def told_by_zenml(wrong: bool, place: str) -> None:
    if wrong:
        raise ValueError(f"cannot read {{place}}")


@pipeline(dynamic=True, **HOOKS)
def moving(wrong: bool) -> None:
    second(first(), wrong, "{PARAMETER}")


@pipeline(**HOOKS)
def fixed(wrong: bool) -> None:
    one = first()
    second(one, wrong, "{PARAMETER}")
    third(one, wrong, "{PARAMETER}")


@pipeline
def built_in(wrong: bool) -> None:
    told_by_zenml(wrong, "{PARAMETER}")


def run(pipeline, wrong):
    try:
        pipeline(wrong)
    except Exception as error:
        print(type(error).__name__)
'''
RUNS = """
from pipelines import *
from llm_twin.alerting.zenml_flavor import TwinAlerterParameters

zen.use_alerter(settings)
alerter = Client().active_stack.alerter
seen = {"stack": Client().active_stack_model.name, "repr": repr(alerter) + repr(alerter.config)}
seen["posted"] = [
    alerter.post("training is late"),
    alerter.post("training is late", TwinAlerterParameters(title="Night shift")),
    alerter.post("training is late"),
]
for made in (moving, fixed):
    for wrong in (False, True, True, False):
        run(made, wrong)
for wrong in (False, True, True):
    run(built_in, wrong)
zen.use_alerter(settings)
client = Client()
seen["again"] = [len(client.list_stacks().items), len(client.list_secrets().items)]
seen["secret"] = client.get_secret("llm_twin_alerts").secret_values["urls"] == settings.alert_urls
Path("seen.json").write_text(json.dumps(seen))
"""
ASKS = """
from pipelines import *
from llm_twin.alerting.zenml_flavor import TwinAlerterParameters

alerter = Client().active_stack.alerter
print(alerter.ask("Promote it?", TwinAlerterParameters(timeout=60)))
print(alerter.ask("And now?", TwinAlerterParameters(timeout=0)))
"""
OTHERS = """
from pipelines import *
from llm_twin.alerting import hooks

zen.set_up_alerter(settings, direct=True)
print(Client().active_stack.alerter.config.direct)
run(moving, True)
hooks.run_failed(KeyboardInterrupt())
zen.use_alerter(settings)
print(Client().active_stack.alerter.config.direct)
client = Client()
kinds = {kind: found[0].id for kind, found in client.active_stack_model.components.items()}
mine = client.create_stack("mine", {k: v for k, v in kinds.items() if k.value != "alerter"})
client.activate_stack(mine.id)
os.environ["TWIN_ALERT_URLS"] = "team=json://127.0.0.1:9/other"
print(zen.set_up_alerter(Settings.load()))
print(client.get_secret("llm_twin_alerts").secret_values["urls"])
print(Client().active_stack_model.components.keys() == kinds.keys())
"""


class Folder:
    """A project with pipelines, and a state folder with a database of ZenML's own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.environment = {**os.environ, "TWIN_HOME": str(self.home), "TWIN_ALERT_URLS": URL}
        (root / "pipelines.py").write_text(PIPELINES)

    def start(self, code: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code], cwd=self.root, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**self.environment, **environment},
        )  # fmt: skip

    def run(self, code: str, **environment: str) -> str:
        process = self.start(code, **environment)
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, out + err
        return out

    def invoke(self, *line: str, code: int = 0, **environment: str) -> str:
        """What one of the tasks prints, on stderr when it fails."""
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *line],
            cwd=ROOT, text=True, capture_output=True, timeout=100,
            env={**self.environment, **environment},
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else done.stdout

    def select(self, query: str) -> list[tuple]:
        with contextlib.closing(sqlite3.connect(self.home / "alerts.db")) as db:
            return db.execute(query).fetchall()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = Folder(tmp_path_factory.mktemp("zenml"))
    made.run(RUNS)
    made.seen = json.loads((made.root / "seen.json").read_text())
    return made


def test_each_run_makes_one_event_static_or_dynamic(folder):
    rows = folder.select("SELECT kind, subject, data FROM event ORDER BY id")
    assert [kind for kind, _, _ in rows] == [
        "moving.succeeded", "moving.failed", "moving.failed", "moving.succeeded",
        "fixed.succeeded", "fixed.failed", "fixed.failed",
    ]  # fmt: skip
    assert len({subject for _, subject, _ in rows}) == 7
    assert {json.loads(data)["message"] for kind, _, data in rows if "failed" in kind} == {
        "second: it raised ValueError"
    }


def test_what_zenml_posts_itself_says_neither_parameters_nor_tracebacks(folder):
    bodies = [body for (body,) in folder.select("SELECT body FROM message ORDER BY id")]
    assert bodies[:2] == ["training is late"] * 2
    told = [body for body in bodies if "told_by_zenml" in body]
    assert len(told) == 3
    assert "Step failed!" in told[1]
    assert "Traceback" not in "".join(bodies)
    assert "Parameters" not in "".join(bodies)


def test_the_same_post_is_one_message(folder):
    titles = folder.select("SELECT title FROM message WHERE body = 'training is late'")
    assert titles == [("ZenML",), ("Night shift",)]
    assert folder.seen["posted"] == [True, True, True]


def test_no_parameter_and_no_secret_is_kept_or_shown(folder):
    written = b"".join(path.read_bytes() for path in folder.home.glob("alerts.*"))
    for secret in (PASSWORD, PARAMETER):
        assert secret.encode() not in written
        assert secret not in folder.seen["repr"]
    assert folder.seen["secret"]


def test_it_is_on_a_stack_of_its_own_and_registered_once(folder):
    assert folder.seen["stack"] == "llm-twin"
    assert folder.seen["again"] == [2, 1]


def test_a_question_waits_for_its_answer(folder):
    process = folder.start(ASKS)
    while not (asked := recent(folder.home)) and process.poll() is None:
        time.sleep(0.1)
    answer(folder.home, asked[0].id, True)
    out, err = process.communicate(timeout=100)
    assert out.splitlines() == ["True", "False"], err
    ((body,),) = folder.select("SELECT body FROM message WHERE body LIKE 'Promote it?%'")
    assert f"invoke alerts.approve {asked[0].id}" in body


def test_sending_directly_on_a_stack_of_the_users_own(folder):
    before = folder.select("SELECT count(*) FROM event")
    out = folder.run(OTHERS).splitlines()
    assert out[0] == "True"
    assert out[-5:] == ["ValueError", "True", "mine", "team=json://127.0.0.1:9/other", "True"]
    assert folder.select("SELECT count(*) FROM event") == before


def test_setting_up_twice_changes_nothing_and_needs_no_zenml_the_second_time(folder):
    first = folder.invoke("setup")
    assert "sends through the channels of TWIN_ALERT_URLS" in first
    again = folder.invoke("setup")
    assert again == "ZenML's alerter is set up, and nothing changed\n"
    assert "sends through" in folder.invoke("setup", "--direct")


def test_without_a_channel_there_is_nothing_to_set_up(folder):
    said = folder.invoke("setup", code=2, TWIN_ALERT_URLS="")
    assert said.startswith("error: no channel is named: TWIN_ALERT_URLS. Set it like ")


def test_questions_are_answered_through_the_front_door(folder):
    yes, no = request(folder.home, "One?"), request(folder.home, "Two?")
    assert folder.invoke("approve", yes.id) == "approved: One?\n"
    assert folder.invoke("refuse", no.id, "--reason", "too early") == "refused: Two?\n"
    assert "too early  Two?" in folder.invoke("approvals")
    listed = json.loads(folder.invoke("approvals", "--json"))
    assert {one["question"]: one["state"] for one in listed}["One?"] == "approved"
    assert "not open any more" in folder.invoke("approve", no.id, code=2)
    fresh = folder.invoke("approvals", TWIN_HOME=str(folder.root / "fresh"))
    assert fresh == "Nothing was asked yet\n"
