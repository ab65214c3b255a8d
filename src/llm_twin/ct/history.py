"""The ZenML server that keeps the history of training, and one run in it that works elsewhere."""

from __future__ import annotations

import contextlib
import json
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib.metadata import version as installed
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llm_twin.ct import zen
from llm_twin.ct.following import Progress
from llm_twin.errors import ConfigError, NotReadyError, RemoteError, TwinError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from llm_twin.ct.following import Job
    from llm_twin.settings import Settings

TIMEOUT = 15
LONGEST = 300


def check(settings: Settings) -> None:
    """Ask the server who it is, before ZenML is imported.

    Raises:
        ConfigError: no server is named, or what is named is no address.
        RemoteError: it cannot be reached, or is of a version that ours cannot talk to.

    """
    url = settings.zenml_url.rstrip("/")
    if urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError("TWIN_ZENML_URL is no address of a server", repr(url), "Set it")
    try:
        with urllib.request.urlopen(f"{url}/api/v1/info", timeout=TIMEOUT) as answer:  # noqa: S310
            theirs = str(json.load(answer)["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RemoteError(
            f"the ZenML server cannot be reached ({_reason(error)})", url, "Check TWIN_ZENML_URL"
        ) from None
    ours = installed("zenml")
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        raise RemoteError(
            f"the ZenML server is version {theirs}, and this is {ours}",
            url,
            f"Run a server of version {ours}, see docs/how-to/remote-training.md",
        )


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    return str(getattr(error, "reason", "") or type(error).__name__)


@contextlib.contextmanager
def asking(settings: Settings) -> Iterator[None]:
    """Say in one line that the server did not answer, or does not know the key.

    Raises:
        ConfigError: the key was refused.
        RemoteError: the server did not answer, or refused something else.

    """
    try:
        yield
    except TwinError:
        raise
    except Exception as error:
        for one in zen.causes(error):
            name, module = type(one).__name__, type(one).__module__.split(".")[0]
            if name in ("CredentialsNotValid", "AuthorizationException"):
                raise ConfigError(
                    "the ZenML server refused the key",
                    settings.zenml_url,
                    "Set TWIN_ZENML_KEY to an API key of a service account",
                ) from error
            if module == "requests":
                raise RemoteError(
                    f"the ZenML server did not answer ({name})", settings.zenml_url
                ) from error
            if module in ("botocore", "aiobotocore", "kubernetes", "urllib3"):
                raise RemoteError(f"{module} refused ({name})", "", _line(str(one))) from error
        raise


@dataclass(frozen=True)
class Run:
    """A run that was sent elsewhere.

    Attributes:
        id: at ZenML.
        name: at ZenML.
        said: what it was sent with: ``remote`` of its profile, and the ``version`` it may promote.

    """

    id: str
    name: str
    said: Mapping[str, Any]

    @classmethod
    def find(cls, name: str) -> Run:
        """By id, name, or how one of them begins.

        Raises:
            NotReadyError: there is none, or it was not sent elsewhere.

        """
        from zenml.client import Client
        from zenml.exceptions import ZenKeyError

        try:
            found = Client().get_pipeline_run(name)
        except (KeyError, ZenKeyError):
            raise NotReadyError("there is no such run", name, "See: invoke ct.stacks") from None
        said = (found.config.extra or {}).get("llm_twin")
        if not said:
            raise NotReadyError("the run was not sent to another machine", found.name)
        return cls(str(found.id), found.name, said)

    def job(self, settings: Settings) -> Job:
        """The job that it runs as."""
        found = self._get()
        if self.said["remote"]["stack"] == "sagemaker":
            from llm_twin.ct.sagemaker_job import SageMakerJob

            arn = found.run_metadata.get("orchestrator_run_id") or found.orchestrator_run_id
            if not arn:
                raise NotReadyError("SageMaker has no job of the run", self.name)
            return SageMakerJob(str(arn))
        from llm_twin.ct.kubernetes_job import KubernetesJob

        return KubernetesJob(
            settings.ct_context, settings.ct_namespace, self.id, str(found.snapshot.id)
        )

    def progress(self) -> Progress:
        """What is known of it now.

        Raises:
            RemoteError: the server did not answer.

        """
        try:
            found = self._get()
            steps = self._steps()
        except Exception as error:
            raise RemoteError(
                f"the ZenML server did not answer ({type(error).__name__})", self.name
            ) from error
        began = [_epoch(step.start_time) for step in steps if step.start_time]
        failed = [step for step in steps if str(step.status) == "failed"]
        return Progress(
            status=str(found.status),
            finished=found.status.is_finished,
            good=found.status.is_successful,
            steps={step.name: str(step.status) for step in steps},
            created=_epoch(found.created),
            began=min(began, default=None),
            failure=f"step {failed[0].name}: {_failure(failed[0])}" if failed else "",
        )

    def artifact(self, name: str) -> Any:
        """The version of an artifact that one of its steps made; None if none did."""
        for step in self._steps():
            for made in step.outputs.get(name, []):
                return made
        return None

    def end(self) -> None:
        """Mark it as failed, which also ends the life of the token that its job has."""
        zen.end_run(self._get())

    def tidy(self, job: Job) -> None:
        """Remove what ZenML leaves in a cluster when a run has ended."""
        if forget := getattr(job, "forget_token", None):
            with contextlib.suppress(RemoteError):
                forget()

    def _get(self) -> Any:
        from zenml.client import Client

        return Client().get_pipeline_run(self.id, allow_name_prefix_match=False)

    def _steps(self) -> list[Any]:
        from zenml.client import Client

        found = Client().list_run_steps(
            pipeline_run_id=self.id, sort_by="asc:created", size=100, hydrate=True
        )
        return list(found.items)


def elsewhere(newest: int = 20) -> list[str]:
    """The newest runs that were sent to other machines: id, status and name, a line each."""
    from zenml.client import Client

    found = Client().list_pipeline_runs(sort_by="desc:created", size=newest, hydrate=True)
    sent = [(run, (run.config.extra or {}).get("llm_twin")) for run in found.items]
    return [
        f"{run.id}  {run.status!s:<13}{said['remote']['stack']:<12}{run.name}"
        for run, said in sent
        if said
    ]


def _epoch(when: datetime) -> float:
    """ZenML's times are UTC and say nothing of it."""
    from datetime import UTC

    return when.replace(tzinfo=when.tzinfo or UTC).timestamp()


def _failure(step: Any) -> str:
    told = step.exception_info
    return _line(told.message or told.traceback.strip().splitlines()[-1]) if told else "no reason"


def _line(text: str) -> str:
    return re.sub(r"\s+", " ", text)[:LONGEST]
