"""The invoke front door: quick, light, and a faithful view of the stages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("zenml", "opik", "boto3", "docker", "torch", "transformers", "numpy", "pydantic", "httpx")


def invoke(*line: str, home: Path, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess:
    """Run invoke as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "invoke", *line],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "TWIN_HOME": str(home), **env},
    )


def test_importing_tasks_loads_nothing_heavy():
    code = f"import sys, tasks; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_list_shows_stages_and_commands(tmp_path):
    shown = invoke("--list", home=tmp_path / "home").stdout
    for name in ("ask", "ci", "ct", "lint", "package", "tests", "runs.list (runs)", "runs.logs"):
        assert name in shown
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("wanted", [True, False])
def test_bytecode_is_kept_unless_the_user_wants_none(wanted, tmp_path):
    kept = tmp_path / "kept"
    invoke(
        "--list", home=tmp_path / "home", PYTHONPYCACHEPREFIX=str(kept),
        PYTHONDONTWRITEBYTECODE="" if wanted else "1",
    )  # fmt: skip
    assert any(path.name.startswith("training.") for path in kept.rglob("*.pyc")) == wanted


def test_help_has_the_flags_of_the_signature(tmp_path):
    shown = invoke("--help", "ct", home=tmp_path).stdout
    assert "--corpus" in shown
    assert "folder, file, Git URL, feed or export" in shown
    assert "--budget" in shown
    assert "--force" in shown
    assert "Args:" not in shown


def test_an_empty_history_is_no_error(tmp_path):
    assert "No runs yet" in invoke("runs", home=tmp_path / "home").stdout
    assert json.loads(invoke("runs", "--json", home=tmp_path / "home").stdout) == []
    missing = invoke("runs.show", "abc", home=tmp_path / "home")
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: no runs are recorded yet")
    assert not (tmp_path / "home").exists()


PROJECT = '''
from pathlib import Path
from llm_twin.flow import Registry
from llm_twin.flow.tasks import collection

registry = Registry()

@registry.stage
def hello(name: str = "world", times: int = 1) -> dict:
    """Say hello.

    Args:
        name: whom to greet,
            politely.
        times: how often.
    """
    for _ in range(times):
        print("hello", name)
    return {"name": name}

@registry.stage(needs=["hello"])
def fails() -> None:
    """Fail."""
    raise RuntimeError("on purpose")

namespace = collection(registry, Path(__file__).resolve().parent)
'''


@pytest.fixture
def project(tmp_path):
    (tmp_path / "tasks.py").write_text(PROJECT)
    return tmp_path


def test_a_stage_runs_as_a_task_and_is_recorded(project):
    home = project / "home"
    done = invoke("hello", "--name", "you", "--times", "2", home=home, cwd=project)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("hello you") == 2
    (run,) = json.loads(invoke("runs", "--json", home=home, cwd=project).stdout)
    assert run["state"] == "Completed"
    assert run["parameters"] == {"name": "you", "times": 2}
    shown = invoke("runs.show", run["id"], home=home, cwd=project).stdout
    assert "hello" in shown
    data = json.loads(invoke("runs.show", run["id"], "--json", home=home, cwd=project).stdout)
    assert data["stages"][0]["result"] == {"name": "you"}
    logs = invoke("runs.logs", run["id"], "hello", home=home, cwd=project).stdout
    assert logs == "hello you\nhello you\n"
    assert "politely" in invoke("--help", "hello", home=home, cwd=project).stdout


def test_a_failure_has_an_exit_code_and_a_way_to_look(project):
    home = project / "home"
    done = invoke("fails", home=home, cwd=project)
    assert done.returncode == 1
    assert "-- fails Failed" in done.stdout
    run_id = json.loads(invoke("runs", "--json", home=home, cwd=project).stdout)[0]["id"]
    logs = invoke("runs.logs", run_id, home=home, cwd=project).stdout
    assert "-- hello" in logs
    assert "RuntimeError: on purpose" in logs
    as_json = json.loads(invoke("runs.logs", run_id, "--json", home=home, cwd=project).stdout)
    assert set(as_json["logs"]) == {"hello", "fails"}
    wrong = invoke("runs.logs", run_id, "nope", home=home, cwd=project)
    assert wrong.returncode == 2
    assert "has no stage nope. Its stages are: hello, fails" in wrong.stderr
