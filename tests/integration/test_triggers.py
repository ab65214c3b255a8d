"""What asks for training, through the real guard and engine, over a project whose `ct` is quick.

The stages `ct-due` and `watch-drift` and the automations are this repository's own.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llm_twin.flow.automation.actions import signature
from llm_twin.loop.audit import Audit
from llm_twin.loop.requests import Requests
from llm_twin.settings import Settings
from llm_twin.tracing.store.merge import new_id
from llm_twin.tracing.store.routing import Request
from llm_twin.tracing.store.store import Store

REPOSITORY = Path(__file__).resolve().parents[2]
SECRET = "s3"  # pragma: allowlist secret
TASKS = f"""
    import sys, time
    from pathlib import Path

    sys.path.insert(0, {str(REPOSITORY)!r})
    import ci.drift, ci.due
    from ci.training import config_of
    from llm_twin.flow import registry as all_stages
    from llm_twin.flow.context import context
    from llm_twin.flow.stage import Registry
    from llm_twin.flow.tasks import collection
    from llm_twin.loop.due import Plan, counted
    from llm_twin.settings import Settings

    ROOT = Path(__file__).resolve().parent
    ci.due.ROOT = ci.drift.ROOT = ROOT
    registry = Registry()
    for name in ("ct-due", "watch-drift"):
        registry.add(all_stages[name])

    @registry.stage(single=True, cached=True, inputs=["notes/*.md"])
    def ct(corpus: str = "", profile: str = "", feedback: bool = True) -> dict:
        plan = Plan.of(config_of(corpus, profile=profile).profile)
        with counted(Settings.load(root=ROOT), context().run, corpus, profile, plan) as note:
            with (ROOT / "trained").open("a") as file:
                file.write(f"{{context().run}} {{corpus!r}} {{profile!r}}" + chr(10))
            while (ROOT / "wait").exists():
                time.sleep(0.05)
            report = {{"version": "v1", "message": "promoted v1"}}
            note(report)
        return report

    @registry.stage
    def loop() -> None:
        pass

    namespace = collection(registry, ROOT, ci.due.triggers)
"""


class Project:
    """A folder with stages, and the commands that are typed there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / ".twin"
        self.started: list[subprocess.Popen[str]] = []
        (root / "tasks.py").write_text(textwrap.dedent(TASKS))
        self.write("a walk", "The heron stood in the reeds until the mist had gone.")
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TWIN_", "GITHUB_"))
        } | {
            "TWIN_HOME": str(self.home), "TWIN_EMBEDDER": "words", "TWIN_CORPUS": "notes",
            "TWIN_PROFILE": "tiny", "TWIN_AUTOMATE_PORT": "0", "TWIN_WEBHOOK_SECRET": SECRET,
        }  # fmt: skip

    def write(self, name: str, text: str) -> None:
        (self.root / "notes").mkdir(exist_ok=True)
        (self.root / "notes" / f"{name}.md").write_text(f"# {name.title()}\n\n{text}\n")

    def start(self, *line: str, **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "invoke", *line], cwd=self.root, text=True,
            env=self.environment | more, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.started.append(process)
        return process

    def invoke(self, *line: str, **more: str) -> tuple[int, str]:
        process = self.start(*line, **more)
        out, _ = process.communicate(timeout=120)
        return process.returncode, out

    def due(self, cause: str, *more: str, **env: str) -> tuple[int, str]:
        options = [part for text in (f"cause={cause}", *more) for part in ("--set", text)]
        return self.invoke("run", "ct-due", *options, **env)

    def trained(self) -> list[list[str]]:
        path = self.root / "trained"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def asked(self) -> list[tuple[str, str, str]]:
        """Cause, outcome and reason of each request, oldest first."""
        with closing(Audit(self.home)) as audit:
            rows = Requests(audit).recent(100)
        return [(one.cause, one.outcome, one.reason) for one in reversed(rows)]

    def spent(self) -> list[float]:
        with closing(Audit(self.home)) as audit:
            return [row[0] for row in audit.db.execute("SELECT cpu FROM spending ORDER BY id")]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    yield made
    for process in made.started:
        process.kill()
        process.wait(30)
        if process.stdout:
            process.stdout.close()


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def test_of_two_triggers_at_the_same_moment_one_trains(project: Project) -> None:
    (project.root / "wait").touch()
    both = [project.start("run", "ct-due", "--set", f"cause={name}") for name in "ab"]
    wait_for(lambda: any(one[1] == "not now" for one in project.asked()) and project.trained())
    (project.root / "wait").unlink()
    outs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    assert len(project.trained()) == 1
    told = {outcome: reason for _, outcome, reason in project.asked()}
    assert set(told) == {"promoted", "not now"}
    assert re.match(r"a training goes on \([ab], run ", told["not now"])
    code, out = project.invoke("triggers")
    assert code == 0
    assert "a training goes on" in out
    assert "promoted v1" in out


def test_cooldown_put_off_unchanged_and_by_hand(project: Project) -> None:
    assert project.due("schedule")[0] == 0
    code, out = project.due("webhook", "corpus=notes")
    assert code == 0, out
    assert "not now: the last turn ended" in out
    assert len(project.trained()) == 1
    code, out = project.due("put off")
    assert "not now: the last turn ended" in out
    code, out = project.due("put off", "cooldown=0s")
    assert code == 0, out
    assert project.trained()[1][1] == "'notes'"
    assert "nothing was put off" in project.due("put off")[1]
    assert "unchanged: nothing is new" in project.due("schedule", "cooldown=0s")[1]
    project.write("another", "A kingfisher came twice.")
    assert project.invoke("ct")[0] == 0
    assert [row[:2] for row in project.asked()] == [
        ("schedule", "promoted"),
        ("webhook", "taken up"),
        ("webhook", "promoted"),
        ("schedule", "unchanged"),
        ("by hand", "promoted"),
    ]
    # What the guard began is counted once, by the guard.
    assert len(project.spent()) == 4


def test_killed_in_the_middle_it_counts_as_planned_and_goes_on(project: Project) -> None:
    (project.root / "wait").touch()
    killed = project.start("run", "ct-due", "--id", "r1", "--set", "cause=schedule")
    wait_for(project.trained)
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    (training,) = {row[0] for row in project.trained()}
    wait_for(lambda: "Crashed" in project.invoke("runs.show", training)[1])
    (planned,) = project.spent()
    assert planned > 60
    # Its process may have seen the training's die before it died itself.
    assert project.asked()[0][:2] in [("schedule", ""), ("schedule", "failed")]
    (project.root / "wait").unlink()
    code, out = project.invoke("runs.resume", "r1")
    assert code == 0, out
    assert [row[:2] for row in project.asked()] == [("schedule", "promoted")]
    assert {row[0] for row in project.trained()} == {training}
    assert project.spent()[0] == planned
    assert 0 < project.spent()[1] < planned


def test_killed_and_not_resumed_it_is_in_nobodys_way(project: Project) -> None:
    (project.root / "wait").touch()
    killed = project.start("run", "ct-due", "--set", "cause=schedule")
    wait_for(project.trained)
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    (project.root / "wait").unlink()
    wait_for(lambda: "promoted" in project.due("webhook")[1])
    assert project.asked()[0][1] in ("cut short", "failed")
    assert project.spent()[0] > 60
    assert project.asked()[-1][:2] == ("webhook", "promoted")


def test_what_fails_is_told_and_may_be_resumed(project: Project) -> None:
    project.write("wait", "")
    (project.root / "trained").mkdir()
    code, out = project.invoke("run", "ct-due", "--id", "r1", "--set", "cause=schedule")
    assert code == 1
    assert "the training did not get through" in out
    assert project.asked()[0][1] == "failed"
    (project.root / "trained").rmdir()
    assert project.invoke("runs.resume", "r1")[0] == 0
    assert project.asked()[0][1] == "promoted"


def asked_of(project: Project, words: list[str], begin: float, count: int) -> None:
    """Traced questions, through the API that the SDK uses."""
    rows = []
    for number in range(count):
        at = datetime.fromtimestamp(begin + number * 3600, UTC).isoformat()
        first, second = words[number % len(words)], words[(number * 3 + 1) % len(words)]
        rows.append({
            "id": new_id(), "name": "answer", "start_time": at, "end_time": at,
            "project_name": "llm-twin", "input": {"question": f"What of {first} and {second}?"},
            "output": {"text": "So it is."},
        })  # fmt: skip
    with closing(Store(project.home / "traces", Settings(home=project.home))) as store:
        body = json.dumps({"traces": rows}).encode()
        assert store.handle(Request("POST", "v1/private/traces/batch", body=body)).status < 300


def test_drift_of_questions_three_hours_in_a_row_trains_once(project: Project) -> None:
    day = 86400.0
    asked_of(project, ["rye", "dough", "yeast", "crust", "oven"], time.time() - 20 * day, 60)
    asked_of(project, ["ferry", "tide", "anchor", "gull", "rope"], time.time() - 3 * day, 60)
    assert project.invoke("automate", "--once")[0] == 0
    code, out = project.invoke("run", "watch-drift")
    assert code == 0, out
    assert "people ask about something else than before" in out
    assert project.invoke("automate", "--once")[0] == 0
    assert project.trained() == []
    for _ in range(2):
        assert project.invoke("run", "watch-drift")[0] == 0
    simulated = project.invoke("automate", "--simulate", "--since", "1h")[1]
    assert simulated.count("questions-drifted: it is 1") == 1
    code, out = project.invoke("automate", "--once")
    assert code == 0, out
    assert len(project.trained()) == 1
    assert ("drift of questions", "promoted", "promoted v1") in project.asked()


def posted(url: str, payload: dict[str, str]) -> int:
    body = json.dumps(payload).encode()
    headers = {"X-Hub-Signature-256": signature(SECRET.encode(), body)}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:
        return int(answer.status)


def test_a_webhook_names_corpus_and_profile_and_nothing_else(project: Project) -> None:
    daemon = project.start("automate", PYTHONUNBUFFERED="1")
    lines: list[str] = []
    assert daemon.stdout
    reader = threading.Thread(target=lambda: lines.extend(iter(daemon.stdout.readline, "")))
    reader.start()
    wait_for(lambda: any("receiving webhooks at" in line for line in lines))
    (address,) = re.findall(r"http://\S+/hooks/", "".join(lines))
    try:
        assert posted(f"{address}corpus", {"profile": "$(touch pwned)"}) == 202
        wait_for(lambda: any("corpus-pushed Failed" in line for line in lines))
        assert posted(f"{address}corpus", {"corpus": "/etc"}) == 202
        wait_for(lambda: sum("corpus-pushed Failed" in line for line in lines) == 2)
        assert project.asked() == []
        assert posted(f"{address}corpus", {"corpus": "notes", "profile": "laptop"}) == 202
        wait_for(lambda: any("corpus-pushed Completed" in line for line in lines))
    finally:
        daemon.terminate()
        daemon.wait(60)
        reader.join(30)
    assert "no name of a profile" in "".join(lines)
    assert "not a corpus that may be named from outside" in "".join(lines)
    assert [row[1:] for row in project.trained()] == [["'notes'", "'laptop'"]]
    assert not (project.root / "pwned").exists()


def test_a_workflow_by_hand_is_never_put_off_and_one_that_was_sent_is(project: Project) -> None:
    assert project.due("schedule")[0] == 0
    sent = {"GITHUB_EVENT_NAME": "repository_dispatch"}
    code, out = project.due("", **sent)
    assert code == 0, out
    assert "not now: the last turn ended" in out
    code, out = project.due("", **sent, TWIN_PROFILE="../../x")
    assert code == 2
    assert "no name of a profile" in out
    project.write("another", "A kingfisher came twice.")
    assert project.due("", GITHUB_EVENT_NAME="workflow_dispatch")[0] == 0
    assert [row[:2] for row in project.asked()] == [
        ("schedule", "promoted"),
        ("repository_dispatch", "not now"),
        ("by hand", "promoted"),
    ]
