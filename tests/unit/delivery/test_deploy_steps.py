"""Deploying, going back and recovering: what is done, what is undone, and what a user is told."""

import time

import pytest

from llm_twin.delivery.deploy.deployments import (
    DeployFailed,
    deploy,
    recover,
    rollback,
    undeploy,
)
from llm_twin.delivery.deploy.journal import Journal
from llm_twin.delivery.deploy.steps import Step
from llm_twin.errors import BusyError, NotReadyError, RemoteError

IMAGE = "localhost:5000/twin@sha256:" + "1" * 64


class World:
    """A target whose state is a set of words.

    Attributes:
        done: what was done and undone, in order.
        raises: what a step raises, by ``do NAME`` or ``undo NAME``.

    """

    name = "local"

    def __init__(self):
        self.done = []
        self.raises = {}

    def act(self, what):
        self.done.append(what)
        if error := self.raises.get(what):
            raise error

    def step(self, name, commits=False, **facts):
        def do():
            self.act(f"do {name}")
            return facts

        return Step(name, do, lambda: self.act(f"undo {name}"), commits)

    def steps(self, deployment, previous):
        self.act("plan")
        self.done.pop()
        return [
            self.step("start", version=f"v{len(deployment.image)}"),
            self.step("switch", commits=True),
            self.step("retire"),
        ]

    def removal(self, live, history):
        self.seen = live, history
        return [self.step("front"), self.step("files")]

    def describe(self, live):
        return "nowhere"

    def take(self):
        done, self.done = self.done, []
        return done


@pytest.fixture
def journal(tmp_path):
    made = Journal(tmp_path)
    yield made
    made.close()


@pytest.fixture
def world():
    return World()


@pytest.fixture
def put(journal, world):
    def put(image=IMAGE, **options):
        return deploy(journal, world, image, "sha256:" + "1" * 64, options)

    return put


def cut_short(journal, target, at):
    """What a process leaves in the journal that is killed while it does a step."""
    deployment = journal.begin("local", "deploy", IMAGE, "", {})
    for step in target.steps(deployment, None):
        journal.begin_step(deployment, step.name)
        if step.name == at:
            break
        journal.end_step(deployment, step.name)
    return deployment


def test_steps_are_done_in_order_and_their_facts_are_kept(journal, world, put):
    told = []
    done = deploy(journal, world, IMAGE, "sha256:" + "1" * 64, {"port": "1"}, told.append)
    assert world.take() == ["do start", "do switch", "do retire"]
    assert journal.live("local") == done
    assert (done.state, done.kind, done.previous) == ("Completed", "deploy", "")
    assert done.facts == {"version": f"v{len(IMAGE)}"}
    assert done.options == {"port": "1"}
    assert [line.split(":")[0] for line in told] == ["start", "switch", "retire"]


def test_an_error_undoes_what_was_begun_newest_first(journal, world, put):
    old = put()
    world.take()
    world.raises = {"do switch": RemoteError("it said no", "there", "Ask again")}
    with pytest.raises(DeployFailed) as caught:
        put()
    assert world.take() == ["do start", "do switch", "undo switch", "undo start"]
    assert "was not put live; switch: it said no: there" in str(caught.value)
    assert f"{old.label} still serves. Ask again" in str(caught.value)
    assert caught.value.exit_code == 1
    failed = journal.history()[0]
    assert (failed.state, failed.reason) == ("RolledBack", "switch: it said no: there")
    assert failed.ended
    assert journal.live("local") == old


def test_ctrl_c_goes_back_too(journal, world, put):
    world.raises = {"do start": KeyboardInterrupt()}
    with pytest.raises(DeployFailed, match=r"start: it was stopped.*Nothing was live before"):
        put()
    assert world.take() == ["do start", "undo start"]


def test_a_mistake_in_the_program_goes_back_and_is_seen(journal, world, put):
    world.raises = {"do start": KeyError("x")}
    with pytest.raises(KeyError):
        put()
    assert world.take() == ["do start", "undo start"]
    assert journal.history()[0].reason == "start: KeyError: 'x'"


def test_an_error_after_the_point_of_return_waits_for_a_recovery(journal, world, put):
    world.raises = {"do retire": RemoteError("the old one does not end")}
    with pytest.raises(DeployFailed, match=r"is live and serves, but retire is not done "
                       r"\(the old one does not end\): local\. Type: invoke recover"):  # fmt: skip
        put()
    assert world.take() == ["do start", "do switch", "do retire"]
    with pytest.raises(BusyError, match="invoke recover"):
        put()
    world.raises = {}
    (recovered,) = recover(journal, [world])
    assert world.take() == ["do retire"]
    assert (recovered.state, recovered.reason) == ("Completed", "")
    assert recover(journal, [world]) == []


def test_a_way_back_that_fails_waits_for_a_recovery(journal, world, put):
    world.raises = {"do switch": RemoteError("no"),
                    "undo switch": RemoteError("also no", "here", "Wait")}  # fmt: skip
    with pytest.raises(DeployFailed, match=r"it went wrong \(switch: no\), and switch could not be "
                       r"undone \(also no\): here\. Wait\. Type: invoke recover"):  # fmt: skip
        put()
    assert world.take() == ["do start", "do switch", "undo switch"]
    assert journal.unfinished("local").state == "RollingBack"
    world.raises = {}
    (recovered,) = recover(journal, [world])
    assert world.take() == ["undo switch", "undo start"]
    assert (recovered.state, recovered.reason) == ("RolledBack", "switch: no")


def test_killed_before_the_point_of_return_is_undone_once(journal, world):
    cut_short(journal, world, "start")
    (recovered,) = recover(journal, [world])
    assert world.take() == ["undo start"]
    assert (recovered.state, recovered.reason) == ("RolledBack", "cut short at start")
    assert recover(journal, [world]) == []
    assert world.take() == []


@pytest.mark.parametrize(
    ("at", "left"), [("switch", ["do switch", "do retire"]), ("retire", ["do retire"])]
)
def test_killed_at_the_point_of_return_or_later_is_finished(journal, world, at, left):
    deployment = cut_short(journal, world, at)
    (recovered,) = recover(journal, [world])
    assert world.take() == left
    assert recovered.state == "Completed"
    assert journal.live("local").id == deployment.id


def test_killed_before_its_first_step(journal, world):
    journal.begin("local", "deploy", IMAGE, "", {})
    (recovered,) = recover(journal, [world])
    assert world.take() == []
    assert recovered.reason == "cut short at the start"


def test_going_forward_that_fails_goes_back(journal, world):
    deployment = cut_short(journal, world, "switch")
    world.raises = {"do switch": RemoteError("it died")}
    with pytest.raises(DeployFailed, match="switch: it died"):
        recover(journal, [world])
    assert world.take() == ["do switch", "undo switch", "undo start"]
    assert journal.get(deployment.id).state == "RolledBack"


def test_a_running_deployment_is_not_recovered(journal, world, tmp_path):
    deployment = journal.begin("local", "deploy", IMAGE, "", {})
    with (
        Journal(tmp_path).hold("local", "deploy of it"),
        pytest.raises(BusyError, match=f"is running: {deployment.id}"),
    ):
        recover(journal, [world])


def test_rollback_goes_to_what_was_live_before_and_back_again(journal, world, put):
    first, second = put("a", port="1"), put("b", port="2")
    back = rollback(journal, world)
    assert (back.kind, back.image, back.options) == ("rollback", "a", {"port": "1"})
    assert back.previous == second.id
    assert rollback(journal, world).image == "b"
    assert rollback(journal, world, to=first.id).image == "a"


def test_rollback_where_nothing_is_to_go_back_to(journal, world, put):
    with pytest.raises(NotReadyError, match="nothing is deployed: local"):
        rollback(journal, world)
    put()
    with pytest.raises(NotReadyError, match="there is nothing to go back to: local"):
        rollback(journal, world)
    assert len(journal.history()) == 1


def test_undeploy_takes_all_away_and_is_only_finished_never_undone(journal, world, put):
    live = put()
    world.take()
    world.raises = {"do files": RemoteError("they are held")}
    with pytest.raises(DeployFailed, match=r"files could not be taken away \(they are held\)"):
        undeploy(journal, world)
    assert world.take() == ["do front", "do files"]
    world.raises = {}
    (recovered,) = recover(journal, [world])
    assert world.take() == ["do files"]
    assert (recovered.kind, recovered.state) == ("undeploy", "Completed")
    assert world.seen[0] == live
    assert [one.kind for one in world.seen[1]] == ["undeploy", "deploy"]
    assert journal.live("local") is None


def test_a_target_that_cannot_even_say_its_steps(journal, world, put):
    world.raises = {"plan": NotReadyError("there is no engine")}
    with pytest.raises(NotReadyError, match="there is no engine"):
        put()
    assert journal.history()[0].state == "RolledBack"
    assert journal.unfinished("local") is None


def test_what_is_live_without_a_version_is_named_by_its_digest(journal):
    one = journal.begin("local", "deploy", IMAGE, "sha256:" + "1" * 64, {})
    assert one.label == f"{one.id} ({'1' * 12})"
    assert one.began <= time.time()
