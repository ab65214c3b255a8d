"""The launcher: what it prints, when it installs, and how it fails. Real processes, no network."""

import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path):
    """The files that the launcher needs, in a folder of their own."""
    folder = tmp_path / "clone"
    (folder / "requirements").mkdir(parents=True)
    shutil.copy(ROOT / "bootstrap", folder)
    (folder / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1"\n')
    (folder / "requirements" / "dev.txt").write_text("a==1\nb==2\n")
    return folder


def fake_uv(folder: Path, body: str) -> str:
    """A PATH whose uv notes how it is called and then does what the body says."""
    path = folder / "bin"
    path.mkdir(exist_ok=True)
    (path / "uv").write_text('#!/bin/sh\necho "$@" >> "$CALLS"\n' + body)
    (path / "uv").chmod(0o755)
    return f"{path}:{os.environ['PATH']}"


def launch(clone: Path, *line: str, path: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PATH": path, "CALLS": str(clone / "calls")}
    return subprocess.run(
        [sys.executable, clone / "bootstrap", *line],
        capture_output=True,
        text=True,
        env=environment,
        cwd=clone,
    )


def calls(clone: Path) -> list[str]:
    return (clone / "calls").read_text().splitlines()


def test_it_installs_once_and_becomes_the_command(clone):
    path = fake_uv(clone, "exit 0")
    first = launch(clone, "sh", "-c", "echo $VIRTUAL_ENV; exit 7", path=path)
    assert first.returncode == 7
    assert first.stdout.strip() == str(clone / ".venv")
    assert "installing 2 packages from requirements/dev.txt" in first.stderr
    made = len(calls(clone))
    again = launch(clone, "sh", "-c", "exit 0", path=path)
    assert again.returncode == 0
    assert again.stderr == ""
    assert len(calls(clone)) == made
    assert any("--require-hashes" in call and "--no-deps" in call for call in calls(clone))


def test_a_changed_lock_installs_again(clone):
    path = fake_uv(clone, "exit 0")
    launch(clone, "true", path=path)
    (clone / "requirements" / "dev.txt").write_text("a==2\n")
    again = launch(clone, "true", path=path)
    assert "installing 1 packages" in again.stderr


def test_a_failed_install_shows_its_last_lines_and_is_tried_again(clone):
    path = fake_uv(clone, "echo 'no space left'; exit 1")
    failed = launch(clone, "true", path=path)
    assert failed.returncode == 2
    assert "uv could not: installing 2 packages" in failed.stderr
    assert "no space left" in failed.stderr
    assert "bootstrap.log" in failed.stderr
    assert "Traceback" not in failed.stderr
    path = fake_uv(clone, "exit 0")
    assert launch(clone, "true", path=path).returncode == 0


def test_where_there_is_no_uv_pip_is_asked(clone):
    """The lock here lists neither uv nor a hash, so pip refuses it without a network."""
    path = os.pathsep.join(
        folder
        for folder in os.environ["PATH"].split(os.pathsep)
        if not (Path(folder) / "uv").exists()
    )
    failed = launch(clone, "true", path=path)
    assert failed.returncode == 2
    assert "uv could not: dev.txt does not list it" in failed.stderr
    assert "Hashes are required" in failed.stderr


def test_a_slow_install_says_what_it_does(clone):
    path = fake_uv(clone, "echo 'Collecting a'; sleep 3; exit 0")
    shown = launch(clone, "true", path=path).stderr
    assert "Collecting a" in shown


def test_torch_is_installed_only_where_a_model_is_trained(clone):
    path = fake_uv(clone, "exit 0")
    launch(clone, "invoke", "--list", path=path)
    assert not any("torch==" in call for call in calls(clone))
    (clone / ".venv" / "bin" / "invoke").write_text("#!/bin/sh\necho training\n")
    (clone / ".venv" / "bin" / "invoke").chmod(0o755)
    trained = launch(clone, "invoke", "ct", path=path)
    assert "torch 2.13.0 (cpu) by " in trained.stderr
    assert any("torch==2.13.0" in call and "--torch-backend cpu" in call for call in calls(clone))


def test_without_any_build_of_torch_it_says_what_to_type(clone):
    path = fake_uv(clone, 'case "$*" in *torch==*) exit 1;; esac; exit 0')
    failed = launch(clone, "--torch", "true", path=path)
    assert failed.returncode == 2
    assert "-m pip install torch==2.13.0" in failed.stderr
    optional = launch(clone, "--torch-if-offered", "true", path=path)
    assert optional.returncode == 0
    assert "going on without torch" in optional.stderr


def test_an_unknown_command_is_one_line(clone):
    path = fake_uv(clone, "exit 0")
    failed = launch(clone, "no-such-command", path=path)
    assert failed.returncode == 2
    assert "no such command: no-such-command" in failed.stderr


def test_without_a_command_it_says_how_to_go_on(clone):
    ready = launch(clone, path=fake_uv(clone, "exit 0"))
    assert ready.returncode == 0
    assert ". .venv/bin/activate" in ready.stderr


def load_launcher():
    loader = importlib.machinery.SourceFileLoader("launcher", str(ROOT / "bootstrap"))
    spec = importlib.util.spec_from_loader("launcher", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_an_old_python_looks_for_a_newer_one_or_says_so(monkeypatch):
    launcher = load_launcher()
    monkeypatch.setattr(sys, "version_info", (3, 9, 0, "final", 0))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    monkeypatch.setattr(launcher.shutil, "which", lambda name: sys.executable)
    assert launcher.suitable_python() == sys.executable
    monkeypatch.setattr(launcher.shutil, "which", lambda name: None)
    with pytest.raises(launcher.BootstrapError, match=r"needs 3\.11 to 3\.13"):
        launcher.suitable_python()


def test_the_lock_names_no_index_and_no_torch():
    for lock in (ROOT / "requirements").glob("*.txt"):
        text = lock.read_text()
        assert "://" not in text
        assert "--index" not in text
        assert not any(line.startswith(("torch==", "nvidia-")) for line in text.splitlines())
        assert text.count("--hash=sha256:") >= text.count("==")


@pytest.mark.parametrize(
    ("line", "before", "after"),
    [
        ("invoke ct", True, True),
        ("invoke build-push", True, False),
        ("invoke ci", True, False),
        ("invoke ask build-push?", False, False),
        ("nox -s tests", False, False),
    ],
)
def test_torch_is_installed_where_a_twin_is_to_be_trained(
    tmp_path, monkeypatch, line, before, after
):
    launcher = load_launcher()
    monkeypatch.setenv("TWIN_HOME", str(tmp_path))
    assert launcher.trains(line.split()) is before
    (tmp_path / "models" / "production").mkdir(parents=True)
    assert launcher.trains(line.split()) is after
