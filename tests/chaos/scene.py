"""A project folder whose runs are ruined, and what must be true of it afterwards."""

import hashlib
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import project

from llm_twin.flow.cache import Cache
from llm_twin.flow.store import Store

CACHED = set(project.OUTPUTS)
STAGES = {stage.name for stage in project.registry}
FROM_RUN = re.compile(r"run ([\w-]+)")
PATIENCE = 60.0
SEED = int(os.environ.get("CHAOS_SEED", random.randrange(10**6)))


def processes_of(mark):
    """Ids of living processes that have a text in their command line or environment."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and "\nState:\tZ" not in (folder / "status").read_text():
                said = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
                found += [int(folder.name)] if mark.encode() in said else []
        except OSError:
            continue
    return found


def children_of(pid):
    """Ids of a process's children."""
    try:
        return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


class Scene:
    """The project in a folder, with a state folder and more environment variables."""

    def __init__(self, folder, home, **environ):
        self.folder = folder
        self.home = home
        self.book = home.with_name("ledger")
        names = {"TWIN_HOME": str(home), "CHAOS_LEDGER": str(self.book)}
        self.environ = os.environ | names | environ
        folder.mkdir(exist_ok=True)
        shutil.copy(project.__file__, folder)

    def start(self, run_id, salt):
        """Start the run, or go on with it."""
        return subprocess.Popen(
            [sys.executable, "project.py", run_id, salt],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process):
        """Wait for its end; the exit code and what it said on stderr."""
        try:
            _, said = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
        return process.returncode, said

    def complete(self, run_id, salt):
        """Go on with a run until it is complete; it may be tried again where it failed."""
        for _ in range(5):
            code, said = self.finish(self.start(run_id, salt))
            assert "Traceback" not in said, said
            if code == 0:
                return
        raise AssertionError(f"run {run_id} does not complete: exit code {code}, {said}")

    def remove_outputs(self):
        for path in project.OUTPUTS.values():
            (self.folder / path).unlink(missing_ok=True)

    def cached(self, run_id):
        """Names of the stages of a run that were not run."""
        store = Store(self.home)
        names = [done.stage for done in store.get(run_id).stages if done.cached]
        store.close()
        return names

    def ledger(self):
        """How often each effect happened."""
        lines = self.book.read_text().split()
        return {line: lines.count(line) for line in set(lines)}

    # What must be true afterwards

    def check_run(self, run_id, salt):
        """A complete run: each effect once, all states final, the right outputs, no process."""
        store = Store(self.home)
        run = store.get(run_id)
        store.close()
        assert run.state.good, run.state
        assert {done.stage for done in run.stages} == STAGES
        ledger = self.ledger()
        for done in run.stages:
            assert done.state.good, done
            # An unchanged stage had its effect in the run that its work is taken from.
            (source,) = FROM_RUN.findall(done.state.message)[:1] if done.cached else [run_id]
            assert ledger[f"{source}/{done.stage}"] == 1, (run_id, done)
        assert set(ledger.values()) == {1}
        for stage, path in project.OUTPUTS.items():
            assert (self.folder / path).read_text() == project.text(stage, salt), path
        self.check_no_process(run_id)

    def check_no_process(self, mark):
        deadline = time.monotonic() + 10
        while found := processes_of(mark):
            assert time.monotonic() < deadline, found
            time.sleep(0.02)

    def check_store(self):
        """No run is stuck, and the file is whole."""
        store = Store(self.home)
        store.reap()
        store.close()
        db = sqlite3.connect(self.home / "runs.db")
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        running = "SELECT run.id FROM run JOIN {0} AS x ON {1} = run.id WHERE x.state = 'Running'"
        for table, column in (("run", "x.id"), ("stage_run", "x.run"), ("attempt", "x.run")):
            assert db.execute(running.format(table, column)).fetchall() == []
        db.close()

    def check_cache(self, empty):
        """Every entry can be restored, and is what its stage writes."""
        empty.mkdir()
        cache = Cache(self.home)
        for blob in cache.folder.glob("blobs/*/*"):
            assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
        keys = [path.parent.name for path in cache.folder.glob("entries/*/*.json")]
        for key in keys:
            entry = cache.find(key)
            assert entry.stage in CACHED
            cache.restore(entry, empty)
            text = (empty / project.OUTPUTS[entry.stage]).read_text()
            assert text == project.text(entry.stage, text.split()[1])
        return len(keys)


def kill(process, whom):
    """Kill the runner, or its next child, or both at once; whether anybody was there."""
    children = []
    while process.poll() is None and whom != "parent" and not children:
        children = children_of(process.pid)[:1]
    if process.poll() is not None:
        return False
    for pid in [process.pid] * (whom != "child") + children:
        os.kill(pid, signal.SIGKILL)  # reaped by its parent only, which is us or dead by now
    return True
