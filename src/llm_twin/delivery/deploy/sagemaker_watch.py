"""What watches an endpoint: the alarms that take a new version back, its scaling, its log."""

from __future__ import annotations

import contextlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llm_twin.delivery.deploy.sagemaker_parts import VARIANT

if TYPE_CHECKING:
    from collections.abc import Mapping

ERRORS = 1  # answers of 5xx in a minute
LOAD = 300  # questions a minute for each instance; more of them, and another one is started
LINES = 5
TARGET = {
    "ServiceNamespace": "sagemaker",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}


class Watch:
    """The alarms, the scaling and the log of one endpoint."""

    def __init__(self, session: Any, endpoint: str) -> None:
        self._session = session
        self._endpoint = endpoint
        self._target = TARGET | {"ResourceId": f"endpoint/{endpoint}/variant/{VARIANT}"}

    @property
    def alarms(self) -> list[str]:
        """The names of the alarms."""
        return [f"{self._endpoint}-errors", f"{self._endpoint}-latency"]

    @cached_property
    def _cloudwatch(self) -> Any:
        return self._session.client("cloudwatch")

    @cached_property
    def _autoscaling(self) -> Any:
        return self._session.client("application-autoscaling")

    def make_alarms(self, latency: float) -> None:
        """Create those that are missing; what somebody has tuned since stays.

        Args:
            latency: seconds that one of ten answers may take longer than.

        """
        errors, slow = self.alarms
        there = self._states()
        if errors not in there:
            self._put(
                errors, "Invocation5XXErrors", ERRORS, {"Statistic": "Sum"}, "the twin answers 5xx"
            )
        if slow not in there:
            statistic = {"ExtendedStatistic": "p90"}
            self._put(slow, "ModelLatency", latency * 1e6, statistic, "the twin answers slowly")

    def _put(
        self, name: str, metric: str, bound: float, statistic: Mapping[str, str], words: str
    ) -> None:
        self._cloudwatch.put_metric_alarm(
            AlarmName=name,
            AlarmDescription=words,
            Namespace="AWS/SageMaker",
            MetricName=metric,
            Dimensions=[
                {"Name": "EndpointName", "Value": self._endpoint},
                {"Name": "VariantName", "Value": VARIANT},
            ],
            **statistic,
            Period=60,
            EvaluationPeriods=1,
            Threshold=bound,
            ComparisonOperator="GreaterThanOrEqualToThreshold",
            TreatMissingData="notBreaching",
        )

    def ringing(self) -> list[str]:
        """The names of the alarms that ring."""
        return [name for name, state in self._states().items() if state == "ALARM"]

    def remove_alarms(self) -> None:
        """Delete them; those that are gone already are no error."""
        if there := list(self._states()):
            self._cloudwatch.delete_alarms(AlarmNames=there)

    def _states(self) -> dict[str, str]:
        found = self._cloudwatch.describe_alarms(AlarmNames=self.alarms)["MetricAlarms"]
        return {alarm["AlarmName"]: alarm["StateValue"] for alarm in found}

    def scale(self, most: int) -> None:
        """Let the endpoint have between one instance and ``most``, by how much it is asked."""
        self._autoscaling.register_scalable_target(**self._target, MinCapacity=1, MaxCapacity=most)
        self._autoscaling.put_scaling_policy(
            **self._target,
            PolicyName=f"{self._endpoint}-load",
            PolicyType="TargetTrackingScaling",
            TargetTrackingScalingPolicyConfiguration={
                "TargetValue": LOAD,
                "PredefinedMetricSpecification": {
                    "PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"
                },
                "ScaleOutCooldown": 60,
                "ScaleInCooldown": 300,
            },
        )

    def most(self) -> int:
        """How many instances there may be; 0 where their number does not follow the load."""
        found = self._autoscaling.describe_scalable_targets(
            ServiceNamespace=self._target["ServiceNamespace"],
            ResourceIds=[self._target["ResourceId"]],
        )
        return sum(int(target["MaxCapacity"]) for target in found["ScalableTargets"])

    def unscale(self) -> None:
        """Leave the number of instances as it is; AWS deletes the policy with the target."""
        if self.most():
            self._autoscaling.deregister_scalable_target(**self._target)

    def last_lines(self) -> str:
        """What the newest container printed last; empty where that cannot be read."""
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]

        logs, group = self._session.client("logs"), f"/aws/sagemaker/Endpoints/{self._endpoint}"
        # They explain a failure that is told anyway, and must not hide it.
        with contextlib.suppress(ClientError):
            streams = logs.describe_log_streams(
                logGroupName=group, orderBy="LastEventTime", descending=True
            )["logStreams"]
            if streams:
                newest = max(streams, key=lambda stream: stream["creationTime"])
                events = logs.get_log_events(
                    logGroupName=group, logStreamName=newest["logStreamName"], limit=LINES
                )["events"]
                return " | ".join(event["message"].strip() for event in events)
        return ""
