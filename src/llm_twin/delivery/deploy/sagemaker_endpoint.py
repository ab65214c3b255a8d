"""One SageMaker endpoint: what it is doing, made, switched, asked, removed.

Nothing is remembered between calls: AWS is asked each time, so that another process may go on.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llm_twin.delivery.deploy.sagemaker_parts import check_ours
from llm_twin.delivery.deploy.sagemaker_words import is_missing
from llm_twin.delivery.deploy.steps import nothing
from llm_twin.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SETTLED = ("InService", "Failed", "OutOfService", "UpdateRollbackFailed")
STARTING = 3600  # seconds that a fleet may take to start, beyond what is waited on purpose
DRAIN = 120  # seconds that the old fleet stays after the shift, still watched by the alarms
ANSWER = 60  # seconds; SageMaker itself waits no longer for a container


@dataclass(frozen=True)
class State:
    """What an endpoint was doing when it was asked.

    Attributes:
        arn: its full name.
        status: in SageMaker's words, like ``InService``.
        config: the configuration that serves.
        pending: the one that an update is bringing in; empty when nothing changes.
        reason: why it failed, in SageMaker's words.

    """

    arn: str
    status: str
    config: str
    pending: str = ""
    reason: str = ""

    @property
    def settled(self) -> bool:
        """Whether nothing changes by itself any more."""
        return self.status in SETTLED

    @property
    def serves(self) -> bool:
        """Whether there is something that may answer, so that an update can follow it."""
        return self.status not in ("Failed", "OutOfService", "Deleting")


class Endpoint:
    """An endpoint by its name; it need not exist.

    Attributes:
        name: of the endpoint.
        pause: seconds between two looks while waiting.

    """

    def __init__(
        self, session: Any, name: str, tell: Callable[[str], None], pause: float = 5.0
    ) -> None:
        self.name = name
        self.pause = pause
        self._session = session
        self._tell = tell

    @cached_property
    def _client(self) -> Any:
        return self._session.client("sagemaker")

    @cached_property
    def _runtime(self) -> Any:
        from botocore.config import Config  # type: ignore[import-untyped]

        once = Config(read_timeout=ANSWER, retries={"total_max_attempts": 1})
        return self._session.client("sagemaker-runtime", config=once)

    def look(self) -> State | None:
        """What it is doing; None if there is no such endpoint."""
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]

        try:
            found = self._client.describe_endpoint(EndpointName=self.name)
        except ClientError as error:
            if is_missing(error):
                return None
            raise
        return State(
            found["EndpointArn"],
            found["EndpointStatus"],
            found.get("EndpointConfigName", ""),
            found.get("PendingDeploymentSummary", {}).get("EndpointConfigName", ""),
            found.get("FailureReason", ""),
        )

    def look_if_ours(self) -> State | None:
        """The same.

        Raises:
            ConfigError: it was not made by llm-twin.

        """
        state = self.look()
        if state:
            check_ours(self._client, state.arn, self.name)
        return state

    def create(self, config: str, tags: Sequence[Mapping[str, str]]) -> None:
        """Begin to make it; ``settle`` waits for it."""
        self._client.create_endpoint(
            EndpointName=self.name, EndpointConfigName=config, Tags=list(tags)
        )

    def update(self, config: str, guard: Mapping[str, Any] | None = None) -> None:
        """Begin to put another configuration's fleet beside the one that serves, then in its place.

        Args:
            config: the configuration's name.
            guard: SageMaker's DeploymentConfig; None: all traffic at once, without alarms.

        """
        self._client.update_endpoint(
            EndpointName=self.name,
            EndpointConfigName=config,
            # Under load there are more instances than a configuration begins with.
            RetainAllVariantProperties=True,
            ExcludeRetainedVariantProperties=[{"VariantPropertyType": "DataCaptureConfig"}],
            **({"DeploymentConfig": guard} if guard else {}),
        )

    def settle(self, limit: float = STARTING, each: Callable[[], None] = nothing) -> State | None:
        """Wait until nothing changes any more; None if it is gone.

        Args:
            limit: seconds.
            each: called before each pause.

        Raises:
            RemoteError: it took longer.

        """
        began, said = time.monotonic(), ("", 0)
        while (state := self.look()) and not state.settled:
            elapsed = time.monotonic() - began
            now = (state.status, int(elapsed // 60))
            if now != said:
                self._tell(f"endpoint {self.name}: {state.status}, {elapsed:.0f} s")
            if elapsed > limit:
                raise RemoteError(
                    f"the endpoint is still {state.status} after {elapsed:.0f} s",
                    self.name,
                    "Look at it in the AWS console, then type: invoke recover",
                )
            said = now
            each()
            time.sleep(self.pause)
        return state

    def remove(self) -> None:
        """Delete it and wait until it is gone; it may be gone already."""
        if self.settle():
            self._client.delete_endpoint(EndpointName=self.name)
            self.settle()

    def is_ready(self) -> bool:
        """Whether it would answer now."""
        state = self.look()
        return state is not None and state.status == "InService"

    def knock(self, question: str) -> None:
        """Ask it, whatever comes back."""
        from botocore.exceptions import BotoCoreError, ClientError

        with contextlib.suppress(BotoCoreError, ClientError):
            self.ask(question)

    def ask(self, question: str) -> tuple[int, dict[str, Any], float]:
        """Ask it like a client: HTTP status of the container, its JSON object, seconds."""
        from botocore.exceptions import ClientError, ReadTimeoutError

        began = time.monotonic()
        try:
            answer = self._runtime.invoke_endpoint(
                EndpointName=self.name,
                ContentType="application/json",
                Body=json.dumps({"question": question}),
            )
            status, text = 200, answer["Body"].read()
        except ReadTimeoutError:
            status, text = 504, b""
        except ClientError as error:
            if error.response["Error"]["Code"] != "ModelError":
                raise
            status = int(error.response.get("OriginalStatusCode", 500))
            text = error.response.get("OriginalMessage", "")
        return status, _object(text), time.monotonic() - began


def canary(percent: int, bake: int, alarms: Sequence[str]) -> dict[str, Any]:
    """A DeploymentConfig: a part of the traffic first, and back by itself when an alarm rings.

    Args:
        percent: of the traffic, 1 to 50.
        bake: seconds that this part is watched before the rest follows.
        alarms: names; none: only a fleet that does not start is taken back.

    """
    guard: dict[str, Any] = {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": {
                "Type": "CANARY",
                "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": percent},
                "WaitIntervalInSeconds": bake,
            },
            "TerminationWaitInSeconds": DRAIN,
            "MaximumExecutionTimeoutInSeconds": STARTING + bake + DRAIN,
        }
    }
    if alarms:
        named = [{"AlarmName": name} for name in alarms]
        guard["AutoRollbackConfiguration"] = {"Alarms": named}
    return guard


def _object(text: str | bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
