"""A shared cache whose wire is cut in the middle of transfers: no run fails, nothing is wrong."""

import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
import time

import boto3
import project
import pytest
from scene import PATIENCE, SEED, Scene

from llm_twin.flow.cache import Cache

pytestmark = pytest.mark.chaos
CUTS = int(os.environ.get("CHAOS_CUTS", "20"))
URL = "s3://shared/stages"
MOST = 500_000  # bytes that a connection may live for


class Wire:
    """Passes connections on to a server, each for a random number of bytes; counts the cuts."""

    def __init__(self, port, chance):
        self._server = port
        self._chance = chance
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):  # until it is closed
            while True:
                here = self._door.accept()[0]
                there = socket.create_connection(("127.0.0.1", self._server))
                left = [self._chance.randrange(MOST) if self._chance.random() < 0.5 else 10**12]
                for way in ((here, there, left), (there, here, left)):
                    threading.Thread(target=self._pass, args=way, daemon=True).start()

    def _pass(self, here, there, left):
        with contextlib.suppress(OSError):
            while left[0] > 0 and (data := here.recv(4096)):
                there.sendall(data[: left[0]])
                left[0] -= len(data)
                self.cuts += left[0] <= 0
        for end in (here, there):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()


@pytest.fixture
def s3(tmp_path, monkeypatch):
    """The port of moto's S3, in a process of its own."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",  # pragma: allowlist secret
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "CHAOS_LINES": "20000",
    }.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield port
        server.kill()


def test_a_cache_whose_wire_is_cut_fails_no_run_and_spoils_nothing(tmp_path, s3, monkeypatch):
    print(f"\nCHAOS_SEED={SEED} CHAOS_CUTS={CUTS}")
    chance = random.Random(SEED)
    direct = f"http://127.0.0.1:{s3}"
    client = boto3.client("s3", endpoint_url=direct)
    place = {"LocationConstraint": "eu-central-1"}
    client.create_bucket(Bucket="shared", CreateBucketConfiguration=place)
    rounds = cuts = taken = 0
    with contextlib.closing(Wire(s3, chance)) as wire:
        cut = {"TWIN_CACHE": URL, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{wire.port}"}
        while wire.cuts < CUTS:
            rounds += 1
            for who in ("giver", "taker"):
                run_id = f"{who}-{rounds:03}"
                scene = Scene(tmp_path / who, tmp_path / f"{who}-{rounds}.twin", **cut)
                assert scene.finish(scene.start(run_id, f"salt-{rounds}")) == (0, "")
                scene.check_run(run_id, f"salt-{rounds}")
                taken += who == "taker" and "left" in scene.cached(run_id)
        cuts = wire.cuts
    monkeypatch.setenv("AWS_ENDPOINT_URL", direct)
    listed = client.list_objects_v2(Bucket="shared", Prefix="stages/entries/").get("Contents", [])
    found = 0
    for item in listed:
        cache = Cache(tmp_path / "fresh", remote=URL, timeout=10.0)
        if entry := cache.fetch(item["Key"].split("/")[2]):
            found += 1
            cache.restore(entry, tmp_path / "empty")
            path = tmp_path / "empty" / project.OUTPUTS[entry.stage]
            text = path.read_text()
            assert text == project.text(entry.stage, text.split()[1])
        assert not cache.trouble
    print(f"{cuts} cuts in {rounds} rounds; {found} of {len(listed)} entries whole; {taken} taken")
    assert found
