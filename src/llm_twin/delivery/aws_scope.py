"""What AWS roles are for: one repository's jobs, one account, one image. Checked once, here."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llm_twin.errors import ConfigError

AUDIENCE = "sts.amazonaws.com"
ISSUER = "token.actions.githubusercontent.com"

ROLE = r"arn:aws[\w-]*:iam::\d{12}:role/[\w+=,.@/-]+"
ROLE_EXAMPLE = "arn:aws:iam::123456789012:role/llm-twin-build-push"
SHAPES = {
    "repository": (r"[\w.-]+/[\w.-]+", "--repository owner/name"),
    "account": (r"\d{12}", "--account 123456789012"),
    "region": (r"[a-z]{2}(-[a-z]+)+-\d", "TWIN_AWS_REGION=eu-central-1"),
    "image": (r"[a-z0-9]+([._/-][a-z0-9]+)*", "--image llm-twin, the name of the ECR repository"),
    "prefix": (r"[a-z0-9][a-z0-9-]{0,39}", "--prefix llm-twin"),
    "branch": (r"[^*?\s]+", "--branch main; wildcards let in more than one branch"),
    "environment": (r"[^*?]+", "--environment production; wildcards let in more than one"),
    "owner_id": (r"\d*", "--owner-id 123456"),
    "repository_id": (r"\d*", "--repository-id 456789"),
    "assume_role": (f"({ROLE})?", f"TWIN_AWS_ASSUME_ROLE={ROLE_EXAMPLE}"),
}


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What the roles are for.

    Attributes:
        repository: ``owner/name`` on GitHub, in its own upper and lower case.
        account: twelve digits.
        region: where the ECR repository and the endpoint are.
        image: name of the one ECR repository.
        prefix: how the names of the roles and of everything that deploy makes begin.
        branch: the one branch whose jobs may push.
        environment: the one environment whose jobs may deploy.
        owner_id: GitHub's number of the owner, where subjects carry it.
        repository_id: GitHub's number of the repository; both numbers or none.
        assume_role: a role, perhaps in another account, that the two may take on in turn.

    Raises:
        ConfigError: one of them cannot be what it is meant to be.

    """

    repository: str
    account: str
    region: str
    image: str = "llm-twin"
    prefix: str = "llm-twin"
    branch: str = "main"
    environment: str = "production"
    owner_id: str = ""
    repository_id: str = ""
    assume_role: str = ""

    def __post_init__(self) -> None:
        for name, (shape, example) in SHAPES.items():
            value = getattr(self, name)
            if not re.fullmatch(shape, value):
                what = f"this {name.replace('_', ' ')} cannot be used"
                raise ConfigError(what, repr(value), f"Set it like {example}")
        if bool(self.owner_id) != bool(self.repository_id):
            raise ConfigError(
                "only one of the two ids was given", hint="Give --owner-id and --repository-id"
            )

    @property
    def partition(self) -> str:
        """``aws``, or what it is called in China and in the government's regions."""
        return {"cn": "aws-cn", "us-gov": "aws-us-gov"}.get(self.region.rsplit("-", 2)[0], "aws")

    @property
    def provider(self) -> str:
        """ARN of the account's provider for GitHub's tokens."""
        return f"arn:{self.partition}:iam::{self.account}:oidc-provider/{ISSUER}"

    def role(self, purpose: str) -> str:
        """ARN of one of the roles."""
        return f"arn:{self.partition}:iam::{self.account}:role/{self.prefix}-{purpose}"

    def arn(self, service: str, resource: str) -> str:
        """ARN of something in this account and region."""
        return f"arn:{self.partition}:{service}:{self.region}:{self.account}:{resource}"

    def named(self, service: str, kind: str) -> list[str]:
        """ARNs of what bears the prefix as its name or begins its name with it and a dash."""
        return [self.arn(service, f"{kind}{self.prefix}{end}") for end in ("", "-*")]

    def subject(self, context: str) -> str:
        """The subject of a job's token, with the immutable numbers when they were given."""
        owner, name = self.repository.split("/")
        if self.owner_id:
            owner, name = f"{owner}@{self.owner_id}", f"{name}@{self.repository_id}"
        return f"repo:{owner}/{name}:{context}"
