"""`invoke ct.dataset` and its push, against a server that speaks enough of the hub's API."""

import base64
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = (
    "import sys; from invoke import Collection, Program; from ci.dataset import dataset;"
    "Program(namespace=Collection(dataset)).run(['invoke', 'dataset', *sys.argv[1:]])"
)
TOKEN = "hf_very_secret"
COMMIT = "0123456789abcdef0123456789abcdef01234567"  # pragma: allowlist secret


@contextmanager
def hub(refusing=0):
    """Yield (url, what was asked as (method, path), the files of the commit)."""
    asked, files = [], {}

    class Handler(BaseHTTPRequestHandler):
        def answer(self, data, status=200):
            raw = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def do_GET(self):
            asked.append(("GET", self.path))
            if "/tree/" in self.path:
                self.answer([])
            else:
                self.answer({"id": "author/twin", "sha": COMMIT, "siblings": []})

        def do_POST(self):
            raw = self.rfile.read(int(self.headers["content-length"]))
            asked.append(("POST", self.path))
            if refusing:
                self.answer({"error": f"no, {TOKEN}"}, refusing)
            elif self.headers.get("authorization") != f"Bearer {TOKEN}":
                self.answer({"error": "who?"}, 401)
            elif self.path == "/api/repos/create":
                files["private"] = json.loads(raw)
                self.answer({"url": f"{url}/datasets/author/twin"})
            elif "/preupload/" in self.path:
                names = [one["path"] for one in json.loads(raw)["files"]]
                regular = [
                    {"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names
                ]
                self.answer({"files": regular})
            elif "/commit/" in self.path:
                for line in map(json.loads, raw.splitlines()):
                    if line["key"] == "file":
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                self.answer(
                    {
                        "commitUrl": f"{url}/datasets/author/twin/commit/{COMMIT}",
                        "commitOid": COMMIT,
                        "success": True,
                    }
                )
            else:
                self.answer({})

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield url, asked, files
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(8):
        said = "\n\n".join(
            f"## Part {place} of mill {number}\n\n"
            + " ".join(
                f"The wheel{number}{place}{at} turns a shaft{number}{at} of the mill{place}{at},"
                f" which nobody{number}{at} had seen{place} before the flood{at}{number}{place}."
                for at in range(6)
            )
            for place in range(3)
        )
        (folder / f"{number}.md").write_text(f"# Mill {number}\n\n{said}\n")
    return folder


def run(corpus, *more, **env):
    known = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TWIN_", "HF_", "HUGGING"))
    }
    home = corpus.parent / "home"
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, "--corpus", str(corpus), *more],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env=known | {"TWIN_HOME": str(home), "TWIN_EMBEDDER": "words", **env},
    )  # fmt: skip


def test_a_dataset_is_written_and_summed_up(corpus, tmp_path):
    done = run(corpus, "--out", str(tmp_path / "set"))
    assert done.returncode == 0, done.stderr
    assert "leakage      none of " in done.stdout
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["digest"] in done.stdout
    again = run(corpus, "--json")
    told = json.loads(again.stdout)
    assert (told["digest"], told["pushed"]) == (manifest["digest"], {})
    assert told["files"] == manifest["files"]


def test_a_set_that_cannot_be_read_is_named_and_nothing_is_written(corpus, tmp_path):
    profile = tmp_path / "mine.yaml"
    profile.write_text(f"data:\n  instructions: [{tmp_path / 'nothing.json'}]\n")
    done = run(corpus, "--out", str(tmp_path / "set"), "--profile", str(profile))
    assert done.returncode == 2
    assert "error: the set cannot be read" in done.stderr
    assert not (tmp_path / "set").exists()


def test_a_dataset_is_pushed_whole_and_private(corpus, tmp_path):
    with hub() as (url, asked, files):
        done = run(
            corpus, "--out", str(tmp_path / "set"), "--push", "--repository", "author/twin",
            HF_ENDPOINT=url, HF_TOKEN=TOKEN, HF_HOME=str(tmp_path / "hf"),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"commit {COMMIT}" in done.stdout
    assert TOKEN not in done.stdout + done.stderr
    asked_for = files.pop("private")
    assert asked_for["type"] == "dataset"
    assert asked_for.get("private") is True or asked_for.get("visibility") == "private"
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    assert any("/commit/" in path for _, path in asked)


@pytest.mark.parametrize(
    ("status", "code", "said"), [(401, 2, "Set HF_TOKEN"), (403, 2, "HF_TOKEN"), (418, 1, "418")]
)
def test_a_hub_that_refuses_is_an_error_in_words_without_the_token(
    corpus, tmp_path, status, code, said
):
    with hub(refusing=status) as (url, _, _):
        done = run(
            corpus, "--push", "--repository", "author/twin",
            HF_ENDPOINT=url, HF_TOKEN=TOKEN, HF_HOME=str(tmp_path / "hf"),
        )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert said in done.stderr
    assert TOKEN not in done.stdout + done.stderr


def test_a_hub_that_is_not_there_is_an_error_in_words(corpus, tmp_path):
    with hub() as (url, _, _):
        gone = url
    done = run(
        corpus, "--push", "--repository", "author/twin",
        HF_ENDPOINT=gone, HF_TOKEN=TOKEN, HF_HOME=str(tmp_path / "hf"),
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert "error: the hub cannot be reached" in done.stderr


def test_a_push_without_a_token_or_name_makes_nothing(corpus, tmp_path):
    done = run(corpus, "--out", str(tmp_path / "set"), "--push", "--repository", "author/twin")
    assert done.returncode == 2
    assert "HF_TOKEN" in done.stderr
    assert "data.hub" in run(corpus, "--out", str(tmp_path / "set"), "--push").stderr
    assert not (tmp_path / "set").exists()
