"""Amazon's registry: its repositories, its twelve-hour passwords, and its refusals in plain words.

Which account and region follow from the registry's host, so they cannot contradict it.
"""

from __future__ import annotations

import base64
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.delivery import aws
from llm_twin.delivery.credentials import Credentials
from llm_twin.delivery.reference import check_name
from llm_twin.errors import ConfigError, RemoteError, TwinError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llm_twin.delivery.reference import Reference
    from llm_twin.settings import Settings

HOST = re.compile(r"(\d{12})\.dkr\.ecr(?:-fips)?\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
SOURCE = "src-"  # how tags that name a content begin
MOVING = ("latest", "git-*", "branch-*", "sha256-*")  # the last: what is attached and signed
KEEP = 50  # images
UNTAGGED_DAYS = 14
THROTTLED = ("ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded")


def is_ecr(host: str) -> bool:
    """Whether a registry's host is one of ECR's."""
    return bool(HOST.fullmatch(host))


@dataclass(frozen=True)
class Ecr:
    """The registry of one account in one region.

    Attributes:
        account: its twelve digits.
        region: like ``eu-central-1``.
        client: boto3's.

    """

    account: str
    region: str
    client: Any

    @classmethod
    def open(cls, host: str, settings: Settings) -> Ecr:
        """The registry at a host, with the credentials and roles of the settings.

        Raises:
            ConfigError: it is no host of ECR's, or there are no AWS credentials.

        """
        found = HOST.fullmatch(host)
        if not found:
            raise ConfigError(
                "that is no address of an ECR registry",
                repr(host),
                "Write it like 123456789012.dkr.ecr.eu-central-1.amazonaws.com",
            )
        account, region = found.groups()
        return cls(account, region, aws.session(settings, region=region).client("ecr"))

    def login(self) -> Credentials:
        """A new password for pushes and pulls; it works for twelve hours and is kept nowhere."""
        with self._in_words():
            answer = self.client.get_authorization_token()
        token = answer["authorizationData"][0]["authorizationToken"]
        username, _, password = base64.b64decode(token).decode().partition(":")
        return Credentials(username, password)

    def ensure_repository(
        self,
        name: str,
        create: bool = False,
        *,
        moving: Sequence[str] = MOVING,
        keep: int = KEEP,
        tags: Mapping[str, str] | None = None,
    ) -> bool:
        """Check that a repository is there, or make it; whether it was made.

        A new one has immutable tags but for the moving ones, scans what is pushed, is encrypted,
        and lets old images expire.

        Args:
            name: without the registry's host.
            create: make it if it is missing.
            moving: patterns of tags that may point to another image later; at most five.
            keep: how many images with a source tag stay.
            tags: of AWS, on the repository.

        Raises:
            ConfigError: it is missing and not to be made, or that is no name of a repository.

        """
        check_name(name)
        if not create:
            self._describe(name)
            return False
        try:
            self._describe(name)
        except NoRepository:
            return self._create(name, moving, keep, tags or {})
        return False

    def image_digest(self, ref: Reference) -> str | None:
        """The digest that ECR itself lists for a tag or digest; None if there is no such image."""
        image = {"imageDigest": ref.digest} if ref.digest else {"imageTag": ref.tag}
        with self._in_words(ref.name):
            try:
                answer = self.client.describe_images(
                    registryId=self.account, repositoryName=ref.name, imageIds=[image]
                )
            except self.client.exceptions.ImageNotFoundException:
                return None
        return str(answer["imageDetails"][0]["imageDigest"])

    def _describe(self, name: str) -> None:
        with self._in_words(name):
            self.client.describe_repositories(registryId=self.account, repositoryNames=[name])

    def _create(self, name: str, moving: Sequence[str], keep: int, tags: Mapping[str, str]) -> bool:
        filters = [{"filterType": "WILDCARD", "filter": pattern} for pattern in moving]
        with self._in_words(name):
            try:
                self.client.create_repository(
                    registryId=self.account,
                    repositoryName=name,
                    imageTagMutability="IMMUTABLE_WITH_EXCLUSION" if filters else "IMMUTABLE",
                    **({"imageTagMutabilityExclusionFilters": filters} if filters else {}),
                    imageScanningConfiguration={"scanOnPush": True},
                    encryptionConfiguration={"encryptionType": "AES256"},
                    tags=[{"Key": key, "Value": value} for key, value in tags.items()],
                )
            except self.client.exceptions.RepositoryAlreadyExistsException:
                return False
            self.client.put_lifecycle_policy(
                registryId=self.account,
                repositoryName=name,
                lifecyclePolicyText=json.dumps(lifecycle(keep)),
            )
        return True

    @contextmanager
    def _in_words(self, name: str = "") -> Iterator[None]:
        """Turn what boto3 raises inside into one plain sentence."""
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]

        with aws.plain_errors():
            try:
                yield
            except ClientError as error:
                if known := self._known(error.response["Error"]["Code"], name):
                    raise known from None
                raise

    def _known(self, code: str, name: str) -> TwinError | None:
        where = f"{name or 'ECR'} in account {self.account}, region {self.region}"
        if code == "RepositoryNotFoundException":
            return NoRepository(
                "ECR has no such repository",
                where,
                "Type: invoke build-push --create, or correct the account and region in "
                "the registry's address",
            )
        if code in THROTTLED:
            return RemoteError("AWS is throttling requests", where, "Try again in some minutes")
        return None


class NoRepository(ConfigError):
    """The repository that an image is to be pushed to does not exist."""


def lifecycle(keep: int) -> dict[str, Any]:
    """The policy by which images expire: beyond so many source tags, and without any tag."""
    rules = [
        ("untagged", {"tagStatus": "untagged", "countType": "sinceImagePushed",
                      "countUnit": "days", "countNumber": UNTAGGED_DAYS}),
        ("old sources", {"tagStatus": "tagged", "tagPrefixList": [SOURCE],
                         "countType": "imageCountMoreThan", "countNumber": keep}),
    ]  # fmt: skip
    return {
        "rules": [
            {
                "rulePriority": priority,
                "description": f"llm-twin: {what}",
                "selection": selection,
                "action": {"type": "expire"},
            }
            for priority, (what, selection) in enumerate(rules, 1)
        ]
    }
