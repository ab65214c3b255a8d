"""A key covers what a stage depends on, and says by name what moved."""

import importlib.util
import sys
import textwrap

import pytest

from llm_twin.flow.key import combine, key_parts, reasons, unchanged
from llm_twin.flow.stage import Stage


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small project: a stage module that imports a helper, which imports another."""
    files = {
        "src/pkg/__init__.py": "",
        "src/pkg/helper.py": "from . import deeper\n\ndef help_me():\n    return deeper.VALUE\n",
        "src/pkg/deeper.py": "VALUE = 1\n",
        "src/pkg/unrelated.py": "# nothing to do with it\n",
        "stages.py": """
            import os

            def train(corpus: str = "docs"):
                import pkg.helper
                return pkg.helper.help_me()
        """,
        "docs/a.md": "text",
        "requirements/dev.txt": "invoke==3",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    spec = importlib.util.spec_from_file_location("stages_under_test", tmp_path / "stages.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "stages_under_test", module)
    spec.loader.exec_module(module)
    return tmp_path, module


def parts_of(project, **options):
    root, module = project
    stage = Stage("train", module.train, inputs=("docs/*.md",), env=("TWIN_LLM",), **options)
    return key_parts(stage, stage.arguments({}), root)


def test_an_untouched_project_has_the_same_key(project):
    before = parts_of(project)
    assert reasons(before, parts_of(project)) == []
    assert combine(before) == combine(parts_of(project))
    assert unchanged(before).startswith("1 parameter, 4 code files, 1 input file")


def test_a_helper_imported_by_a_helper_is_part_of_the_key(project):
    before = parts_of(project)
    (project[0] / "src/pkg/deeper.py").write_text("VALUE = 2\n")
    assert reasons(before, parts_of(project)) == ["code src/pkg/deeper.py changed"]


def test_an_unrelated_module_is_not(project):
    before = parts_of(project)
    (project[0] / "src/pkg/unrelated.py").write_text("# another comment\n")
    assert reasons(before, parts_of(project)) == []


def test_inputs_environment_lock_and_facts_are_named(project, monkeypatch):
    before = parts_of(project, facts=lambda **_: {"corpus": "rev1"})
    root = project[0]
    (root / "docs/a.md").write_text("other")
    (root / "docs/b.md").write_text("new")
    (root / "requirements/dev.txt").write_text("invoke==4")
    monkeypatch.setenv("TWIN_LLM", "local")
    assert reasons(before, parts_of(project, facts=lambda **_: {"corpus": "rev2"})) == [
        "corpus changed",
        "environment variable TWIN_LLM changed",
        "input docs/a.md changed",
        "input docs/b.md is new",
        "lock requirements/dev.txt changed",
    ]
    (root / "docs/b.md").unlink()
    assert "input docs/b.md is gone" in reasons({"input:docs/b.md": "x"}, {})


def test_a_parameter_shows_both_values(project):
    root, module = project
    stage = Stage("train", module.train)
    one = key_parts(stage, {"corpus": "docs"}, root)
    two = key_parts(stage, {"corpus": "blog"}, root)
    assert reasons(one, two) == ['parameter corpus was "docs", is "blog"']


def test_the_first_run_has_a_reason(project):
    assert reasons(None, parts_of(project)) == ["it has not completed here before"]


def test_a_missing_extra_input_and_what_is_needed_are_parts(project):
    root, module = project
    missing = root / "not-there.md"
    stage = Stage("train", module.train, needs=("lint",), find_inputs=lambda **_: [missing])
    parts = key_parts(stage, {}, root, {"lint": "abc"})
    assert parts["input:not-there.md"] == "missing"
    assert parts["needs:lint"] == "abc"


def test_code_outside_the_project_or_unreadable_is_left_out(project):
    root, _ = project
    assert not [p for p in key_parts(Stage("x", textwrap.dedent), {}, root) if p.startswith("code")]
    (root / "src/pkg/helper.py").write_text("def broken(:\n")
    names = [p for p in parts_of(project) if p.startswith("code")]
    assert names == ["code:src/pkg/__init__.py", "code:src/pkg/helper.py", "code:stages.py"]
