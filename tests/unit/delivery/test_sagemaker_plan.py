"""The plan of a deployment is checked at once, and read back as it was written."""

import pytest

from llm_twin.delivery.deploy.sagemaker import SageMaker
from llm_twin.delivery.deploy.sagemaker_endpoint import canary
from llm_twin.delivery.deploy.sagemaker_parts import tags
from llm_twin.delivery.deploy.sagemaker_plan import Plan
from llm_twin.delivery.deploy.steps import Deployment
from llm_twin.errors import ConfigError
from llm_twin.settings import Settings

ACCOUNT = "123456789012"


def plan(region="eu-central-1", **settings):
    return Plan.make(Settings(**settings), ACCOUNT, region)


def test_a_plan_is_read_back_from_a_deployments_facts():
    assert Plan.read(plan().facts() | {"before": "", "commit": "c0ffee"}) == plan()
    assert Plan.read({"region": "eu-central-1"}) is None


def test_all_that_is_not_set_is_filled_in():
    assert plan().facts() == {
        "endpoint": "llm-twin",
        "region": "eu-central-1",
        "role": f"arn:aws:iam::{ACCOUNT}:role/llm-twin-endpoint",
        "instance": "ml.m5.large",
        "instances": "2",
        "canary": "10",
        "bake": "300",
    }


@pytest.mark.parametrize(
    ("region", "partition"), [("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")]
)
def test_the_role_is_in_the_partition_of_the_region(region, partition):
    assert plan(region).role == f"arn:{partition}:iam::{ACCOUNT}:role/llm-twin-endpoint"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sagemaker_endpoint": "twin"}, r"ENDPOINT cannot be used: 'twin'\. Set it like TWIN_"),
        ({"sagemaker_endpoint": "llm-twin--x"}, "ENDPOINT cannot be used"),
        ({"sagemaker_endpoint": "llm-twin-" + "x" * 40}, "ENDPOINT cannot be used"),
        ({"sagemaker_role": "llm-twin-endpoint"}, r"ROLE cannot be used: .*=arn:aws:iam::1234"),
        ({"sagemaker_instance": "m5.large"}, r"INSTANCE cannot be used: 'm5\.large'.*ml\.m5"),
        ({"sagemaker_max_instances": 0}, r"MAX_INSTANCES cannot be used: 0\. It lies between 1"),
        ({"sagemaker_canary": 60}, r"CANARY cannot be used: 60\. It lies between 1 and 50"),
        ({"sagemaker_bake": 3601}, r"BAKE cannot be used: 3601\. It lies between 0 and 3600"),
    ],
)
def test_what_sagemaker_would_refuse_later_is_refused_now(settings, message):
    with pytest.raises(ConfigError, match=f"TWIN_SAGEMAKER_{message}"):
        plan(**settings)


def test_names_made_from_the_longest_endpoint_fit_into_what_sagemaker_takes():
    name = plan(sagemaker_endpoint="llm-twin-" + "x" * 31).endpoint
    assert len(f"{name}-261123-120000-abcdef") <= 63


def test_the_canary_ends_before_the_deployment_is_given_up():
    guard = canary(10, 3600, ["llm-twin-errors"])
    policy = guard["BlueGreenUpdatePolicy"]
    routing = policy["TrafficRoutingConfiguration"]
    assert routing == {
        "Type": "CANARY",
        "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 10},
        "WaitIntervalInSeconds": 3600,
    }
    waits = routing["WaitIntervalInSeconds"] + policy["TerminationWaitInSeconds"]
    assert waits < policy["MaximumExecutionTimeoutInSeconds"] <= 28_800
    assert guard["AutoRollbackConfiguration"] == {"Alarms": [{"AlarmName": "llm-twin-errors"}]}
    assert "AutoRollbackConfiguration" not in canary(10, 300, [])


def test_tags_that_have_no_value_are_left_out():
    assert tags("llm-twin", deployment="1", commit="") == [
        {"Key": "llm-twin:endpoint", "Value": "llm-twin"},
        {"Key": "llm-twin:deployment", "Value": "1"},
    ]


def test_a_deployment_is_described_without_asking_aws():
    live = Deployment("1", "sagemaker", "", "", "deploy", facts=plan().facts())
    where = SageMaker(Settings()).describe(live)
    assert where == "endpoint llm-twin in eu-central-1 (ml.m5.large, up to 2)"
