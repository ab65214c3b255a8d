"""What a user sees of the stage cache: outputs that come back, damage that is found, room kept."""

import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from llm_twin.errors import BusyError, FlowError, SpaceError
from llm_twin.flow.blobs import Blobs
from llm_twin.flow.cache import Cache, CacheDamaged, Entry, FileEntry, Pruned, Usage, open_cache
from llm_twin.settings import Settings

KEY = "0" * 31 + "1"
OTHER = "0" * 31 + "2"


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def home(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def cache(home):
    return Cache(home)


def archive(cache, root, *paths, key=KEY, source="local", **more):
    more = {"stage": "docs", "run": "r1", **more}
    return cache.archive(key=key, source=source, root=root, paths=paths, **more)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def blob(cache, text):
    digest = hashlib.sha256(text.encode()).hexdigest()
    return cache.folder / "blobs" / digest[:2] / digest


def entry_file(cache, key=KEY, source="local"):
    return cache.folder / "entries" / key / f"{source}.json"


# Coming back


def test_a_branch_switch_brings_back_what_was_made_on_it(cache, root):
    page, asset = root / "site/index.html", root / "site/img/logo.svg"
    write(page, "from main")
    write(asset, "<svg/>")
    archive(cache, root, "site", key=KEY, result={"pages": 1}, evidence={"commit": "abc"})
    write(page, "from branch")
    archive(cache, root, "site", key=OTHER)

    found = cache.find(KEY)
    assert (found.stage, found.run, found.result) == ("docs", "r1", {"pages": 1})
    assert found.evidence == {"commit": "abc"}
    assert cache.restore(found, root) == ["site/index.html"]
    assert (page.read_text(), asset.read_text()) == ("from main", "<svg/>")
    assert cache.restore(cache.find(OTHER), root) == ["site/index.html"]
    assert page.read_text() == "from branch"
    assert cache.restore(cache.find(OTHER), root) == []


def test_deleted_outputs_come_back_with_permissions_and_links(cache, root):
    write(root / "bin/tool", "#!/bin/sh\n").chmod(0o750)
    write(root / "models/v2/weights", "w2")
    (root / "models/production").symlink_to("v2")
    (root / "models/absolute").symlink_to(root / "models/v2/weights")
    (root / "bin/empty").touch()
    archive(cache, root, "bin", "models/production", "models/absolute", "models/v2/weights")
    shutil.rmtree(root / "bin")
    shutil.rmtree(root / "models")

    written = cache.restore(cache.find(KEY), root)
    assert sorted(written) == [
        "bin/empty",
        "bin/tool",
        "models/absolute",
        "models/production",
        "models/v2/weights",
    ]
    assert (root / "bin/tool").stat().st_mode & 0o7777 == 0o750
    assert (root / "models/production").readlink() == Path("v2")
    assert (root / "models/absolute").readlink() == Path("v2/weights")
    assert (root / "models/production/weights").read_text() == "w2"
    assert cache.restore(cache.find(KEY), root) == []


def test_changed_permissions_and_a_moved_link_are_put_right(cache, root):
    write(root / "tool", "x").chmod(0o755)
    (root / "link").symlink_to("tool")
    archive(cache, root, "tool", "link")
    (root / "tool").chmod(0o644)
    (root / "link").unlink()
    (root / "link").symlink_to("elsewhere")
    assert sorted(cache.restore(cache.find(KEY), root)) == ["link", "tool"]
    assert (root / "tool").stat().st_mode & 0o777 == 0o755
    assert (root / "link").readlink() == Path("tool")


def test_a_link_to_nothing_inside_and_a_name_that_is_no_text_come_back(cache, root):
    name = os.fsdecode(b"out/caf\xe9 \xff")
    write(root / name, "bytes")
    (root / "out/dangling").symlink_to("nowhere")
    archive(cache, root, "out")
    shutil.rmtree(root / "out")
    cache.restore(cache.find(KEY), root)
    assert (root / name).read_text() == "bytes"
    assert (root / "out/dangling").readlink() == Path("nowhere")


def test_a_path_through_a_link_is_kept_under_where_it_leads(cache, root):
    write(root / "models/v2/weights", "w2")
    (root / "models/production").symlink_to("v2")
    assert set(archive(cache, root, "models/production/weights").files) == {"models/v2/weights"}


def test_nothing_is_read_or_made_before_it_is_needed(home):
    cache = Cache(home, remote="s3://bucket/prefix")
    assert cache.find(KEY) is None
    cache.forget(KEY)
    assert cache.trouble == ""
    assert not home.exists()


def test_without_a_remote_there_is_nothing_to_fetch_or_push(cache, root):
    entry = archive(cache, root)
    assert cache.fetch(OTHER) is None
    assert cache.push(entry) is False
    assert cache.trouble == ""


def test_a_result_that_is_not_json_is_kept_as_text(cache, root):
    entry = archive(cache, root, result={"path": Path("x"), 1: (2, 3)})
    assert entry.result == {"path": "x", "1": [2, 3]}
    assert cache.find(KEY) == entry


def test_the_newest_entry_of_a_key_is_found_and_evidence_has_both(cache, root):
    older = archive(cache, root, source="ci", evidence={"machine": "runner"})
    newer = archive(cache, root, source="local", evidence={"machine": "laptop"})
    assert cache.find(KEY) == newer
    assert cache.evidence(KEY) == {"ci": older, "local": newer}
    assert cache.evidence(OTHER) == {}
    cache.forget(KEY)
    assert cache.find(KEY) is None


def test_the_cache_may_be_on_another_file_system(root):
    folder = Path("/dev/shm") / f"twin-{os.getpid()}"
    assert folder.parent.stat().st_dev != root.stat().st_dev
    try:
        cache = Cache(folder)
        write(root / "a/b", "far")
        (root / "a/link").symlink_to("b")
        archive(cache, root, "a")
        shutil.rmtree(root / "a")
        assert sorted(cache.restore(cache.find(KEY), root)) == ["a/b", "a/link"]
        assert sorted(path.name for path in (root / "a").iterdir()) == ["b", "link"]
        assert (root / "a/link").read_text() == "far"
        assert not list((cache.folder / "tmp").iterdir())
    finally:
        shutil.rmtree(folder)


# Outputs that cannot be


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/passwd", "out/../../secret", "away", "far/passwd", ".", "", ".."]
)
def test_an_output_outside_of_the_project_is_refused_before_anything_is_kept(
    cache, root, home, path
):
    write(root.parent / "secret", "s")
    write(root / "good", "g")
    (root / "out").mkdir()
    (root / "away").symlink_to("../secret")
    (root / "far").symlink_to("/etc")
    with pytest.raises(FlowError, match="an output is not inside the project"):
        archive(cache, root, "good", path)
    assert not home.exists()


def test_a_link_out_of_the_project_in_a_folder_is_refused(cache, root):
    (root / "out").mkdir()
    (root / "out/away").symlink_to("/etc/passwd")
    with pytest.raises(FlowError, match=r"not inside the project: .*out/away"):
        archive(cache, root, "out")


def test_an_output_that_is_missing_or_no_file_is_named(cache, root):
    with pytest.raises(FlowError, match=r"an output was not made: .*nothing\. Make it"):
        archive(cache, root, "nothing")
    os.mkfifo(root / "pipe")
    with pytest.raises(FlowError, match=r"an output is no file, link or folder: .*pipe"):
        archive(cache, root, "pipe")


def test_a_cache_that_cannot_be_written_says_so(home, root):
    write(home / "cache", "a file where a folder belongs")
    with pytest.raises(
        SpaceError, match=r"the cache cannot be used \(.*\): .*cache.* invoke cache"
    ):
        archive(Cache(home), root)
    assert Cache(home).find(KEY) is None
    Cache(home).forget(KEY)


def test_a_folder_where_an_output_belongs_is_left_alone(cache, root):
    write(root / "out", "a file")
    archive(cache, root, "out")
    (root / "out").unlink()
    write(root / "out/mine", "precious")
    with pytest.raises(SpaceError, match=r"the cache cannot be used \(.*\): .*"):
        cache.restore(cache.find(KEY), root)
    assert (root / "out/mine").read_text() == "precious"


# Once, and undamaged


def test_equal_files_are_kept_once(cache, root):
    write(root / "a", "same")
    write(root / "b", "same")
    archive(cache, root, "a", key=KEY)
    kept = blob(cache, "same").stat()
    archive(cache, root, "a", "b", key=OTHER, stage="pages")
    assert blob(cache, "same").stat().st_mtime_ns == kept.st_mtime_ns
    usage = cache.usage()
    assert (usage.entries, usage.blobs) == (2, 1)
    assert usage.stages == {"docs": (1, 4), "pages": (1, 8)}
    sizes = [entry_file(cache, key).stat().st_size for key in (KEY, OTHER)]
    assert usage.bytes == 4 + sum(sizes)
    assert usage.oldest == entry_file(cache).stat().st_mtime


def test_an_empty_cache_is_counted_too(cache):
    assert cache.usage() == Usage(0, 0, 0, 0.0, {})
    assert cache.prune() == Pruned(0, 0, 0)


@pytest.mark.parametrize("damage", ["truncated", "tampered", "missing"])
def test_a_damaged_blob_is_a_miss_and_nothing_is_written(cache, root, damage):
    write(root / "out/a", "first")
    write(root / "out/b", "second")
    archive(cache, root, "out")
    path = blob(cache, "second")
    if damage == "missing":
        path.unlink()
    else:
        path.write_text("sec" if damage == "truncated" else "SECOND")
    shutil.rmtree(root / "out")
    with pytest.raises(
        CacheDamaged, match=r"a cached file is .*It is dropped: run the stage again"
    ):
        cache.restore(cache.find(KEY), root)
    assert not (root / "out").exists()
    assert not list((cache.folder / "tmp").iterdir())
    assert cache.find(KEY) is None

    write(root / "out/a", "first")
    write(root / "out/b", "second")
    archive(cache, root, "out")
    shutil.rmtree(root / "out")
    assert cache.restore(cache.find(KEY), root) == ["out/a", "out/b"]


def test_an_output_that_is_there_needs_no_blob(cache, root):
    write(root / "a", "here")
    archive(cache, root, "a")
    blob(cache, "here").unlink()
    assert cache.restore(cache.find(KEY), root) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"entry"',
        "[" * 100_000,
        "\xff",
        '{"files": {}}',
        '{"files": []}',
        '{"files": {"a": 1}}',
        '{"files": {"a": {"digest": "x"}}}',
    ],
)
def test_an_entry_file_that_is_none_is_a_miss_and_is_pruned(cache, text):
    write(entry_file(cache), "").write_bytes(text.encode("latin-1"))
    assert cache.find(KEY) is None
    assert cache.usage().entries == 1
    assert cache.prune().entries == 1


def test_a_truncated_entry_is_a_miss_at_any_length(cache, root):
    archive(cache, root)
    whole = entry_file(cache).read_bytes()
    for length in range(len(whole)):
        entry_file(cache).write_bytes(whole[:length])
        assert cache.find(KEY) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("created", "yesterday"),
        ("created", None),
        ("key", OTHER),
        ("source", "ci"),
        ("files", {"a": {"digest": 1, "size": "2", "mode": 0, "target": ""}}),
        ("files", {"a": {"digest": "x", "size": 1e999, "mode": 0, "target": ""}}),
        ("files", {"a": {"digest": "../x", "size": 2, "mode": 0, "target": ""}}),
        ("extra", 1),
    ],
)
def test_an_entry_with_a_wrong_field_is_a_miss(cache, root, field, value):
    archive(cache, root)
    data = json.loads(entry_file(cache).read_text())
    entry_file(cache).write_text(json.dumps({**data, field: value}))
    assert cache.find(KEY) is None


# Tampered entries


def tampered(cache, **files):
    entry = Entry(KEY, "docs", "local", "r", 1.0, files, None, {})
    write(entry_file(cache), entry.to_json())
    return entry


def evil(cache, text="evil", **more):
    path = write(blob(cache, text), text)
    return FileEntry(**{"digest": path.name, "size": len(text), "mode": 0o644, **more})


@pytest.mark.parametrize(
    "name", ["../out", "/tmp/twin-evil", "a/../../out", "", ".", "up/out", "nul\0", "\ud800", ".."]
)
def test_a_tampered_entry_writes_nothing_outside_of_the_project(cache, root, name):
    (root / "up").symlink_to("..")
    entry = tampered(cache, **{"good": evil(cache, "good"), name: evil(cache)})
    with pytest.raises(CacheDamaged, match="leads out of the project"):
        cache.restore(entry, root)
    assert cache.find(KEY) is None
    assert sorted(path.name for path in root.parent.iterdir()) == ["project", "state"]
    assert [path.name for path in root.iterdir()] == ["up"]
    assert not Path("/tmp/twin-evil").exists()


@pytest.mark.parametrize("target", ["/etc/passwd", "..", "a/../../..", "up/x", "nul\0"])
def test_a_tampered_link_does_not_lead_outside(cache, root, target):
    (root / "up").symlink_to("..")
    with pytest.raises(CacheDamaged, match="leads out of the project"):
        cache.restore(tampered(cache, link=FileEntry("", 0, 0, target)), root)
    assert not (root / "link").is_symlink()


def test_links_that_lead_outside_only_together_are_refused(cache, root):
    links = {"deep/up": "..", "one": "deep", "gate": "one/up/.."}
    entry = tampered(cache, **{n: FileEntry("", 0, 0, target) for n, target in links.items()})
    with pytest.raises(CacheDamaged, match="leads out of the project: 'gate'"):
        cache.restore(entry, root)
    assert not (root / "gate").is_symlink()


def test_a_link_does_not_redirect_a_file_of_the_same_entry(cache, root):
    links = {"deep/up": FileEntry("", 0, 0, ".."), "gate": FileEntry("", 0, 0, "deep/up")}
    with pytest.raises(SpaceError):  # gate is a folder by then
        cache.restore(tampered(cache, **links, **{"gate/file": evil(cache)}), root)
    assert (root / "gate/file").is_file()
    assert not (root / "file").exists()


@pytest.mark.parametrize("digest", ["../../../../project/mine", "", "A" * 64, "x"])
def test_a_tampered_digest_neither_reads_nor_removes_a_file(cache, root, digest):
    write(root / "mine", "precious")
    with pytest.raises(CacheDamaged, match="a cache entry names no blob"):
        cache.restore(tampered(cache, stolen=FileEntry(digest, 8, 0o644)), root)
    assert (root / "mine").read_text() == "precious"
    assert not (root / "stolen").exists()


def test_setuid_is_neither_kept_nor_restored(cache, root):
    write(root / "tool", "x").chmod(0o4755)
    assert archive(cache, root, "tool").files["tool"].mode == 0o755
    cache.restore(tampered(cache, evil=evil(cache, mode=0o6777)), root)
    assert (root / "evil").stat().st_mode & 0o7777 == 0o777


# Signatures


@pytest.mark.parametrize(
    ("writer", "reader", "required", "counts"),
    [
        ("", "", False, True),
        ("", "s", False, True),
        ("", "s", True, False),
        ("s", "", False, True),
        ("s", "", True, False),
        ("s", "s", False, True),
        ("s", "s", True, True),
        ("s", "t", False, False),
        ("s", "t", True, False),
    ],
)
def test_who_believes_whom(home, root, writer, reader, required, counts):
    archive(Cache(home, secret=writer), root)
    found = Cache(home, secret=reader, signed=required).find(KEY)
    assert (found is not None) == counts


@pytest.mark.parametrize(
    "change",
    [
        {"key": OTHER},
        {"stage": "deploy"},
        {"source": "ci"},
        {"run": "r2"},
        {"created": 1.0},
        {"result": {"ok": False}},
        {"evidence": {"commit": "def"}},
        {"files": {}},
        {"files": {"b": FileEntry("a" * 64, 1, 0o644)}},
        {"signature": "0" * 64},
        {"signature": "\ud800"},
        {"signature": ""},
    ],
)
def test_the_signature_covers_everything(home, root, change):
    cache = Cache(home, secret="s", signed=True)
    write(root / "a", "x")
    entry = archive(cache, root, "a", result={"ok": True}, evidence={"commit": "abc"})
    changed = dataclasses.replace(entry, **change)
    entry_file(cache).unlink()
    write(entry_file(cache, changed.key, changed.source), changed.to_json())
    assert cache.find(changed.key) is None
    write(entry_file(cache), entry.to_json())
    assert cache.find(KEY) == entry


@pytest.mark.parametrize(
    "change", [{"digest": "b" * 64}, {"size": 2}, {"mode": 0o755}, {"target": "x"}]
)
def test_the_signature_covers_each_file(home, root, change):
    cache = Cache(home, secret="s")
    write(root / "a", "x")
    entry = archive(cache, root, "a")
    files = {"a": dataclasses.replace(entry.files["a"], **change)}
    write(entry_file(cache), dataclasses.replace(entry, files=files).to_json())
    assert cache.find(KEY) is None


# Room


def fill(cache, root, number, size=1000):
    write(root / "out", f"{number}".rjust(size))
    entry = archive(cache, root, "out", key=f"{number:032x}")
    os.utime(entry_file(cache, entry.key), (number, number))
    return entry


def test_what_was_unused_longest_goes_first(cache, root):
    entries = [fill(cache, root, number) for number in range(1, 6)]
    cache.find(entries[0].key)
    size = cache.usage().bytes // 5
    pruned = cache.prune(3 * size + 10)
    assert (pruned.entries, pruned.blobs) == (2, 2)
    assert [bool(cache.find(entry.key)) for entry in entries] == [True, False, False, True, True]
    assert cache.usage().blobs == 3
    assert cache.prune(0).entries == 3
    assert cache.usage() == Usage(0, 0, 0, 0.0, {})


def test_a_blob_that_another_entry_names_stays(cache, root):
    fill(cache, root, 7)
    fill(cache, root, 8)
    write(root / "out", "7".rjust(1000))
    last = archive(cache, root, "out", key=f"{9:032x}")
    before = cache.usage().bytes
    pruned = cache.prune(1000 + entry_file(cache, last.key).stat().st_size)
    assert pruned == Pruned(2, 1, before - cache.usage().bytes)
    assert cache.usage().blobs == 1
    (root / "out").unlink()
    assert cache.restore(cache.find(last.key), root) == ["out"]


def test_the_cache_keeps_to_its_size_by_itself(home, root):
    cache = Cache(home, max_bytes=100_000)
    for number in range(40):
        fill(cache, root, number, size=10_000)
    assert 50_000 < cache.usage().bytes < 120_000
    assert cache.find(f"{39:032x}")
    assert cache.find(f"{0:032x}") is None


def test_leftovers_of_killed_processes_are_removed(cache, root):
    archive(cache, root)
    left = write(cache.folder / "tmp/left", "half a file")
    cache.prune()
    assert not left.exists()
    assert cache.find(KEY)


def test_prune_says_when_others_are_busy(cache, root):
    archive(cache, root)
    with Blobs(cache.folder).lock(), pytest.raises(BusyError, match="other processes use the"):
        cache.prune(0, wait=0.05)
    assert cache.prune(0).entries == 1


def test_a_full_cache_that_is_in_use_is_pruned_later(home, root):
    cache = Cache(home, max_bytes=1)
    with Blobs(cache.folder).lock():
        archive(cache, root)
    assert cache.find(KEY)
    archive(cache, root)
    assert cache.find(KEY) is None


def python(script, *arguments):
    code = textwrap.dedent(script)
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)])


@pytest.mark.timeout(120)
def test_many_processes_add_read_and_prune_at_once(cache, root, home):
    worker = """
        import random, sys
        from pathlib import Path
        from llm_twin.flow.cache import Cache, CacheDamaged
        home, root, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
        chance = random.Random(seed)
        cache = Cache(home, max_bytes=60_000)
        root.mkdir()
        for _ in range(150):
            number = chance.randrange(20)
            key = f"{number:032x}"
            out = root / "out"
            out.write_text(f"{number % 10}" * 5000)
            cache.archive(key=key, stage="s", source=chance.choice(["ci", "local"]), run="r",
                          root=root, paths=["out"])
            out.unlink()
            entry = cache.find(key)
            if entry:
                try:
                    cache.restore(entry, root)
                except CacheDamaged:  # pruned since
                    continue
                assert out.read_text() == f"{number % 10}" * 5000
            if chance.random() < 0.1:
                cache.prune(chance.randrange(40_000), wait=60)
    """
    workers = [python(worker, home, root / str(n), n) for n in range(4)]
    try:
        while any(worker.poll() is None for worker in workers):
            with Blobs(cache.folder).lock():
                for path in cache.folder.glob("entries/*/*.json"):
                    entry = Entry.from_json(path.read_bytes())
                    assert blob(cache, f"{int(entry.key, 16) % 10}" * 5000).exists()
            time.sleep(0.005)
        assert [worker.returncode for worker in workers] == [0, 0, 0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait(10)


@pytest.mark.timeout(120)
def test_kill_9_while_archiving_leaves_no_entry_that_lies(cache, root, home):
    worker = """
        import itertools, sys
        from pathlib import Path
        from llm_twin.flow.cache import Cache
        home, root = Path(sys.argv[1]), Path(sys.argv[2])
        cache = Cache(home)
        root.mkdir(exist_ok=True)
        print("ready", flush=True)
        for number in itertools.count():
            for name in "ab":
                (root / name).write_text(f"{number}{name}" * 20_000)
            cache.archive(key=f"{number:032x}", stage="s", source="local", run="r", root=root,
                          paths=["a", "b"], result=number)
    """
    chance = random.Random(1)
    for _ in range(15):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(worker), str(home), str(root / "w")],
            stdout=subprocess.PIPE,
        )
        process.stdout.readline()
        time.sleep(chance.random() * 0.15)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
    entries = sorted(cache.folder.glob("entries/*/*.json"))
    assert entries
    for path in entries:
        entry = cache.find(path.parent.name)
        cache.restore(entry, root)
        assert (root / "a").read_text() == f"{entry.result}a" * 20_000
        assert (root / "b").read_text() == f"{entry.result}b" * 20_000
    cache.prune()
    assert not list((cache.folder / "tmp").iterdir())


@pytest.mark.timeout(120)
def test_kill_9_while_restoring_leaves_no_half_written_file(cache, root, home):
    for name in "ab":
        write(root / "out" / name, name * 3_000_000)
    archive(cache, root, "out")
    worker = """
        import shutil, sys
        from pathlib import Path
        from llm_twin.flow.cache import Cache
        cache, root = Cache(Path(sys.argv[1])), Path(sys.argv[2])
        print("ready", flush=True)
        while True:
            cache.restore(cache.find(sys.argv[3]), root)
            shutil.rmtree(root / "out")
    """
    chance = random.Random(2)
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(worker), str(home), str(root), KEY],
            stdout=subprocess.PIPE,
        )
        process.stdout.readline()
        time.sleep(chance.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
        for path in root.rglob("*"):
            assert path.is_dir() or path.read_text() == path.name * 3_000_000


# Settings


def test_the_cache_is_what_the_settings_say(tmp_path):
    env = {
        "TWIN_HOME": "state",
        "TWIN_CACHE": "s3://bucket/prefix",
        "TWIN_CACHE_SIZE": "3",
        "TWIN_CACHE_TIMEOUT": "0.5",
    }
    cache = open_cache(Settings.load(env, tmp_path))
    assert cache.folder == tmp_path / "state/cache/stages"
    assert cache.max_bytes == 3 * 2**20
    assert not cache.folder.exists()


def test_importing_the_cache_loads_nothing_slow():
    slow = ["boto3", "botocore", "asyncio", "concurrent.futures", "logging", "http", "tempfile"]
    code = (
        "import sys, llm_twin.flow.cache as c; from pathlib import Path;"
        "c.Cache(Path('nowhere'), remote='s3://b', secret='s').find('0'*32);"
        f"print([m for m in {slow} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
