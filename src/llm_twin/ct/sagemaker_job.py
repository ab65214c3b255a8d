"""A SageMaker training job as it is followed: its status, its lines in CloudWatch, its end."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from llm_twin.ct.following import COMPLETED, FAILED, RUNNING, WAITING, Sight
from llm_twin.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUP = "/aws/sagemaker/TrainingJobs"
ENDED = {"Completed": COMPLETED, "Failed": FAILED, "Stopped": FAILED}
STARTED = ("Downloading", "Training", "Uploading", "Stopping", "Interrupted")


class SageMakerJob:
    """One training job.

    Args:
        arn: of the job.

    """

    def __init__(self, arn: str) -> None:
        import boto3  # type: ignore[import-untyped]

        _, _, _, region, _, self.name = arn.split(":", 5)
        self.name = self.name.removeprefix("training-job/")
        session = boto3.Session(region_name=region)
        self._jobs: Any = session.client("sagemaker")
        self._logs: Any = session.client("logs")
        self._tokens: dict[str, str] = {}

    def look(self) -> Sight:
        """How it is doing.

        Raises:
            RemoteError: SageMaker did not answer.

        """
        with asking("SageMaker", self.name):
            told = self._jobs.describe_training_job(TrainingJobName=self.name)
        status, detail = told["TrainingJobStatus"], told.get("SecondaryStatus", "")
        reason = told.get("FailureReason", "")
        said = f"{status}: {detail}" if detail and detail != status else status
        return Sight(
            ENDED.get(status, RUNNING if detail in STARTED else WAITING),
            f"{said} ({reason.strip()})" if reason else said,
        )

    def lines(self) -> list[str]:
        """New lines of its log; none while CloudWatch has no stream of it, or does not answer."""
        found: list[str] = []
        with contextlib.suppress(RemoteError), asking("CloudWatch", self.name):
            for stream in self._streams():
                found += self._lines_of(stream)
        return found

    def _streams(self) -> list[str]:
        missing = self._logs.exceptions.ResourceNotFoundException
        try:
            told = self._logs.describe_log_streams(
                logGroupName=GROUP, logStreamNamePrefix=f"{self.name}/"
            )
        except missing:
            return []
        return [one["logStreamName"] for one in told["logStreams"]]

    def _lines_of(self, stream: str) -> list[str]:
        found: list[str] = []
        while True:
            before = self._tokens.get(stream)
            told = self._logs.get_log_events(
                logGroupName=GROUP,
                logStreamName=stream,
                startFromHead=True,
                **({"nextToken": before} if before else {}),
            )
            found += [one["message"].rstrip("\n") for one in told["events"]]
            self._tokens[stream] = told["nextForwardToken"]
            if told["nextForwardToken"] == before or not told["events"]:
                return found

    def stop(self) -> None:
        """Stop it; one that has ended is fine.

        Raises:
            RemoteError: SageMaker did not answer.

        """
        if self.look().ended:
            return
        with asking("SageMaker", self.name):
            self._jobs.stop_training_job(TrainingJobName=self.name)


@contextlib.contextmanager
def asking(whom: str, where: str) -> Iterator[None]:
    """Say in one line that AWS did not answer, or what it refused."""
    from botocore.exceptions import (  # type: ignore[import-untyped]
        BotoCoreError,
        ClientError,
    )

    try:
        yield
    except ClientError as error:
        told = error.response["Error"]
        raise RemoteError(f"{whom} refused ({told['Code']})", where, told["Message"]) from error
    except BotoCoreError as error:
        raise RemoteError(f"{whom} did not answer", where, str(error)) from error
