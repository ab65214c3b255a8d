"""What AWS says when an endpoint cannot be had, in words that say what to do about it."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llm_twin.delivery import aws
from llm_twin.errors import BusyError, ConfigError, RemoteError, TwinError

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = re.compile(r"limit '(.+?)' is (\d+)")
MISSING = re.compile(r"could not find|does not exist", re.IGNORECASE)
NO_ROLE = re.compile(r"Could not assume role (\S+?)\.?\s")
QUOTA = (
    "Ask for more in the AWS console under Service Quotas, Amazon SageMaker; an update runs the "
    "old and the new version side by side. Or set TWIN_SAGEMAKER_INSTANCE"
)
THROTTLED = ("ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded")


@contextmanager
def in_words() -> Iterator[None]:
    """Turn what boto3 raises inside into one plain sentence; also a decorator."""
    from botocore.exceptions import ClientError  # type: ignore[import-untyped]

    with aws.plain_errors():
        try:
            yield
        except ClientError as error:
            if known := _known(error):
                raise known from None
            raise


def is_missing(error: Any) -> bool:
    """Whether a ``ClientError`` says that what was asked for does not exist."""
    return bool(MISSING.search(error.response["Error"].get("Message", "")))


def _known(error: Any) -> TwinError | None:
    code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
    where = error.operation_name
    if code == "ResourceLimitExceeded":
        limit = LIMIT.search(message)
        what = f"the account's limit of {limit[1]} is {limit[2]}" if limit else message
        return ConfigError(what, where, QUOTA)
    if code in THROTTLED:
        return RemoteError("AWS is throttling requests", where, "Try again in some minutes")
    if "in-progress endpoint" in message:
        what = "the endpoint is being changed by somebody else"
        return BusyError(what, where, "Wait until it is InService, then type the same again")
    if role := NO_ROLE.search(message):
        hint = "Type: invoke aws.bootstrap, or set TWIN_SAGEMAKER_ROLE"
        return ConfigError("SageMaker may not take on the endpoint's role", role[1], hint)
    return None
