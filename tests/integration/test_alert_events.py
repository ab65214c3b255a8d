"""What goes wrong reaches a person once: real runs, killed and broken, a real web hook and mail."""

import contextlib
import itertools
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller

from ci.training import tell_verdict, telling_of_failure
from llm_twin.alerting.store import Store
from llm_twin.corpus import Document, chunk
from llm_twin.flow.context import Context, using
from llm_twin.model.bundles import Bundles
from llm_twin.retrieval import open_index
from llm_twin.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
ALERTS = "from invoke import Program; from ci.alerts import alerts; Program(namespace=alerts).run()"
PARAMETER = "quartz-lagoon"
SECRET = "hunter2-of-the-model"  # pragma: allowlist secret
BREAD = "Rye bread keeps for ten days when it is wrapped in linen and stored in a cool place. "
pytestmark = pytest.mark.slow


class WebHook(ThreadingHTTPServer):
    """Keeps what is posted to it."""

    def __init__(self) -> None:
        self.said: list[str] = []
        super().__init__(("127.0.0.1", 0), Hearing)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.server_port}/hook"


class Hearing(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.said.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


class Mailbox:
    """Keeps what is mailed to it."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.server = Controller(self, hostname="127.0.0.1", port=0)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.server.port = probe.getsockname()[1]
        self.server.start()
        self.url = (
            f"mailto://127.0.0.1:{self.server.port}/?from=twin@example.org&to=team@example.org"
        )

    async def handle_DATA(self, server, session, envelope):
        self.said.append(envelope.content.decode())
        return "250 OK"


class Laptop:
    """A state folder with channels, and the commands a user types."""

    def __init__(self, folder: Path, hook: WebHook, mailbox: Mailbox) -> None:
        self.home = folder / "home"
        self.corpus = folder / PARAMETER
        self.corpus.mkdir()
        self.hook, self.mailbox = hook, mailbox
        self.environment = os.environ | {
            "TWIN_HOME": str(self.home),
            "TWIN_EMBEDDER": "words",
            "TWIN_LLM_KEY": SECRET,
            "TWIN_ALERT_URLS": f"team={hook.url}",
            "DOCKER_HOST": f"unix://{folder}/nowhere.sock",
        }
        self.watching = self.start("-c", ALERTS, "watch")

    def start(self, *line: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *line], cwd=ROOT, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def invoke(self, *line: str, code: int = 0) -> str:
        process = self.start("-m", "invoke", *line)
        out, _ = process.communicate(timeout=300)
        assert process.returncode == code, out
        return out

    def ct(self, code: int = 0) -> str:
        return self.invoke("ct", "--corpus", str(self.corpus), "--budget", "1s", code=code)

    def stop_watching(self) -> None:
        self.watching.send_signal(signal.SIGTERM)
        self.watching.communicate(timeout=60)

    def heard(self) -> dict[str, str]:
        """The one message that was posted, once there is nothing more to send."""
        deadline = time.monotonic() + 60
        while not self.hook.said and time.monotonic() < deadline:
            time.sleep(0.1)
        self.stop_watching()
        (message,) = self.hook.said
        (mail,) = self.mailed()
        for secret in (SECRET, PARAMETER):
            assert secret not in message + mail
        found = json.loads(message)
        assert found["title"].partition(":")[0] in mail
        return found

    def mailed(self) -> list[str]:
        """What the same events make by mail, told anew."""
        with contextlib.closing(sqlite3.connect(self.home / "alerts.db")) as db:
            for table in ("delivery", "message", "alert", "position"):
                db.execute(f"DELETE FROM {table}")
            db.commit()
        self.environment["TWIN_ALERT_URLS"] = f"mail={self.mailbox.url}"
        watching = self.start("-c", ALERTS, "watch", "--once")
        out, _ = watching.communicate(timeout=120)
        assert watching.returncode == 0, out
        return self.mailbox.said


@pytest.fixture
def laptop(tmp_path):
    hook, mailbox = WebHook(), Mailbox()
    made = Laptop(tmp_path, hook, mailbox)
    yield made
    made.watching.kill()
    made.watching.communicate()
    mailbox.server.stop()
    hook.shutdown()
    hook.server_close()


def test_a_failing_step(laptop):
    (laptop.corpus / "a.md").write_text("hi")
    laptop.ct(code=2)
    said = laptop.heard()
    assert said["title"] == "ERROR training-failed: continuous training did not get through"
    assert "nothing is left of the corpus after cleaning" in said["message"]
    assert "look: invoke runs.logs " in said["message"]


@pytest.mark.torch
def test_a_refused_gate(laptop):
    # Headings that have nothing to do with their sections: nobody could find those by them.
    nonsense = (f"## violet{number} anchor{number}" for number in itertools.count())
    for number, path in enumerate(sorted(ROOT.glob("docs/**/*.md"))):
        lines = path.read_text().splitlines()
        clean = [next(nonsense) if line.startswith("##") else line for line in lines]
        (laptop.corpus / f"{number}.md").write_text("\n".join(clean))
    assert "not promoted" in laptop.ct()
    said = laptop.heard()
    assert said["title"].startswith("WARNING gate-refused: the new model was not promoted")
    assert "below the floor" in said["message"]


def test_a_killed_run(laptop):
    (laptop.corpus / "a.md").write_text("hi")
    running = laptop.start("-m", "invoke", "ct", "--corpus", str(laptop.corpus))
    seen = []
    for line in running.stdout:
        seen.append(line)
        if "starting ZenML" in line:
            break
    running.kill()
    running.communicate(timeout=60)
    assert running.returncode == -signal.SIGKILL, "".join(seen)
    said = laptop.heard()
    assert said["title"] == "ERROR training-failed: continuous training did not get through"
    assert "ended without a word" in said["message"]


def test_a_dead_store_of_zenml(laptop):
    store = laptop.home / "zenml" / "local_stores" / "default_zen_store"
    store.mkdir(parents=True)
    (store / "zenml.db").write_bytes(b"junk" * 5000)
    (laptop.corpus / "a.md").write_text("hi")
    out = laptop.ct(code=1)
    assert "error: ct: ZenML's database cannot be used (file is not a database): " in out
    assert "Traceback" not in out
    said = laptop.heard()
    assert said["title"].startswith("CRITICAL zenml-dead: ")
    assert "file is not a database" in said["message"]


def promote(home: Path, version: str) -> None:
    """A twin that searches by words."""
    bundles = Bundles(home / "models")
    building = bundles.stage()
    index = open_index(Settings(home=home), building / "index.db", version, "")
    document = Document("notes/bread.md", "Bread", BREAD, "notes/bread.md")
    index.upsert(chunk(document, lambda text: len(text.split()), 120), None)
    index.close()
    bundles.commit(building, version, {"embedder": ""})
    bundles.promote(version)


def test_a_deployment_that_is_rolled_back(laptop):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    line = [
        "deploy",
        "--process",
        "--port",
        str(port),
        "--question",
        "How long does rye bread keep?",
    ]
    try:
        promote(laptop.home, "v1")
        laptop.invoke(*line)
        promote(laptop.home, "v2")
        assert "(v1) still serves" in laptop.invoke(*line, "--citation", PARAMETER, code=1)
        said = laptop.heard()
    finally:
        laptop.invoke("undeploy")
    assert said["title"].startswith("ERROR deployment-failed: a deployment did not go live")
    assert "smoke: it did not cite" in said["message"]
    with contextlib.closing(Store(laptop.home)) as store:
        events, _ = store.events()
    assert [event.kind for event in events] == ["deploy.live", "deploy.rolled_back"]
    assert events[1].data["serves"].endswith("(v1)")


def test_what_no_hook_hears_of_is_told_without_its_words(tmp_path):
    settings = Settings(home=tmp_path)
    for attempt in (1, 1, 2):
        with (
            using(Context("r1", "ct", attempt)),
            pytest.raises(RuntimeError),
            telling_of_failure(settings, corpus=PARAMETER),
        ):
            raise RuntimeError(f"cannot compile the pipeline for {PARAMETER}")
    with contextlib.closing(Store(tmp_path)) as store:
        events, _ = store.events()
    assert [event.kind for event in events] == ["ct.failed"] * 2
    assert [event.data["message"] for event in events] == ["it raised RuntimeError"] * 2


def test_a_promotion_is_told_with_its_run(tmp_path):
    report = {"version": "v7", "verdict": {"verdict": "better", "reasons": ["hit@5 went up"]}}
    with using(Context("r1", "ct", 1)):
        tell_verdict(report, Settings(home=tmp_path))
        tell_verdict(report, Settings(home=tmp_path))
    with contextlib.closing(Store(tmp_path)) as store:
        (event,), _ = store.events()
    assert (event.kind, event.subject, event.data["run"]) == ("model.promoted", "v7", "r1")
    assert event.data["message"] == "better; hit@5 went up"
