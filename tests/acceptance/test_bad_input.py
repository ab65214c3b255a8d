"""Bad input at the front door: one line says what, where, what to type; nothing is written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def ct(home: Path, *line: str, prefix: tuple[str, ...] = (), **env: str):
    return subprocess.run(
        [*prefix, sys.executable, "-m", "invoke", "ct", *line],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TWIN_HOME": str(home), **env},
    )


def assert_refused(done, home: Path, *parts: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line, line
    assert not home.exists()


def test_no_such_path(home):
    assert_refused(ct(home, "--corpus", "/no/such"), home, "/no/such", "--corpus")


def test_an_empty_folder(home, tmp_path):
    (tmp_path / "empty").mkdir()
    assert_refused(ct(home, "--corpus", str(tmp_path / "empty")), home, "empty", ".md")


def test_a_binary_file_named_md(home, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "x.md").write_bytes(b"# T\n\x00\x01\xff" * 100)
    assert_refused(ct(home, "--corpus", str(tmp_path / "bin")), home, "x.md", "--exclude")


def test_malformed_json(home, tmp_path):
    (tmp_path / "a.json").write_text('[{"content": {,}]')
    assert_refused(ct(home, "--corpus", str(tmp_path / "a.json")), home, "a.json", "line 1")


def test_json_that_is_something_else(home, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"x": 1}))
    assert_refused(ct(home, "--corpus", str(tmp_path / "a.json")), home, "a.json")


def test_a_document_of_200_mb(home, tmp_path):
    (tmp_path / "big").mkdir()
    with (tmp_path / "big" / "huge.txt").open("wb") as file:
        file.truncate(200 * 2**20)
    done = ct(home, "--corpus", str(tmp_path / "big"))
    assert_refused(done, home, "huge.txt", "200", "TWIN_MAX_DOCUMENT_MB")


def test_text_in_a_wrong_encoding(home, tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "latin.txt").write_bytes("Überall café ".encode("latin-1") * 50)
    assert_refused(ct(home, "--corpus", str(tmp_path / "t")), home, "latin.txt", "iconv")


@pytest.mark.torch
def test_a_folder_with_nothing_but_a_broken_pdf(home, tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "broken.pdf").write_bytes(b"%PDF-1.7 nonsense")
    done = ct(home, "--corpus", str(tmp_path / "p"))
    assert done.returncode == 2
    assert "broken.pdf" in done.stdout + done.stderr


def test_a_budget_that_is_no_time(home):
    assert_refused(ct(home, "--corpus", "docs", "--budget", "soon"), home, "'soon'", "--budget 60s")


def test_a_number_setting_that_is_no_number(home):
    done = ct(home, "--corpus", "docs", TWIN_MAX_DOCUMENT_MB="many")
    assert_refused(done, home, "TWIN_MAX_DOCUMENT_MB")


def test_an_unknown_embedder(home):
    done = ct(home, "--corpus", "docs", TWIN_EMBEDDER="bogus")
    assert_refused(done, home, "bogus", "TWIN_EMBEDDER")


def test_a_state_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    done = ct(tmp_path / "file", "--corpus", "docs")
    assert done.returncode == 2
    assert "TWIN_HOME" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "file").read_text() == "x"


def on_tmpfs(folder: Path, options: str) -> tuple[str, ...]:
    """A command prefix that mounts a small file system there, seen by that command alone."""
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    script = f'mount -t tmpfs -o {options} tmpfs "{folder}" && "$@" && true; exit $?'
    prefix = (*own, "sh", "-c", script, "sh")
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.fail("this machine lets nobody mount a tmpfs; run the tests as root")
    return prefix


def test_no_disk_space(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    done = ct(folder / "home", "--corpus", "docs", prefix=on_tmpfs(folder, "size=4m"))
    assert_refused(done, folder / "home", "MB are free", "TWIN_HOME")


def test_a_state_folder_that_cannot_be_written(tmp_path):
    folder = tmp_path / "readonly"
    folder.mkdir()
    done = ct(folder / "home", "--corpus", "docs", prefix=on_tmpfs(folder, "size=4m,ro"))
    assert_refused(done, folder / "home", "cannot be written", "TWIN_HOME")


def test_asking_before_there_is_a_twin(home):
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "ask", "What is a stage?"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TWIN_HOME": str(home)},
    )
    assert_refused(done, home, "invoke ct")
