"""What an endpoint is made of: a model and an endpoint configuration for each deployment.

Both bear the deployment's name and the endpoint's tag. The tag says whose they are: what lacks it
is never touched.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from llm_twin.delivery.deploy.sagemaker_words import is_missing
from llm_twin.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VARIANT = "AllTraffic"  # the same in each configuration: else SageMaker refuses to shift traffic
OWNER = "llm-twin:endpoint"
HEALTHY = 600  # seconds that a container may take until it answers


def tags(endpoint: str, **more: str) -> list[dict[str, str]]:
    """AWS tags for something that belongs to an endpoint; empty values are left out."""
    named = {OWNER: endpoint} | {f"llm-twin:{key}": value for key, value in more.items() if value}
    return [{"Key": key, "Value": value} for key, value in named.items()]


def check_ours(client: Any, arn: str, endpoint: str) -> None:
    """Look at the tags of something of SageMaker's.

    Raises:
        ConfigError: it is not of this endpoint's deployments.

    """
    if not _is_ours(client, arn, endpoint):
        raise ConfigError(
            "that name is taken by something that llm-twin did not make",
            arn,
            "It stays as it is. Set TWIN_SAGEMAKER_ENDPOINT to another name",
        )


class Parts:
    """The models and endpoint configurations of one endpoint."""

    def __init__(self, session: Any, endpoint: str) -> None:
        self._session = session
        self._endpoint = endpoint

    @cached_property
    def _client(self) -> Any:
        return self._session.client("sagemaker")

    def make_model(
        self,
        name: str,
        image: str,
        role: str,
        marks: Sequence[Mapping[str, str]],
        environment: Mapping[str, str],
    ) -> None:
        """Create the model, if it is not there.

        Args:
            name: of the model.
            image: its full name with its digest.
            role: ARN of what the container runs as.
            marks: AWS tags.
            environment: of the container.

        """
        if found := self._find("describe_model", ModelName=name):
            check_ours(self._client, found["ModelArn"], self._endpoint)
        else:
            self._client.create_model(
                ModelName=name,
                PrimaryContainer={"Image": image, "Environment": dict(environment)},
                ExecutionRoleArn=role,
                Tags=list(marks),
            )

    def make_config(self, name: str, instance: str, marks: Sequence[Mapping[str, str]]) -> None:
        """Create the endpoint configuration of the model of the same name, if it is not there.

        What is asked and answered is not captured: it would be the readers' words in a bucket.
        """
        if found := self._find("describe_endpoint_config", EndpointConfigName=name):
            check_ours(self._client, found["EndpointConfigArn"], self._endpoint)
            return
        variant = {
            "VariantName": VARIANT,
            "ModelName": name,
            "InitialInstanceCount": 1,
            "InitialVariantWeight": 1,
            "InstanceType": instance,
            "ContainerStartupHealthCheckTimeoutInSeconds": HEALTHY,
        }
        self._client.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=[variant], Tags=list(marks)
        )

    def instance(self, name: str) -> str:
        """The type of machine that a configuration asks for; empty if there is no such one."""
        found = self._find("describe_endpoint_config", EndpointConfigName=name) or {}
        return str(found["ProductionVariants"][0].get("InstanceType", "")) if found else ""

    def remove_config(self, name: str) -> None:
        """Delete a configuration of ours, if it is there."""
        if found := self._find("describe_endpoint_config", EndpointConfigName=name):
            check_ours(self._client, found["EndpointConfigArn"], self._endpoint)
            self._client.delete_endpoint_config(EndpointConfigName=name)

    def remove_model(self, name: str) -> None:
        """Delete a model of ours, if it is there."""
        if found := self._find("describe_model", ModelName=name):
            check_ours(self._client, found["ModelArn"], self._endpoint)
            self._client.delete_model(ModelName=name)

    def names(self) -> set[str]:
        """The names of all models and configurations that bear this endpoint's tag."""
        configs = self._client.get_paginator("list_endpoint_configs")
        models = self._client.get_paginator("list_models")
        listed = [
            *_listed(configs, "EndpointConfigs", "EndpointConfig", self._endpoint),
            *_listed(models, "Models", "Model", self._endpoint),
        ]
        return {name for name, arn in listed if _is_ours(self._client, arn, self._endpoint)}

    def _find(self, request: str, **name: str) -> Any:
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]

        try:
            return getattr(self._client, request)(**name)
        except ClientError as error:
            if is_missing(error):
                return None
            raise


def _listed(paginator: Any, group: str, kind: str, endpoint: str) -> list[tuple[str, str]]:
    pages = paginator.paginate(NameContains=f"{endpoint}-")
    found = [item for page in pages for item in page[group]]
    named = [(str(item[f"{kind}Name"]), str(item[f"{kind}Arn"])) for item in found]
    # NameContains also finds it in the middle of a name, where our permissions end.
    return [(name, arn) for name, arn in named if name.startswith(f"{endpoint}-")]


def _is_ours(client: Any, arn: str, endpoint: str) -> bool:
    found = client.list_tags(ResourceArn=arn)["Tags"]
    return {"Key": OWNER, "Value": endpoint} in found
