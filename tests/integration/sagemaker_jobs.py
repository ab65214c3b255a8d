"""moto's server with the training jobs that it lacks: they run, write a log, and can go wrong.

The type of machine says how: no ``NEVER`` is ever found for a job, and a ``LOST`` that dies is not
noticed by SageMaker.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
import time
from pathlib import Path

from moto.core.responses import ActionResult
from moto.core.utils import utcnow
from moto.logs.models import logs_backends
from moto.sagemaker.exceptions import ValidationError
from moto.sagemaker.models import FakeTrainingJob
from moto.sagemaker.responses import SageMakerResponse
from moto.server import main

from tests.integration.job_containers import Container

GROUP = "/aws/sagemaker/TrainingJobs"
POLL = 0.2
NEVER, LOST = "ml.p5.48xlarge", "ml.p4d.24xlarge"
containers: dict[str, Container] = {}
folder = Path()


def enter(job: FakeTrainingJob, status: str, secondary: str, reason: str = "") -> None:
    job.training_job_status, job.secondary_status = status, secondary
    job.last_modified_time = utcnow()
    if reason:
        job.failure_reason = reason
    job.secondary_status_transitions.append(
        {"Status": secondary, "StartTime": utcnow(), "StatusMessage": reason or secondary}
    )


def create_training_job(response: SageMakerResponse) -> ActionResult:
    """Accept it, and run its entrypoint."""
    answer = created(response)
    backend = response.sagemaker_backend
    job = backend.training_jobs[response._get_param("TrainingJobName")]
    job.environment = response._get_param("Environment") or {}
    job.secondary_status_transitions = []
    enter(job, "InProgress", "Pending")
    if job.resource_config["InstanceType"] != NEVER:
        threading.Thread(target=run, args=(backend, job), daemon=True).start()
    return answer


created = SageMakerResponse.create_training_job


def run(backend, job: FakeTrainingJob) -> None:
    enter(job, "InProgress", "Training")
    spec, name = job.algorithm_specification, job.training_job_name
    command = [*spec["ContainerEntrypoint"], *spec.get("ContainerArguments", [])]
    own = {"TRAINING_JOB_NAME": name, "TRAINING_JOB_ARN": job.arn}
    at = folder / name
    container = containers[name] = Container(at, command, {**job.environment, **own})
    (at / "pid").write_text(str(container.process.pid))
    while container.ended() is None:
        note(backend, name, container.fresh_lines())
        time.sleep(POLL)
    note(backend, name, container.fresh_lines())
    code = container.ended()
    if job.training_job_status == "Stopping":
        enter(job, "Stopped", "Stopped")
    elif code == 0:
        enter(job, "Completed", "Completed")
    elif job.resource_config["InstanceType"] != LOST:
        enter(job, "Failed", "Failed", f"AlgorithmError: , exit code: {code}")


def note(backend, name: str, lines: list[str]) -> None:
    """Bring lines to where SageMaker brings them."""
    if not lines:
        return
    logs = logs_backends[backend.account_id][backend.region_name]
    if GROUP not in logs.groups:
        logs.create_log_group(GROUP, {})
    stream = f"{name}/algo-1-1"
    with contextlib.suppress(Exception):  # it is there already
        logs.create_log_stream(GROUP, stream)
    now = int(time.time() * 1000)
    logs.put_log_events(GROUP, stream, [{"timestamp": now, "message": line} for line in lines])


def stop_training_job(response: SageMakerResponse) -> ActionResult:
    """Ask it to end; one that never ran is stopped at once."""
    name = response._get_param("TrainingJobName")
    job = response.sagemaker_backend.training_jobs.get(name)
    if job is None or job.training_job_status != "InProgress":
        raise ValidationError(message="The request was rejected because it is not running.")
    enter(job, "Stopping", "Stopping")
    if name in containers:
        threading.Thread(target=containers[name].kill, args=(signal.SIGTERM,)).start()
    else:
        enter(job, "Stopped", "Stopped")
    return ActionResult({})


def serve() -> None:
    global folder
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", required=True)
    parser.add_argument("--folder", required=True, type=Path)
    given = parser.parse_args()
    folder = given.folder
    SageMakerResponse.create_training_job = create_training_job
    SageMakerResponse.stop_training_job = stop_training_job
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        main(["-H", "127.0.0.1", "-p", given.port])
    finally:
        for container in containers.values():
            with contextlib.suppress(Exception):
                container.kill()


if __name__ == "__main__":
    serve()
