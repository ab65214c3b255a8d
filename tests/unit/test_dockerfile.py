"""What goes into the image, and what stays out; building it is tested with a real engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
STAGED = {
    "bundle/models/image/bundle.json", "bundle/models/image/index.db",
    "bundle/models/image/model/model.safetensors",
    "embedder/manifest.json", "embedder/model-int8.onnx", "embedder/tokenizer.json",
}  # fmt: skip
KEPT_OUT = (
    ".env", ".git/config", ".twin/runs.db", ".venv/bin/python", ".nox/lint/log", "docs/why.md",
    "tests/conftest.py", "ci/quality.py", "requirements/dev.txt", "src/llm_twin/serving/.env",
    "id_rsa", "src/llm_twin/__pycache__/errors.cpython-311.pyc", "src/llm_twin/flow/store.py",
    "src/llm_twin.egg-info/PKG-INFO", "src/llm_twin/delivery/ecr.py", "src/llm_twin/ct/run.py",
)  # fmt: skip


def context(root: Path) -> set[str]:
    """The files of a build context, as docker reads ``.dockerignore``."""
    lines = (root / ".dockerignore").read_text("utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    found = exclude_paths(str(root), patterns, dockerfile="Dockerfile")
    return {path for path in found if (root / path).is_file()}


def stages() -> dict[str, list[str]]:
    """The instructions of each stage, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE))
    found: dict[str, list[str]] = {}
    for line in filter(None, joined.splitlines()):
        opened = re.fullmatch(r"FROM (\S+) AS (\S+)", line)
        if opened:
            found[opened[2]] = [line]
        elif found:
            found[list(found)[-1]].append(line)
    return found


def test_hadolint_has_nothing_to_say() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_context_is_what_the_image_is_made_of_and_nothing_else(tmp_path: Path) -> None:
    shutil.copy(ROOT / ".dockerignore", tmp_path)
    locks = {f"requirements/{name}.txt" for name in ("ct", "serve", "train")}
    wanted = {*STAGED, *locks, "src/llm_twin/errors.py"}
    for name in (*wanted, *KEPT_OUT, "Dockerfile"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")

    assert context(tmp_path) - {"Dockerfile", ".dockerignore"} == wanted


def test_the_service_runs_on_the_source_that_the_image_has(tmp_path: Path) -> None:
    for name in context(ROOT):
        if name.startswith("src/"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    code = (
        "import sys, importlib, pkgutil, llm_twin.serving.__main__\n"
        "from llm_twin import retrieval, serving\n"
        "for room in (retrieval, serving):\n"
        "    for module in pkgutil.iter_modules(room.__path__, room.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "heavy = ('torch', 'transformers', 'zenml', 'litellm', 'boto3', 'docker')\n"
        "print(llm_twin.serving.__file__, [name for name in heavy if name in sys.modules])\n"
    )
    # What a copy of the source runs is no coverage of the source.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={**env, "PYTHONPATH": str(tmp_path / "src")},
    )
    assert done.stderr == ""
    assert done.stdout.split() == [str(tmp_path / "src/llm_twin/serving/__init__.py"), "[]"]


def test_the_lock_of_the_service_leaves_out_what_it_does_not_use() -> None:
    locked = set(re.findall(r"(?m)^([\w.-]+)==", (ROOT / "requirements/serve.txt").read_text()))
    assert {"fastapi", "uvicorn", "onnxruntime", "opik"} <= locked
    assert not locked & {"torch", "transformers", "zenml", "litellm", "boto3", "docker", "pytest"}


def test_uv_and_transformers_are_found_in_the_lock(tmp_path: Path) -> None:
    """The image's first stage, run as it stands."""
    line = next(line for line in stages()["pin"] if line.startswith("RUN "))
    script = line.removeprefix("RUN ").replace("/ct.txt", str(ROOT / "requirements/ct.txt"))
    script = script.replace("> /", f"> {tmp_path}/")
    subprocess.run(["sh", "-ec", script], check=True, timeout=60)

    uv = (tmp_path / "uv.txt").read_text().splitlines()
    assert re.fullmatch(r"uv==[\d.]+ \\", uv[0])
    assert len(uv) > 1
    assert all(re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}( \\)?", each) for each in uv[1:])
    assert re.fullmatch(r"transformers==[\d.]+\n", (tmp_path / "transformers.txt").read_text())


def test_torch_is_named_as_the_launcher_names_it() -> None:
    pinned = re.search(r'^TORCH = "(.*)"', (ROOT / "bootstrap").read_text("utf-8"), re.MULTILINE)
    assert pinned
    assert f"ARG TORCH={pinned[1]}" in DOCKERFILE


@pytest.mark.parametrize("target", ["serve", "local-llm"])
def test_what_changes_most_is_copied_last(target: str) -> None:
    copies = [line.split()[-1] for line in stages()[target] if line.startswith("COPY")]
    assert copies == ["/opt/venv", "/twin/embedder/", "/app/src", "/twin"]


def test_the_plain_target_is_the_default_and_knows_no_torch() -> None:
    every = stages()
    assert list(every)[-1] == "serve"
    assert "torch" not in " ".join(every["serve"] + every["base"] + every["deps"])


def test_it_runs_as_nobody_in_particular_and_can_be_checked() -> None:
    lines = stages()["base"]
    assert "USER 10001:10001" in lines
    assert "EXPOSE 8000 8080" in lines
    starts = [line.partition(" ") for line in lines if line.startswith(("ENTRYPOINT", "CMD"))]
    assert [json.loads(arguments) for _, _, arguments in starts] == [
        ["python", "-m", "llm_twin.serving"],
        ["serve"],
    ]
    assert any(line.startswith("HEALTHCHECK ") and "/healthz" in line for line in lines)


def test_the_training_image_has_what_a_job_imports_and_none_of_our_code() -> None:
    locked = set(re.findall(r"(?m)^([\w.-]+)==", (ROOT / "requirements/train.txt").read_text()))
    assert {"zenml", "sagemaker", "kubernetes", "s3fs", "trl", "peft", "transformers"} <= locked
    assert not locked & {"torch", "docker-compose", "pytest", "moto"}
    assert not any(name.startswith(("nvidia-", "cuda-")) for name in locked)
    copies = [line for line in stages()["train"] if line.startswith("COPY")]
    assert copies == ["COPY --from=train-deps /opt/venv /opt/venv"]


def test_the_training_image_is_started_by_whoever_runs_it() -> None:
    lines = stages()["train"]
    assert not [line for line in lines if line.startswith(("ENTRYPOINT", "CMD", "USER"))]


def test_stand_ins_for_the_training_image_set_what_it_sets() -> None:
    from tests.integration.job_containers import IMAGE

    (said,) = [line for line in stages()["train"] if line.startswith("ENV ")]
    assert {f"{name}={value}" for name, value in IMAGE.items()} <= set(said.split())
