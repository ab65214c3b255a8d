"""Release a bundle in forked children, killing each at one line later; run by test_bundles."""

import json
import os
import signal
import sys
from pathlib import Path

from llm_twin.model import bundles, durable
from llm_twin.model.bundles import Bundles

STEPPED = (bundles.__file__, durable.__file__)


def release(shelf, version):
    building = shelf.stage()
    (building / "index.db").write_text(f"index of {version}")
    (building / "model").mkdir()
    (building / "model" / "model.safetensors").write_bytes(b"weights of " + version.encode())
    shelf.commit(building, version)
    shelf.promote(version)
    shelf.sweep(keep=1)


def survives(line, work):
    """Run work in a forked child that is killed at its n-th line; tell whether it got through."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    seen = 0

    def trace(frame, event, argument):
        nonlocal seen
        if frame.f_code.co_filename not in STEPPED:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    try:
        sys.settrace(trace)
        work()
        sys.settrace(None)
        os._exit(0)
    finally:
        os._exit(1)


def check(shelf, line, finished):
    """Judge what a death at that line left, as the next process would find it."""
    served = shelf.production()
    served.verify()
    assert served.version == "new" or not finished
    assert served.index_path.read_text() == f"index of {served.version}"
    visible = {path.name for path in shelf.folder.iterdir() if path.name[0] != "."}
    assert visible <= {"old", "new", "production"}, visible
    assert all(bundle.verify() is None for bundle in shelf.versions())
    shelf.sweep()
    assert not list(shelf.folder.glob(".*")), f"left over after line {line}"
    if "new" not in visible:
        release(shelf, "new")
        assert shelf.production().version == "new"
    return served.version


def main(folder):
    served, line, finished = set(), 0, False
    while not finished:
        line += 1
        shelf = Bundles(folder / str(line))
        release(shelf, "old")
        finished = survives(line, lambda shelf=shelf: release(shelf, "new"))
        served.add(check(shelf, line, finished))
    print(json.dumps({"lines": line, "served": sorted(served)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
