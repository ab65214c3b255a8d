"""Deploying to SageMaker: moto's server with endpoints that really run the image's container.

The twin is a small HTTP server that plays a version: good, one that crashes, answers 500, cites
nothing or is slow. What AWS counts in minutes takes a second here.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from llm_twin.delivery.buildkit import Recipe, build
from llm_twin.delivery.context import context_tar
from llm_twin.delivery.deploy import sagemaker_endpoint
from llm_twin.delivery.deploy.deployments import DeployFailed, deploy, rollback, undeploy
from llm_twin.delivery.deploy.journal import Journal
from llm_twin.delivery.deploy.sagemaker import SageMaker
from llm_twin.delivery.deploy.sagemaker_endpoint import Endpoint
from llm_twin.delivery.deploy.steps import Deployment
from llm_twin.delivery.reference import Reference
from llm_twin.delivery.registry import OCI_MANIFEST, Registry
from llm_twin.errors import BusyError, ConfigError, RemoteError
from llm_twin.settings import Settings
from tests.integration.registry_fixtures import (
    ACCOUNT,
    ECR_HOST,
    REGION,
    docker_registry,
    free_port,
    running_http,
    wait_until_it_answers,
)
from tests.integration.sagemaker_server import LABEL, QUOTA_TYPE

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {"question": "What is a twin?", "citation": "docs/why.md"}
TARGETS = "sagemaker:variant:DesiredInstanceCount"
APP = """
import http.server, json, os, sys, time

KIND, VERSION = os.environ["KIND"], os.environ["VERSION"]
GOOD = {"text": "…", "abstained": False, "version": VERSION,
        "citations": [{"title": "Why", "link": "docs/why.md"}]}

class Twin(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, {})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["question"]
        if KIND == "slow":
            time.sleep(1.5)
        if KIND == "failing":
            return self.answer(500, {"error": "the index is gone"})
        self.answer(200, GOOD | ({"citations": []} if KIND == "uncited" else {}))

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass

if KIND == "crashing":
    sys.exit("the model file is missing")
http.server.ThreadingHTTPServer(("", 8080), Twin).serve_forever()
"""
DOCKERFILE = """
ARG BASE
FROM ${BASE}
COPY app.py /app.py
ARG KIND
ARG VERSION
ENV KIND=${KIND} VERSION=${VERSION}
ENTRYPOINT ["python3", "-u", "/app.py"]
"""
DRIVER = """
import json, os, signal, sys
from dataclasses import replace
from pathlib import Path
from llm_twin.delivery.deploy import deployments
from llm_twin.delivery.deploy.journal import Journal
from llm_twin.delivery.deploy.sagemaker import SageMaker
from llm_twin.errors import TwinError
from llm_twin.settings import Settings

asked = json.loads(sys.argv[1])

def die(moment):
    if asked["kill"] == moment:
        os.kill(os.getpid(), signal.SIGKILL)

def deadly(work, moment):
    def run():
        die("before " + moment)
        done = work()
        die("after " + moment)
        return done
    return run

class Deadly(SageMaker):
    def mortal(self, steps):
        return [replace(step, do=deadly(step.do, step.name),
                        undo=deadly(step.undo, "undo of " + step.name)) for step in steps]
    def steps(self, *given):
        return self.mortal(super().steps(*given))
    def removal(self, *given):
        return self.mortal(super().removal(*given))

def tell(line):
    print(line, flush=True)
    if asked["kill"] and asked["kill"] in line:
        os.kill(os.getpid(), signal.SIGKILL)

settings = Settings(home=Path(asked["home"]), **asked["settings"])
target = Deadly(settings, tell=tell, labels=lambda ref: {}, pause=0.05)
journal = Journal(settings.home)
try:
    if asked["do"] == "recover":
        print([one.state for one in deployments.recover(journal, [target], print)])
    elif asked["do"] == "undeploy":
        deployments.undeploy(journal, target)
    else:
        deployments.deploy(journal, target, asked["image"], asked["digest"], asked["options"])
except TwinError as error:
    sys.exit(str(error))
"""


@pytest.fixture(scope="module")
def server(engine, images):
    """The server, and AWS's SDK pointed to it; its address. Ends before the images do."""
    port = free_port()
    command = [sys.executable, "-m", "tests.integration.sagemaker_server", "--port", str(port),
               "--engine", engine.address.host, "--speed", "120"]  # fmt: skip
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",  # pragma: allowlist secret
        "AWS_MAX_ATTEMPTS": "1",
    }
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        wait_until_it_answers(port, alive=lambda: process.poll() is None)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            yield environment["AWS_ENDPOINT_URL"]
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            left = engine.api.containers(all=True, filters={"label": f"{LABEL}={port}"})
            for container in left:
                engine.api.remove_container(container["Id"], force=True)
    assert not left


@pytest.fixture(scope="module")
def images(engine, base_image, tmp_path_factory):
    """Give the id of an image that plays a version; each is built once."""
    folder, built = tmp_path_factory.mktemp("twin"), {}
    (folder / "app.py").write_text(APP)
    (folder / "Dockerfile").write_text(DOCKERFILE)

    def image(version, kind="good"):
        if version not in built:
            args = {"BASE": base_image, "KIND": kind, "VERSION": version}
            recipe = Recipe(build_args=args)
            built[version] = build(engine, context_tar(folder), recipe).image_id
        return built[version]

    yield image
    for digest in built.values():
        engine.api.remove_image(digest, force=True)


def post(url, data=b""):
    request = urllib.request.Request(url, data, {"Content-Type": "text/plain"}, method="POST")
    urllib.request.urlopen(request, timeout=30).close()


def client(service):
    return boto3.client(service, region_name=REGION)


class Cloud:
    """An account with one repository, what is in it, and a journal of deployments."""

    def __init__(self, server, images, home):
        post(f"{server}/moto-api/reset")
        self.url = server
        self.sagemaker, self.cloudwatch = client("sagemaker"), client("cloudwatch")
        self.scaling, self.runtime = client("application-autoscaling"), client("sagemaker-runtime")
        self.ecr = client("ecr")
        self.ecr.create_repository(repositoryName="llm-twin")
        self._images, self._pushed = images, set()
        self.settings = Settings(home=home, aws_region=REGION, sagemaker_bake=120)
        self.journal = Journal(home)
        self.said = []

    def image(self, version, kind="good"):
        """Push a version; its digest."""
        digest = self._images(version, kind)
        if digest not in self._pushed:
            self._pushed.add(digest)
            self.ecr.put_image(
                repositoryName="llm-twin",
                imageManifest=json.dumps({"mediaType": OCI_MANIFEST, "layers": [], "for": digest}),
                imageTag=version,
                imageDigest=digest,
            )
        return digest

    def target(self, session=None, **settings):
        return SageMaker(
            replace(self.settings, **settings),
            session,
            tell=self.said.append,
            labels=lambda ref: {"org.opencontainers.image.revision": "c0ffee"},
            pause=0.05,
        )

    def deploy(self, version, kind="good", *, options=None, **settings):
        digest = self.image(version, kind)
        image = f"{ECR_HOST}/llm-twin@{digest}"
        target, options = self.target(**settings), OPTIONS | (options or {})
        return deploy(self.journal, target, image, digest, options, self.said.append)

    def ask(self):
        body = json.dumps({"question": "hi"})
        answer = self.runtime.invoke_endpoint(EndpointName="llm-twin", Body=body)
        return json.loads(answer["Body"].read())["version"]

    def serving(self):
        """The versions that answer, of ten questions."""
        return {self.ask() for _ in range(10)}

    def state(self):
        """Everything in the account that deployments may make."""
        sm = self.sagemaker
        models = {one["ModelName"] for one in sm.list_models()["Models"]}
        configs = sm.list_endpoint_configs()["EndpointConfigs"]
        return {
            "endpoints": [
                (one["EndpointName"], one["EndpointStatus"])
                for one in sm.list_endpoints()["Endpoints"]
            ],
            "models": models,
            "configs": {one["EndpointConfigName"] for one in configs},
            "alarms": {
                one["AlarmName"] for one in self.cloudwatch.describe_alarms()["MetricAlarms"]
            },
            "targets": [
                (one["ResourceId"], one["MinCapacity"], one["MaxCapacity"])
                for one in self.scaling.describe_scalable_targets(ServiceNamespace="sagemaker")[
                    "ScalableTargets"
                ]
            ],
            "policies": [
                one["PolicyName"]
                for one in self.scaling.describe_scaling_policies(ServiceNamespace="sagemaker")[
                    "ScalingPolicies"
                ]
            ],
        }

    def config(self):
        return self.sagemaker.describe_endpoint(EndpointName="llm-twin")["EndpointConfigName"]


NOTHING = {"endpoints": [], "models": set(), "configs": set(), "alarms": set(), "targets": [],
           "policies": []}  # fmt: skip


@pytest.fixture
def cloud(server, images, tmp_path):
    return Cloud(server, images, tmp_path)


class Readers:
    """Somebody who asks all the time, and what came of it."""

    def __init__(self, cloud):
        self._cloud, self.seen, self.failed = cloud, set(), []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join(30)

    def _run(self):
        while not self._end.wait(0.02):
            try:
                self.seen.add(self._cloud.ask())
            except ClientError as error:
                self.failed.append(str(error))


def containers(engine, server):
    port = server.rpartition(":")[2]
    return engine.api.containers(filters={"label": f"{LABEL}={port}"})


def test_the_first_deployment_makes_all_of_it(cloud):
    done = cloud.deploy("v1")
    name = f"llm-twin-{done.id}"
    assert cloud.serving() == {"v1"}
    assert cloud.state() == {
        "endpoints": [("llm-twin", "InService")],
        "models": {name},
        "configs": {name},
        "alarms": {"llm-twin-errors", "llm-twin-latency"},
        "targets": [("endpoint/llm-twin/variant/AllTraffic", 1, 2)],
        "policies": ["llm-twin-load"],
    }
    model = cloud.sagemaker.describe_model(ModelName=name)
    assert model["PrimaryContainer"]["Image"] == done.image
    assert model["ExecutionRoleArn"] == f"arn:aws:iam::{ACCOUNT}:role/llm-twin-endpoint"
    (variant,) = cloud.sagemaker.describe_endpoint_config(EndpointConfigName=name)[
        "ProductionVariants"
    ]
    assert (variant["InstanceType"], variant["InitialInstanceCount"]) == ("ml.m5.large", 1)
    tags = cloud.sagemaker.list_tags(ResourceArn=model["ModelArn"])["Tags"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {
        "llm-twin:endpoint": "llm-twin",
        "llm-twin:deployment": done.id,
        "llm-twin:digest": done.digest,
        "llm-twin:commit": "c0ffee",
    }
    assert any(line.startswith("endpoint llm-twin: Creating, 0 s") for line in cloud.said)
    assert (
        cloud.target().describe(done) == "endpoint llm-twin in eu-central-1 (ml.m5.large, up to 2)"
    )


def test_a_new_version_gets_a_part_of_the_traffic_first_and_no_question_fails(cloud, engine):
    first = cloud.deploy("v1")
    with Readers(cloud) as readers:
        second = cloud.deploy("v2", sagemaker_canary=50)
    assert readers.seen == {"v1", "v2"}
    assert readers.failed == []
    assert cloud.serving() == {"v2"}
    assert len(containers(engine, cloud.url)) == 1
    third = cloud.deploy("v1")
    kept = {f"llm-twin-{one.id}" for one in (second, third)}
    assert (cloud.state()["models"], cloud.state()["configs"]) == (kept, kept)
    assert first.id not in str(cloud.state())
    assert cloud.serving() == {"v1"}


def test_a_version_that_fails_on_the_canary_is_taken_back_by_its_alarm(cloud):
    live = cloud.deploy("v1")
    with pytest.raises(DeployFailed) as failed:
        # No reader asks: the deployment itself gives the alarm something to see.
        cloud.deploy("broken", "failing", sagemaker_canary=50, sagemaker_bake=3600)
    assert "SageMaker took the new version back: alarm llm-twin-errors" in str(failed.value)
    assert f"{live.id}" in str(failed.value)
    assert cloud.serving() == {"v1"}
    assert cloud.state()["models"] == {f"llm-twin-{live.id}"} == cloud.state()["configs"]
    assert any("RollingBack" in line for line in cloud.said)


def test_an_alarm_that_rings_before_is_left_out_so_that_a_repair_can_be_deployed(cloud):
    cloud.deploy("v1")
    cloud.cloudwatch.set_alarm_state(
        AlarmName="llm-twin-errors", StateValue="ALARM", StateReason="t"
    )
    cloud.deploy("v2")
    assert "llm-twin-errors: rings already, so it cannot judge the new version" in cloud.said
    assert cloud.serving() == {"v2"}


def test_a_container_that_exits_leaves_the_old_one_and_shows_its_last_lines(cloud):
    live = cloud.deploy("v1")
    with Readers(cloud) as readers, pytest.raises(DeployFailed) as failed:
        cloud.deploy("crash", "crashing")
    assert "did not pass the ping health check" in str(failed.value)
    assert "Its last lines were: the model file is missing" in str(failed.value)
    assert (readers.seen, readers.failed) == ({"v1"}, [])
    assert cloud.config() == f"llm-twin-{live.id}"
    assert cloud.state()["models"] == {f"llm-twin-{live.id}"}


def test_an_alarm_that_rang_before_is_not_taken_for_the_cause(cloud):
    cloud.deploy("v1")
    cloud.cloudwatch.set_alarm_state(
        AlarmName="llm-twin-errors", StateValue="ALARM", StateReason="t"
    )
    with pytest.raises(DeployFailed, match=r"does not come up .*the model file is missing"):
        cloud.deploy("crash", "crashing")


def test_a_journal_is_that_of_one_endpoint(cloud):
    cloud.deploy("v1")
    with pytest.raises(DeployFailed, match="this journal is that of another endpoint"):
        cloud.deploy("v2", sagemaker_endpoint="llm-twin-staging")
    assert [name for name, _ in cloud.state()["endpoints"]] == ["llm-twin"]


def test_a_first_version_that_does_not_start_leaves_nothing(cloud, engine):
    with pytest.raises(DeployFailed, match=r"Nothing was live before.*the model file is missing"):
        cloud.deploy("crash", "crashing")
    assert cloud.state() == NOTHING
    assert containers(engine, cloud.url) == []


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("uncited", {}, "it cited nothing: What is a twin?"),
        ("slow", {"latency": "1"}, "it answers too slowly"),
        ("good", {"citation": "docs/other.md"}, r"it did not cite docs/other\.md"),
    ],
)
def test_what_no_alarm_sees_the_smoke_test_finds_and_the_old_one_is_put_back(
    cloud, kind, options, words
):
    live = cloud.deploy("v1")
    with Readers(cloud) as readers, pytest.raises(DeployFailed, match=words):
        cloud.deploy(f"bad-{kind}", kind, options=options, sagemaker_bake=0)
    assert readers.failed == []
    assert cloud.serving() == {"v1"}
    assert cloud.config() == f"llm-twin-{live.id}"
    assert cloud.state()["models"] == {f"llm-twin-{live.id}"}
    assert cloud.state()["targets"]


def test_a_version_that_fails_at_once_is_put_back_also_without_an_alarm(cloud):
    cloud.deploy("v1")
    cloud.cloudwatch.set_alarm_state(
        AlarmName="llm-twin-errors", StateValue="ALARM", StateReason="t"
    )
    with pytest.raises(DeployFailed, match=r"it answered 500 \(the index is gone\)"):
        cloud.deploy("broken", "failing", sagemaker_bake=0)
    assert cloud.serving() == {"v1"}


def test_rollback_puts_the_version_before_live_again(cloud):
    cloud.deploy("v1")
    cloud.deploy("v2")
    rollback(cloud.journal, cloud.target())
    assert cloud.serving() == {"v1"}


def test_undeploy_leaves_nothing_also_of_what_the_journal_does_not_know(cloud, engine, tmp_path):
    cloud.deploy("v1")
    cloud.deploy("v2")
    other = Journal(tmp_path / "another-machine")
    undeploy(other, cloud.target())
    assert cloud.state() == NOTHING
    assert containers(engine, cloud.url) == []
    undeploy(other, cloud.target())
    assert cloud.state() == NOTHING


def test_endpoints_of_the_same_account_do_not_touch_each_other(cloud):
    cloud.deploy("v1")
    before = cloud.state()
    journal = Journal(cloud.settings.home / "staging")
    staging = cloud.target(sagemaker_endpoint="llm-twin-staging")
    digest = cloud.image("v2")
    deploy(journal, staging, f"{ECR_HOST}/llm-twin@{digest}", digest, OPTIONS)
    assert len(cloud.state()["endpoints"]) == 2
    undeploy(cloud.journal, cloud.target())
    assert [name for name, _ in cloud.state()["endpoints"]] == ["llm-twin-staging"]
    assert len(cloud.state()["models"]) == 1
    undeploy(journal, staging)
    assert before["endpoints"]
    assert cloud.state() == NOTHING


def test_another_type_of_machine_and_back_keeps_the_scaling(cloud):
    cloud.deploy("v1")
    cloud.deploy("v2", sagemaker_instance="ml.g5.xlarge", sagemaker_max_instances=3)
    assert cloud.state()["targets"] == [("endpoint/llm-twin/variant/AllTraffic", 1, 3)]
    with pytest.raises(DeployFailed, match="it cited nothing"):
        cloud.deploy("bad-uncited", "uncited", sagemaker_instance="ml.m5.large")
    assert cloud.state()["targets"] == [("endpoint/llm-twin/variant/AllTraffic", 1, 3)]
    assert cloud.state()["policies"] == ["llm-twin-load"]
    assert cloud.serving() == {"v2"}


def test_an_endpoint_that_failed_is_made_anew(cloud):
    """As another machine leaves it that was killed and never recovered."""
    asked = order(cloud, "deploy", "before wait", "crash", "crashing")
    drive(asked, killed=True)
    settle(cloud)
    elsewhere = Journal(cloud.settings.home / "elsewhere")
    digest = cloud.image("v1")
    deploy(elsewhere, cloud.target(), f"{ECR_HOST}/llm-twin@{digest}", digest, OPTIONS)
    assert cloud.serving() == {"v1"}
    assert len(cloud.state()["models"]) == 1


def settle(cloud):
    for _ in range(300):
        status = cloud.sagemaker.describe_endpoint(EndpointName="llm-twin")["EndpointStatus"]
        if status not in ("Creating", "Updating", "RollingBack"):
            return
        time.sleep(0.1)
    pytest.fail(f"the endpoint is still {status}")


# What is refused before anything is made


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/llm-twin", "region eu-central-1 only"),
        ("210987654321.dkr.ecr.eu-central-1.amazonaws.com/llm-twin", f"account {ACCOUNT}, region"),
        ("localhost:5000/llm-twin", "SageMaker runs images from ECR in account"),
        (f"{ECR_HOST}/llm-twin", "ECR has no such image"),
        (f"{ECR_HOST}/other", "ECR has no such repository"),
    ],
)
def test_an_image_that_sagemaker_cannot_run_is_refused(cloud, image, words):
    digest = f"sha256:{'0' * 64}"
    with pytest.raises(DeployFailed, match=words):
        deploy(cloud.journal, cloud.target(), f"{image}@{digest}", digest, OPTIONS)
    assert cloud.state() == NOTHING


def test_a_quota_is_named_with_where_to_ask_for_more(cloud):
    live = cloud.deploy("v1")
    with pytest.raises(DeployFailed) as failed:
        cloud.deploy("v2", sagemaker_instance=QUOTA_TYPE)
    assert f"limit of {QUOTA_TYPE} for endpoint usage is 0" in str(failed.value)
    assert "Service Quotas" in str(failed.value)
    assert cloud.serving() == {"v1"}
    assert cloud.state()["models"] == {f"llm-twin-{live.id}"}
    assert cloud.state()["targets"]


def test_an_endpoint_that_is_not_ours_is_left_alone(cloud):
    role = f"arn:aws:iam::{ACCOUNT}:role/somebody"
    image = f"{ECR_HOST}/llm-twin@{cloud.image('v1')}"
    cloud.sagemaker.create_model(
        ModelName="theirs", PrimaryContainer={"Image": image}, ExecutionRoleArn=role
    )
    variant = {"VariantName": "AllTraffic", "ModelName": "theirs", "InitialInstanceCount": 1,
               "InstanceType": "ml.m5.large"}  # fmt: skip
    cloud.sagemaker.create_endpoint_config(
        EndpointConfigName="theirs", ProductionVariants=[variant]
    )
    cloud.sagemaker.create_endpoint(EndpointName="llm-twin", EndpointConfigName="theirs")
    settle(cloud)
    before = cloud.state()
    with pytest.raises(DeployFailed, match=r"taken by something that llm-twin did not make"):
        cloud.deploy("v2")
    with pytest.raises(DeployFailed, match=r"taken by something that llm-twin did not make"):
        undeploy(cloud.journal, cloud.target())
    assert cloud.state() == before


def test_an_endpoint_that_somebody_changes_is_not_touched(cloud):
    cloud.deploy("v1")
    cloud.image("v3")
    asked = order(cloud, "deploy", "before wait", "v2", sagemaker_bake=3600)
    asked["home"] += "/another-machine"
    drive(asked, killed=True)
    before = cloud.state()
    with pytest.raises(DeployFailed, match=r"the endpoint is Updating: llm-twin. .*InService"):
        cloud.deploy("v3")
    assert cloud.state() == before


@contextlib.contextmanager
def lacking(cloud, action):
    """A session whose every request is allowed but one, and AWS looks."""
    iam = client("iam")
    iam.create_user(UserName="deployer")
    statements = [{"Effect": "Allow", "Action": "*", "Resource": "*"},
                  {"Effect": "Deny", "Action": action, "Resource": "*"}]  # fmt: skip
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    iam.put_user_policy(UserName="deployer", PolicyName="all-but-one", PolicyDocument=policy)
    key = iam.create_access_key(UserName="deployer")["AccessKey"]
    post(f"{cloud.url}/moto-api/reset-auth", b"0")
    try:
        yield boto3.Session(key["AccessKeyId"], key["SecretAccessKey"], region_name=REGION)
    finally:
        post(f"{cloud.url}/moto-api/reset-auth", b"inf")


@pytest.mark.parametrize(
    "action",
    [
        "sagemaker:DescribeEndpoint",
        "sagemaker:CreateModel",
        "sagemaker:UpdateEndpoint",
        "sagemaker:InvokeEndpoint",
        "application-autoscaling:PutScalingPolicy",
    ],
)
def test_a_missing_permission_is_named_and_the_old_one_serves(cloud, action):
    live = cloud.deploy("v1")
    cloud.image("v2")
    with lacking(cloud, action) as session, pytest.raises(DeployFailed, match=action):
        cloud.deploy("v2", session=session, sagemaker_bake=0)
    assert cloud.serving() == {"v1"}
    assert cloud.config() == f"llm-twin-{live.id}"


def test_a_first_deployment_that_lacks_a_permission_at_the_end_leaves_nothing(cloud):
    action = "application-autoscaling:PutScalingPolicy"
    cloud.image("v1")
    with lacking(cloud, action) as session, pytest.raises(DeployFailed, match=action):
        cloud.deploy("v1", session=session)
    assert cloud.state() == NOTHING


def test_every_step_may_be_done_twice(cloud):
    digest = cloud.image("v1")
    one = Deployment("1", "sagemaker", f"{ECR_HOST}/llm-twin@{digest}", digest, "deploy")
    steps = cloud.target().steps(one, None)
    for step in steps:
        one.facts |= step.do() or {}
        one.facts |= step.do() or {}
    assert cloud.serving() == {"v1"}
    (removed,) = [step for step in steps if step.name == "endpoint"]
    for step in [*reversed(steps), *reversed(steps)]:
        step.undo()
    assert (removed.commits, cloud.state()) == (False, NOTHING)
    with pytest.raises(RemoteError, match="the endpoint was deleted meanwhile: llm-twin"):
        next(step for step in steps if step.name == "wait").do()


def do_all(steps):
    for step in steps:
        step.do()


def test_what_another_machine_deployed_meanwhile_is_not_overwritten(cloud):
    cloud.deploy("v1")
    digest = cloud.image("v2")
    one = Deployment("1", "sagemaker", f"{ECR_HOST}/llm-twin@{digest}", digest, "deploy")
    check, *more = cloud.target().steps(one, None)
    one.facts |= check.do()
    elsewhere = cloud.deploy("v3")
    with pytest.raises(BusyError, match="another machine deployed meanwhile: llm-twin"):
        do_all(more)
    for step in reversed(more):
        step.undo()
    assert cloud.serving() == {"v3"}
    assert f"llm-twin-{elsewhere.id}" in cloud.state()["models"]
    assert "llm-twin-1" not in cloud.state()["models"]


def test_an_endpoint_that_takes_too_long_is_said_to(cloud):
    cloud.deploy("v1")
    drive(order(cloud, "deploy", "before wait", "v2", sagemaker_bake=3600), killed=True)
    endpoint = Endpoint(cloud.target().session(REGION), "llm-twin", cloud.said.append, 0.05)
    with pytest.raises(
        RemoteError, match=r"still Updating after \d s: llm-twin\. .*invoke recover"
    ):
        endpoint.settle(limit=0)


def test_an_answer_that_does_not_come_is_one_of_504(monkeypatch):
    """After 60 seconds; here a fifth of one."""
    monkeypatch.setattr(sagemaker_endpoint, "ANSWER", 0.2)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")  # pragma: allowlist secret

    def late(asked):
        time.sleep(1)
        return 200, {}, b"{}"

    with running_http(late) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        endpoint = Endpoint(boto3.Session(region_name=REGION), "llm-twin", print)
        assert endpoint.ask("hi")[:2] == (504, {})


@pytest.mark.parametrize("body", [b"not JSON", b"[1]"])
def test_an_answer_that_is_no_object_is_an_empty_one(monkeypatch, body):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")  # pragma: allowlist secret
    with running_http(lambda asked: (200, {}, body)) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        endpoint = Endpoint(boto3.Session(region_name=REGION), "llm-twin", print)
        assert endpoint.ask("hi")[:2] == (200, {})


def test_the_labels_of_the_image_tell_what_to_ask(tmp_path):
    config = {"config": {"Labels": {"llm-twin.smoke-question": "What?"}}}
    with docker_registry(tmp_path) as host:
        registry = Registry.open(host)
        digest = registry.put_blob("llm-twin", json.dumps(config).encode())
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [],
                    "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                               "digest": digest, "size": 1}}  # fmt: skip
        ref = Reference.parse(f"{host}/llm-twin:one")
        registry.put_manifest(ref, json.dumps(manifest).encode())
        target = SageMaker(Settings())
        assert target.labels(ref) == config["config"]["Labels"]
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
                 "manifests": []}  # fmt: skip
        many = ref.tagged("many")
        registry.put_manifest(many, json.dumps(index).encode(), index["mediaType"])
        with pytest.raises(ConfigError, match="no image for several platforms"):
            target.labels(many)


# kill -9, then another process


def order(cloud, do, kill="", version="", kind="good", **settings):
    digest = cloud.image(version, kind) if version else ""
    return {
        "do": do,
        "kill": kill,
        "home": str(cloud.settings.home),
        "settings": {"aws_region": REGION, "sagemaker_bake": 0, **settings},
        "image": f"{ECR_HOST}/llm-twin@{digest}",
        "digest": digest,
        "options": OPTIONS,
    }


def drive(asked, killed=False):
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(asked)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == (-9 if killed else 0), done.stdout + done.stderr
    return done.stdout


def recovered(cloud):
    """Recover as another machine, twice; what the first one said."""
    asked = order(cloud, "recover", sagemaker_endpoint="llm-twin-elsewhere")
    asked["settings"] |= {"aws_region": "us-east-1", "sagemaker_instance": "ml.c5.large"}
    said = drive(asked)
    settled = cloud.state()
    assert drive(asked).splitlines()[-1] == "[]"
    assert cloud.state() == settled
    return said
