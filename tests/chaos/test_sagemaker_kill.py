"""kill -9 of a deployment to SageMaker at every step's boundary, then a recovery elsewhere.

What the endpoint serves afterwards is wholly new or wholly old, by one container. SageMaker is
moto's server with endpoints that run the image.
"""

# ruff: noqa: F811  (fixtures that are imported are arguments too)

import pytest

from tests.integration.conftest import base_image, engine  # noqa: F401
from tests.integration.test_deploy_sagemaker import (
    NOTHING,
    cloud,  # noqa: F401
    containers,
    drive,
    images,  # noqa: F401
    order,
    recovered,
    server,  # noqa: F401
)

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]

STEPS = ("check", "model", "config", "alarms", "endpoint", "wait", "smoke", "scaling", "retire")
BOUNDARIES = [f"{side} {step}" for step in STEPS for side in ("before", "after")]
COMMITTED = BOUNDARIES.index("before scaling")


def test_killed_at_every_boundary_it_is_fully_old_or_fully_new(cloud, engine):
    cloud.deploy("v1")
    now, then = "v1", "v2"
    for boundary in BOUNDARIES:
        drive(order(cloud, "deploy", boundary, then), killed=True)
        recovered(cloud)
        if BOUNDARIES.index(boundary) >= COMMITTED:
            now, then = then, now
        assert cloud.serving() == {now}, boundary
        assert len(containers(engine, cloud.url)) == 1, boundary
        state, live = cloud.state(), cloud.journal.live("sagemaker")
        assert state["endpoints"] == [("llm-twin", "InService")], boundary
        assert cloud.config() == f"llm-twin-{live.id}", boundary
        assert state["models"] == state["configs"], boundary
        assert len(state["models"]) <= 2, boundary
        assert len(state["targets"]) == 1, boundary
        assert live.digest == cloud.image(now), boundary


def test_killed_at_every_boundary_of_the_way_back_it_is_fully_old(cloud, engine):
    live = cloud.deploy("v1")
    for step in ("endpoint", "alarms", "config", "model"):
        for side in ("before", "after"):
            boundary = f"{side} undo of {step}"
            drive(order(cloud, "deploy", boundary, "bad-uncited", "uncited"), killed=True)
            recovered(cloud)
            assert cloud.serving() == {"v1"}, boundary
            assert cloud.config() == f"llm-twin-{live.id}", boundary
            assert cloud.state()["models"] == {f"llm-twin-{live.id}"}, boundary
            assert len(containers(engine, cloud.url)) == 1, boundary


@pytest.mark.parametrize("boundary", ["before check", "after endpoint", "after wait", "Creating"])
def test_a_first_deployment_that_was_killed_leaves_nothing(cloud, engine, boundary):
    drive(order(cloud, "deploy", boundary, "v1"), killed=True)
    recovered(cloud)
    assert cloud.state() == NOTHING
    assert containers(engine, cloud.url) == []


def test_killed_in_the_middle_of_the_shift_it_goes_back(cloud):
    cloud.deploy("v1")
    drive(order(cloud, "deploy", "Updating", "v2", sagemaker_bake=120), killed=True)
    assert "RolledBack" in recovered(cloud)
    assert cloud.serving() == {"v1"}


@pytest.mark.parametrize("step", ["scaling", "endpoint", "models", "alarms"])
def test_an_undeploy_that_was_killed_is_finished(cloud, step):
    cloud.deploy("v1")
    drive(order(cloud, "undeploy", f"after {step}"), killed=True)
    drive(order(cloud, "recover"))
    assert cloud.state() == NOTHING
