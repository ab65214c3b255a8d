"""The unmodified Comet SDK gets our curves and nothing else, and never stops a training."""

import getpass
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from llm_twin.ct import learning
from llm_twin.model import comet
from llm_twin.model.curves import Curves
from llm_twin.model.profile import Profile
from llm_twin.settings import Settings

pytestmark = pytest.mark.skipif(find_spec("comet_ml") is None, reason="comet_ml is not installed")

KEY = "kkkkkkkkkkkkkkkkkkkkkkkkk"
PROFILE = {"name": "laptop", "training": {"sft": {"rate": 5e-4}, "lora": None}, "seed": 3}
EXPECTED = {
    ("pretrain/loss", 1, 4.0),
    ("pretrain/rate", 1, 0.001),
    ("pretrain/loss", 2, 2.0),
    ("pretrain/rate", 2, 0.001),
    ("pretrain/evaluation", 2, 2.5),
    ("sft/loss", 1, 1.5),
}


@pytest.fixture
def settings(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("COMET_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COMET_API_KEY", KEY)
    monkeypatch.setenv("COMET_CONFIG", str(tmp_path / "no-such.config"))
    monkeypatch.setenv("TWIN_SECRET_OF_THE_MACHINE", "do-not-send-this")
    monkeypatch.setenv("USER", "the-person")
    monkeypatch.setenv("LOGNAME", "the-person")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return Settings(home=tmp_path / "home")


def train(settings, **options):
    """What training does with a listener; returns how many points it logged."""
    with comet.listener("laptop 0123", PROFILE, settings, **options) as told:
        curves = Curves(settings.home / "model", told)
        curves.log("pretrain", 1, loss=4.0, rate=0.001, tokens=10, seconds=0.1)
        curves.log("pretrain", 2, loss=2.0, rate=0.001, tokens=20, seconds=0.2)
        curves.log("pretrain", 2, evaluation=2.5)
        curves.log("sft", 1, loss=1.5, rate=float("nan"))
        if told:
            told.figures({"language": {"bits_per_character": 2.4}, "verdict": "better"})
    return len(curves.points())


def archived(home):
    """The one archive, what it says of itself, and its messages but for the SDK's own counts."""
    (archive,) = (home / "comet").glob("*.zip")
    with zipfile.ZipFile(archive) as held:
        assert sorted(held.namelist()) == ["experiment.json", "messages.json"]
        about = json.loads(held.read("experiment.json"))
        lines = [json.loads(line) for line in held.read("messages.json").splitlines()]
    return archive, about, [line for line in lines if not counted(line)]


def counted(message):
    """Whether the SDK said it by itself: the step it is at, and the seconds that it lived."""
    return any(own in json.dumps(message) for own in ("curr_step", "process duration"))


def test_without_a_key_nothing_is_started(settings, monkeypatch):
    monkeypatch.delenv("COMET_API_KEY")
    monkeypatch.setattr(comet.subprocess, "Popen", None)
    before = "comet_ml" in sys.modules
    assert train(settings) == 4
    assert not (settings.home / "comet").exists()
    assert ("comet_ml" in sys.modules) is before


def test_an_archive_holds_our_metrics_and_nothing_of_the_machine(settings, monkeypatch, capfd):
    monkeypatch.setenv("COMET_START_ONLINE", "0")
    train(settings)
    archive, about, messages = archived(settings.home)
    assert about["project_name"] == "llm-twin"
    metrics = [line["payload"]["metric"] for line in messages if line["type"] == "metric_msg"]
    found = {(one["metricName"], one["step"], one["metricValue"]) for one in metrics}
    final = {one for one in found if one[0] == "language.bits_per_character"}
    assert found - final == EXPECTED
    assert [value for _, _, value in final] == [2.4]
    parameters = [line["payload"]["param"] for line in messages if line["type"] == "parameter_msg"]
    assert {one["paramName"]: str(one["paramValue"]) for one in parameters} == {
        "name": "laptop",
        "training.sft.rate": "0.0005",
        "training.lora": "None",
        "seed": "3",
    }
    kinds = {line["type"] for line in messages}
    assert kinds == {"metric_msg", "parameter_msg", "log_other"}
    others = {line["payload"]["key"] for line in messages if line["type"] == "log_other"}
    assert others == {"offline_experiment", "Name"}
    said, noise = capfd.readouterr()
    assert f"comet upload {archive}" in said
    assert (said.count("\n"), noise) == (1, "")
    assert KEY not in said


def test_figures_that_come_after_training_go_to_the_same_experiment(settings, monkeypatch, capfd):
    monkeypatch.setenv("COMET_START_ONLINE", "0")
    profile, digest = Profile(name="laptop"), "0123456789"
    metrics = {"language": {"bits_per_character": 2.4, "items": [1, 2]}}
    with comet.listener(learning.experiment(profile, digest), {}, settings) as told:
        told({"phase": "sft", "step": 1, "loss": 1.5})
    learning.tell_comet(profile, digest, metrics, settings)
    said = capfd.readouterr().out
    first, second = re.findall(r"comet upload (\S+)", said)
    assert first != second
    held = [zipfile.ZipFile(name) for name in (first, second)]
    abouts = [json.loads(one.read("experiment.json")) for one in held]
    assert abouts[0]["offline_id"] == abouts[1]["offline_id"]
    (figure,) = [
        one["payload"]["metric"]
        for one in map(json.loads, held[1].read("messages.json").splitlines())
        if one["type"] == "metric_msg" and not counted(one)
    ]
    assert (figure["metricName"], figure["metricValue"]) == ("language.bits_per_character", 2.4)


class Stand(http.server.ThreadingHTTPServer):
    """Stands in for Comet: answers every request the same way and records it."""

    daemon_threads = True

    def __init__(self, status, answer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.answer, self.asked = status, answer, []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "gzip" in self.headers.get("Content-Encoding", ""):
            body = zlib.decompress(body, 31)
        self.server.asked.append((self.path, str(self.headers) + body.decode()))
        said = json.dumps(self.server.answer).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST

    def log_message(self, *_):
        pass


@contextmanager
def comet_server(status=200, answer=None):
    server = Stand(status, answer or {})
    if answer is None:
        port = server.server_address[1]
        url = f"http://127.0.0.1:{port}/w/"
        server.answer = {"runId": "r", "project_id": "p", "focusUrl": url, "version": "3.99.1"}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def point_at(monkeypatch, server):
    url = f"http://127.0.0.1:{server.server_address[1]}/clientlib/"
    monkeypatch.setenv("COMET_URL_OVERRIDE", url)


def test_a_server_is_sent_our_metrics_and_nothing_of_the_machine(settings, monkeypatch, capfd):
    with comet_server() as server:
        point_at(monkeypatch, server)
        train(settings)
    paths = [path for path, _ in server.asked]
    assert "/clientlib/logger/add/run" in paths
    sent = {
        (one["metricName"], one["step"], one["metricValue"])
        for path, text in server.asked
        if path.endswith("batch/logger/experiment/metric")
        for one in json.loads(text[text.index("{") :])["values"]
        if not counted(one)
    }
    assert {one for one in sent if not one[0].startswith("language")} == EXPECTED
    assert {one[2] for one in sent if one[0].startswith("language")} == {2.4}
    for path, text in server.asked:
        for private in ("do-not-send-this", "the-person", socket.gethostname(), str(Path.cwd())):
            assert private not in text, (path, private)
        assert not re.search("git|stdout|environment|asset/(?!3d-limits)|system", path), path
    assert getpass.getuser() == "the-person"
    said, noise = capfd.readouterr()
    assert "  curves go to http://127.0.0.1:" in said
    assert (said.count("\n"), noise) == (1, "")
    assert KEY not in said
    assert not list((settings.home / "comet").iterdir())


REFUSALS = [
    (400, {"sdk_error_code": 90212, "msg": "no such key"}),
    (500, {}),
    (200, {"unexpected": "answer"}),
]


@pytest.mark.parametrize(("status", "answer"), REFUSALS)
def test_a_server_that_refuses_leaves_an_archive_and_one_line(
    settings, monkeypatch, capfd, status, answer
):
    with comet_server(status, answer) as server:
        point_at(monkeypatch, server)
        assert train(settings) == 4
    assert server.asked
    archive, _, messages = archived(settings.home)
    assert sum(line["type"] == "metric_msg" for line in messages) == len(EXPECTED) + 1
    said, noise = capfd.readouterr()
    assert "warning: Comet cannot be used (" in said
    assert f"comet upload {archive}" in said
    assert (said.count("\n"), noise) == (1, "")
    assert KEY not in said


def test_a_server_that_is_away_leaves_an_archive(settings, monkeypatch, capfd):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv(
            "COMET_URL_OVERRIDE", f"http://127.0.0.1:{closed.getsockname()[1]}/clientlib/"
        )
        assert train(settings) == 4
    archive, _, messages = archived(settings.home)
    assert sum(line["type"] == "metric_msg" for line in messages) == len(EXPECTED) + 1
    assert f"comet upload {archive}" in capfd.readouterr().out


def test_a_server_that_goes_away_leaves_an_archive_of_the_rest(settings, monkeypatch, capfd):
    with comet_server() as server:
        point_at(monkeypatch, server)
        with comet.listener("cut off", PROFILE, settings) as told:
            curves = Curves(settings.home / "model", told)
            curves.log("sft", 1, loss=4.0)
            while not any("experiment/metric" in path for path, _ in server.asked):
                time.sleep(0.05)
            server.shutdown()
            server.server_close()
            for step in range(2, 50):
                curves.log("sft", step, loss=1.0 / step)
    assert len(curves.points()) == 49
    said = capfd.readouterr().out
    assert "comet upload" in said
    _, _, messages = archived(settings.home)
    kept = {line["payload"]["metric"]["step"] for line in messages if line["type"] == "metric_msg"}
    assert kept >= set(range(2, 50))


def test_a_killed_training_leaves_what_it_told(settings, monkeypatch):
    monkeypatch.setenv("COMET_START_ONLINE", "0")
    code = (
        "import sys, time; from pathlib import Path\n"
        "from llm_twin.model import comet; from llm_twin.settings import Settings\n"
        "with comet.listener('killed', {}, Settings(home=Path(sys.argv[1]))) as told:\n"
        "    for step in range(9): told({'phase': 'sft', 'step': step, 'loss': 1.0})\n"
        "    print('told', flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, settings.home], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout.readline() == b"told\n"
        child.kill()
        assert b"comet upload" in child.stdout.read(), "until the worker ends too"
    _, _, messages = archived(settings.home)
    assert sum(line["type"] == "metric_msg" for line in messages) == 9


def test_a_server_that_never_answers_is_not_waited_for(settings, monkeypatch, capfd):
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        monkeypatch.setenv(
            "COMET_URL_OVERRIDE", f"http://127.0.0.1:{mute.getsockname()[1]}/clientlib/"
        )
        with comet.listener("mute", PROFILE, settings, patience=1.0) as told:
            curves = Curves(settings.home / "model", told)
            for step in range(1, 5001):  # More than a pipe holds.
                curves.log("sft", step, loss=1.0, rate=0.1)
    assert len(curves.points()) == 5000
    said = capfd.readouterr().out
    assert "Comet was not told everything (no answer in 1 s)" in said
    assert said.count("\n") == 1


def test_a_worker_that_dies_does_not_stop_a_training(settings, monkeypatch, capfd):
    monkeypatch.setattr(comet, "_WORKER", "no_such_module")
    with comet.listener("dead", PROFILE, settings) as told:
        told._worker.wait()
        for step in range(3):
            told({"phase": "sft", "step": step, "loss": 1.0})
    assert "warning: Comet was not told everything" in capfd.readouterr().out


def test_a_training_that_fails_still_ends_the_worker(settings, monkeypatch):
    monkeypatch.setenv("COMET_START_ONLINE", "0")
    told = None

    def fail():
        nonlocal told
        with comet.listener("failing", PROFILE, settings) as told:
            told({"phase": "sft", "step": 1, "loss": 1.0})
            raise RuntimeError("loss is not a number")

    with pytest.raises(RuntimeError, match="loss"):
        fail()
    assert told._worker.returncode == 0
    assert archived(settings.home)[1]["project_name"] == "llm-twin"


def test_a_run_that_goes_on_is_the_same_experiment(settings, monkeypatch):
    monkeypatch.setenv("COMET_START_ONLINE", "0")
    monkeypatch.setenv("TWIN_RUN_ID", "run-1")
    for _ in range(2):
        train(settings)
    first, second = (path.name for path in (settings.home / "comet").glob("*.zip"))
    assert first[:40] == second[:40]
    assert first != second
