"""The SageMaker target: a twin's image behind an endpoint, a new version first on a little traffic.

SageMaker itself keeps the old fleet until the new one answers, shifts a part of the traffic, and
takes it back when an alarm rings. What an alarm cannot see, an answer without a citation, the smoke
test finds afterwards; then the endpoint is put back to the configuration that served before.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llm_twin.delivery import aws
from llm_twin.delivery.deploy.sagemaker_plan import Plan
from llm_twin.delivery.deploy.sagemaker_rollout import Rollout
from llm_twin.delivery.deploy.sagemaker_words import in_words
from llm_twin.delivery.deploy.steps import Deployment, Step, nothing
from llm_twin.delivery.registry import open_registry
from llm_twin.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llm_twin.delivery.reference import Reference
    from llm_twin.settings import Settings

    Labels = Callable[[Reference], Mapping[str, str]]


class SageMaker:
    """Deploys to one endpoint of Amazon SageMaker.

    Args:
        settings: the ``aws_…`` and ``sagemaker_…`` ones; asked only for what is new.
        session: a ``boto3.Session``; default: by settings, when it is needed.
        tell: told a line when the endpoint's status changes, and each minute.
        labels: reads an image's labels; default: from its registry.
        pause: seconds between two looks at the endpoint.

    """

    name = "sagemaker"

    def __init__(
        self,
        settings: Settings,
        session: Any = None,
        *,
        tell: Callable[[str], None] = print,
        labels: Labels | None = None,
        pause: float = 5.0,
    ) -> None:
        self.settings = settings
        self.tell = tell
        self.pause = pause
        self._session = session
        self._labels = labels

    def steps(self, deployment: Deployment, previous: Deployment | None) -> list[Step]:
        """From an image in ECR to an endpoint that answers from it.

        Which version served before, the endpoint says itself: another machine may have put it
        there.
        """
        new = Rollout(self, deployment, previous)
        return [
            _step("check", new.check),
            _step("model", new.make_model, new.remove_model),
            _step("config", new.make_config, new.remove_config),
            _step("alarms", new.make_alarms, new.remove_alarms),
            _step("endpoint", new.start, new.go_back),
            _step("wait", new.wait),
            _step("smoke", new.smoke),
            _step("scaling", new.scale, new.unscale, commits=True),
            _step("retire", new.retire),
        ]

    def removal(self, live: Deployment | None, history: list[Deployment]) -> list[Step]:
        """Everything that bears the endpoint's name and tag, in the journal or not."""
        known = live or next((one for one in history if Plan.read(one.facts)), None)
        old = Rollout(self, known or Deployment("", self.name, "", "", "undeploy"))
        return [
            _step("scaling", old.stop_scaling, commits=True),
            _step("endpoint", old.stop),
            _step("models", old.sweep),
            _step("alarms", old.remove_alarms),
        ]

    def describe(self, live: Deployment) -> str:
        """The endpoint's name, region and type of machine."""
        facts = live.facts
        machines = f"{facts['instance']}, up to {facts['instances']}"
        return f"endpoint {facts['endpoint']} in {facts['region']} ({machines})"

    def session(self, region: str) -> Any:
        """A ``boto3.Session`` for a region; empty: the one of the settings."""
        return self._session or aws.session(self.settings, region=region)

    def labels(self, ref: Reference) -> Mapping[str, str]:
        """The labels of an image.

        Raises:
            ConfigError: it is an index of several images.

        """
        if self._labels:
            return self._labels(ref)
        registry = open_registry(ref.host, self.settings)
        manifest = registry.manifest(ref).data
        if "config" not in manifest:
            hint = "Build it with: invoke build-push --platform linux/amd64"
            raise ConfigError("SageMaker runs no image for several platforms", ref, hint)
        config = json.loads(registry.blob(ref.name, manifest["config"]["digest"]))
        return config.get("config", {}).get("Labels") or {}


def _step(
    name: str,
    do: Callable[[], dict[str, str] | None],
    undo: Callable[[], None] = nothing,
    commits: bool = False,
) -> Step:
    return Step(name, in_words()(do), in_words()(undo), commits)
