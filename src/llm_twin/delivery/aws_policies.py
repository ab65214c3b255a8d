"""Who may take which AWS role, and what that role may do: the least that delivery needs, as data.

Each statement has its reason beside it. A test compares the actions with the AWS requests that this
package makes, in both directions, so a new request needs a line here and a dropped one loses it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llm_twin.delivery.aws_scope import AUDIENCE, ISSUER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llm_twin.delivery.aws_scope import Scope

POLICY = "llm-twin"
SESSION = 3600  # seconds; what taking one role with another allows at most
VERSION = "2012-10-17"


@dataclass(frozen=True)
class Statement:
    """One permission and why it is given.

    Attributes:
        implied: that no request of boto3 asks for these actions: the engine's push does, or AWS
            checks them on the way to another one.

    """

    sid: str
    reason: str
    actions: Sequence[str]
    resources: Sequence[str]
    condition: Mapping[str, Any] = field(default_factory=dict)
    implied: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The statement as IAM writes it."""
        statement = {
            "Sid": self.sid,
            "Effect": "Allow",
            "Action": sorted(self.actions),
            "Resource": list(self.resources),
        }
        return statement | ({"Condition": dict(self.condition)} if self.condition else {})


@dataclass(frozen=True)
class Role:
    """A role as it should be."""

    name: str
    description: str
    trust: Mapping[str, Any]
    statements: Sequence[Statement]

    @property
    def policy(self) -> dict[str, Any]:
        """What it may do, as an IAM document."""
        return {"Version": VERSION, "Statement": [item.to_dict() for item in self.statements]}


def roles(scope: Scope) -> list[Role]:
    """The roles of a scope: one that pushes, one that deploys, one that the endpoint runs as."""
    chained = _chained(scope)
    return [
        Role(
            f"{scope.prefix}-build-push",
            f"Jobs of {scope.repository} on {scope.branch} push to {scope.image}",
            _trust_job(scope, f"ref:refs/heads/{scope.branch}"),
            [*_push(scope), *chained],
        ),
        Role(
            f"{scope.prefix}-deploy",
            f"Jobs of {scope.repository} in {scope.environment} deploy {scope.prefix}",
            # GitHub writes a colon inside a value as %3A, so that none can pose as a separator.
            _trust_job(scope, f"environment:{scope.environment.replace(':', '%3A')}"),
            [*_deploy(scope), *chained],
        ),
        Role(
            f"{scope.prefix}-endpoint",
            f"SageMaker runs {scope.prefix} as this role",
            _trust_sagemaker(scope),
            _endpoint(scope),
        ),
    ]


def _trust_job(scope: Scope, context: str) -> dict[str, Any]:
    # StringEquals on purpose: ForAllValues also holds for a token without the claim, and StringLike
    # would take a * that somebody adds for a wildcard.
    equal = {f"{ISSUER}:aud": AUDIENCE, f"{ISSUER}:sub": scope.subject(context)}
    return _trust(
        {"Federated": scope.provider}, "sts:AssumeRoleWithWebIdentity", {"StringEquals": equal}
    )


def _trust_sagemaker(scope: Scope) -> dict[str, Any]:
    condition = {"StringEquals": {"aws:SourceAccount": scope.account}}
    return _trust({"Service": "sagemaker.amazonaws.com"}, "sts:AssumeRole", condition)


def _trust(principal: dict[str, str], action: str, condition: dict[str, Any]) -> dict[str, Any]:
    statement = {
        "Effect": "Allow",
        "Principal": principal,
        "Action": action,
        "Condition": condition,
    }
    return {"Version": VERSION, "Statement": [statement]}


def _chained(scope: Scope) -> list[Statement]:
    if not scope.assume_role:
        return []
    reason = "TWIN_AWS_ASSUME_ROLE: the registry or the endpoint is in another account"
    return [Statement("TakeNextRole", reason, ["sts:AssumeRole"], [scope.assume_role])]


def _push(scope: Scope) -> list[Statement]:
    repository = [scope.arn("ecr", f"repository/{scope.image}")]
    return [
        *_look(scope),
        Statement(
            "PushLayers",
            "docker push and the registry's HTTP API: layers and manifests in",
            [
                "ecr:BatchCheckLayerAvailability",
                "ecr:InitiateLayerUpload",
                "ecr:UploadLayerPart",
                "ecr:CompleteLayerUpload",
                "ecr:PutImage",
            ],
            repository,
            implied=True,
        ),
        Statement(
            "CreateRepository",
            "build-push --create: immutable tags, scan on push, old images expire",
            ["ecr:CreateRepository", "ecr:PutLifecyclePolicy"],
            repository,
        ),
        Statement(
            "TagRepository",
            "AWS asks for it where a repository is created with tags",
            ["ecr:TagResource"],
            repository,
            implied=True,
        ),
    ]


def _look(scope: Scope) -> list[Statement]:
    repository = [scope.arn("ecr", f"repository/{scope.image}")]
    return [
        _registry_token(),
        Statement(
            "ReadManifests",
            "is it there already, is every blob there after the push, which digest is deployed",
            ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            repository,
            implied=True,
        ),
        Statement(
            "LookUp",
            "does the repository exist, and which digest does it hold",
            ["ecr:DescribeRepositories", "ecr:DescribeImages"],
            repository,
        ),
    ]


def _registry_token() -> Statement:
    reason = "the registry's password; it belongs to the account, so AWS takes only *"
    return Statement("RegistryToken", reason, ["ecr:GetAuthorizationToken"], ["*"])


def _deploy(scope: Scope) -> list[Statement]:
    return [*_look(scope), *_sagemaker(scope), *_scaling(scope), *_alarms(scope)]


def _sagemaker(scope: Scope) -> list[Statement]:
    kinds = ("model/", "endpoint-config/", "endpoint/")
    named = [arn for kind in kinds for arn in scope.named("sagemaker", kind)]
    things = ("Model", "EndpointConfig", "Endpoint")
    verbs = ("Create", "Describe", "Delete")
    return [
        Statement(
            "Endpoint",
            "model, endpoint configuration and endpoint: made, looked at, removed again",
            [f"sagemaker:{verb}{thing}" for verb in verbs for thing in things],
            named,
        ),
        Statement(
            "SwitchAndAsk",
            "the new version beside the old one, and the smoke test's question",
            ["sagemaker:UpdateEndpoint", "sagemaker:InvokeEndpoint"],
            scope.named("sagemaker", "endpoint/") + scope.named("sagemaker", "endpoint-config/"),
        ),
        Statement(
            "KnowOwn",
            "what lacks our tag is never touched",
            ["sagemaker:ListTags"],
            named,
        ),
        Statement(
            "FindOwn",
            "older versions to remove, known to this journal or not; AWS takes only * here",
            ["sagemaker:ListModels", "sagemaker:ListEndpointConfigs"],
            ["*"],
        ),
        Statement(
            "ReadLogs",
            "the last lines of a container that did not start",
            ["logs:DescribeLogStreams", "logs:GetLogEvents"],
            _logs(scope),
        ),
        Statement(
            "TagEndpoint",
            "AWS asks for it where something is created with tags",
            ["sagemaker:AddTags"],
            named,
            implied=True,
        ),
        Statement(
            "HandOverRole",
            "the model runs as the endpoint role: that one, and to SageMaker only",
            ["iam:PassRole"],
            [scope.role("endpoint")],
            {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
            implied=True,
        ),
    ]


def _scaling(scope: Scope) -> list[Statement]:
    return [
        Statement(
            "Scaling",
            "how many instances; targets have no names of ours, so the namespace limits them",
            [
                "application-autoscaling:RegisterScalableTarget",
                "application-autoscaling:DeregisterScalableTarget",
                "application-autoscaling:PutScalingPolicy",
            ],
            [scope.arn("application-autoscaling", "scalable-target/*")],
            {"StringEquals": {"application-autoscaling:service-namespace": "sagemaker"}},
        ),
        Statement(
            "SeeScaling",
            "is there scaling to end or to keep; AWS takes only * here",
            ["application-autoscaling:DescribeScalableTargets"],
            ["*"],
        ),
        Statement(
            "ScaleEndpoint",
            "checked when a target is registered",
            ["sagemaker:UpdateEndpointWeightsAndCapacities"],
            scope.named("sagemaker", "endpoint/"),
            implied=True,
        ),
        Statement(
            "ScalingRole",
            "the first target of an account makes AWS's own role for it",
            ["iam:CreateServiceLinkedRole"],
            [
                f"arn:{scope.partition}:iam::{scope.account}:role/aws-service-role/"
                "sagemaker.application-autoscaling.amazonaws.com/"
                "AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
            ],
            {
                "StringEquals": {
                    "iam:AWSServiceName": "sagemaker.application-autoscaling.amazonaws.com"
                }
            },
            implied=True,
        ),
    ]


def _alarms(scope: Scope) -> list[Statement]:
    alarms = ["cloudwatch:PutMetricAlarm", "cloudwatch:DescribeAlarms", "cloudwatch:DeleteAlarms"]
    return [
        Statement(
            "Alarms",
            "the alarms that roll a canary back",
            alarms,
            scope.named("cloudwatch", "alarm:"),
        ),
        Statement(
            "ScalingAlarms",
            "a scaling policy's own alarms, made with the permissions of whoever puts the policy",
            alarms,
            [
                scope.arn("cloudwatch", f"alarm:TargetTracking-endpoint/{scope.prefix}{end}")
                for end in ("/*", "-*")
            ],
            implied=True,
        ),
    ]


def _logs(scope: Scope) -> list[str]:
    group = f"log-group:/aws/sagemaker/Endpoints/{scope.prefix}"
    return [scope.arn("logs", f"{group}{end}") for end in ("", ":*", "-*")]


def _endpoint(scope: Scope) -> list[Statement]:
    return [
        _registry_token(),
        Statement(
            "PullImage",
            "the image that it runs",
            [
                "ecr:BatchCheckLayerAvailability",
                "ecr:BatchGetImage",
                "ecr:GetDownloadUrlForLayer",
            ],
            [scope.arn("ecr", f"repository/{scope.image}")],
        ),
        Statement(
            "WriteLogs",
            "what the container prints",
            ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"],
            _logs(scope),
        ),
        Statement(
            "WriteMetrics",
            "the endpoint's metrics; AWS takes only *, so the namespace limits them",
            ["cloudwatch:PutMetricData"],
            ["*"],
            {
                "StringEquals": {
                    "cloudwatch:namespace": ["AWS/SageMaker", "/aws/sagemaker/Endpoints"]
                }
            },
        ),
        Statement(
            "WatchAlarms",
            "SageMaker looks at the canary's alarms as this role",
            ["cloudwatch:DescribeAlarms"],
            scope.named("cloudwatch", "alarm:"),
        ),
    ]
