"""`invoke build-push` on real parts: what is pushed, when nothing is, and what a kill leaves."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llm_twin.corpus import Document, chunk
from llm_twin.delivery.artifacts import attached
from llm_twin.delivery.image import Options, build_push, last_pushed, moving_tags
from llm_twin.delivery.reference import Reference
from llm_twin.delivery.registry import Registry
from llm_twin.delivery.sources import Commit, Sources, resolve_base
from llm_twin.errors import ConfigError, NotReadyError
from llm_twin.model.bundles import Bundles
from llm_twin.retrieval import open_index
from llm_twin.settings import Settings
from tests.integration.registry_fixtures import docker_registry

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(300)

DOCKERFILE = """\
ARG BASE=nothing
FROM ${BASE} AS base
RUN mkdir -p /twin/models
FROM base AS serve
COPY src /app/src
COPY bundle /twin
"""
TEXT = """
I keep one jar on the shelf and it raises every loaf I eat. This is how I treat it.

## Feeding the sourdough starter

Every evening I throw away all but a spoonful of the starter. I stir in fifty grams of rye flour
and fifty grams of lukewarm water. By morning it has doubled and smells of apples, every day anew.
On Sundays the starter gets a second meal at noon, because it works harder when the kitchen is warm.

## Why rye loaves are sticky

Rye is rich in pentosans, which bind many times their weight in water. They make the dough feel like
wet clay even when it is ready. Wet your hands and a scraper instead of adding flour to the dough.
Sticky rye is no mistake: the loaf keeps its moisture for a week, and slices well on the second day.
"""


def promote(home: Path, version: str = "v1", text: str = TEXT) -> None:
    bundles = Bundles(home / "models")
    building = bundles.stage()
    index = open_index(Settings(home=home, embedder="words"), building / "index.db", version, "")
    document = Document(uri="bread.md", title="Bread", text=text, link="bread.md")
    index.upsert(chunk(document, lambda words: len(words.split()), 160), None)
    index.close()
    bundles.commit(building, version, {"embedder": "", "dataset": "d1", "gate": "better"})
    bundles.promote(version)


def git(root: Path, *words: str) -> str:
    identity = [
        "-c",
        "user.name=A",
        "-c",
        "user.email=a@example.org",
        "-c",
        "init.defaultBranch=main",
    ]
    command = ["git", *identity, *words]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
def project(tmp_path, engine, base_image, host):
    """A checkout with a small Dockerfile, a promoted twin, and settings that lead to both."""
    root = tmp_path / "checkout"
    (root / "src").mkdir(parents=True)
    (root / "Dockerfile").write_text(DOCKERFILE)
    (root / ".dockerignore").write_text("**/.*\n")
    (root / "src" / "app.py").write_text("print('one')\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "one")
    home = tmp_path / "home"
    promote(home)
    settings = Settings(
        home=home, embedder="words", base_image=base_image, registry=host,
        repository=f"team/{tmp_path.name.replace('_', '-')}",
    )  # fmt: skip
    return root, settings


def test_what_is_pushed_is_in_the_registry_under_every_tag(project, engine):
    root, settings = project
    said: list[str] = []
    done = build_push(settings, root, Options(), said.append)

    registry = Registry.open(settings.registry)
    ref = Reference.parse(f"{settings.registry}/{settings.repository}:x")
    commit = git(root, "rev-parse", "HEAD")
    assert done.tags == [done.source_tag, f"git-{commit[:12]}", "branch-main", "latest"]
    assert {registry.head(ref.tagged(tag)) for tag in done.tags} == {done.digest}
    assert done.reference == str(ref.pinned(done.digest)) == last_pushed(settings)
    assert done.size > 1_000_000
    labels = engine.api.inspect_image(done.image_id)["Config"]["Labels"]
    assert labels["llm-twin.source-tag"] == done.source_tag
    assert json.loads(labels["llm-twin.gate"]) == {"verdict": "better"}
    assert labels["llm-twin.dirty"] == "false"
    kinds = [item["artifactType"] for item in attached(registry, ref.pinned(done.digest))]
    assert sorted(kinds) == sorted(done.documents)
    assert labels["llm-twin.smoke-question"] in (
        "Feeding the sourdough starter?",
        "Why rye loaves are sticky?",
    )
    assert labels["llm-twin.smoke-citation"] == "bread.md"
    assert any("COPY src /app/src" in line for line in said)


def test_the_same_sources_are_built_once_wherever_they_lie(project, tmp_path):
    root, settings = project
    first = build_push(settings, root, Options())
    clone = tmp_path / "clone"
    git(root, "clone", "-q", str(root), str(clone))
    again = build_push(settings, clone, Options())

    assert (again.image_id, again.digest, again.tags) == ("", first.digest, first.tags)
    assert again.message == f"nothing changed: {first.reference}"
    assert "build" not in again.seconds


def test_a_commit_that_changes_no_source_moves_tags_only(project):
    root, settings = project
    first = build_push(settings, root, Options())
    git(root, "switch", "-qc", "feature/a b".replace(" ", "-"))
    git(root, "commit", "-q", "--allow-empty", "-m", "two")
    second = build_push(settings, root, Options())
    assert (second.image_id, second.digest) == ("", first.digest)
    assert second.tags[2:] == ["branch-feature-a-b", "latest"]


def test_a_change_of_code_a_twin_or_a_target_is_another_image(project):
    root, settings = project
    digests = [build_push(settings, root, Options()).digest]
    (root / "src" / "app.py").write_text("print('two')\n")
    changed = build_push(settings, root, Options())
    digests.append(changed.digest)
    assert changed.tags[1].endswith("-dirty")
    promote(settings.home, "v2", TEXT + "\n## Another\n\nMore words about bread and its crust.\n")
    digests.append(build_push(settings, root, Options()).digest)
    aimed = build_push(settings, root, Options(target="serve"))
    assert all("serve" in tag for tag in aimed.tags[1:])
    assert "latest" not in aimed.tags
    assert len({*digests}) == 3


def test_a_change_of_code_or_of_the_twin_ships_one_layer(project):
    root, settings = project

    def layers() -> list[str]:
        done = build_push(settings, root, Options())
        manifest = Registry.open(settings.registry).manifest(Reference.parse(done.reference))
        return [layer["digest"] for layer in manifest.data["layers"]]

    first = layers()
    (root / "src" / "app.py").write_text("print('two')\n")
    second = layers()
    promote(settings.home, "v2", TEXT + "\n## Another\n\nMore words about bread and its crust.\n")
    third = layers()
    code, twin = -2, -1
    assert [*second[:code], second[twin]] == [*first[:code], first[twin]]
    assert second[code] != first[code]
    assert third[:twin] == second[:twin]
    assert third[twin] != second[twin]


def test_force_builds_again_and_no_push_leaves_it_in_the_engine(project, engine):
    root, settings = project
    kept = build_push(settings, root, Options(push=False))
    assert engine.image_id(f"{settings.repository}:{kept.source_tag}") == kept.image_id
    assert (kept.reference, kept.tags) == ("", [])
    with pytest.raises(NotReadyError, match=r"Nothing was pushed yet.*invoke build-push"):
        last_pushed(settings)
    build_push(settings, root, Options())
    assert build_push(settings, root, Options(force=True)).image_id


def test_killed_before_the_source_tag_it_is_done_again(project):
    root, settings = project
    code = f"""
import os, signal
from pathlib import Path
from llm_twin.delivery import image
from llm_twin.delivery.registry import Registry
from llm_twin.settings import Settings
Registry.retag = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
image.build_push({settings!r}, Path({str(root)!r}), image.Options(), lambda line: None)
""".replace("PosixPath", "Path")
    done = subprocess.run([sys.executable, "-c", code], timeout=120, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with pytest.raises(NotReadyError):
        last_pushed(settings)
    again = build_push(settings, root, Options())
    assert again.image_id
    assert last_pushed(settings) == again.reference


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"registry": "127.0.0.1:1"}, NotReadyError, "no registry answers"),
        ({"repository": "team/Upper"}, ConfigError, "no capital letters"),
    ],
)
def test_what_cannot_be_delivered_is_said_and_not_remembered(project, change, error, sentence):
    root, settings = project
    with pytest.raises(error, match=sentence):
        build_push(replace(settings, **change), root, Options())
    with pytest.raises(NotReadyError):
        last_pushed(settings)


def test_create_is_for_ecr_alone(project):
    root, settings = project
    with pytest.raises(ConfigError, match=r"Only ECR.*Leave --create out"):
        build_push(settings, root, Options(create=True))


def test_without_a_twin_nothing_is_built(project):
    root, settings = project
    shutil.rmtree(settings.home / "models")
    with pytest.raises(NotReadyError, match=r"No twin is promoted yet.*invoke ct"):
        build_push(settings, root, Options())


def test_the_base_image_is_pinned_where_it_comes_from_a_registry(project, engine, host):
    root, settings = project
    name = f"{host}/base:1"
    engine.api.tag(settings.base_image, f"{host}/base", "1")
    list(engine.api.push(f"{host}/base", tag="1", stream=True))
    digest = Registry.open(host).head(Reference.parse(name))
    address = engine.address
    settings = replace(settings, base_image=name)

    assert resolve_base(root, settings, address) == (name, digest)
    assert resolve_base(root, settings, address, pull=True) == (f"{name}@{digest}", digest)
    engine.api.remove_image(name)
    assert resolve_base(root, settings, address) == (f"{name}@{digest}", digest)
    pinned = replace(settings, base_image=f"{name}@{digest}")
    assert resolve_base(root, pinned, address) == (f"{name}@{digest}", digest)
    with pytest.raises(ConfigError, match=r"neither in the engine nor in its registry"):
        resolve_base(root, replace(settings, base_image=f"{host}/base:2"), address)


def test_tags_that_move(project):
    root, settings = project
    sources = Sources(
        root, Commit("0123456789abcdef", "main"), "b", "d",
        Bundles(settings.home / "models").production(), {},
    )  # fmt: skip
    assert moving_tags(sources, local=False) == ["git-0123456789ab", "branch-main", "latest"]
    dirty = replace(sources, commit=Commit("0123456789abcdef", "main", dirty=True))
    assert moving_tags(dirty, local=False) == ["git-0123456789ab-dirty", "branch-main"]
    other = replace(sources, commit=Commit("unknown", ""), platform="linux/arm64")
    assert moving_tags(other, local=True) == ["git-unknown-linux-arm64"]


def test_a_github_job_knows_its_branch(tmp_path):
    (tmp_path / "a").write_text("a")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "one")
    git(tmp_path, "checkout", "-q", "--detach")
    on_main = {"GITHUB_REF_TYPE": "branch", "GITHUB_REF_NAME": "main"}
    assert Commit.of(tmp_path, on_main).branch == "main"
    assert Commit.of(tmp_path, {**on_main, "GITHUB_HEAD_REF": "fix"}).branch == "fix"
    assert Commit.of(tmp_path, {"GITHUB_REF_TYPE": "tag", "GITHUB_REF_NAME": "v1"}).branch == ""
    assert Commit.of(tmp_path / "none", {}) == Commit()
