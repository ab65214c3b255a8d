"""A day with a flow, through the front door alone: run, look, change, resume, cancel, tidy up."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

TASKS = '''
import os, time
from pathlib import Path
from llm_twin.flow import Registry
from llm_twin.flow.context import context
from llm_twin.flow.tasks import collection

ROOT = Path(__file__).resolve().parent
registry = Registry()

@registry.stage(cached=True, inputs=["text/*.txt"], outputs=["out"])
def build(shout: bool = False, copies: int = 1, title: str = "") -> dict:
    """Join the texts.

    Args:
        shout: in capitals.
        copies: how many.
        title: unused.
    """
    (ROOT / "out").mkdir(exist_ok=True)
    text = "".join(p.read_text() for p in sorted((ROOT / "text").glob("*.txt"))) * copies
    (ROOT / "out" / "all.txt").write_text(text.upper() if shout else text)
    print("built")
    return {"message": f"{len(text)} characters"}

@registry.stage(needs=["build"])
def publish() -> None:
    """Publish, if nothing is in the way."""
    if (ROOT / "broken").exists():
        raise RuntimeError("the wire is cut")
    with (ROOT / "published").open("a") as file:
        file.write(context().idempotency_key + "\\n")

@registry.stage
def slow() -> None:
    """Take long."""
    (ROOT / "started").write_text("x")
    time.sleep(60)

namespace = collection(registry, ROOT)
'''


@pytest.fixture
def project(tmp_path):
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("hello\n")
    return tmp_path


def command(*line):
    return [sys.executable, "-m", "invoke", *line]


def environment(**more):
    dropped = ("CI", "GITHUB_ACTIONS", "TWIN_HOME", "TWIN_CACHE")
    return {k: v for k, v in os.environ.items() if k not in dropped} | more


@pytest.fixture
def invoke(project):
    def run(*line, code=0, **env):
        done = subprocess.run(
            command(*line),
            capture_output=True,
            text=True,
            cwd=project,
            timeout=60,
            env=environment(**env),
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stdout + done.stderr

    return run


def test_plan_run_change_why_restore(project, invoke):
    assert "run    " in invoke("plan", "publish")
    assert "28 characters" not in invoke("publish")
    assert (project / "out" / "all.txt").read_text() == "hello\n"
    assert "Completed(Cached): nothing changed since run" in invoke("publish")
    assert "would not run" in invoke("why", "build")

    (project / "text" / "b.txt").write_text("world\n")
    assert "input text/b.txt is new" in invoke("why", "build")
    plan = json.loads(invoke("plan", "publish", "--json"))
    assert [step["action"] for step in plan["steps"]] == ["run", "run"]
    assert plan["steps"][0]["seconds"]["runs"] == 1
    assert "build runs because input text/b.txt is new" in invoke("publish")
    assert (project / "out" / "all.txt").read_text() == "hello\nworld\n"

    (project / "text" / "b.txt").unlink()
    assert "be restored" in invoke("plan", "publish")
    shown = invoke("publish")
    assert "restored from run" in shown
    assert (project / "out" / "all.txt").read_text() == "hello\n"
    usage = json.loads(invoke("cache", "--json"))
    assert usage["stages"]["build"][0] == 2
    assert "build" in invoke("cache")
    assert "2 entries" in invoke("cache.prune", "--size", "0")


def test_parameters_by_flag_and_by_set(project, invoke):
    invoke("build", "--shout", "--copies", "2")
    assert (project / "out" / "all.txt").read_text() == "HELLO\nHELLO\n"
    invoke("run", "publish", "--set", "shout=yes", "--set", "copies=1", "--jobs", "1")
    assert (project / "out" / "all.txt").read_text() == "HELLO\n"
    assert "copies has to be int: 'x'" in invoke("run", "build", "--set", "copies=x", code=2)
    assert "--set name=value" in invoke("run", "build", "--set", "copies", code=2)
    assert "takes a parameter colour" in invoke("run", "build", "--set", "colour=1", code=2)
    assert "no such stage: nope. Stages are:" in invoke("run", "nope", code=2)
    assert "--jobs must be at least 1" in invoke("build", "--jobs", "-1", code=2)


def test_a_failed_run_is_resumed_and_a_chosen_id_runs_once(project, invoke):
    (project / "broken").write_text("")
    shown = invoke("run", "publish", "--id", "night-1", code=1)
    assert "RuntimeError: the wire is cut" in shown
    assert "invoke runs.resume night-1" in shown
    (project / "broken").unlink()
    shown = invoke("runs.resume", "night-1")
    assert "built" not in shown
    assert (project / "published").read_text() == "night-1/publish\n"
    assert "this run completed" in invoke("runs.resume", "night-1", code=2)
    assert "a run with this id exists" in invoke("run", "publish", "--id", "night-1", code=2)
    assert (project / "published").read_text() == "night-1/publish\n"
    (run,) = json.loads(invoke("runs", "--json"))
    assert run["state"] == "Completed"
    shown = json.loads(invoke("runs.show", "night-1", "--json"))
    attempts = [item for item in shown["attempts"] if item["stage"] == "publish"]
    assert [item["state"] for item in attempts] == ["Failed", "Completed"]


def test_a_run_is_cancelled_from_elsewhere(project, invoke):
    running = subprocess.Popen(
        command("slow"), cwd=project, stdout=subprocess.PIPE, text=True, env=environment()
    )
    for _ in range(200):
        if (project / "started").exists():
            break
        time.sleep(0.05)
    (run,) = json.loads(invoke("runs", "--json"))
    assert run["state"] == "Running"
    assert "Cancelled" in invoke("runs.cancel", run["id"])
    assert running.wait(20) == 130
    running.stdout.close()
    assert "has ended already" in invoke("runs.cancel", run["id"])


def test_a_killed_run_is_shown_as_crashed_and_resumed(project, invoke):
    running = subprocess.Popen(
        command("slow"), cwd=project, stdout=subprocess.DEVNULL, env=environment()
    )
    for _ in range(200):
        if (project / "started").exists():
            break
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait(10)
    (run,) = json.loads(invoke("runs", "--json"))
    assert run["state"] == "Crashed"
    (project / "tasks.py").write_text(TASKS.replace("time.sleep(60)", "pass"))
    invoke("runs.resume", run["id"])
    assert json.loads(invoke("runs", "--json"))[0]["state"] == "Completed"


def test_events_as_json_and_old_runs_deleted(project, invoke):
    events = [json.loads(line) for line in invoke("publish", "--json").splitlines()]
    assert events[0]["event"] == "run_started"
    assert events[-1]["event"] == "run_ended"
    assert {"stage_started", "stage_ended", "output"} <= {event["event"] for event in events}
    assert "0 runs deleted" in invoke("runs.prune", "--older-than", "1d")
    assert "not a length of time" in invoke("runs.prune", "--older-than", "soon", code=2)
    (logs,) = (project / ".twin" / "logs").iterdir()
    time.sleep(0.05)
    assert "1 run deleted" in invoke("runs.prune", "--older-than", "0s")
    assert not logs.exists()
    assert "No runs yet" in invoke("runs")


def test_a_changed_helper_runs_it_again_and_an_unrelated_comment_does_not(project, invoke):
    package = project / "src" / "pkg"
    package.mkdir(parents=True)
    for name in ("__init__", "helper", "unrelated"):
        (package / f"{name}.py").write_text("VALUE = 1\n")
    imports = "    import sys; sys.path.insert(0, str(ROOT / 'src')); import pkg.helper\n"
    with_import = TASKS.replace('    print("built")\n', f'{imports}    print("built")\n')
    (project / "tasks.py").write_text(with_import)
    invoke("build")
    (package / "unrelated.py").write_text("VALUE = 1  # a comment\n")
    assert "Completed(Cached)" in invoke("build")
    (package / "helper.py").write_text("VALUE = 2\n")
    assert "build runs because code src/pkg/helper.py changed" in invoke("build")


AUTOMATIONS = """
from llm_twin.flow.automation import Automations, every, files_changed, run_flow

automations = Automations()
automations.add("hourly", when=every("1h"), do=run_flow("publish", shout=True))
automations.add("texts", when=files_changed("text/*.txt", settle="0s"), do=run_flow("publish"))
"""


def test_automations_are_listed_rehearsed_and_run_once(project, invoke):
    assert "no automations are declared" in invoke("automate", "--list", code=2)
    (project / "ci").mkdir()
    (project / "ci" / "automations.py").write_text(AUTOMATIONS)
    rows = json.loads(invoke("automate", "--list", "--json"))
    assert [row["name"] for row in rows] == ["hourly", "texts"]
    shown = invoke("automate", "--simulate", "--since", "3h")
    assert shown.count("hourly: due at") == 3
    assert "not a length of time" in invoke("automate", "--simulate", "--since", "x", code=2)
    assert not (project / ".twin").exists()
    assert "nothing was due" in invoke("automate", "--once")
    (project / "text" / "b.txt").write_text("world\n")
    assert "texts Completed" in invoke("automate", "--once")
    assert "nothing was due" in invoke("automate", "--once")
    assert (project / "published").read_text().count("\n") == 1
    assert (project / "out" / "all.txt").read_text() == "hello\nworld\n"


def test_parity_between_this_machine_and_ci(project, invoke):
    invoke("build")
    assert "never seen" in invoke("parity")
    invoke("build", CI="true", TWIN_HOME="ci-home")
    found = json.loads(invoke("parity", "--stage", "build", "--other", "ci-home", "--json"))
    assert found[0]["verdict"] == "exact"
    assert "no run history is there" in invoke("parity", "--other", "nowhere", code=2)


def test_a_secret_is_in_no_log_record_or_screen(project, invoke):
    tasks = TASKS.replace('print("built")', 'print("token", os.environ["DEPLOY_TOKEN"])')
    (project / "tasks.py").write_text(tasks)
    secret = "s3cr3t-of-the-day"  # pragma: allowlist secret
    given = ("run", "publish", "--set", f"title={secret}")
    assert secret not in invoke(*given, DEPLOY_TOKEN=secret)
    assert "Completed(Cached)" in invoke(*given, DEPLOY_TOKEN=secret)
    kept = [p for p in (project / ".twin").rglob("*") if p.is_file()]
    assert not [p for p in kept if secret.encode() in p.read_bytes()]
    last, first = json.loads(invoke("runs", "--json"))
    assert "token ***" in invoke("runs.logs", first["id"])
    store = sqlite3.connect(project / ".twin" / "runs.db")
    store.execute("UPDATE run SET state = 'Failed' WHERE id = ?", (last["id"],))
    store.commit()
    store.close()
    assert "held a secret, which is not kept" in invoke("runs.resume", last["id"], code=2)
