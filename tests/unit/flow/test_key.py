"""A key covers what a stage depends on, and says by name what moved."""

import importlib.util
import os
import sys
import textwrap

import pytest

from llm_twin.errors import FlowError
from llm_twin.flow.files import Files
from llm_twin.flow.key import Keys, combine, reasons, unchanged
from llm_twin.flow.stage import Stage
from llm_twin.flow.store import Store


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
    return Keys(root).parts(stage, stage.arguments({}))


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
    one = Keys(root).parts(stage, {"corpus": "docs"})
    two = Keys(root).parts(stage, {"corpus": "blog"})
    assert reasons(one, two) == ['parameter corpus was "docs", is "blog"']


def test_the_first_run_has_a_reason(project):
    assert reasons(None, parts_of(project)) == ["it has not completed here before"]


def test_a_missing_extra_input_and_what_is_needed_are_parts(project):
    root, module = project
    missing = root / "not-there.md"
    stage = Stage("train", module.train, needs=("lint",), find_inputs=lambda **_: [missing])
    parts = Keys(root).parts(stage, {}, {"lint": "abc"})
    assert parts["input:not-there.md"] == "missing"
    assert parts["needs:lint"] == "abc"


def test_code_outside_the_project_or_unreadable_is_left_out(project):
    root, _ = project
    outside = Keys(root).parts(Stage("x", textwrap.dedent), {})
    assert not [part for part in outside if part.startswith("code")]
    (root / "src/pkg/helper.py").write_text("def broken(:\n")
    names = [p for p in parts_of(project) if p.startswith("code")]
    assert names == ["code:src/pkg/__init__.py", "code:src/pkg/helper.py", "code:stages.py"]


def test_what_was_read_is_remembered_by_size_and_time(project, tmp_path_factory):
    root, module = project
    store = Store(tmp_path_factory.mktemp("home"))
    for path in root.rglob("*.*"):
        os.utime(path, (1, 1))
    stage = Stage("train", module.train)
    first = Files(store.db)
    before = Keys(root, first).parts(stage, {})
    first.save()
    deeper = root / "src/pkg/deeper.py"
    deeper.write_text("VALUE = 2\n")
    os.utime(deeper, (1, 1))
    assert Keys(root, Files(store.db)).parts(stage, {}) == before
    os.utime(deeper, (2, 2))
    moved = Keys(root, Files(store.db)).parts(stage, {})
    assert reasons(before, moved) == ["code src/pkg/deeper.py changed"]
    store.close()


def test_a_file_written_just_now_is_not_remembered(project, tmp_path_factory):
    root, _ = project
    store = Store(tmp_path_factory.mktemp("home"))
    path = root / "docs/a.md"
    files = Files(store.db)
    path.write_text("one")
    stamp = path.stat()
    first = files.digest(str(path))
    files.save()
    path.write_text("two")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert Files(store.db).digest(str(path)) != first
    assert files.digest(str(root / "none")) == "missing"
    store.close()


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b", "~/x"])
def test_a_path_outside_the_project_is_refused(path):
    for option in ("inputs", "outputs"):
        with pytest.raises(FlowError, match="names a path outside the project"):
            Stage("s", print, **{option: (path,)})


def test_outputs_are_files_those_in_folders_and_hidden_ones_too(project):
    root, module = project
    for name in ("out/a/b.txt", "out/.hidden", "other/x.bin"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "out/link").symlink_to("a/b.txt")
    stage = Stage("s", module.train, outputs=("out", "other/*.bin", "none.txt"))
    keys = Keys(root)
    found = keys.outputs(stage)
    assert sorted(found) == ["other/x.bin", "out/.hidden", "out/a/b.txt", "out/link"]
    assert found["out/link"] == "link:a/b.txt"
    assert keys.unmatched(stage) == ["none.txt"]


def test_relative_imports_at_every_level_and_of_names(project):
    root, _ = project
    (root / "src/pkg/sub").mkdir()
    (root / "src/pkg/sub/__init__.py").write_text("from ..helper import help_me\n")
    (root / "src/pkg/sub/leaf.py").write_text("from ...pkg import unrelated\n")
    (root / "src/pkg/deeper.py").write_text("from .sub import leaf\n")
    names = {p for p in parts_of(project) if p.startswith("code")}
    assert names == {
        "code:stages.py",
        *(f"code:src/pkg/{name}.py" for name in ("__init__", "helper", "deeper", "unrelated")),
        *(f"code:src/pkg/sub/{name}.py" for name in ("__init__", "leaf")),
    }
