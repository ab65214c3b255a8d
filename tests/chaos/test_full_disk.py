"""A disk that is full at random moments: one line says so, and nothing is lost or done twice."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from scene import SEED

pytestmark = pytest.mark.chaos
TIMES = int(os.environ.get("CHAOS_FILLS", "40"))
# A plain user may make namespaces on most systems; where not, as on GitHub's runners, sudo can.
DOORS = (["unshare", "--mount"], ["unshare", "-rm"], ["sudo", "-n", "unshare", "--mount"])


def opens(door):
    """Whether a command may mount behind this door."""
    trial = [*door, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(trial, check=False, capture_output=True, timeout=20).returncode == 0


def test_a_full_disk_stops_a_run_in_one_line_and_ruins_nothing(tmp_path):
    door = next(filter(opens, DOORS))
    command = [*door, sys.executable, str(Path(__file__).with_name("disk.py"))]
    done = subprocess.run(
        [*command, str(tmp_path), str(SEED), str(TIMES)],
        check=False,
        timeout=300,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(f"\nCHAOS_SEED={SEED} CHAOS_FILLS={TIMES}\n{done.stdout}")
    assert done.returncode == 0
