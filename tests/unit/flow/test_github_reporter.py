"""What GitHub Actions shows of a run: groups, annotations from real tools, a summary."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from llm_twin.flow.github import GitHubReporter, find_annotations
from llm_twin.flow.records import StageRun
from llm_twin.flow.runner import RunResult
from llm_twin.flow.states import cancelled, completed, failed

BROKEN = """\
import os
def f(x: int) -> str:
    return x + undefined
"""
BROKEN_TEST = """\
import warnings
import pytest
from helper import check
def test_plain():
    assert 1 == 2, "numbers, 100%\\ndiffer"
def test_deep():
    print("helper.py:1: printed, not raised")
    check()
class TestC:
    @pytest.mark.parametrize("n", ["a b", "c"])
    def test_m(self, n):
        assert n == "c"
def test_warn():
    warnings.warn("careful: now")
@pytest.fixture
def broken():
    raise OSError("no fixture")
def test_setup(broken):
    pass
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "bad.py").write_text(BROKEN)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_bad.py").write_text(BROKEN_TEST)
    (tmp_path / "tests" / "helper.py").write_text("def check():\n    raise ValueError('deep')\n")
    return tmp_path


@pytest.fixture
def out():
    return io.StringIO()


@pytest.fixture
def reporter(root, out):
    environ = {
        "GITHUB_WORKSPACE": str(root),
        "GITHUB_STEP_SUMMARY": str(root / "summary.md"),
        "GITHUB_ACTIONS": "true",
    }
    return GitHubReporter(out, environ)


def tool(root, *command, colour=True):
    """What a tool of this environment prints, as on GitHub."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV"))}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**environ, "GITHUB_ACTIONS": "true", **({"FORCE_COLOR": "1"} if colour else {})},
    )
    return done.stdout


def commands(output, root):
    return [item.command() for item in find_annotations(output.split("\n"), root)]


RUFF = [
    "::error file=src/bad.py,line=1,col=8,title=F401::`os` imported but unused",
    "::error file=src/bad.py,line=3,col=16,title=F821::Undefined name `undefined`",
]


@pytest.mark.parametrize("style", ["full", "concise", "grouped"])
@pytest.mark.parametrize("colour", [True, False])
def test_ruff(root, style, colour):
    ruff = ("ruff", "check", "--no-cache", "--isolated", "--select=F", "--output-format", style)
    assert commands(tool(root, *ruff, colour=colour), root) == RUFF
    assert commands(tool(root, *ruff, str(root / "src"), colour=colour), root) == RUFF


def test_ruff_on_what_is_no_python_and_on_format(root):
    (root / "src" / "bad.py").write_text("def (:\n")
    shown = commands(tool(root, "ruff", "check", "--no-cache", "--isolated", "src"), root)
    assert shown[0].startswith("::error file=src/bad.py,line=1,col=5,title=invalid-syntax::Exp")
    (root / "src" / "bad.py").write_text("x = {  }\n")
    shown = commands(
        tool(root, "ruff", "format", "--check", "--isolated", "--no-cache", "src"), root
    )
    assert re.fullmatch(
        r"::error file=src/bad.py,line=1,col=\d+,title=unformatted::File would be reformatted",
        shown[0],
    )


@pytest.mark.parametrize("more", [(), ("--show-column-numbers", "--pretty"), ("--show-error-end",)])
def test_mypy(root, more):
    output = tool(root, "mypy", "--cache-dir=/dev/null", *more, "src/bad.py")
    place = "line=3,col=16" if more else "line=3"
    assert commands(output, root) == [
        f'::error file=src/bad.py,{place},title=name-defined::Name "undefined" is not defined'
    ]


WARNING = "::warning file=tests/test_bad.py,line=14,title=UserWarning::careful: now"


@pytest.mark.parametrize("style", ["auto", "short", "long"])
@pytest.mark.parametrize("colour", [True, False])
def test_pytest(root, style, colour):
    output = tool(root, "pytest", "-p", "no:cacheprovider", f"--tb={style}", colour=colour)
    assert sorted(commands(output, root)) == sorted(
        [
            "::error file=tests/test_bad.py,line=5,title=test_plain::AssertionError: numbers,"
            " 100%25%0Adiffer%0Aassert 1 == 2",
            "::error file=tests/helper.py,line=2,title=test_deep::ValueError: deep",
            "::error file=tests/test_bad.py,line=12,title=TestC.test_m[a b]::AssertionError: assert"
            " 'a b' == 'c'%0A- c%0A+ a b",
            "::error file=tests/test_bad.py,line=17,title=test_setup::OSError: no fixture",
            WARNING,
        ]
    )


def test_pytest_without_tracebacks_still_names_the_files(root):
    output = tool(root, "pytest", "-q", "-p", "no:cacheprovider", "--tb=line")
    assert commands(output, root) == [
        WARNING,
        "::error file=tests/test_bad.py,title=test_plain::AssertionError: numbers, 100%25",
        "::error file=tests/test_bad.py,title=test_deep::ValueError: deep",
        "::error file=tests/test_bad.py,title=TestC.test_m[a b]::AssertionError: assert 'a b' =="
        " 'c'",
        "::error file=tests/test_bad.py,title=test_setup::OSError: no fixture",
    ]


def test_pytest_on_a_module_that_cannot_be_imported(root):
    (root / "tests" / "helper.py").unlink()
    shown = commands(tool(root, "pytest", "-p", "no:cacheprovider"), root)
    assert shown == [
        "::error file=tests/test_bad.py,line=3,title=tests/test_bad.py::"
        "ModuleNotFoundError: No module named 'helper'"
    ]


def test_only_files_of_the_repository_are_annotated_and_each_once(root):
    output = f"""\
/usr/lib/x.py:1: error: not ours  [x]
missing.py:1:1: F401 not there
../bad.py:1: error: outside
{root}/src/bad.py:3: error: Twice, and: so  [x]
src/bad.py:3: error: Twice, and: so  [x]
src/bad.py:3: note: a note
12:30:45: error: a time
{"x" * 100_000}.py:1: error: a long line
  src/bad.py:2: error: with, odd: title  [odd-title]
"""
    assert commands(output, root) == [
        "::error file=src/bad.py,line=3,title=x::Twice, and: so",
        "::error file=src/bad.py,line=2,title=odd-title::with, odd: title",
    ]


def test_names_with_commas_and_colons_are_escaped(root):
    (root / "a,b%.py").write_text("")
    assert commands("a,b%.py:1: error: x\ry  [c]", root) == [
        "::error file=a%2Cb%25.py,line=1,title=c::x%0Dy"
    ]


def run(reporter, root, stages, logs=None):
    """Report stages that each print their log and end as they are."""
    logs = logs or {}
    reporter.run_started("r-1", [done.stage for done in stages], root)
    for done in stages:
        if done.stage in logs:
            reporter.stage_started(done.stage, done.why, 1)
            (root / f"{done.stage}.log").write_bytes(logs[done.stage])
            reporter.output(done.stage, logs[done.stage].decode("utf-8", "replace"))
        reporter.stage_ended(done)
    bad = [done for done in stages if not done.state.good]
    reporter.run_ended(RunResult("r-1", bad[0].state if bad else completed(), len(bad), stages))


LINT = StageRun("lint", failed("exit code 1"), 10.0, 12.0, why=["code 100% changed"])
DOCS = StageRun("docs", cancelled("lint did not complete", "Skipped"))
LOG = b"::error::not a command\nsrc/bad.py:1:8: F401 [*] `os` imported but unused\nno newline"


@pytest.mark.parametrize("stages", [[LINT], [LINT, DOCS]])
def test_a_log_is_a_group_in_which_nothing_is_a_command(reporter, out, root, stages):
    run(reporter, root, stages, {"lint": LOG})
    lines = out.getvalue().splitlines()[1:]
    token = lines[1].removeprefix("::stop-commands::")
    assert re.fullmatch("[0-9a-f]{32}", token)
    assert lines[:9] == [
        "::group::lint runs because code 100%25 changed",
        f"::stop-commands::{token}",
        *LOG.decode().splitlines(),
        f"::{token}::",
        "::endgroup::",
        "-- lint Failed after 2.0 s: exit code 1",
        RUFF[0],
    ]


def test_a_stage_that_completed_has_warnings_only(reporter, out, root):
    log = LOG + b"\nsrc/bad.py:2: DeprecationWarning: old\n"
    run(reporter, root, [StageRun("lint", completed(), 1.0, 2.0)], {"lint": log})
    shown = [line for line in out.getvalue().splitlines() if line.startswith(("::err", "::warn"))]
    assert shown[1:] == ["::warning file=src/bad.py,line=2,title=DeprecationWarning::old"]


def test_ten_of_each_kind_and_how_many_more(reporter, out, root):
    log = "".join(
        f"src/bad.py:{n}: error: e\nsrc/bad.py:{n}: UserWarning: w\n" for n in range(1, 26)
    )
    run(reporter, root, [LINT], {"lint": log.encode()})
    shown = out.getvalue().splitlines()
    assert sum(line.startswith("::error ") for line in shown) == 10
    assert sum(line.startswith("::warning ") for line in shown) == 10
    assert ".. 15 more errors of lint are in its log only" in shown
    assert ".. 15 more warnings of lint are in its log only" in shown


def test_a_stage_that_never_wrote_a_log(reporter, out, root):
    reporter.run_started("r-1", ["a"], root)
    reporter.stage_started("a", [], 1)
    reporter.stage_ended(StageRun("a", failed("no disk")))
    assert "-- a Failed: no disk" in out.getvalue()


HOSTILE = "a | `b` *c* _d_ <img src=x> [e](http://f) @g #1 &amp; </details>\n| x |"


def test_the_summary_holds_its_shape_whatever_is_in_it(reporter, root):
    (root / "summary.md").write_text("before\n\n")
    tests = StageRun("tests", failed(HOSTILE), 10.0, 110.0, why=[HOSTILE])
    lint = StageRun("lint", completed("nothing changed", "Cached"))
    log = f"</pre></details>```\n\n{HOSTILE}\n\x1b[31mlast\x1b[0m\n".encode()
    run(reporter, root, [lint, tests, DOCS], {"tests": log})
    text = (root / "summary.md").read_text()
    assert text.startswith("before\n\n### Run r-1")
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    kinds = [token.type for token in tokens]
    assert kinds.count("table_open") == 1
    assert kinds.count("tr_open") == 4
    assert kinds.count("td_open") == 15
    cells = [token for token in tokens if token.type == "inline" and token.level == 4]
    row = [cell for cell in cells if cell.content.startswith("tests")]
    assert row
    assert all(child.type in ("text", "text_special") for cell in cells for child in cell.children)
    shown = "".join(child.content for cell in cells for child in cell.children)
    assert " ".join(HOSTILE.split()) in shown
    assert "1 min 40 s" in shown
    html = [token.content for token in tokens if token.type == "html_block"]
    assert [block.split("\n")[0] for block in html] == [
        "<details><summary>tests: its last lines</summary>",
        "<pre>",
        "</details>",
    ]
    assert html[1].count("</pre>") == 1
    assert html[1].endswith("last\n</pre>\n")


def test_the_summary_stays_below_what_github_takes(reporter, root):
    names = [f"stage-{n}" for n in range(300)]
    log = ("<&|>" * 300 + "\n").encode() * 40
    stages = [StageRun(name, failed("no")) for name in names]
    run(reporter, root, stages, dict.fromkeys(names, log))
    assert 500_000 < (root / "summary.md").stat().st_size < 2**20


def test_without_a_summary_file_there_is_no_summary(out, root, monkeypatch):
    monkeypatch.chdir(root)
    run(GitHubReporter(out, {}), Path(), [LINT], {"lint": LOG})
    assert RUFF[0] in out.getvalue()
    assert not (root / "summary.md").exists()
