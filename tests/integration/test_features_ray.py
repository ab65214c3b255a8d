"""Features over Ray's processes and over a server: what comes out is what one process makes."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm_twin.corpus import Document
from llm_twin.ct import features, place
from llm_twin.ct.scale import open_workers
from llm_twin.errors import TwinError
from llm_twin.retrieval import open_index
from llm_twin.retrieval.sqlite import SqliteIndex
from llm_twin.settings import Settings
from tests.integration.qdrant_rest import serving

ROOT = Path(__file__).parents[2]
FUNCTIONS = '''
import os
from pathlib import Path


def name(document):
    return document.uri, os.getpid()


def pause(number):
    import time
    time.sleep(0.05)
    return number


def fail(document):
    if document.uri == "d7.md":
        raise ValueError("no such letter")
    return document.uri


def die_once(mark):
    """End the whole process, the first time."""
    path = Path(mark)
    if path.name.startswith("die") and not path.exists():
        path.touch()
        os.kill(os.getpid(), 9)
    return path.name
'''


@pytest.fixture(scope="module")
def ray_workers(tmp_path_factory):
    """Ray's own processes on this machine, started once; they can import ``functions_on_ray``."""
    folder = tmp_path_factory.mktemp("functions")
    (folder / "functions_on_ray.py").write_text(FUNCTIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder))
        with open_workers("ray") as workers:
            yield workers


def make_corpus(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        body = "\n\n".join(
            f"## Part {part}\n\n"
            + " ".join(
                f"Sheep n{number}x{day} of flock {part} ate leaf {day}." for day in range(20)
            )
            for part in range(3)
        )
        (folder / f"d{number}.md").write_text(f"# About {number}\n\n{body}\n")
    return folder


def settings_of(home: Path, **more: str) -> Settings:
    embedder = {"TWIN_EMBEDDER_HOME": os.environ["TWIN_EMBEDDER_HOME"]} if "TWIN_EMBEDDER_HOME" in (
        os.environ) else {}  # fmt: skip
    return Settings.load({"TWIN_HOME": str(home), **embedder, **more}, root=ROOT)


def content(settings: Settings) -> list:
    path = settings.home / "features" / "index.db"
    with SqliteIndex.open(path, readonly=True) as index:
        rows = index._database.execute("SELECT id, text, vector FROM chunks ORDER BY id").fetchall()
        return [index.chunks(), rows]


def test_ray_makes_what_one_process_makes(tmp_path, minilm, ray_workers):
    corpus = make_corpus(tmp_path / "corpus", 40)
    here, there = settings_of(tmp_path / "here"), settings_of(tmp_path / "there")
    alone = features.bring_up_to_date(str(corpus), (), here, str)
    spread = features.bring_up_to_date(str(corpus), (), there, str, ray_workers)
    assert alone["documents"] == 40
    assert content(here) == content(there)
    counts = ("documents", "opened", "cleaned", "cut", "embedded", "written", "chunks")
    assert {name: alone[name] for name in counts} == {name: spread[name] for name in counts}


def test_ray_keeps_the_order_and_uses_other_processes(ray_workers):
    from functions_on_ray import name

    documents = [Document(uri=f"d{number}.md", title="", text="") for number in range(100)]
    made = list(ray_workers.map(name, documents, batch=7, what="naming"))
    assert [uri for uri, _ in made] == [document.uri for document in documents]
    assert os.getpid() not in {process for _, process in made}


def test_ray_takes_no_more_than_it_has_room_for(ray_workers):
    from functions_on_ray import pause

    taken = []
    made = ray_workers.map(pause, (taken.append(n) or n for n in range(10_000)), batch=1, what="x")
    assert next(made) == 0
    assert len(taken) < 1000
    made.close()


def test_ray_names_the_document_that_fails(ray_workers):
    from functions_on_ray import fail

    documents = [Document(uri=f"d{number}.md", title="", text="") for number in range(10)]
    with pytest.raises(TwinError, match=r"reading failed \(ValueError: no such letter\): d7\.md"):
        list(ray_workers.map(fail, documents, batch=4, what="reading"))


def test_ray_does_again_what_a_dead_worker_had(tmp_path, ray_workers):
    from functions_on_ray import die_once

    marks = [str(tmp_path / name) for name in ("a", "die", "b", "c")]
    made = list(ray_workers.map(die_once, marks, batch=2, what="dying"))
    assert made == ["a", "die", "b", "c"]


def test_ray_listens_on_loopback_alone(ray_workers):
    import psutil

    ours = psutil.Process().children(recursive=True)
    addresses = {
        connection.laddr.ip
        for process in ours
        for connection in process.net_connections("tcp")
        if connection.status == "LISTEN"
    }
    assert addresses
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.mark.parametrize("kind", ["local", "ray"])
def test_a_server_holds_what_a_file_would(tmp_path, minilm, kind, ray_workers):
    corpus = make_corpus(tmp_path / "corpus", 12)
    file = settings_of(tmp_path / "file")
    features.bring_up_to_date(str(corpus), (), file, str)
    with serving() as (url, engine):
        far = dataclasses.replace(settings_of(tmp_path / "far"), index_url=url)
        workers = ray_workers if kind == "ray" else None

        def bring() -> dict:
            return features.bring_up_to_date(str(corpus), (), far, str, workers)

        def chunks() -> list:
            version = place.version_of(far, minilm.name)
            with open_index(far, tmp_path / "none", version, minilm.name) as index:
                return index.chunks()

        assert bring()["written"] == len(content(file)[0])
        assert chunks() == content(file)[0]
        engine.requests.clear()
        again = bring()
        assert (again["written"], again["deleted"]) == (0, 0)
        assert not [one for one in engine.requests if one in ("PUT points", "POST points/delete")]
        (corpus / "d3.md").unlink()
        assert bring()["deleted"] == 1
        assert not [one for one in chunks() if one.link == "d3.md"]


def test_killed_with_9_and_run_again_it_goes_on(tmp_path, minilm):
    corpus = make_corpus(tmp_path / "corpus", 60)
    settings, other = settings_of(tmp_path / "home"), settings_of(tmp_path / "other")
    script = (
        "import sys\nfrom llm_twin.ct import features\nfrom llm_twin.settings import Settings\n"
        "features.CHUNKS_A_BATCH = 8\n"
        "features.bring_up_to_date(sys.argv[1], (), Settings.load(), str)\n"
    )
    environment = {
        **os.environ, "TWIN_HOME": str(settings.home),
        "TWIN_EMBEDDER_HOME": str(settings.embedder_home),
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", script, str(corpus)], env=environment)
    index = settings.home / "features" / "index.db"
    deadline = time.monotonic() + 120
    while not index.exists() or len(read_documents(index)) < 10:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = len(read_documents(index))
    report = features.bring_up_to_date(str(corpus), (), settings, str)
    assert report["embedded"] < report["chunks"]
    assert report["written"] <= report["chunks"] - before
    features.bring_up_to_date(str(corpus), (), other, str)
    assert content(settings) == content(other)


def read_documents(path: Path) -> dict[str, str]:
    try:
        with SqliteIndex.open(path, readonly=True) as index:
            return index.documents()
    except (TwinError, KeyError):
        return {}
