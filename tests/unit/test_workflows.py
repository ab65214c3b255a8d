"""The workflow files hold no logic: every step is one line of ours, naming what exists."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml

import ci
import tasks
from llm_twin.flow.graph import order

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def sessions() -> set[str]:
    """Names of the functions that noxfile.py decorates as sessions."""
    tree = ast.parse((ROOT / "noxfile.py").read_text())
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any("session" in ast.unparse(decorator) for decorator in node.decorator_list)
    }


def load(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def steps(path: Path) -> list[dict]:
    return [step for job in load(path)["jobs"].values() for step in job["steps"]]


def named(line: str) -> list[str]:
    """The tasks or sessions that a line calls; fails when it is anything else."""
    assert "\n" not in line.strip(), f"more than one line: {line!r}"
    words = shlex.split(line)
    assert words[:2] in (["./bootstrap", "invoke"], ["./bootstrap", "nox"]), line
    if words[1] == "nox":
        assert words[2:3] == ["-s"], line
        return words[3:]
    return words[2:3]


def refusal(line: str) -> str:
    """Why a line is refused, or ""."""
    try:
        names = named(line)
    except AssertionError as error:
        return str(error)
    known = sessions() if " nox " in line else set(tasks.namespace.task_names)
    unknown = set(names) - known
    return f"no such task or session: {unknown}" if unknown or not names else ""


def test_there_are_the_three_workflows():
    assert [path.name for path in WORKFLOWS] == ["cd.yml", "ci.yml", "ct.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_run_line_is_one_of_ours(path):
    lines = [step["run"] for step in steps(path) if "run" in step]
    assert lines
    assert [refusal(line) for line in lines] == [""] * len(lines)


@pytest.mark.parametrize(
    "line",
    [
        "pip install -e .",
        "./bootstrap invoke no-such-task",
        "./bootstrap nox -s no-such-session",
        "./bootstrap invoke ct\n./bootstrap invoke ci",
        "./bootstrap nox",
        "bash -c './bootstrap invoke ct'",
    ],
)
def test_logic_in_a_workflow_is_refused(line):
    assert refusal(line)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_rights_are_least(path):
    workflow = load(path)
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        identity = {"id-token": "write"} if path.name == "cd.yml" else {}
        assert job["permissions"] == {"contents": "read", **identity}
        assert job["timeout-minutes"] <= 60
    for step in steps(path):
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
        assert "secrets." not in str(step)


def test_invoke_ci_runs_what_ci_yml_runs():
    lines = [s["run"] for s in steps(ROOT / ".github/workflows/ci.yml") if "run" in s]
    called = [name for line in lines for name in named(line)]
    in_workflow = {stage.name for stage in order(ci.registry, *called)}
    in_flow = {stage.name for stage in order(ci.registry, "ci")} - {"ci"}
    assert in_flow == in_workflow


def test_every_stage_that_runs_nox_names_a_session():
    names = {"lint", "types", "workflows", "secrets", "tests", "chaos", "package"}
    assert names <= {stage.name for stage in ci.registry}
    assert names <= sessions()


def test_cd_tests_then_pushes_then_deploys_with_approval():
    jobs = load(ROOT / ".github/workflows/cd.yml")["jobs"]
    lines = {name: [s["run"] for s in job["steps"] if "run" in s] for name, job in jobs.items()}
    assert lines == {
        "build-push": ["./bootstrap invoke ci", "./bootstrap invoke build-push"],
        "deploy": ['./bootstrap invoke deploy --target sagemaker --image "$IMAGE"'],
    }
    assert jobs["deploy"]["environment"]
    assert jobs["deploy"]["needs"] == "build-push"


def test_ct_starts_by_hand_on_schedule_and_from_outside():
    triggers = load(ROOT / ".github/workflows/ct.yml")[True]
    assert set(triggers) == {"workflow_dispatch", "schedule", "repository_dispatch"}


def test_ci_run_calls_exactly_the_test_command_of_the_readme():
    command = "./bootstrap nox -s tests"
    assert command in (ROOT / "README.md").read_text()
    script = (ROOT / ".ci" / "run").read_text()
    assert [line for line in script.splitlines() if "./bootstrap" in line] == [f"exec {command}"]
    assert "export TWIN_ALL_TESTS=1" in script
