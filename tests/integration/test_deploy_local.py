"""The local target with real containers, under a load that no switch and no failure may disturb."""

# ruff: noqa: F811  (fixtures that are imported are arguments too)
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from llm_twin.delivery.buildkit import Recipe, build
from llm_twin.delivery.context import context_tar
from llm_twin.delivery.deploy import container
from llm_twin.delivery.deploy.deployments import (
    deploy,
    recover,
    rollback,
    undeploy,
)
from llm_twin.delivery.deploy.journal import Journal
from llm_twin.delivery.deploy.local import Local
from llm_twin.delivery.engine import Address, Engine
from llm_twin.delivery.push import push
from llm_twin.delivery.reference import Reference
from llm_twin.delivery.registry import Registry
from llm_twin.errors import NotReadyError
from llm_twin.settings import Settings
from tests.integration.deploy_stub import Load, Site, image, registry  # noqa: F401
from tests.integration.registry_fixtures import free_port

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def site(tmp_path, engine):
    made = Site(tmp_path / "home", engine)
    yield made
    if made.journal.unfinished("local"):
        recover(made.journal, [made.target])
    undeploy(made.journal, made.target)
    assert made.containers() == []
    left = {path.name for path in made.journal.folder.iterdir()}
    assert left == {"local.lock"}
    with pytest.raises(httpx.ConnectError):
        made.version()
    made.journal.close()


def test_a_first_deployment_answers_on_the_port(site, image):
    done = site.deploy(image("v1"))
    assert done.state == "Completed"
    assert site.version() == "v1"
    assert done.facts["version"] == "v1"
    assert done.facts["url"] == site.target.describe(done) == site.url
    assert site.containers() == site.backends()
    assert [line.partition(":")[0] for line in site.told] == [
        "front", "fetch", "start", "smoke", "switch", "retire"]  # fmt: skip


def test_new_versions_come_live_and_go_back_without_a_failed_request(site, image):
    site.deploy(image("v1"))
    load = Load(site.url)
    with load.running():
        site.deploy(image("v2"))
        back = rollback(site.journal, site.target)
        forth = rollback(site.journal, site.target)
        time.sleep(0.3)
    assert load.versions[:2] == ["v1", "v2"]
    assert back.image == image("v1")
    assert forth.image == image("v2")
    assert site.version() == "v2"
    assert site.containers() == site.backends()


BAD = {
    "crashes": r"smoke: it ended \(exit code (1|unknown): no bundle is here\)",
    "dies": r"smoke: it ended \(exit code (4|unknown): lost all courage.*\)",
    "500": r"smoke: it answered 500 \(the index is gone\)",
    "uncited": r"smoke: it cited nothing: What is rye\?",
    "abstains": r"smoke: it does not know the answer: What is rye\?",
    "wrong": r"smoke: it did not cite notes/rye.md, but Rye notes/wheat.md: What is rye\?",
    "slow": r"smoke: it answers too slowly \(0\.\d s, may take 0.4 s\): What is rye\?",
    "garbage": "smoke: it cited nothing",
    "never": r"smoke: it was not ready within 1 s",
}


def test_bad_versions_leave_the_old_one_serving_every_request(site, image):
    old = site.deploy(image("v1"))
    before = site.containers()
    load = Load(site.url)
    with load.running():
        for mode, said in BAD.items():
            ready = "1" if mode == "never" else "20"
            message = site.fails(image("v9", mode), latency="0.4", ready=ready)
            assert re.search(said, message), message
            assert f"{old.id} (v1) still serves" in message
            assert site.containers() == before
    assert load.versions == ["v1"]
    states = {one.state for one in site.journal.history()[:-1]}
    assert states == {"RolledBack"}


def test_an_answer_that_takes_far_too_long_is_not_waited_for(site, image):
    message = site.fails(image("v1"), question="wait 20", latency="0.1")
    assert "it gave no answer in 0.3 s: " in message
    assert site.containers() == []


def test_a_bad_first_version_leaves_nothing(site, image):
    message = site.fails(image("v9", "crashes"))
    assert "Nothing was live before" in message
    assert site.containers() == []
    assert not site.target.front.folder.exists()
    with pytest.raises(httpx.ConnectError):
        site.version()


def test_questions_that_are_given_come_before_those_of_the_image(site, image):
    assert "did not cite rice" in site.fails(image("v1"), question="What?", citation="rice")
    site.deploy(image("v1", "wrong"), question="What?")
    assert "does not know" in site.fails(image("v1", "abstains", labelled=False))
    site.deploy(image("v2", labelled=False))


def test_a_request_under_way_is_answered_by_the_version_that_began_it(site, image):
    site.deploy(image("v1"))
    load = Load(site.url)
    under_way = threading.Thread(target=load.ask, args=[httpx.post, "wait 4"])
    under_way.start()
    time.sleep(0.5)
    site.deploy(image("v2"))
    assert site.version() == "v2"
    under_way.join()
    assert load.errors == []
    assert load.versions == ["v1"]


def test_an_image_that_the_engine_lacks_is_pulled(site, image, engine):
    pinned = image("v3")
    for tag in engine.api.inspect_image(pinned)["RepoTags"]:
        engine.api.remove_image(tag)
    engine.api.remove_image(pinned) if engine.image_id(pinned) else None
    assert not engine.image_id(pinned)
    site.deploy(pinned)
    assert site.version() == "v3"


def test_an_image_that_is_nowhere(site, registry):
    pinned = f"{registry}/stub@sha256:{'0' * 64}"
    message = site.fails(pinned)
    assert re.search("fetch: .*(not found|unknown)", message), message
    assert pinned in message


def test_a_port_that_is_taken_is_found_before_anything_is_started(site, image):
    with socket.create_server(("127.0.0.1", site.port)):
        message = site.fails(image("v1"))
    assert f"front: the port is taken: 127.0.0.1:{site.port}" in message
    assert site.told == ["front: undone"]


def test_the_port_cannot_be_moved_while_it_is_used(site, image):
    site.deploy(image("v1"))
    assert "has another port already" in site.fails(image("v2"), port=str(free_port()))
    assert site.version() == "v1"
    site.deploy(image("v2"), port="")
    assert site.version() == "v2"


def test_what_died_is_started_again_and_what_lives_is_left_alone(site, image, engine):
    live = site.deploy(image("v1"))
    assert site.target.revive(live) is False
    kill_front(site)
    assert site.target.revive(live) is True
    assert site.version() == "v1"
    engine.api.kill(site.backends()[0])
    assert site.version() == 502
    assert site.target.revive(live) is True
    assert site.version() == "v1"
    kill_front(site)
    site.deploy(image("v2"))
    assert site.version() == "v2"


def kill_front(site):
    pid = site.target.front.status()["pid"]
    os.kill(pid, signal.SIGKILL)
    while site.target.front.status():
        time.sleep(0.02)


def test_a_container_that_crashes_later_comes_back_at_its_address(site, image):
    live = site.deploy(image("v1"))
    backend = site.target.backend(live)
    url = backend.url()
    httpx.post(f"{url}/v1/ask", json={"question": "wait 0"}, trust_env=False)
    site.engine.api.restart(backend.name, timeout=5)
    assert backend.url() == url
    for _ in range(100):
        if site.version() == "v1":
            break
        time.sleep(0.05)
    assert site.version() == "v1"


def test_the_container_may_not_do_what_a_service_need_not(site, image):
    live = site.deploy(image("v1"))
    config = site.engine.api.inspect_container(f"llm-twin-{live.id}")
    host = config["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert [port["HostIp"] for port in host["PortBindings"]["8000/tcp"]] == ["127.0.0.1"]
    assert config["Config"]["Labels"]["llm-twin.deployment"] == live.id


def test_the_settings_of_answering_reach_the_container(site, image):
    settings = Settings(home=site.home, llm="openai", llm_key="k3y")  # pragma: allowlist secret
    site.target = Local(settings, site.engine)
    live = site.deploy(image("v1"))
    environ = site.engine.api.inspect_container(f"llm-twin-{live.id}")["Config"]["Env"]
    assert {"TWIN_LLM=openai", "TWIN_LLM_KEY=k3y"} <= set(environ)  # pragma: allowlist secret
    assert not any(line.startswith("TWIN_INDEX_URL") for line in environ)
    assert b"k3y" not in site.journal.path.read_bytes()


def test_an_engine_that_is_lost_is_said(site, image, engine, tmp_path):
    site.deploy(image("v1"))
    link = tmp_path / "engine.sock"
    link.symlink_to(engine.address.host.removeprefix("unix://"))
    lost = Engine.connect(Address(f"unix://{link}"))
    link.unlink()
    lost.api.close()
    site.target.engine = lost
    assert "fetch: the container engine did not do it" in site.fails(image("v2"))
    site.target.engine = engine
    assert site.version() == "v1"


def test_an_engine_that_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nowhere.sock")
    journal = Journal(tmp_path)
    target = Local(Settings(home=tmp_path))
    with pytest.raises(NotReadyError, match="There is no container engine"):
        deploy(journal, target, f"x/y@sha256:{'0' * 64}", "", {})
    assert journal.history()[0].state == "RolledBack"
    assert undeploy(journal, target).state == "Completed"


def test_a_port_of_the_container_that_is_taken_is_replaced(site, image, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free, ports = container._free_port, [taken.getsockname()[1]]
        monkeypatch.setattr(container, "_free_port", lambda: ports.pop() if ports else free())
        site.deploy(image("v1"))
        assert ports == []
        assert site.version() == "v1"


def test_an_image_that_cannot_be_started(site, engine, base_image, registry, tmp_path):
    ref = Reference.parse(f"{registry}/nothing:1")
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Dockerfile").write_text(f'FROM {base_image}\nENTRYPOINT ["/nope"]\n')
    built = build(engine, context_tar(tmp_path / "context"), Recipe())
    digest = push(engine, built.image_id, ref, Registry.open(registry, lambda: None))
    message = site.fails(str(ref.pinned(digest)))
    assert re.search("start: the container engine did not do it .*/nope", message)
    assert site.containers() == []


def test_a_switch_can_be_taken_back_even_if_the_old_one_has_died(site, image, engine):
    old = site.deploy(image("v1"))
    new = site.journal.begin("local", "deploy", image("v2"), "", {"ready": "20"})
    front, fetch, start, smoke, switch, _ = site.target.steps(new, old)
    for step in (front, fetch, start, start, smoke, switch, switch):
        new.facts |= step.do() or {}
    assert site.version() == "v2"
    engine.api.kill(f"llm-twin-{old.id}")
    for step in (switch, switch, smoke, start, start, fetch, front):
        step.undo()
    assert site.version() == "v1"
    assert site.containers() == [f"llm-twin-{old.id}"]


def test_a_second_home_on_the_same_engine_is_left_alone(site, image, engine, tmp_path):
    other = Site(tmp_path / "other", engine)
    other.deploy(image("v1"))
    site.deploy(image("v2"))
    undeploy(site.journal, site.target)
    assert other.version() == "v1"
    undeploy(other.journal, other.target)
    assert other.containers() == []


PROGRAM = """
from invoke import Collection, Program
from ci.release import TASKS
Program(namespace=Collection(*TASKS)).run()
"""


def test_a_tag_is_deployed_by_its_digest_and_a_digest_without_its_tag(site, image):
    pinned = {version: image(version) for version in ("v1", "v2")}
    repository, _, digest = pinned["v2"].partition("@")

    def type_in(*line, code=0):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *line],
            env=os.environ | {"TWIN_HOME": str(site.home), "DOCKER_HOST": site.engine.address.host},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    said = type_in("deploy", "--image", f"{repository}:v1-good", "--port", str(site.port))
    assert f"(v1) is live: {site.url}" in said
    assert site.version() == "v1"
    type_in("deploy", "--image", repository, "--digest", digest)
    assert site.version() == "v2"
    assert [one.image for one in site.journal.history()] == [pinned["v2"], pinned["v1"]]
    assert "has no such image" in type_in("deploy", "--image", f"{repository}:nope", code=2)
    assert re.search(rf"deploy +Completed +live +{digest[7:19]} +v2\n", type_in("deployments"))


def test_a_rollback_stays_at_the_port_that_is_served_now(site, image):
    first = site.deploy(image("v1"))
    kill_front(site)
    site.port = free_port()
    site.deploy(image("v2"))
    assert rollback(site.journal, site.target).image == first.image
    assert site.version() == "v1"
