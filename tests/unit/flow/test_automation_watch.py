"""Files are noticed to change in folders that come, go and come back."""

import contextlib
import shutil
import threading
import time

import pytest

from llm_twin.flow.automation import files_changed
from llm_twin.flow.automation import watch as watching
from llm_twin.flow.automation.ledger import events_after
from llm_twin.flow.automation.watch import Watch
from llm_twin.flow.store import Store


@pytest.fixture
def store(tmp_path):
    with contextlib.closing(Store(tmp_path / ".twin")) as opened:
        yield opened


@pytest.fixture
def watch(tmp_path, monkeypatch):
    """A watch over deep and shallow patterns that is listening."""
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.2)
    triggers = [files_changed("docs/*/*.md", "docs/x.md", settle="0s"), files_changed("*.txt")]
    made, stop = Watch(triggers, tmp_path), threading.Event()
    made.woken = threading.Event()
    threads = [
        threading.Thread(target=made.follow, args=(deep, stop, made.woken.set))
        for deep in (True, False)
    ]
    for thread in threads:
        thread.start()
    yield made
    stop.set()
    for thread in threads:
        thread.join(timeout=30)


def changed(watch, store):
    """What is seen to have changed, looking when woken, until something is."""
    end = time.monotonic() + 30
    seen = max((item.id for item in events_after(store.db, 0)), default=0)
    while time.monotonic() < end:
        watch.woken.wait(0.1)
        watch.woken.clear()
        watch.look(store, time.time())
        for item in events_after(store.db, seen):
            if item.kind == "files":
                return item.data["changed"]
    pytest.fail("no change was noticed")


def test_folders_that_come_and_go(watch, store, tmp_path):
    watch.look(store, time.time())
    folder = tmp_path / "docs" / "deep"
    for text in ("one", "two"):
        folder.mkdir(parents=True)
        (folder / "a.md").write_text(text)
        assert changed(watch, store) == ["docs/deep/a.md"]
        (folder / "a.md").write_text(text * 2)
        assert changed(watch, store) == ["docs/deep/a.md"]
        shutil.rmtree(tmp_path / "docs")
        assert changed(watch, store) == ["docs/deep/a.md"]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "x.md").write_text("x")
    assert changed(watch, store) == ["docs/x.md"]


def test_what_is_watched_and_how_deep(tmp_path):
    (tmp_path / "docs").mkdir()
    watch = Watch([files_changed("docs/**/*.md", "src/**/*.py", "docs/*.txt", "*.md")], tmp_path)
    assert list(watch.folders(deep=True)) == [tmp_path / "docs"]
    assert list(watch.folders(deep=False)) == [tmp_path, tmp_path / "docs"]
    assert not Watch([], tmp_path).moved


def test_files_that_cannot_be_watched_are_looked_at(watch, monkeypatch, tmp_path, capsys):
    """A folder that vanishes again and again stands for a system without notifications left."""
    lost = {tmp_path / "gone": 1}
    monkeypatch.setattr(Watch, "folders", lambda self, deep: lost)
    for _ in range(3):
        watch.moved = False
        assert watch.woken.wait(30)
        watch.woken.clear()
    monkeypatch.undo()
    assert 1 <= capsys.readouterr().err.count("warning: files are looked at, not watched") <= 2
