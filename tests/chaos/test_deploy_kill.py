"""kill -9 of a deployment at every step's boundary and at random moments, then a recovery.

What is live afterwards is wholly new or wholly old, never two and never none, and no request fails.
"""

# ruff: noqa: F811  (fixtures that are imported are arguments too)
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from scene import SEED

from llm_twin.delivery.deploy.deployments import recover, undeploy
from tests.integration.conftest import base_image, engine  # noqa: F401
from tests.integration.deploy_stub import Load, Site, image, registry  # noqa: F401

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]

STEPS = ["front", "fetch", "start", "smoke", "switch", "retire"]
MOMENTS = [f"{when} {step}" for step in STEPS for when in ("before", "after", "recorded")]
RANDOM_KILLS = int(os.environ.get("CHAOS_DEPLOY_KILLS", "12"))
PATIENCE = 60

DRIVER = """
import dataclasses, os, signal, sys
from pathlib import Path
from llm_twin.delivery.deploy import deployments
from llm_twin.delivery.deploy.journal import Journal
from llm_twin.delivery.deploy.local import Local
from llm_twin.settings import Settings

home, what, image, port, moment = sys.argv[1:]


def die(now):
    if now == moment:
        os.kill(os.getpid(), signal.SIGKILL)


def deadly(name, work):
    def done():
        die(f"before {name}")
        found = work()
        die(f"after {name}")
        return found
    return done


class Deadly(Local):
    def steps(self, *given):
        return [self.wrapped(step) for step in super().steps(*given)]

    def removal(self, *given):
        return [self.wrapped(step) for step in super().removal(*given)]

    def wrapped(self, step):
        return dataclasses.replace(
            step, do=deadly(step.name, step.do), undo=deadly(f"undo {step.name}", step.undo))


class DeadlyJournal(Journal):
    def end_step(self, deployment, name):
        super().end_step(deployment, name)
        die(f"recorded {name}")


journal, target = DeadlyJournal(Path(home)), Deadly(Settings(home=Path(home)))
if what == "undeploy":
    deployments.undeploy(journal, target)
elif what == "rollback":
    deployments.rollback(journal, target)
else:
    options = {"port": port, "ready": "20"}
    deployments.deploy(journal, target, image, image.partition("@")[2], options)
"""


class Victim(Site):
    """A site whose deployments are processes that can be killed."""

    def start(self, what, image="", moment=""):
        arguments = [str(self.home), what, image, str(self.port), moment]
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, *arguments],
            env=os.environ | {"DOCKER_HOST": self.engine.address.host},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def killed(self, what, image="", moment=""):
        process = self.start(what, image, moment)
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == -signal.SIGKILL, (moment, process.returncode, said)

    def recover(self):
        recovered = recover(self.journal, [self.target])
        assert self.journal.unfinished("local") is None
        before = self.snapshot()
        assert recover(self.journal, [self.target]) == []
        assert self.snapshot() == before
        return recovered

    def snapshot(self):
        """Everything that a second recovery must not change."""
        label = {"label": f"llm-twin.home={self.home}"}
        found = self.engine.api.containers(all=True, filters=label)
        return (
            sorted((one["Id"], one["State"]) for one in found),
            self.target.front.status().get("pid"),
            self.target.front.status().get("backend"),
            self.journal.history(),
        )

    def check_one(self, version):
        """Exactly one version is there, and it answers."""
        assert self.version() == version
        assert self.containers() == self.backends()
        live = self.journal.live("local")
        assert live.facts["version"] == version
        assert self.target.front.status()["backend"] == self.target.backend(live).url()

    def check_nothing(self):
        assert self.containers() == []
        assert not self.target.front.folder.exists()
        assert self.journal.live("local") is None


@pytest.fixture
def victim(tmp_path, engine):
    made = Victim(tmp_path / "home", engine)
    yield made
    made.recover()
    undeploy(made.journal, made.target)
    made.check_nothing()


def is_past(moment):
    """Whether a deployment that dies then goes forward."""
    step = moment.split()[1]
    return STEPS.index(step) >= STEPS.index("switch")


def test_an_upgrade_killed_at_any_boundary_is_wholly_new_or_wholly_old(victim, image):
    images = {version: image(version) for version in ("v1", "v2")}
    victim.deploy(images["v1"])
    now = "v1"
    load = Load(victim.url)
    with load.running():
        for moment in MOMENTS:
            other = "v2" if now == "v1" else "v1"
            victim.killed("deploy", images[other], moment)
            (recovered,) = victim.recover()
            assert recovered.state == ("Completed" if is_past(moment) else "RolledBack"), moment
            now = other if is_past(moment) else now
            victim.check_one(now)


def test_a_first_deployment_killed_at_any_boundary_is_there_or_not(victim, image):
    for moment in MOMENTS[::2]:
        victim.killed("deploy", image("v1"), moment)
        victim.recover()
        if is_past(moment):
            victim.check_one("v1")
            undeploy(victim.journal, victim.target)
        victim.check_nothing()


def test_a_way_back_that_is_killed_is_gone_to_its_end(victim, image):
    victim.deploy(image("v1"))
    load = Load(victim.url)
    with load.running():
        for moment in ("before undo start", "after undo start", "before undo front"):
            victim.killed("deploy", image("v9", "uncited"), moment)
            (recovered,) = victim.recover()
            assert recovered.state == "RolledBack"
            assert "it cited nothing" in recovered.reason
            victim.check_one("v1")


def test_a_rollback_that_is_killed(victim, image):
    victim.deploy(image("v1"))
    victim.deploy(image("v2"))
    for moment, version in (("after start", "v2"), ("before switch", "v1"), ("after retire", "v2")):
        victim.killed("rollback", "", moment)
        victim.recover()
        victim.check_one(version)


@pytest.mark.parametrize("moment", ["before front", "after front", "before containers",
                                    "after containers", "after processes"])  # fmt: skip
def test_an_undeploy_that_is_killed_is_finished(victim, image, moment):
    victim.deploy(image("v1"))
    victim.killed("undeploy", "", moment)
    (recovered,) = victim.recover()
    assert (recovered.kind, recovered.state) == ("undeploy", "Completed")
    victim.check_nothing()


def test_deployments_killed_at_random_moments(victim, image):
    print(f"\nCHAOS_SEED={SEED} CHAOS_DEPLOY_KILLS={RANDOM_KILLS}")
    chance = random.Random(SEED)
    images = {"v1": image("v1"), "v2": image("v2"), "bad": image("v9", "500")}
    victim.deploy(images["v1"])
    began = time.monotonic()
    victim.start("deploy", images["v1"]).communicate(timeout=PATIENCE)
    lasts = time.monotonic() - began
    load = Load(victim.url)
    with load.running():
        for _ in range(RANDOM_KILLS):
            before = victim.version()
            chosen = chance.choice(list(images))
            process = victim.start("deploy", images[chosen])
            time.sleep(chance.uniform(0.2, lasts))
            process.kill()
            process.communicate(timeout=PATIENCE)
            victim.recover()
            after = victim.version()
            assert after in ({before, chosen} - {"bad"})
            victim.check_one(after)
