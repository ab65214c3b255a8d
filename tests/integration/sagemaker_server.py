"""moto's server with what it lacks of SageMaker: endpoints that take their time and run the image.

An update is blue/green with a canary, goes back when an alarm rings or a container does not start,
and is refused where SageMaker refuses it. Waits that AWS counts in minutes are divided by --speed.
A model's image is taken from the engine by its digest, which the tests make the image's id.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

import docker
from moto.applicationautoscaling.models import ApplicationAutoscalingBackend
from moto.applicationautoscaling.models import applicationautoscaling_backends as scaling_backends
from moto.cloudwatch.models import cloudwatch_backends
from moto.core.responses import ActionResult
from moto.core.utils import utcnow
from moto.logs.models import logs_backends
from moto.sagemaker.exceptions import ResourceInUseException, SagemakerClientError, ValidationError
from moto.sagemaker.models import FakeEndpointConfig, SageMakerModelBackend
from moto.sagemaker.responses import SageMakerResponse
from moto.sagemakerruntime.responses import SageMakerRuntimeResponse
from moto.server import main

LABEL = "llm-twin.test-server"
QUOTA_TYPE = "ml.p5.48xlarge"  # the account may have none of these
STARTING = 30  # seconds for a container
BUSY = ("Creating", "Updating", "RollingBack", "Deleting")
DIMENSION = "sagemaker:variant:DesiredInstanceCount"


class Limit(SagemakerClientError):
    code = "ResourceLimitExceeded"


class Gone(Exception):
    """The endpoint was deleted, or the server reset."""


@dataclass
class Fleet:
    """One container, its port here, its share of the traffic, and how many it is answering."""

    container: object
    port: int
    weight: float = 0.0
    busy: int = 0

    def end(self):
        """Let it finish what it answers."""
        end = time.monotonic() + 10
        while self.busy and time.monotonic() < end:
            time.sleep(0.02)
        with contextlib.suppress(docker.errors.APIError):
            self.container.remove(force=True)


speed = 1.0
engine = None
server = ""
fleets: dict[str, list[Fleet]] = {}
choosing = threading.Lock()


def wait(seconds, check=lambda: None):
    end = time.monotonic() + seconds / speed
    while time.monotonic() < end:
        check()
        time.sleep(0.02)
    check()


def alive(backend, endpoint):
    if backend.endpoints.get(endpoint.endpoint_name) is not endpoint:
        raise Gone


def ringing(backend, names):
    alarms = cloudwatch_backends[backend.account_id][backend.region_name].alarms
    if bad := [name for name in names if name in alarms and alarms[name].state_value == "ALARM"]:
        raise RuntimeError(f"One or more configured alarm(s) are in ALARM state: {bad}")


def start(backend, endpoint, config_name):
    """Run a configuration's container until it answers /ping."""
    variant = backend.describe_endpoint_config(config_name)["ProductionVariants"][0]
    image = backend._models[variant["ModelName"]].primary_container["Image"]
    container = engine.containers.run(
        image.rpartition("@")[2], "serve", detach=True, ports={"8080/tcp": ("127.0.0.1", None)},
        labels={LABEL: server},
    )  # fmt: skip
    try:
        return Fleet(container, answering(backend, endpoint, container))
    except BaseException:
        log(backend, endpoint, container)
        container.remove(force=True)
        raise


def check_quota(backend, config_name):
    variant = backend.describe_endpoint_config(config_name)["ProductionVariants"][0]
    if variant["InstanceType"] == QUOTA_TYPE:
        raise Limit(f"The account-level service limit '{QUOTA_TYPE} for endpoint usage' is 0 "
                    "Instances, with current utilization of 0 Instances and a request delta of 1 "
                    "Instances. Please use AWS Service Quotas to request an increase.")  # fmt: skip


def answering(backend, endpoint, container):
    end = time.monotonic() + STARTING
    while time.monotonic() < end:
        alive(backend, endpoint)
        container.reload()
        if container.status == "exited":
            break
        with contextlib.suppress(OSError, LookupError, TypeError):
            port = int(container.ports["8080/tcp"][0]["HostPort"])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2):
                return port
        time.sleep(0.05)
    raise RuntimeError(
        "The primary container for production variant AllTraffic did not pass the ping health "
        "check. Please check CloudWatch logs for this endpoint."
    )


def log(backend, endpoint, container):
    """Bring a container's output to where SageMaker brings it."""
    logs = logs_backends[backend.account_id][backend.region_name]
    group = f"/aws/sagemaker/Endpoints/{endpoint.endpoint_name}"
    if group not in logs.groups:
        logs.create_log_group(group, {})
    stream = f"AllTraffic/i-{container.short_id}"
    logs.create_log_stream(group, stream)
    now = int(time.time() * 1000)
    lines = container.logs().decode().splitlines()
    logs.put_log_events(group, stream, [{"timestamp": now, "message": line} for line in lines])


def background(backend, endpoint, work):
    def run():
        try:
            work()
        except Gone:
            pass
        except Exception as error:
            endpoint.endpoint_status, endpoint.failure_reason = "Failed", str(error)
        endpoint.last_modified_time = utcnow()

    threading.Thread(target=run, daemon=True).start()


def create_endpoint(self, endpoint_name, endpoint_config_name, tags):
    if endpoint_name in self.endpoints:
        arn = self.endpoints[endpoint_name].arn
        raise ValidationError(f'Cannot create already existing endpoint "{arn}".')
    check_quota(self, endpoint_config_name)
    endpoint = moto_create_endpoint(self, endpoint_name, endpoint_config_name, tags)
    endpoint.endpoint_status = "Creating"

    def work():
        fleet = start(self, endpoint, endpoint_config_name)
        fleet.weight = 1.0
        fleets[endpoint_name] = [fleet]
        endpoint.endpoint_status = "InService"

    background(self, endpoint, work)
    return endpoint


def update_endpoint(self):
    backend, name = self.sagemaker_backend, self._get_param("EndpointName")
    config, guard = self._get_param("EndpointConfigName"), self._get_param("DeploymentConfig") or {}
    backend.describe_endpoint(name)
    endpoint = backend.endpoints[name]
    if endpoint.endpoint_status != "InService":
        raise ValidationError(f'Cannot update in-progress endpoint "{endpoint.arn}".')
    check_quota(backend, config)
    refuse_other_machine(backend, endpoint, config)
    endpoint.endpoint_status, endpoint.failure_reason = "Updating", None
    endpoint.pending_deployment_summary = {"EndpointConfigName": config}
    background(backend, endpoint, lambda: shift(backend, endpoint, config, guard))
    return ActionResult({"EndpointArn": endpoint.arn})


def refuse_other_machine(backend, endpoint, config):
    """As AWS does while a scaling policy is on the variant."""
    old, new = (
        backend.describe_endpoint_config(each)["ProductionVariants"][0]["InstanceType"]
        for each in (endpoint.endpoint_config_name, config)
    )
    targets = scaling_backends[backend.account_id][backend.region_name].targets.get(DIMENSION, {})
    if old != new and f"endpoint/{endpoint.endpoint_name}/variant/AllTraffic" in targets:
        raise ValidationError("The variant is configured for automatic scaling: deregister it "
                              "before you change its instance type.")  # fmt: skip


def shift(backend, endpoint, config, guard):
    name = endpoint.endpoint_name
    old, green = fleets.get(name, []), None
    policy = guard.get("BlueGreenUpdatePolicy", {})
    routing = policy.get("TrafficRoutingConfiguration", {})
    rollback = guard.get("AutoRollbackConfiguration", {}).get("Alarms", [])

    def check():
        alive(backend, endpoint)
        ringing(backend, [alarm["AlarmName"] for alarm in rollback])

    def route(part):
        with choosing:
            green.weight = part
            for fleet in old:
                fleet.weight = 1 - part
            fleets[name] = [*old, green]

    try:
        green = start(backend, endpoint, config)
        if routing.get("Type") == "CANARY":
            route(routing["CanarySize"]["Value"] / 100)
            wait(routing["WaitIntervalInSeconds"], check)
        route(1.0)
        wait(policy.get("TerminationWaitInSeconds", 0), check)
        endpoint.endpoint_config_name = config
        fleets[name] = [green]
        for fleet in old:
            fleet.end()
    except Exception as error:
        endpoint.endpoint_status = "RollingBack"
        with choosing:
            for fleet in old:
                fleet.weight = 1.0
            fleets[name] = old
        if green:
            green.end()
        alive(backend, endpoint)
        time.sleep(0.2)
        endpoint.failure_reason = str(error)
    endpoint.pending_deployment_summary = None
    endpoint.endpoint_status = "InService"


def delete_endpoint(self, endpoint_name):
    self.describe_endpoint(endpoint_name)
    endpoint = self.endpoints[endpoint_name]
    if endpoint.endpoint_status in BUSY:
        raise ValidationError(f'Cannot update in-progress endpoint "{endpoint.arn}".')
    endpoint.endpoint_status = "Deleting"

    def work():
        time.sleep(0.2)
        alive(self, endpoint)
        moto_delete_endpoint(self, endpoint_name)
        stop(endpoint_name)

    background(self, endpoint, work)


def stop(name):
    for fleet in fleets.pop(name, []):
        fleet.end()


def invoke_endpoint(self):
    name = self.path.split("/")[2]
    with choosing:
        running = [fleet for fleet in fleets.get(name, []) if fleet.weight]
        if not running:
            raise ValidationError(f"Endpoint {name} of account {self.current_account} not found.")
        fleet = random.choices(running, [each.weight for each in running])[0]
        fleet.busy += 1
    try:
        return passed_on(self, name, fleet)
    finally:
        with choosing:
            fleet.busy -= 1


def passed_on(self, name, fleet):
    body = self.body if isinstance(self.body, bytes) else (self.body or "").encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{fleet.port}/invocations", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            headers = {"Content-Type": "application/json"}
            return 200, headers, answer.read()
    except urllib.error.HTTPError as error:
        said = error.read().decode()
        count_failure(self, name)
        message = f'Received server error ({error.code}) from primary with message "{said}".'
        refusal = {"Message": message, "OriginalStatusCode": error.code, "OriginalMessage": said}
        headers = {"status": 424, "x-amzn-ErrorType": "ModelError",
                   "Content-Type": "application/json"}  # fmt: skip
        return 424, headers, json.dumps(refusal)


def count_failure(response, name):
    """What CloudWatch does with the endpoint's metric and its alarms."""
    for alarm in cloudwatch_backends[response.current_account][response.region].alarms.values():
        of_this = any(each.value == name for each in alarm.dimensions or [])
        if of_this and alarm.metric_name == "Invocation5XXErrors":
            alarm.update_state("Threshold Crossed", "{}", "ALARM")


def once(kind, there, create):
    """Refuse a second thing of the same name."""

    def checked(self, *args, **kwargs):
        name = kwargs.get(f"{kind}_name") or args[0]
        if name in there(self):
            raise ValidationError(f"Cannot create already existing {kind} {name}.")
        return create(self, *args, **kwargs)

    return checked


def delete_model(self, model_name):
    used = [c for c in self.endpoint_configs.values()
            if c.production_variants[0]["ModelName"] == model_name
            and any(e.endpoint_config_name == c.endpoint_config_name
                    for e in self.endpoints.values())]  # fmt: skip
    if used:
        raise ResourceInUseException(f"{model_name} runs")  # stricter than AWS, on purpose
    moto_delete_model(self, model_name)


def deregister_scalable_target(self, namespace, r_id, dimension):
    moto_deregister(self, namespace, r_id, dimension)
    for key, policy in list(self.policies.items()):
        if policy.resource_id == r_id:
            del self.policies[key]


def reset(self):
    self.endpoints.clear()
    for name in list(fleets):
        stop(name)
    moto_reset(self)


moto_create_endpoint = SageMakerModelBackend.create_endpoint
moto_delete_endpoint = SageMakerModelBackend.delete_endpoint
moto_delete_model = SageMakerModelBackend.delete_model
moto_deregister = ApplicationAutoscalingBackend.deregister_scalable_target
moto_reset = SageMakerModelBackend.reset


def install():
    backend = SageMakerModelBackend
    FakeEndpointConfig.validate_instance_type = lambda self, instance_type: None
    backend.create_model = once("model", lambda b: b._models, backend.create_model)
    backend.create_endpoint_config = once(
        "endpoint_config", lambda b: b.endpoint_configs, backend.create_endpoint_config
    )
    backend.create_endpoint = create_endpoint
    backend.delete_endpoint = delete_endpoint
    backend.delete_model = delete_model
    backend.reset = reset
    SageMakerResponse.update_endpoint = update_endpoint
    SageMakerRuntimeResponse.invoke_endpoint = invoke_endpoint
    ApplicationAutoscalingBackend.deregister_scalable_target = deregister_scalable_target


def serve():
    global engine, server, speed
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--speed", type=float, default=1.0)
    given = parser.parse_args()
    server, speed = given.port, given.speed
    engine = docker.DockerClient(base_url=given.engine, timeout=60)
    install()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        main(["-H", "127.0.0.1", "-p", given.port])
    finally:
        for container in engine.containers.list(all=True, filters={"label": f"{LABEL}={server}"}):
            container.remove(force=True)


if __name__ == "__main__":
    serve()
