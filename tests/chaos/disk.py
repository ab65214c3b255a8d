"""Run inside a mount namespace of its own: a small disk that is filled at random moments.

``python disk.py FOLDER SEED TIMES``
"""

import contextlib
import random
import subprocess
import sys
import time
from pathlib import Path

from scene import Scene

SIZE = 6 * 2**20


def fill(disk, leave):
    """Take what is free, but so many bytes."""
    chunk = b"\0" * 4096
    with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
        while ballast.write(chunk):
            pass
    with (disk / "ballast").open("r+b") as ballast:
        size = ballast.seek(0, 2)
        ballast.truncate(max(0, size - leave))


def main(folder, seed, times):
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)]
    subprocess.run(mount, check=True)
    scene = Scene(folder / "project", disk / ".twin", CHAOS_LEDGER=str(folder / "ledger"))
    scene.book = folder / "ledger"
    chance = random.Random(seed)
    began = time.monotonic()
    scene.complete("warm-up", "salt")
    lasts = time.monotonic() - began
    refused = []
    for number in range(times):
        run_id, salt = f"run-{number:03}", f"salt-{chance.randrange(times)}"
        process = scene.start(run_id, salt)
        time.sleep(chance.uniform(0, lasts))
        fill(disk, chance.choice((0, 0, 4096, 20_000, 100_000)))
        code, said = scene.finish(process)
        assert code == 0 or (code, said.count("\n")) == (2, 1), (code, said)
        if code:
            assert said.startswith("error: the run history cannot be written ("), said
            refused.append(said)
        (disk / "ballast").unlink()
        scene.complete(run_id, salt)
        scene.check_run(run_id, salt)
    scene.check_store()
    entries = scene.check_cache(folder / "empty")
    print(f"{times} times full, {len(refused)} runs stopped by it, {entries} cache entries whole")
    assert refused
    print(refused[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
