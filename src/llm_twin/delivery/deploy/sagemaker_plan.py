"""What one deployment to SageMaker is to look like, checked before anything is made.

It is written into the deployment's facts first, so that a recovery on another machine, with other
settings, finishes what was begun and nothing else.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from llm_twin.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llm_twin.settings import Settings

ROLE = "llm-twin-endpoint"  # the one that aws.bootstrap makes
LONGEST_NAME = 40  # SageMaker's 63 without a dash and the id of a deployment
SHAPES = {
    "endpoint": (r"llm-twin(-[a-zA-Z0-9]+)*", "TWIN_SAGEMAKER_ENDPOINT=llm-twin"),
    "instance": (r"ml\.[a-z0-9-]+\.[a-z0-9-]+", "TWIN_SAGEMAKER_INSTANCE=ml.m5.large"),
    "role": (
        r"arn:aws[\w-]*:iam::\d{12}:role/[\w+=,.@/-]+",
        f"TWIN_SAGEMAKER_ROLE=arn:aws:iam::123456789012:role/{ROLE}",
    ),
}
BOUNDS = {"instances": (1, 1000, "MAX_INSTANCES"), "canary": (1, 50, "CANARY"),
          "bake": (0, 3600, "BAKE")}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Where an endpoint is and how it is to be; each value as text.

    Attributes:
        endpoint: its name; that of everything else begins with it.
        region: where.
        role: ARN of what the container runs as.
        instance: type of its machines.
        instances: how many there may be.
        canary: percent of the traffic that a new version gets first.
        bake: seconds that it is watched before it gets the rest.

    """

    endpoint: str
    region: str
    role: str
    instance: str
    instances: str
    canary: str
    bake: str

    @classmethod
    def make(cls, settings: Settings, account: str, region: str) -> Plan:
        """From settings.

        Args:
            settings: the ``sagemaker_…`` ones.
            account: twelve digits.
            region: like ``eu-central-1``.

        Raises:
            ConfigError: one of them cannot be used.

        """
        partition = {"cn": "aws-cn", "us-gov": "aws-us-gov"}.get(region.rsplit("-", 2)[0], "aws")
        plan = cls(
            settings.sagemaker_endpoint,
            region,
            settings.sagemaker_role or f"arn:{partition}:iam::{account}:role/{ROLE}",
            settings.sagemaker_instance,
            str(settings.sagemaker_max_instances),
            str(settings.sagemaker_canary),
            str(settings.sagemaker_bake),
        )
        plan._check()
        return plan

    @classmethod
    def read(cls, facts: Mapping[str, str]) -> Plan | None:
        """From a deployment's facts; None if they do not hold one."""
        names = [field.name for field in fields(cls)]
        return cls(*(facts[name] for name in names)) if facts.keys() >= set(names) else None

    def facts(self) -> dict[str, str]:
        """As ``read`` reads it."""
        return asdict(self)

    def _check(self) -> None:
        for name, (shape, example) in SHAPES.items():
            value = getattr(self, name)
            if not re.fullmatch(shape, value) or (name == "endpoint" and len(value) > LONGEST_NAME):
                what = f"TWIN_SAGEMAKER_{name.upper()} cannot be used"
                raise ConfigError(what, repr(value), f"Set it like {example}")
        for name, (least, most, variable) in BOUNDS.items():
            value = getattr(self, name)
            if not least <= int(value) <= most:
                what = f"TWIN_SAGEMAKER_{variable} cannot be used"
                raise ConfigError(what, value, f"It lies between {least} and {most}")
