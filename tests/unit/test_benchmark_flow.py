import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def flow(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("flow")


@pytest.fixture
def runs(flow):
    return importlib.import_module("flow_runs")


@pytest.fixture
def command(runs, tmp_path):
    def make(script, **expected):
        project = runs.Project("sh run.sh", {"run.sh": script}, **expected)
        env = {"PATH": os.defpath, "MESSAGE": "hello"}
        return runs.Command(project, tmp_path / "project", Path("/bin"), env)

    return make


@pytest.fixture
def contest(runs, tmp_path, monkeypatch):
    """A tool whose environment is there already: the system's own programs."""
    monkeypatch.setattr(runs, "install", lambda tool, work: Path("/"))
    monkeypatch.setattr(runs, "installed_version", lambda tool, environment: "1.0")

    def compete(*projects, repeat=2):
        return runs.compete("row", {"doit": projects}, repeat, tmp_path)[0]

    return compete


def script(runs, text, **expected):
    return runs.Project("sh run.sh", {"run.sh": text}, **expected)


def results(runs, **tools):
    return [
        runs.Result(tool, "1.0", [runs.Sample(wall, cpu) for wall, cpu in samples])
        for tool, samples in tools.items()
    ]


def test_a_command_that_did_what_it_should_is_timed(command):
    sample = command("echo x >> ledger; echo $MESSAGE\n", stages=1, prints="hello").run(1)
    assert sample.wall > 0


def test_cpu_of_grandchildren_counts(runs, tmp_path):
    burn = f"{sys.executable} -c 'sum(range(5_000_000))'; true"
    sample, code = runs.timed(["/bin/sh", "-c", burn], tmp_path, {}, tmp_path / "log")
    bare, _ = runs.timed(["/bin/sh", "-c", "true"], tmp_path, {}, tmp_path / "log")
    assert code == 0
    assert sample.cpu > bare.cpu


@pytest.mark.parametrize(
    ("text", "expected", "message"),
    [
        ("echo it broke; exit 3\n", {}, "`sh run.sh` ended with 3: it broke"),
        ("kill -9 $$\n", {}, "`sh run.sh` ended with -9: it printed nothing"),
        ("echo x >> ledger\n", {}, "`sh run.sh` ran 1 stages instead of 0"),
        ("true\n", {"prints": "tests"}, "`sh run.sh` printed no 'tests'"),
    ],
)
def test_a_command_that_did_something_else_is_refused(runs, command, text, expected, message):
    with pytest.raises(runs.CannotRunError) as caught:
        command(text, **expected).run(0)
    assert str(caught.value) == message


def test_what_a_command_leaves_behind_is_ended(runs, tmp_path):
    words = ["/bin/sh", "-c", "sleep 60 & echo $! > pid"]
    runs.timed(words, tmp_path, {}, tmp_path / "log")
    left = (tmp_path / "pid").read_text().strip()
    for _ in range(100):
        state = subprocess.run(["ps", "-o", "stat=", "-p", left], capture_output=True, text=True)
        if state.stdout.strip()[:1] in ("", "Z"):
            return
        time.sleep(0.05)
    pytest.fail(f"process {left} lives on")


def test_the_warm_up_is_not_counted(runs, contest):
    result = contest(script(runs, "echo x >> ledger\n", stages=1), repeat=3)
    assert len(result.samples) == 3
    assert result.problem == ""


def test_a_cached_project_must_run_once_and_never_again(runs, contest):
    once = "test -e ledger || echo x >> ledger\n"
    assert len(contest(script(runs, once, stages=1, cached=True)).samples) == 2
    again = contest(script(runs, "echo x >> ledger\n", stages=1, cached=True))
    assert again.problem == "`sh run.sh` ran 1 stages instead of 0"
    assert again.samples == []


def test_two_projects_give_the_time_of_one_stage(runs, contest):
    short = script(runs, "echo x >> ledger\n", stages=1)
    long = script(runs, "for i in 1 2 3 4; do echo x >> ledger; done\n", stages=4)
    assert len(contest(short, long).samples) == 2
    assert runs.per_stage(runs.Sample(1, 0.5), 2, runs.Sample(3, 2), 4) == runs.Sample(1, 0.75)


def test_a_tool_without_a_program_says_so(runs, contest):
    result = contest(runs.Project("no-such-program run", {"file": ""}))
    assert "no-such-program" in result.problem


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        ([3.0, 1.0, 2.0], "2.00 s (1.00 - 3.00)"),
        ([0.1], "0.10 s (0.10 - 0.10)"),
        ([0.0091, 0.0089], "9.0 ms (8.9 - 9.1)"),
        ([], ""),
    ],
)
def test_median_and_spread(flow, seconds, text):
    assert flow.spread(seconds) == text


def test_the_bar_is_about_its_own_clock(flow, runs):
    samples = {"llm-twin": [(0.5, 0.1), (0.9, 0.2), (0.7, 0.3)]}
    (ours,) = results(runs, **samples)
    assert flow.ROWS["cached"].met(ours)
    assert not flow.ROWS["cold"].met(ours)
    assert not flow.ROWS["cached"].met(runs.Result("llm-twin"))
    assert flow.ROWS["cached"].bar == "≤ 0.2 s CPU"
    assert flow.ROWS["overhead"].bar == "≤ 15 ms wall"


def test_the_table_names_ours_the_ratio_and_what_could_not_run(flow, runs):
    listed = results(runs, **{"llm-twin": [(1.1, 0.2)], "poe": [(2.2, 0.1)]})
    listed.append(runs.Result("nox", problem="cannot be installed here: no | network"))
    printed = flow.markdown(flow.table({"sleep": listed})).splitlines()
    assert printed == [
        "| what | tool | wall | CPU | times ours | bar, note |",
        "| --- | --- | --- | --- | --- | --- |",
        "| four stages of `sleep 1`, 4 jobs | llm-twin 1.0 | 1.10 s (1.10 - 1.10) "
        "| 0.20 s (0.20 - 0.20) |  | ≤ 1.2 s wall: met |",
        "|  | poe 1.0 | 2.20 s (2.20 - 2.20) | 0.10 s (0.10 - 0.10) | 2.0 | no history, no logs |",
        "|  | nox |  |  |  | cannot be installed here: no \\| network |",
    ]
    assert "poe 1.0" in flow.plain(flow.table({"sleep": listed}))


def test_without_our_figures_the_row_says_why(flow, runs):
    listed = [
        runs.Result("llm-twin", problem="it broke"),
        *results(runs, poe=[(2.2, 0.1)]),
    ]
    ours, poe = flow.table({"sleep": listed})[1:]
    assert ours[-1] == "≤ 1.2 s wall: not met, it broke"
    assert poe[4] == ""
    row = json.loads(json.dumps(flow.to_dict("sleep", listed)))
    assert row["bar"] == {"limit": 1.2, "clock": "wall", "met": False}
    assert row["results"][1]["samples"] == [{"wall": 2.2, "cpu": 0.1}]


def test_every_project_is_valid_for_its_language(flow):
    for row in flow.ROWS.values():
        assert next(iter(row.projects)) == "llm-twin"
        for project in [one for several in row.projects.values() for one in several]:
            for name, text in project.files.items():
                if name.endswith(".py"):
                    compile(text, name, "exec")


def test_pip_s_error_is_what_is_said(runs):
    assert runs.last_line("WARNING: a\nERROR: no such version\nnotice: b\n").endswith("version")
    assert runs.last_line(" \n") == "it printed nothing"


def test_an_unknown_tool_is_refused():
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "flow.py", "--peers", "make"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "no such row or tool: make" in done.stderr
