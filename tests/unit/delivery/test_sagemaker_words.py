"""What AWS answers becomes one plain sentence with what to do."""

import pytest
from botocore.exceptions import ClientError

from llm_twin.delivery.deploy.sagemaker_words import in_words
from llm_twin.errors import BusyError, ConfigError, RemoteError, TwinError

ROLE = "arn:aws:iam::123456789012:role/llm-twin-endpoint"
LIMIT = (
    "The account-level service limit 'ml.g5.xlarge for endpoint usage' is 1 Instances, with "
    "current utilization of 1 Instances and a request delta of 1 Instances."
)


def refused(code, message):
    answer = {"Error": {"Code": code, "Message": message}}
    return ClientError(answer, "CreateEndpoint")


@pytest.mark.parametrize(
    ("code", "message", "kind", "words"),
    [
        ("ResourceLimitExceeded", LIMIT, ConfigError,
         r"limit of ml\.g5\.xlarge for endpoint usage is 1: .*Service Quotas.*side by side"),
        ("ResourceLimitExceeded", "Too many models.", ConfigError, r"Too many models\.?: .*Quotas"),
        ("ThrottlingException", "Rate exceeded", RemoteError, "AWS is throttling requests"),
        ("ValidationException", 'Cannot update in-progress endpoint "arn:x".', BusyError,
         "being changed by somebody else"),
        ("ValidationException", f"Could not assume role {ROLE}. Please ensure that the role "
         "exists", ConfigError, f"may not take on the endpoint's role: {ROLE}. .*aws.bootstrap"),
        ("ValidationException", "1 validation error detected", TwinError,
         "AWS refused with ValidationException: CreateEndpoint. 1 validation error"),
        ("AccessDeniedException", f"User: arn:x is not authorized to perform: iam:PassRole on "
         f"resource: {ROLE}", ConfigError, f"lack the permission iam:PassRole: {ROLE}"),
    ],
)  # fmt: skip
def test_refusals(code, message, kind, words):
    with pytest.raises(kind, match=words), in_words():
        raise refused(code, message)


def test_it_is_a_decorator_that_can_be_used_again():
    work = in_words()(lambda: 1)
    assert [work(), work()] == [1, 1]
