"""What a stack needs is said at once; a run that has to be given up is, and no other."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import signal
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from invoke.exceptions import Exit

from ci.stacks import stack, told
from llm_twin.ct import history, stacks, zen
from llm_twin.ct.following import (
    COMPLETED,
    FAILED,
    RUNNING,
    WAITING,
    Follower,
    JobLostError,
    Limits,
    Progress,
    Sight,
    remembering,
)
from llm_twin.ct.remote import Outcome
from llm_twin.errors import ConfigError, RemoteError
from llm_twin.model.bundles import Bundle
from llm_twin.model.profile import Remote
from llm_twin.settings import Settings

DIGEST = "sha256:" + "0" * 64
WHOLE = {
    "TWIN_ZENML_URL": "https://zenml.example.org",
    "TWIN_ZENML_KEY": "ZENKEY_hush",
    "TWIN_CT_IMAGE": f"123456789012.dkr.ecr.eu-central-1.amazonaws.com/llm-twin@{DIGEST}",
    "TWIN_CT_BUCKET": "s3://twin/ct",
    "TWIN_CT_ROLE": "arn:aws:iam::123456789012:role/llm-twin-train",
    "TWIN_CT_CONTEXT": "cluster",
    "TWIN_AWS_REGION": "eu-central-1",
}


@pytest.fixture(autouse=True)
def no_region(monkeypatch):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("kind", "needed"),
    [
        ("sagemaker", {"ZENML_URL", "ZENML_KEY", "CT_IMAGE", "CT_BUCKET", "CT_ROLE", "AWS_REGION"}),
        ("kubernetes", {"ZENML_URL", "ZENML_KEY", "CT_IMAGE", "CT_BUCKET", "CT_CONTEXT"}),
        ("local", set()),
    ],
)
def test_everything_that_is_missing_is_named_at_once(kind, needed):
    if not needed:
        stacks.check(kind, Settings.load({}))
        return
    with pytest.raises(ConfigError) as error:
        stacks.check(kind, Settings.load({}))
    assert {name for name in WHOLE if f"{name} (" in str(error.value)} == {
        f"TWIN_{name}" for name in needed
    }
    stacks.check(kind, Settings.load(WHOLE))
    for name in needed:
        with pytest.raises(ConfigError, match=f"TWIN_{name} "):
            stacks.check(kind, Settings.load({**WHOLE, f"TWIN_{name}": ""}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TWIN_CT_IMAGE", "registry.example.org/llm-twin:latest"),
        ("TWIN_CT_BUCKET", "/srv/artifacts"),
        ("TWIN_CT_ROLE", "llm-twin-train"),
        ("TWIN_ZENML_URL", "zenml.example.org"),
        ("TWIN_INDEX_URL", "http://127.0.0.1:6333"),
    ],
)
def test_a_setting_of_the_wrong_shape_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        stacks.check("sagemaker", Settings.load({**WHOLE, name: value}))


def test_a_stack_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="there is no such stack: 'vertex'"):
        stacks.check("vertex", Settings.load(WHOLE))


def test_the_task_says_what_is_missing_and_exits_with_2(monkeypatch, tmp_path):
    for name in WHOLE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TWIN_HOME", str(tmp_path / "home"))
    with pytest.raises(Exit, match="the stack kubernetes needs more settings") as error:
        stack.body(None, "kubernetes")
    assert error.value.code == 2
    assert not (tmp_path / "home").exists()


def test_how_a_run_ended_is_one_line(tmp_path):
    assert told(Outcome("run", Bundle("v1", tmp_path, {}))) == "promoted v1"
    assert told(Outcome("run", None)).startswith("not promoted")


def test_the_key_of_the_server_is_not_printed():
    assert "hush" not in repr(Settings.load(WHOLE))


def test_zenml_is_pointed_to_the_server_that_is_named(tmp_path, monkeypatch):
    for name in ("ZENML_STORE_URL", "ZENML_STORE_API_KEY"):
        monkeypatch.setenv(name, "")
    environment: dict[str, str] = {}
    monkeypatch.setattr(zen.os, "environ", environment)
    zen.prepare(Settings.load({**WHOLE, "TWIN_HOME": str(tmp_path)}))
    assert environment["ZENML_STORE_URL"] == "https://zenml.example.org"
    assert environment["ZENML_STORE_API_KEY"] == "ZENKEY_hush"  # pragma: allowlist secret


@pytest.fixture
def answering():
    """A server on loopback that answers every request with a status and a text."""
    servers = []

    def serve(status: int, text: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (200, json.dumps({"version": "0.41.0"}), r"the ZenML server is version 0\.41\.0, and this"),
        (503, "", r"cannot be reached \(HTTP 503\)"),
        (200, "<html>", r"cannot be reached \(JSONDecodeError\)"),
        (200, "[]", r"cannot be reached \(TypeError\)"),
    ],
)
def test_a_server_that_does_not_do_is_named(answering, status, text, said):
    settings = Settings.load({"TWIN_ZENML_URL": answering(status, text)})
    with pytest.raises(RemoteError, match=said):
        history.check(settings)


def test_no_server_and_no_address_are_named():
    for url in ("", "zenml.example.org"):
        with pytest.raises(ConfigError, match="TWIN_ZENML_URL is no address"):
            history.check(Settings.load({"TWIN_ZENML_URL": url}))


class Job:
    """A job that looks as it is told, one look after the other; the last look stays."""

    name = "a-job"

    def __init__(self, *sights: Sight | Exception, lines: tuple[str, ...] = ()) -> None:
        self.sights, self.written = list(sights), list(lines)

    def look(self) -> Sight:
        found = self.sights.pop(0) if len(self.sights) > 1 else self.sights[0]
        if isinstance(found, Exception):
            raise found
        return found

    def lines(self) -> list[str]:
        return [self.written.pop(0)] if self.written else []

    def stop(self) -> None:
        raise AssertionError("who follows does not stop")


LIMITS = Limits(start=60, silence=100, time=300)
SUBMITTED = Progress("provisioning", False, False, {}, created=0.0)
GOING = Progress("running", False, False, {"train": "running"}, created=0.0, began=10.0)
DONE = Progress("completed", True, True, {"train": "completed"}, created=0.0, began=10.0)
BUSY = Sight(RUNNING, "Training")


def followed(job: Job, *known: Progress, limits: Limits = LIMITS) -> tuple[list[str], float]:
    """What is said until the end, and when that was."""
    told: list[str] = []
    now = itertools.count(0.0, 0.0).__next__
    time = {"now": now()}
    states = list(known)

    def progress() -> Progress:
        return states.pop(0) if len(states) > 1 else states[0]

    def pause(seconds: float) -> None:
        time["now"] += seconds

    follower = Follower(progress, job, limits, told.append, clock=lambda: time["now"], pause=pause)
    try:
        told.append(f"end: {follower.follow().status}")
    except RemoteError as error:
        told.append(f"{type(error).__name__}: {error.what}")
    return told, time["now"]


def test_what_changes_is_said_once_and_so_is_every_line():
    job = Job(Sight(WAITING, "Pending"), BUSY, lines=("one", "two"))
    told, _ = followed(job, SUBMITTED, GOING, GOING, DONE)
    assert told == [
        "job: Pending", "run: provisioning", "| one",
        "job: Training", "run: running", "step train: running", "| two",
        "run: completed", "step train: completed", "end: completed",
    ]  # fmt: skip


def test_a_job_that_does_not_begin_is_given_up_with_its_last_state():
    told, when = followed(Job(Sight(WAITING, "Pending: no capacity")), SUBMITTED)
    assert told[-1] == "JobLostError: the job did not begin within 60 s (Pending: no capacity)"
    assert 60 < when <= 70


def test_a_container_that_runs_and_begins_no_step_has_not_begun():
    told, _ = followed(Job(BUSY, lines=tuple("x" * 50)), SUBMITTED)
    assert "did not begin within 60 s" in told[-1]


def test_a_job_that_failed_is_lost_at_once_whatever_zenml_says():
    told, when = followed(Job(BUSY, Sight(FAILED, "Failed (exit code: 137)")), GOING)
    assert told[-1] == ("JobLostError: the job ended before the run did (Failed (exit code: 137))")
    assert when == 5


def test_a_job_that_failed_after_telling_zenml_is_no_lost_job():
    bad = dataclasses.replace(DONE, status="failed", good=False)
    told, _ = followed(Job(BUSY, Sight(FAILED, "Failed")), GOING, bad)
    assert told[-1] == "end: failed"


def test_zenml_gets_some_time_to_hear_of_the_end_of_a_good_job():
    told, _ = followed(Job(Sight(COMPLETED, "Completed")), GOING, GOING, DONE)
    assert told[-1] == "end: completed"
    told, when = followed(Job(Sight(COMPLETED, "Completed")), GOING)
    assert told[-1] == "JobLostError: the job has ended, and ZenML heard nothing of it"
    assert 30 < when <= 40


def test_silence_counts_from_the_last_line():
    told, when = followed(Job(BUSY, lines=("a", "b", "c")), GOING)
    assert told[-1] == "JobLostError: the job gave no sign of life for 100 s"
    assert 110 < when <= 120


def test_a_talkative_job_has_its_time_and_no_more():
    told, when = followed(Job(BUSY, lines=tuple("x" * 100)), GOING)
    assert told[-1] == "JobLostError: the job took longer than 300 s"
    assert 310 < when <= 320


def test_a_short_outage_is_told_and_waited_for():
    away = RemoteError("SageMaker did not answer", "a-job")
    told, _ = followed(Job(BUSY, away, away, BUSY), GOING, GOING, DONE)
    assert told.count("cannot look: SageMaker did not answer: a-job") == 1
    assert told[-1] == "end: completed"


def test_a_long_outage_ends_the_following_and_not_the_job():
    told, when = followed(Job(RemoteError("SageMaker did not answer", "a-job")), GOING)
    assert told[-1] == (
        "RemoteError: the run cannot be followed any more (SageMaker did not answer)"
    )
    assert when > 100
    assert not issubclass(RemoteError, JobLostError)


def test_a_ctrl_c_that_a_library_lost_still_ends_the_following():
    class Swallowing(Job):
        def look(self) -> Sight:
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(10)
            return super().look()

    before = signal.getsignal(signal.SIGINT)
    with remembering() as interrupted:
        told: list[str] = []
        follower = Follower(
            lambda: GOING, Swallowing(BUSY), LIMITS, told.append, interrupted=interrupted,
            clock=lambda: 20.0, pause=lambda seconds: pytest.fail("it went on"),
        )  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            follower.follow()
    assert told[0] == "job: Training"
    assert signal.getsignal(signal.SIGINT) is before


def test_limits_are_those_of_the_profile():
    assert Limits.of(Remote(start="20m", silence="90s", time="6h")) == Limits(1200, 90, 21600)
