"""The bundle on disk: whole or absent, whenever the process dies."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from llm_twin.errors import BusyError, ConfigError, NotReadyError
from llm_twin.model import durable
from llm_twin.model.bundles import Bundle, Bundles


@pytest.fixture
def shelf(tmp_path):
    return Bundles(tmp_path / "models")


def build(shelf, version, text="index"):
    building = shelf.stage()
    (building / "index.db").write_text(text)
    (building / "model").mkdir()
    (building / "model" / "model.safetensors").write_bytes(b"weights of " + version.encode())
    return shelf.commit(building, version, {"hit@5": 0.9})


def test_a_new_folder_has_no_production_model_and_nothing_to_sweep(shelf):
    assert shelf.production() is None
    assert shelf.versions() == []
    assert shelf.sweep() == []


def test_a_promoted_version_is_served_with_its_index_model_and_details(shelf):
    path = build(shelf, "v1")
    assert shelf.production() is None
    promoted = shelf.promote("v1")
    served = shelf.production()
    assert served == promoted
    assert served.version == "v1"
    assert served.path == path
    assert served.index_path.read_text() == "index"
    assert (served.model_path / "model.safetensors").read_bytes() == b"weights of v1"
    assert served.manifest["details"] == {"hit@5": 0.9}
    assert set(served.manifest["files"]) == {"index.db", "model/model.safetensors"}
    served.verify()


def test_promoting_again_switches_and_the_old_version_stays(shelf):
    for version in ("v1", "v2"):
        build(shelf, version)
        shelf.promote(version)
    assert shelf.production().version == "v2"
    assert [bundle.version for bundle in shelf.versions()] == ["v1", "v2"]
    shelf.promote("v1")
    assert shelf.production().version == "v1"


def test_the_folder_can_be_moved(shelf, tmp_path):
    build(shelf, "v1")
    shelf.promote("v1")
    shelf.folder.rename(tmp_path / "elsewhere")
    assert Bundles(tmp_path / "elsewhere").production().version == "v1"


@pytest.mark.parametrize("name", ["", "production", "../v1", ".v1", "a/b", "v 1", "x" * 200])
def test_a_version_needs_a_name_that_is_a_plain_folder(shelf, name):
    building = shelf.stage()
    with pytest.raises(ConfigError, match="version's name"):
        shelf.commit(building, name)
    assert list(building.iterdir()) == []


def test_a_version_is_never_overwritten(shelf):
    build(shelf, "v1")
    with pytest.raises(ConfigError, match="exists already"):
        build(shelf, "v1", text="other")
    assert (shelf.folder / "v1" / "index.db").read_text() == "index"


def test_promoting_what_is_not_there_leaves_production_alone(shelf):
    build(shelf, "v1")
    shelf.promote("v1")
    with pytest.raises(NotReadyError, match=r"bundle.json is missing .*v2. Make a new one"):
        shelf.promote("v2")
    assert shelf.production().version == "v1"


def test_a_missing_or_cut_file_is_named(shelf):
    path = build(shelf, "v1")
    shelf.promote("v1")
    (path / "index.db").write_text("ind")
    with pytest.raises(NotReadyError, match=r"index.db has another size"):
        shelf.production()
    (path / "index.db").unlink()
    with pytest.raises(NotReadyError, match=r"index.db is missing"):
        shelf.production()
    assert shelf.versions() == []


def test_verify_finds_a_changed_file_of_the_same_size(shelf):
    path = build(shelf, "v1")
    (path / "index.db").write_text("INDEX")
    bundle = Bundle.open(path)
    with pytest.raises(NotReadyError, match=r"index.db was changed"):
        bundle.verify()


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"version": "v1", "files": [1]}'])
def test_a_manifest_that_cannot_be_read_is_damage(shelf, manifest):
    path = build(shelf, "v1")
    (path / "bundle.json").write_text(manifest)
    with pytest.raises(NotReadyError, match="damaged"):
        Bundle.open(path)


def test_a_production_link_to_nowhere_is_damage(shelf):
    build(shelf, "v1")
    shelf.promote("v1")
    durable.remove(shelf.folder / "v1")
    with pytest.raises(NotReadyError, match="damaged"):
        shelf.production()


def test_an_index_in_wal_mode_is_folded_into_one_file(shelf):
    building = shelf.stage()
    script = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1]); db.execute('pragma journal_mode=wal')\n"
        "db.execute('create table t (x)'); db.execute('insert into t values (42)'); db.commit()\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(building / "index.db")], check=True)
    assert (building / "index.db-wal").stat().st_size > 0
    path = shelf.commit(building, "v1")
    assert [item.name for item in path.iterdir() if item.name.startswith("index")] == ["index.db"]
    reader = sqlite3.connect(path / "index.db")
    assert reader.execute("select x from t").fetchall() == [(42,)]
    shelf.promote("v1").verify()
    reader.close()


def test_an_index_that_is_still_read_from_cannot_be_committed(shelf):
    building = shelf.stage()
    writer = sqlite3.connect(building / "index.db", isolation_level=None)
    writer.execute("pragma journal_mode=wal")
    writer.execute("create table t (x)")
    reader = sqlite3.connect(building / "index.db", isolation_level=None)
    reader.execute("begin")
    reader.execute("select * from t").fetchall()
    writer.execute("insert into t values (1)")
    with pytest.raises(BusyError, match=r"index.db. Close it first"):
        shelf.commit(building, "v1")
    assert not (shelf.folder / "v1").exists()
    reader.close()
    writer.close()


def test_sweep_keeps_the_newest_and_always_production(shelf):
    for number in range(1, 6):
        path = build(shelf, f"v{number}")
        manifest = json.loads((path / "bundle.json").read_text())
        manifest["created"] = f"2026-01-0{number}T00:00:00+00:00"
        (path / "bundle.json").write_text(json.dumps(manifest))
    shelf.promote("v1")
    assert shelf.sweep(keep=3) == ["v2", "v3"]
    assert [bundle.version for bundle in shelf.versions()] == ["v1", "v4", "v5"]
    assert shelf.sweep(keep=0) == ["v4", "v5"]
    assert shelf.production().version == "v1"


def test_sweep_removes_what_dead_processes_left_and_nothing_else(shelf):
    mine = shelf.stage()
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    dead = shelf.folder / f".building-{child.stdout.strip()}-aaaa"
    dead.mkdir()
    (dead / "index.db").write_text("half")
    strange = shelf.folder / ".building-"
    strange.mkdir()
    assert sorted(shelf.sweep()) == [strange.name, dead.name]
    assert mine.is_dir()


def test_a_process_of_somebody_else_counts_as_alive():
    assert durable.is_alive(1)
    assert durable.is_alive(os.getpid())


def test_killed_at_any_line_production_is_the_old_or_the_new_version_and_whole(tmp_path):
    # Outside coverage, which would take the place of the trace function that does the killing.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("killed_at_any_line.py"), tmp_path],
        env=clean, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["lines"] > 60
    assert result["served"] == ["new", "old"]


def test_importing_bundles_and_gate_loads_nothing_heavy():
    script = (
        "import sys, llm_twin.model, llm_twin.model.bundles, llm_twin.model.gate\n"
        "heavy = {'torch', 'transformers', 'trl', 'numpy', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path.cwd())
