"""The alerter of ZenML by itself: what it does when nothing works, and when it sends by itself."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

CODE = """
import json, sys, uuid
from datetime import datetime
from pathlib import Path
from llm_twin.ct import zen
from llm_twin.settings import Settings
zen.prepare(Settings(home=Path(sys.argv[1])))
from zenml.enums import StackComponentType
from llm_twin.alerting import zenml_flavor as flavor

made = flavor.TwinAlerterFlavor()
direct, home, urls = sys.argv[2] == "direct", sys.argv[3], sys.argv[4]
alerter = made.implementation_class(
    name="a", id=uuid.uuid4(), flavor=made.name, type=StackComponentType.ALERTER,
    config=made.config_class(urls=urls, direct=direct), user=None,
    created=datetime.now(), updated=datetime.now(),
)
import os
os.environ["TWIN_HOME"] = home
params = flavor.TwinAlerterParameters(title="Night shift", severity="warning", timeout=0)
text = "late\\nask mary@example.org\\nParameters: `{'a': 1}`\\nException: `boom`"
said = [alerter.post(text, params)]
if not direct and said[0]:
    said.append(alerter.ask("Promote?", params))
print(json.dumps(said))
"""


def alerter(tmp_path, *line):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "zenml"), *line],
        capture_output=True, text=True, timeout=120, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.fixture
def receiver():
    """An HTTP server that keeps what is posted to it."""
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.bodies = bodies
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_a_question_nobody_answers_is_a_no(tmp_path):
    said, _ = alerter(tmp_path, "outbox", str(tmp_path / "home"), "")
    assert said == [True, False]


def test_a_full_disk_is_said_and_breaks_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    said, err = alerter(tmp_path, "outbox", str(tmp_path / "file" / "home"), "")
    assert said == [False]
    assert "error: a message could not be kept: " in err


def test_sent_directly_the_next_channel_takes_over(tmp_path, receiver):
    urls = f"gone=json://127.0.0.1:9/x\nteam=json://127.0.0.1:{receiver.server_port}/x"
    said, err = alerter(tmp_path, "direct", str(tmp_path / "home"), urls)
    assert said == [True]
    assert "error: a message was not sent through gone: " in err
    (body,) = receiver.bodies
    assert (body["title"], body["message"]) == ("Night shift", "late\nask [EMAIL]")
    said, _ = alerter(tmp_path, "direct", str(tmp_path / "home"), urls.partition("\n")[0])
    assert said == [False]
