"""The roles give what the code asks for and no more, to the jobs that were named and no others."""

import ast
import json
from pathlib import Path

import botocore.exceptions
import botocore.session
import pytest
from botocore import xform_name

import llm_twin.delivery
from llm_twin.delivery.aws_policies import roles
from llm_twin.delivery.aws_scope import Scope
from llm_twin.errors import ConfigError

DELIVERY = Path(llm_twin.delivery.__file__).parent
WHERE = {"repository": "Octo-Org/llm-twin", "account": "123456789012", "region": "eu-central-1"}
SERVICES = (
    "ecr",
    "sagemaker",
    "sagemaker-runtime",
    "application-autoscaling",
    "cloudwatch",
    "logs",
)
PREFIXES = {"sagemaker-runtime": "sagemaker"}
SUBJECT = "token.actions.githubusercontent.com:sub"
JOBS = ("build-push", "deploy")


def scope(**more):
    return Scope(**{**WHERE, **more})


def by_purpose(**more):
    return {role.name.removeprefix("llm-twin-"): role for role in roles(scope(**more))}


def subject(purpose, **more):
    (statement,) = by_purpose(**more)[purpose].trust["Statement"]
    return statement["Condition"]["StringEquals"][SUBJECT]


def requests_of(tree, models):
    """The operations that a module asks of the services it makes clients for, as IAM actions."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    texts = {text for call in calls for text in strings(call)}
    clients = {text for call in calls if name(call).endswith("client") for text in strings(call)}
    attributes = {call.func.attr for call in calls if isinstance(call.func, ast.Attribute)}
    for service in clients & set(SERVICES):
        named = {waiter.operation for key, waiter in waiters(service).items() if key in texts}
        for operation in models[service].operation_names:
            if operation in named or xform_name(operation) in attributes | texts:
                yield service, f"{PREFIXES.get(service, service)}:{operation}"


def strings(call):
    return {node.value for node in call.args if isinstance(node, ast.Constant)}


def name(call):
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def waiters(service):
    try:
        config = botocore.session.get_session().get_waiter_model(service)
    except botocore.exceptions.UnknownServiceError:  # a service without waiters
        return {}
    return {xform_name(name): config.get_waiter(name) for name in config.waiter_names}


@pytest.fixture(scope="module")
def models():
    session = botocore.session.get_session()
    return {service: session.get_service_model(service) for service in SERVICES}


@pytest.fixture(scope="module")
def requested(models):
    """What the delivery room asks AWS for: service to actions."""
    found = {}
    for path in sorted(DELIVERY.rglob("*.py")):
        for service, action in requests_of(ast.parse(path.read_text("utf-8")), models):
            found.setdefault(service, set()).add(action)
    return found


def test_requests_are_found_in_source_however_they_are_made(models):
    source = """
client = session.client("sagemaker")
client.create_model(ModelName=name)
client.get_waiter("endpoint_in_service").wait()
session.client("ecr").get_paginator("describe_images")
client.create_something_else()
text.startswith("cloudwatch").put_metric_alarm()
"""
    assert {action for _, action in requests_of(ast.parse(source), models)} == {
        "sagemaker:CreateModel",
        "sagemaker:DescribeEndpoint",
        "ecr:DescribeImages",
    }


def test_every_request_that_the_code_makes_is_allowed(requested):
    allowed = {a for name in JOBS for item in by_purpose()[name].statements for a in item.actions}
    assert set().union(*requested.values()) <= allowed


def test_nothing_is_allowed_that_the_code_does_not_ask_for(requested):
    asked = set().union(*requested.values())
    prefixes = {action.split(":")[0] for action in asked}
    allowed = {
        action
        for name in JOBS
        for item in by_purpose()[name].statements
        if not item.implied
        for action in item.actions
    }
    assert {action for action in allowed if action.split(":")[0] in prefixes} <= asked


def test_every_action_is_one_that_aws_has(models):
    known = {
        f"{PREFIXES.get(service, service)}:{operation}"
        for service, model in models.items()
        for operation in model.operation_names
    }
    iam = botocore.session.get_session()
    for service in ("iam", "sts", "logs"):
        known |= {f"{service}:{op}" for op in iam.get_service_model(service).operation_names}
    # What AWS checks without there being a request of that name.
    known.add("iam:PassRole")
    used = {a for role in by_purpose(assume_role=OTHER).values() for a in all_actions(role)}
    assert used - known == set()
    assert not any("*" in action for action in used)


OTHER = "arn:aws:iam::210987654321:role/llm-twin-build-push"


def all_actions(role):
    return [action for item in role.statements for action in item.actions]


def test_only_what_aws_cannot_narrow_is_allowed_on_everything():
    for role in by_purpose().values():
        wide = {a for item in role.statements if "*" in item.resources for a in item.actions}
        assert wide <= {
            "ecr:GetAuthorizationToken",
            "sagemaker:ListModels",
            "sagemaker:ListEndpointConfigs",
            "application-autoscaling:DescribeScalableTargets",
            "cloudwatch:PutMetricData",
        }


def test_pushing_is_to_exactly_one_repository():
    places = {
        place
        for item in by_purpose(image="team/twin")["build-push"].statements
        if "ecr:GetAuthorizationToken" not in item.actions
        for place in item.resources
    }
    assert places == {"arn:aws:ecr:eu-central-1:123456789012:repository/team/twin"}


def test_deploy_may_not_touch_a_name_that_only_looks_alike():
    places = [
        place
        for item in by_purpose()["deploy"].statements
        for place in item.resources
        if ":sagemaker:" in place
    ]
    assert len(places) > 3
    assert all(place.endswith(("/llm-twin", "/llm-twin-*")) for place in places)


def test_the_one_role_that_deploy_hands_over_goes_to_sagemaker():
    (passed,) = [s for s in by_purpose()["deploy"].statements if "iam:PassRole" in s.actions]
    assert passed.to_dict()["Resource"] == ["arn:aws:iam::123456789012:role/llm-twin-endpoint"]
    assert passed.condition["StringEquals"]["iam:PassedToService"] == "sagemaker.amazonaws.com"


def test_every_statement_says_why_and_has_a_name_of_its_own():
    for role in by_purpose(assume_role=OTHER).values():
        sids = [item.sid for item in role.statements]
        assert len(sids) == len(set(sids))
        assert all(sid.isalnum() for sid in sids)
        assert all(len(item.reason) > 10 for item in role.statements)


def test_policies_fit_into_what_iam_takes():
    longest = {"assume_role": OTHER, "prefix": "p" * 40, "image": "team/" + "i" * 60}
    for role in roles(scope(**longest)):
        assert len(json.dumps(role.policy, separators=(",", ":"))) < 10_240
        assert len(json.dumps(role.trust, separators=(",", ":"))) < 2_048
        assert len(role.name) <= 64


def test_each_job_is_known_by_its_exact_subject():
    assert subject("build-push") == "repo:Octo-Org/llm-twin:ref:refs/heads/main"
    assert subject("deploy") == "repo:Octo-Org/llm-twin:environment:production"
    assert subject("deploy", environment="a:b") == "repo:Octo-Org/llm-twin:environment:a%3Ab"


def test_numbers_make_the_subject_the_immutable_one():
    ids = {"owner_id": "123456", "repository_id": "456789"}
    assert (
        subject("build-push", **ids) == "repo:Octo-Org@123456/llm-twin@456789:ref:refs/heads/main"
    )
    assert subject("deploy", **ids).startswith("repo:Octo-Org@123456/llm-twin@456789:environment:")


@pytest.mark.parametrize("purpose", JOBS)
def test_trust_compares_audience_and_subject_with_nothing_but_equality(purpose):
    (statement,) = by_purpose()[purpose].trust["Statement"]
    assert list(statement["Condition"]) == ["StringEquals"]
    assert set(statement["Condition"]["StringEquals"]) == {
        SUBJECT,
        "token.actions.githubusercontent.com:aud",
    }
    assert "*" not in json.dumps(statement)
    assert statement["Action"] == "sts:AssumeRoleWithWebIdentity"


def test_the_endpoint_role_is_for_sagemaker_in_this_account_only():
    (statement,) = by_purpose()["endpoint"].trust["Statement"]
    assert statement["Principal"] == {"Service": "sagemaker.amazonaws.com"}
    assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}


def test_a_role_in_another_account_can_be_taken_on_next_and_only_that():
    for purpose in JOBS:
        (chained,) = [
            s
            for s in by_purpose(assume_role=OTHER)[purpose].statements
            if "sts:AssumeRole" in s.actions
        ]
        assert chained.resources == [OTHER]
        assert "sts:AssumeRole" not in all_actions(by_purpose()[purpose])


@pytest.mark.parametrize(
    ("region", "partition"),
    [("eu-central-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")],
)
def test_names_follow_the_partition_of_the_region(region, partition):
    assert scope(region=region).role("deploy") == (
        f"arn:{partition}:iam::123456789012:role/llm-twin-deploy"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"repository": "llm-twin"}, r"this repository cannot be used: 'llm-twin'\. Set it like"),
        ({"repository": "octo-org/*"}, r"this repository cannot be used: 'octo-org/\*'"),
        ({"branch": "*"}, r"this branch cannot be used: '\*'.*more than one branch"),
        ({"environment": "prod*"}, r"this environment cannot be used: 'prod\*'"),
        ({"account": ""}, r"this account cannot be used: ''\. Set it like --account 1234"),
        ({"region": "Frankfurt"}, r"this region cannot be used: 'Frankfurt'.*TWIN_AWS_REGION"),
        ({"prefix": "Twin"}, r"this prefix cannot be used: 'Twin'"),
        (
            {"image": "1.dkr.ecr.eu-central-1.amazonaws.com/twin:1"},
            r"this image cannot be used: .* the name of the ECR repository",
        ),
        ({"owner_id": "octo", "repository_id": "1"}, r"this owner id cannot be used: 'octo'"),
        ({"owner_id": "1"}, r"only one of the two ids was given\. Give --owner-id and"),
        ({"assume_role": "admin"}, r"this assume role cannot be used: 'admin'.*=arn:aws:iam"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(given, message):
    with pytest.raises(ConfigError, match=message):
        scope(**given)
