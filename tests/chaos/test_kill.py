"""kill -9 at random moments: what is resumed completes, with every effect exactly once."""

import os
import random
import time

import pytest
from scene import SEED, STAGES, Scene, kill

pytestmark = pytest.mark.chaos
KILLS = int(os.environ.get("CHAOS_KILLS", "200"))


@pytest.mark.parametrize("whom", ["parent", "child"])
def test_a_killed_run_is_resumed_to_completion_with_every_effect_once(tmp_path, whom):
    print(f"\nCHAOS_SEED={SEED} CHAOS_KILLS={KILLS}, killing the {whom}")
    chance = random.Random(f"{SEED} {whom}")
    scene = Scene(tmp_path, tmp_path / ".twin")
    began = time.monotonic()
    scene.complete("warm-up", "salt")
    lasts = time.monotonic() - began
    kills = runs = 0
    while kills < KILLS // 2:
        runs += 1
        run_id, salt = f"run-{runs:04}", f"salt-{chance.randrange(1 + KILLS // 4)}"
        if chance.random() < 0.5:
            scene.remove_outputs()
        for resumption in range(4):
            process = scene.start(run_id, salt)
            if resumption == 0 or chance.random() < 0.5:
                time.sleep(chance.uniform(0, lasts))
                victim = "both" if whom == "parent" and chance.random() < 0.2 else whom
                kills += kill(process, victim)
            if scene.finish(process)[0] == 0:
                break
        scene.complete(run_id, salt)
        scene.check_run(run_id, salt)
    scene.check_store()
    entries = scene.check_cache(tmp_path / "empty")
    scene.check_no_process(str(tmp_path))
    print(f"{kills} kills in {runs} runs of {len(STAGES)} stages, {entries} cache entries whole")
