"""A Kubernetes job as it is followed: its status and its pods', their log, its end."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from llm_twin.ct.following import COMPLETED, FAILED, RUNNING, WAITING, Sight
from llm_twin.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Iterator

HOPELESS = ("ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName",
            "CreateContainerConfigError")  # fmt: skip
OVERLAP = 10
TIMEOUT = 20
GONE = 404


class KubernetesJob:
    """The job of one ZenML run.

    Args:
        context: the kubeconfig's name of the cluster.
        namespace: that it is in.
        run: id of the ZenML run, which is a label of the job.
        snapshot: id of what the run was made of, which names the secret with its token.

    """

    def __init__(self, context: str, namespace: str, run: str, snapshot: str) -> None:
        from kubernetes import client, config  # type: ignore[import-untyped]

        try:
            api = config.new_client_from_config(context=context or None)
        except config.ConfigException as error:
            raise RemoteError(
                "the cluster is not in the kubeconfig", context, f"Set TWIN_CT_CONTEXT ({error})"
            ) from None
        self._batch, self._core = client.BatchV1Api(api), client.CoreV1Api(api)
        self._namespace, self._run, self._snapshot = namespace, run, snapshot
        self._read: dict[str, tuple[float, frozenset[str]]] = {}
        self._known = ""

    @property
    def name(self) -> str:
        """The job's name, or what it is found by."""
        return f"{self._namespace}/{self._known or f'run_id={self._run}'}"

    def look(self) -> Sight:
        """How it is doing.

        Raises:
            RemoteError: the cluster did not answer.

        """
        with asking(self.name):
            job = self._job()
            if job is None:
                return Sight(FAILED, "the job is gone") if self._known else Sight(WAITING, "no job")
            pods = self._pods(job)
        for condition in job.status.conditions or []:
            if condition.status == "True" and condition.type in ("Complete", "Failed"):
                state = COMPLETED if condition.type == "Complete" else FAILED
                why = [condition.reason, *(_ending(pod) for pod in pods)]
                said = ", ".join(filter(None, why)) if state == FAILED else ""
                return Sight(state, f"{condition.type} ({said})" if said else condition.type)
        return _of_pods(pods)

    def lines(self) -> list[str]:
        """New lines of its pods' logs; none while they have not started."""
        found: list[str] = []
        with contextlib.suppress(RemoteError), asking(self.name):
            job = self._job()
            for pod in self._pods(job) if job else []:
                if pod.status.phase != "Pending":
                    found += self._lines_of(pod.metadata.name)
        return found

    def _lines_of(self, pod: str) -> list[str]:
        """Asked for with some overlap; a line is known again by its time of writing."""
        before, seen = self._read.get(pod, (0.0, frozenset()))
        now = time.monotonic()
        since = {"since_seconds": int(now - before) + OVERLAP} if before else {}
        text = self._core.read_namespaced_pod_log(
            pod, self._namespace, timestamps=True, _request_timeout=TIMEOUT, **since
        )
        lines = [line for line in text.splitlines() if line]
        self._read[pod] = (now, frozenset(lines))
        return [line.partition(" ")[2] for line in lines if line not in seen]

    def stop(self) -> None:
        """Delete it with its pods, and the secret with its token; one that is gone is fine.

        Raises:
            RemoteError: the cluster did not answer.

        """
        with asking(self.name):
            if job := self._job():
                with _unless_gone():
                    self._batch.delete_namespaced_job(
                        job.metadata.name,
                        self._namespace,
                        propagation_policy="Background",
                        _request_timeout=TIMEOUT,
                    )
        self.forget_token()

    def forget_token(self) -> None:
        """Delete the secret that ZenML made for the job, which nobody else does."""
        with asking(self.name), _unless_gone():
            self._core.delete_namespaced_secret(
                f"zenml-token-{self._snapshot}", self._namespace, _request_timeout=TIMEOUT
            )

    def _job(self) -> Any:
        found = self._batch.list_namespaced_job(
            self._namespace, label_selector=f"run_id={self._run}", _request_timeout=TIMEOUT
        ).items
        if found:
            self._known = found[0].metadata.name
        return found[0] if found else None

    def _pods(self, job: Any) -> list[Any]:
        found: list[Any] = self._core.list_namespaced_pod(
            self._namespace,
            label_selector=f"job-name={job.metadata.name}",
            _request_timeout=TIMEOUT,
        ).items
        return found


def _of_pods(pods: list[Any]) -> Sight:
    for pod in pods:
        for container in pod.status.container_statuses or []:
            waiting = container.state.waiting
            if waiting and waiting.reason:
                said = f"{waiting.reason}: {waiting.message or ''}".rstrip(": ")
                return Sight(FAILED if waiting.reason in HOPELESS else WAITING, said)
        if pod.status.phase in ("Running", "Succeeded"):
            return Sight(RUNNING, pod.status.phase)
        for condition in pod.status.conditions or []:
            if condition.type == "PodScheduled" and condition.status == "False":
                return Sight(WAITING, f"{condition.reason}: {condition.message or ''}".rstrip(": "))
    return Sight(WAITING, "Pending" if pods else "no pod yet")


def _ending(pod: Any) -> str:
    """How a pod's container ended, if it did: reason and exit code."""
    for container in pod.status.container_statuses or []:
        if ended := container.state.terminated:
            return f"{ended.reason or 'ended'}, exit code {ended.exit_code}"
    return ""


@contextlib.contextmanager
def _unless_gone() -> Iterator[None]:
    from kubernetes.client.exceptions import ApiException  # type: ignore[import-untyped]

    try:
        yield
    except ApiException as error:
        if error.status != GONE:
            raise


@contextlib.contextmanager
def asking(where: str) -> Iterator[None]:
    """Say in one line that the cluster did not answer, or what it refused."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        raise RemoteError(f"Kubernetes refused ({error.status} {error.reason})", where) from error
    except HTTPError as error:
        raise RemoteError(f"Kubernetes did not answer ({type(error).__name__})", where) from error
