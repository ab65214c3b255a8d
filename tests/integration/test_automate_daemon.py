"""The daemon as a process: fed with webhooks and files, stopped, and killed again and again."""

import contextlib
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request

import pytest

from llm_twin.flow.automation.actions import signature

TASKS = """
    from pathlib import Path
    from llm_twin.flow import registry, stage
    from llm_twin.flow.context import context
    from llm_twin.flow.tasks import collection

    ROOT = Path(__file__).resolve().parent

    @stage
    def work(name: str = "x") -> None:
        key, ledger = context().idempotency_key, ROOT / "ledger"
        if not ledger.exists() or key not in ledger.read_text():
            with ledger.open("a") as file:
                file.write(f"{key} {name}" + chr(10))

    namespace = collection(registry, ROOT)
"""
START = """
    import json, sys
    from pathlib import Path
    from invoke.exceptions import Exit
    sys.path.insert(0, str(Path.cwd()))
    from tasks import ROOT, registry
    from llm_twin.errors import TwinError
    from llm_twin.flow.automation.command import automate
    from llm_twin.flow.project import Project

    try:
        automate(Project(registry, ROOT), **json.loads(sys.argv[1]))
    except TwinError as error:
        sys.exit(f"error: {error}")
    except Exit as leaving:
        sys.exit(f"{leaving.message}")
"""
AUTOMATIONS = """
    from llm_twin.flow.automation import *

    automations = Automations()
    automations.add("docs", when=files_changed("docs/**/*.md", "*.txt", settle="0s"),
                    do=run_flow("work", name="docs"))
    automations.add("pushed", when=webhook("corpus", secret_env="HOOK_SECRET"),
                    do=run_flow("work", name=from_payload("name")))
    automations.add("unset", when=webhook("other", secret_env="NO_SUCH_SECRET"), do=alert("x"))
    automations.add("done", when=run_ended("work"), do=alert("a run ended", severity="info"))
"""


class Folder:
    """A project in a folder, and daemons over it."""

    def __init__(self, root):
        self.root = root
        self.started = []
        (root / "ci").mkdir()
        (root / "tasks.py").write_text(textwrap.dedent(TASKS))
        (root / "start.py").write_text(textwrap.dedent(START))
        self.environment = {
            **os.environ,
            "TWIN_HOME": str(root / ".twin"),
            "HOOK_SECRET": "s",  # pragma: allowlist secret
            "TWIN_AUTOMATE_PORT": "0",
        }

    def declare(self, text):
        (self.root / "ci" / "automations.py").write_text(textwrap.dedent(text))

    def automate(self, **flags):
        command = [sys.executable, "start.py", json.dumps(flags)]
        return subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip

    def daemon(self):
        process = subprocess.Popen(
            [sys.executable, "start.py", "{}"], cwd=self.root, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        process.lines = []
        process.reader = threading.Thread(target=self.read, args=(process,), daemon=True)
        process.reader.start()
        self.started.append(process)
        return process

    def read(self, process):
        process.lines.extend(iter(process.stdout.readline, ""))

    def stop(self):
        for process in self.started:
            process.kill()
            process.wait(timeout=30)
            process.reader.join(timeout=30)
            process.stdout.close()

    def ledger(self):
        path = self.root / "ledger"
        return path.read_text().splitlines() if path.exists() else []

    def rows(self, query):
        with contextlib.closing(sqlite3.connect(self.root / ".twin" / "runs.db")) as db:
            return db.execute(query).fetchall()

    def change(self, statement):
        with contextlib.closing(sqlite3.connect(self.root / ".twin" / "runs.db")) as db:
            db.execute(statement)
            db.commit()


@pytest.fixture
def folder(tmp_path):
    made = Folder(tmp_path)
    yield made
    made.stop()


def until(condition, limit=40):
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


def said(process, pattern):
    """The first line that fits, waiting for it."""
    until(lambda: any(re.search(pattern, line) for line in list(process.lines)))
    return next(found for line in process.lines if (found := re.search(pattern, line)))


def test_a_day_of_the_daemon(folder):
    folder.declare(AUTOMATIONS)
    (folder.root / "a.txt").write_text("one")
    process = folder.daemon()
    port = said(process, r"receiving webhooks at http://127\.0\.0\.1:(\d+)/hooks/")[1]
    assert said(process, "watching pushed: webhook corpus -> run work name=")
    assert said(process, "error: webhook other is refused: a secret is not set: NO_SUCH_SECRET")
    until(lambda: folder.rows("SELECT * FROM event WHERE kind = 'contents'"))

    second = folder.automate()
    assert second.returncode == 1
    assert re.match(
        rf"error: invoke automate is running already: process {process.pid}\. It sees",
        second.stderr,
    )
    once = folder.automate(once=True)
    assert (once.returncode, "running already" in once.stdout) == (0, True)

    body = b'{"name": "from afar"}'
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/hooks/corpus",
        body,
        {"X-Hub-Signature-256": signature(b"s", body), "X-GitHub-Delivery": "1"},
    )
    for _ in range(2):
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 202
    until(lambda: len(folder.ledger()) == 1)
    assert folder.ledger()[0].endswith("/work from afar")

    (folder.root / "docs" / "deep").mkdir(parents=True)
    (folder.root / "docs" / "deep" / "new.md").write_text("new")
    until(lambda: len(folder.ledger()) == 2)
    (folder.root / "docs" / "deep" / "new.md").write_text("newer")
    until(lambda: len(folder.ledger()) == 3)
    (folder.root / "a.txt").write_text("two")
    until(lambda: len(folder.ledger()) == 4)
    alerts = folder.root / ".twin" / "alerts.log"
    until(lambda: alerts.exists() and len(alerts.read_text().splitlines()) == 4)

    folder.change("ALTER TABLE firing RENAME TO away")
    assert said(process, "error: the history cannot be written")
    folder.change("ALTER TABLE away RENAME TO firing")
    listed = json.loads(folder.automate(list=True, json=True).stdout)
    by_name = {row["name"]: row for row in listed}
    assert by_name["done"]["state"] == "Completed"
    assert by_name["unset"]["last"] is None
    table = folder.automate(list=True).stdout
    assert re.search(r"docs +files docs/\*\*/\*\.md \*\.txt change.* Completed", table)

    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    assert said(process, "stopped; 0 firings")


def test_ctrl_c_leaves_a_run_going_that_the_next_daemon_picks_up(folder):
    folder.declare("""
        from llm_twin.flow.automation import *
        automations = Automations()
        automations.add("x", when=every("1s"), do=run_flow("work"), overlap="skip")
    """)
    tasks = (folder.root / "tasks.py").read_text()
    slow = tasks.replace("    key, ledger", "    import time; time.sleep(3)\n    key, ledger")
    (folder.root / "tasks.py").write_text(slow)
    process = folder.daemon()
    run_id = said(process, r"x starts work: invoke runs\.logs (\S+)")[1]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    assert folder.ledger() == []
    after = folder.daemon()
    until(lambda: f"{run_id}/work x" in folder.ledger())
    until(
        lambda: folder.rows(f"SELECT state FROM firing WHERE id = '{run_id}'") == [("Completed",)]
    )
    after.kill()


@pytest.mark.slow
def test_killed_at_any_moment_every_occurrence_has_its_effect_once(folder):
    """Nothing fires twice, and nothing that was due is forgotten."""
    folder.declare("""
        from llm_twin.flow.automation import *
        automations = Automations()
        automations.add("tick", when=every("3s"), do=run_flow("work"), catch_up="all")
        automations.add("told", when=run_ended("work"), do=alert("ended", severity="info"))
    """)
    dice = random.Random(20)
    began = time.time()
    for _ in range(20):
        process = folder.daemon()
        time.sleep(dice.uniform(0.1, 2.2))
        process.kill()
        process.wait(timeout=30)
    first = folder.rows("SELECT min(due) FROM firing")[0][0]
    assert first - began < 30
    process = folder.daemon()
    count = "SELECT count(*) FROM firing WHERE automation = 'tick' AND ended IS NOT NULL"
    enough = folder.rows("SELECT count(*) FROM firing WHERE automation = 'tick'")[0][0] + 2
    until(lambda: folder.rows(count)[0][0] >= enough, limit=120)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)
    folder.declare("""
        from llm_twin.flow.automation import *
        automations = Automations()
        automations.add("tick", when=event("no more"), do=run_flow("work"))
        automations.add("told", when=run_ended("work"), do=alert("ended", severity="info"))
    """)
    assert folder.automate(once=True).returncode == 0

    rows = folder.rows("SELECT id, due, state FROM firing WHERE automation = 'tick' ORDER BY due")
    dues = [due for _, due, _ in rows]
    assert dues == [first + 3 * number for number in range(len(dues))]
    assert {state for _, _, state in rows} == {"Completed"}
    done = sorted(line.split("/")[0] for line in folder.ledger())
    assert done == sorted(firing for firing, _, _ in rows)
    alerts = (folder.root / ".twin" / "alerts.log").read_text().splitlines()
    told = folder.rows("SELECT id FROM firing WHERE automation = 'told'")
    assert sorted(line.rpartition("[")[2] for line in alerts) == sorted(
        f"{one}]" for (one,) in told
    )
    ends = "SELECT count(*) FROM event WHERE kind = 'run'"
    assert folder.rows(ends) == [(len(told),)]
    assert folder.rows("PRAGMA integrity_check") == [("ok",)]


def test_once_says_what_it_did_and_fails_when_a_run_does(folder):
    folder.declare("""
        from llm_twin.flow.automation import *
        automations = Automations()
        automations.add("docs", when=files_changed("docs/*.md", settle="0s"),
                        do=run_flow("work", name="docs"))
        automations.add("bad", when=files_changed("bad", settle="0s"), do=run_flow("work", name=""))
    """)
    (folder.root / "docs").mkdir()
    first = folder.automate(once=True)
    assert (first.returncode, first.stdout.split(" ", 1)[1]) == (0, "nothing was due\n")
    (folder.root / "docs" / "a.md").write_text("a")
    second = folder.automate(once=True)
    assert second.returncode == 0
    assert "docs fires: docs/a.md changed" in second.stdout
    assert len(folder.ledger()) == 1
    tasks = (folder.root / "tasks.py").read_text()
    (folder.root / "tasks.py").write_text(
        tasks.replace("key, ledger =", "raise SystemExit(7)\n   ")
    )
    (folder.root / "bad").write_text("x")
    third = folder.automate(once=True)
    assert third.returncode == 1
    assert third.stderr.startswith("error: bad: Failed: work: ")


def test_a_simulation_says_what_would_have_fired_and_changes_nothing(folder):
    folder.declare("""
        from llm_twin.flow.automation import *
        automations = Automations()
        automations.add("night", when=cron("30 2 * * *"), do=run_flow("work"))
        automations.add("ended", when=run_ended("work"), do=alert("ended"))
    """)
    empty = folder.automate(simulate=True, since="2d")
    assert "-> run work" in empty.stdout
    assert not (folder.root / ".twin").exists()
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "work"], cwd=folder.root, env=folder.environment,
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    before = list(folder.rows("SELECT * FROM event, automation, firing"))
    shown = folder.automate(simulate=True, since="2d")
    lines = shown.stdout.splitlines()
    assert [line.split()[1] for line in lines[:-1]] == ["night:", "night:", "ended:"]
    assert lines[-1] == "3 firings in 2d; nothing was done"
    listed = json.loads(folder.automate(simulate=True, since="2d", json=True).stdout)
    assert listed[-1]["reason"].endswith("of work ended Completed")
    assert listed[-1]["action"] == "alert error: ended"
    assert list(folder.rows("SELECT * FROM event, automation, firing")) == before
    assert len(folder.ledger()) == 1


@pytest.mark.parametrize(
    ("text", "said_of_it"),
    [
        ("del A()", r"no automations are declared"),
        (None, r"no automations are declared: .*ci/automations\.py\. Declare them"),
        ('A().add("x", when=every("1h"), do=run_flow("nope"))', r"no such stage: nope .*py:\d+"),
        ('A().add("x", when=cron("* *"), do=alert("x"))', r"automations\.py:\d+: minute hour"),
    ],
)
def test_a_wrong_declaration_is_found_before_anything_starts(folder, text, said_of_it):
    if text:
        folder.declare("from llm_twin.flow.automation import *\nautomations = Automations()\n")
        with (folder.root / "ci" / "automations.py").open("a") as file:
            file.write(text.replace("A()", "automations"))
    for flags in ({}, {"once": True}, {"list": True}, {"simulate": True}):
        done = folder.automate(**flags)
        assert done.returncode == 1
        assert re.match(rf"error: .*{said_of_it}", done.stderr)
    assert not (folder.root / ".twin").exists()


def test_a_port_that_is_no_number_and_a_missing_import_are_what_they_are(folder):
    folder.declare(AUTOMATIONS)
    folder.environment["TWIN_AUTOMATE_PORT"] = "high"
    assert "TWIN_AUTOMATE_PORT is not a number: 'high'" in folder.automate().stderr
    folder.declare("import no_such_module")
    assert "ModuleNotFoundError: No module named 'no_such_module'" in folder.automate().stderr
