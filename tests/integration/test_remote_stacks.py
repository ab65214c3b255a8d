"""Training elsewhere against a real ZenML server: stacks, jobs that run, and jobs that go wrong.

The jobs are real processes with the entrypoint that ZenML gives them; only the machines that would
run them are stood in for. What is needed takes seconds to start, so several runs go on at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest

from llm_twin.ct import work
from llm_twin.model.bundles import Bundles
from llm_twin.settings import Settings
from tests.integration import kubernetes_stub, sagemaker_jobs, zenml_server
from tests.integration.registry_fixtures import free_port, wait_until_it_answers

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
HOST = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
IMAGE = f"{HOST}/llm-twin@sha256:{'0' * 64}"
ROLE = "arn:aws:iam::123456789012:role/llm-twin-train"
KEY = "a-key-for-a-model"  # pragma: allowlist secret
PASSWORD = "a-password-of-a-channel"  # pragma: allowlist secret
TIMES = {"start": "200s", "silence": "15s", "time": "5m"}
TIMEOUT = 240
PROGRAM = Path(__file__).with_name("remote_program.py")


class Program:
    """A process with steps to do, one after the other, in a state folder."""

    def __init__(self, site: Site, name: str, *steps: dict, **environment: str) -> None:
        self.home = site.folder / name
        self.answers, self.log = self.home / "answers.json", self.home / "log"
        self.home.mkdir(parents=True, exist_ok=True)
        self.answers.unlink(missing_ok=True)
        said = {"src": str(site.src), "steps": steps, "answers": str(self.answers)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, PROGRAM, json.dumps(said)], cwd=self.home, stdout=log,
                stderr=log, env={**site.environment, "TWIN_HOME": str(self.home), **environment},
            )  # fmt: skip

    def text(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def until(self, said: str, path: Path | None = None) -> None:
        """Wait for words in what it prints, or in another file."""
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            alive = self.process.poll() is None
            if said in (path.read_text() if path else self.text()):
                return
            assert alive, self.text()[-4000:]
            time.sleep(0.1)
        pytest.fail(f"never said {said!r}: {self.text()[-4000:]}")

    def done(self) -> list[dict]:
        self.process.wait(TIMEOUT)
        assert self.answers.exists(), self.text()[-6000:]
        return json.loads(self.answers.read_text())

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)


class Site:
    """The server, the places that jobs run at, and a corpus."""

    def __init__(self, folder: Path, server: zenml_server.Server, aws: str, cluster) -> None:
        self.folder, self.cluster, self.server = folder, cluster, server
        self.jobs = folder / "sagemaker"
        self.src = _source(folder / "src")
        self.corpus = folder / "notes"
        self.corpus.mkdir()
        for number in range(3):
            text = f"Training number {number} is done by machines that nobody has to watch. " * 6
            (self.corpus / f"note-{number}.md").write_text(f"# Note {number}\n\n{text}\n")
        names = ("PATH", "LANG", "HOME")
        self.environment = {name: os.environ[name] for name in names if name in os.environ}
        self.environment |= {
            **_aws(aws),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(self.src),
            "KUBECONFIG": str(cluster.kubeconfig),
            "TWIN_EMBEDDER": "words",
            "TWIN_ZENML_URL": server.url,
            "TWIN_ZENML_KEY": server.key,
            "TWIN_CT_IMAGE": IMAGE,
            "TWIN_CT_BUCKET": "s3://twin/ct",
            "TWIN_CT_ROLE": ROLE,
            "TWIN_CT_CONTEXT": "test",
            "TWIN_LLM_KEY": KEY,
            "TWIN_ALERT_URLS": f"team=json://alerts:{PASSWORD}@127.0.0.1:9/",
        }
        self.sagemaker = boto3.client(
            "sagemaker", "eu-central-1", endpoint_url=aws, aws_access_key_id="testing",
            aws_secret_access_key="testing",  # pragma: allowlist secret
        )  # fmt: skip

    def promoted(self, name: str) -> Path:
        """A state folder whose production has learned from this very corpus."""
        home = self.folder / name
        settings = Settings.load({"TWIN_HOME": str(home), "TWIN_EMBEDDER": "words"})
        rows, _ = work.collect(str(self.corpus), [], settings, lambda _: None)
        bundles = Bundles(home / "models")
        building = bundles.stage()
        chunks = work.split(rows, settings, lambda _: None)
        path = building / "index.db"
        work.build_index(chunks, None, path, "before", settings, lambda _: None)
        bundles.commit(building, "before", {"documents": []})
        bundles.promote("before")
        return home

    def running(self, version: str, stack: str, how: str = "", **said: object) -> dict:
        remote = {"stack": stack, "gpus": 0, **TIMES, **said}
        return {"do": "run", "corpus": str(self.corpus), "remote": remote, "version": version,
                "how": how}  # fmt: skip

    def job_of(self, instance: str) -> dict:
        """The one SageMaker job on machines of a type."""
        for one in self.sagemaker.list_training_jobs()["TrainingJobSummaries"]:
            told = self.sagemaker.describe_training_job(TrainingJobName=one["TrainingJobName"])
            if told["ResourceConfig"]["InstanceType"] == instance:
                return told
        raise AssertionError(instance)


def _source(folder: Path) -> Path:
    import shutil

    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src" / "llm_twin", folder / "llm_twin", ignore=ignored)
    shutil.copy(ROOT / "tests" / "integration" / "remote_pipeline.py", folder / "tiny.py")
    return folder


def _aws(url: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",  # pragma: allowlist secret
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextlib.contextmanager
def _serving(command: list[str], port: int) -> Iterator[None]:
    """Ends by SIGTERM, so that it ends the jobs that it runs."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        wait_until_it_answers(port, alive=lambda: process.poll() is None)
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("remote")
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        (folder / "sagemaker").mkdir()
        aws = f"http://127.0.0.1:{(port := free_port())}"
        for name, value in _aws(aws).items():
            patch.setenv(name, value)
        command = [sys.executable, "-m", "tests.integration.sagemaker_jobs", "--port", str(port),
                   "--folder", str(folder / "sagemaker")]  # fmt: skip
        stack.enter_context(_serving(command, port))
        cluster = stack.enter_context(kubernetes_stub.running(folder / "kubernetes"))
        server = stack.enter_context(zenml_server.running(folder / "zenml"))
        s3 = boto3.client("s3", "eu-central-1")
        s3.create_bucket(
            Bucket="twin", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
        )
        yield Site(folder, server, aws, cluster)


@pytest.fixture(scope="module")
def programs(site) -> Iterator[SimpleNamespace]:
    """Every run; three programs at once, which mostly wait for the machines of each other.

    The first one registers the stacks, so that the others find them.
    """
    site.promoted("first")
    site.promoted("pods")
    wrong = IMAGE.replace("/llm-twin@", "/missing@")
    role = {"TWIN_CT_ROLE": f"{ROLE}-2"}
    brief = {"start": "4s"}
    first = Program(
        site,
        "first",
        {"do": "register", "kind": "sagemaker"},
        {"do": "register", "kind": "sagemaker"},
        {"do": "register", "kind": "sagemaker", "env": role},
        {"do": "register", "kind": "kubernetes"},
        {"do": "register", "kind": "local"},
        {"do": "register", "kind": "sagemaker"},
        {**site.running("v-sagemaker", "sagemaker"), "send": True},
        site.running("v-never", "sagemaker", instance=sagemaker_jobs.NEVER, **brief),
        {**site.running("v-pull", "kubernetes"), "env": {"TWIN_CT_IMAGE": wrong}},
        site.running("v-full", "kubernetes", **{**brief, "gpus": 8}),
        {"do": "follow", "run": "x"},
        {"do": "here", "corpus": str(site.corpus), "version": "v-here"},
        {"do": "here", "corpus": str(site.corpus), "version": "v-bad", "how": "fail"},
    )
    started = [first]
    try:
        first.until("submitting to sagemaker")
        lost = site.running("v-lost", "sagemaker", "hang", instance=sagemaker_jobs.LOST)
        started.append(Program(site, "lost", lost))
        started.append(
            Program(
                site,
                "pods",
                site.running("v-pods", "kubernetes"),
                site.running("v-killed", "kubernetes", "hang"),
            )
        )
        yield SimpleNamespace(first=first, lost=started[1], pods=started[2])
    finally:
        for program in started:
            program.end()


def production(home: Path) -> str:
    found = Bundles(home / "models").production()
    return found.version if found else ""


def test_a_job_that_is_killed_is_noticed_and_production_stays(site, programs):
    programs.pods.until("still training")
    hanging = [each for each in site.cluster.containers.values() if each.ended() is None]
    assert len(hanging) == 1
    hanging[0].kill()
    well, answer = programs.pods.done()
    assert answer["kind"] == "RemoteError"
    assert "the job ended before the run did (Failed (BackoffLimitExceeded" in answer["error"]
    assert "exit code 137" in answer["error"]
    assert production(programs.pods.home) == well["bundle"] == "v-pods"


def test_a_kubernetes_job_makes_the_twin_and_its_token_is_a_secret_that_goes(site, programs):
    answer = programs.pods.done()[0]
    assert answer.get("bundle") == "v-pods", programs.pods.text()[-4000:]
    # Judged against what was in production here, and of an unchanged corpus all is reused.
    assert answer["report"]["before"] == "before"
    assert (answer["report"]["kept_documents"], answer["report"]["indexed"]) == (3, 0)
    assert "| reading 3/3 note-2.md" in programs.pods.text()
    (job,) = [one for one in site.cluster.held["jobs"].values()
              if one["metadata"]["labels"]["run_id"] == answer["run"]]  # fmt: skip
    spec = job["spec"]
    assert (spec["backoffLimit"], spec["ttlSecondsAfterFinished"]) == (0, 86400)
    assert spec["activeDeadlineSeconds"] == 300 + 200
    (main,) = spec["template"]["spec"]["containers"]
    (token,) = [one for one in main["env"] if one["name"] == "ZENML_STORE_API_TOKEN"]
    assert token["valueFrom"]["secretKeyRef"]["name"] not in site.cluster.held["secrets"]
    assert KEY not in json.dumps(job)


def test_ctrl_c_leaves_the_job_running_and_a_lost_machine_is_noticed_later(site, programs):
    programs.lost.until("still training")
    programs.lost.process.send_signal(signal.SIGINT)
    programs.lost.process.wait(60)
    said = programs.lost.text()
    (line,) = [line for line in said.splitlines() if "invoke ct.follow" in line]
    run = line.split()[-1]
    job = site.job_of(sagemaker_jobs.LOST)
    assert job["TrainingJobStatus"] == "InProgress"
    pid = int((site.jobs / job["TrainingJobName"] / "pid").read_text())
    os.killpg(pid, signal.SIGKILL)

    steps = [{"do": "follow", "run": run}, {"do": "stop", "run": run}]
    followed, stopped = Program(site, "again", *steps).done()
    assert "the job gave no sign of life for 15 s" in followed["error"]
    assert "the run is failed already" in stopped["error"]
    assert site.job_of(sagemaker_jobs.LOST)["TrainingJobStatus"] in ("Stopping", "Stopped")


def test_registering_twice_changes_nothing_and_another_setting_is_taken_over(programs):
    first, again, other, kubernetes, local, back = programs.first.done()[:6]
    assert first == again == back
    assert other["orchestrator"][0] == first["orchestrator"][0]
    assert other["orchestrator"][1]["execution_role"] == f"{ROLE}-2"
    assert kubernetes["orchestrator"][1]["pass_zenml_token_as_secret"] is True
    assert kubernetes["artifact_store"] == first["artifact_store"] == local["artifact_store"]
    assert first["artifact_store"][1]["path"] == "s3://twin/ct"
    assert first["container_registry"][1]["uri"] == HOST
    assert first["alerter"][1]["direct"] is True
    assert PASSWORD not in json.dumps(programs.first.done())


def test_a_sagemaker_job_makes_the_twin_that_is_in_production_afterwards(programs):
    answer, said = programs.first.done()[6], programs.first.text()
    assert answer.get("bundle") == "v-sagemaker", said[-4000:]
    assert answer["report"]["before"] == "before"
    assert (answer["report"]["kept_documents"], answer["report"]["indexed"]) == (3, 0)
    assert answer["report"]["TWIN_REMOTE"] == "1"
    assert answer["report"]["TWIN_LLM_KEY"] == KEY
    assert "is at s3://twin/ct already" in said
    for line in ("job: InProgress: Training", "step index: completed", "run: completed",
                 "| reading 3/3 note-2.md"):  # fmt: skip
        assert line in said
    (code,) = [line for line in said.splitlines() if "| code is at" in line]
    assert code.endswith("app/code/llm_twin")


def test_the_sagemaker_job_is_what_the_profile_says_and_holds_no_key(site, programs):
    programs.first.done()
    job = site.job_of("ml.g5.2xlarge")
    assert job["AlgorithmSpecification"]["TrainingImage"] == IMAGE
    assert job["RoleArn"] == ROLE
    assert job["StoppingCondition"]["MaxRuntimeInSeconds"] == 300
    assert "KeepAlivePeriodInSeconds" not in job["ResourceConfig"]
    assert job["CheckpointConfig"] == {
        "S3Uri": "s3://twin/ct/checkpoints/tested", "LocalPath": "/opt/ml/checkpoints",
    }  # fmt: skip
    assert KEY not in json.dumps(job, default=str)
    assert site.server.key not in json.dumps(job, default=str)


def test_jobs_that_never_start_are_named_and_stopped(site, programs):
    answers = programs.first.done()
    never, pull, full = (answer["error"] for answer in answers[7:10])
    assert "the job did not begin within 4 s (InProgress: Pending)" in never
    assert "Production is what it was" in never
    assert site.job_of(sagemaker_jobs.NEVER)["TrainingJobStatus"] == "Stopped"
    assert 'ImagePullBackOff: Back-off pulling image "llm-twin"' in pull
    assert "did not begin within 4 s (Unschedulable: 0/3 nodes are available" in full
    assert programs.first.text().count("is stopped") == 3


def test_what_is_wrong_with_the_server_or_the_run_is_said_in_one_line(site, programs):
    refused = Program(site, "refused", {"do": "follow", "run": "x"}, TWIN_ZENML_KEY="ZENKEY_none")
    nobody = Program(site, "nobody", TWIN_ZENML_URL=f"http://127.0.0.1:{free_port()}")
    assert "the ZenML server refused the key" in refused.done()[0]["error"]
    assert "the ZenML server cannot be reached (" in nobody.done()[0]["error"]
    assert "there is no such run: x" in programs.first.done()[10]["error"]


def test_on_this_machine_artifacts_are_in_the_bucket_too(programs):
    well, failed = programs.first.done()[11:]
    assert well["bundle"] == production(programs.first.home) == "v-here"
    assert well["uri"].startswith("s3://twin/ct/promote/bundle/")
    # What a failed step said, on one line, as it is told of a job elsewhere.
    assert failed == {"failure": "step index: the data is not right"}


def test_invoke_ct_trains_elsewhere_and_the_twin_answers_here(site):
    """The whole pipeline, as a user starts it; the job has nothing but its luggage."""
    home, profile = site.folder / "user", site.folder / "there.yaml"
    profile.write_text(
        "training: {budget: {time: 60s, tokens: 80000}}\n"
        "evaluation: {samples: 0, questions: 5}\n"
        "remote: {stack: sagemaker, instance: ml.g5.4xlarge, start: 200s, silence: 100s}\n"
    )
    environment = {**site.environment, "TWIN_HOME": str(home)}
    del environment["PYTHONPATH"]

    def invoke(*line: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "invoke", *line], cwd=ROOT, env=environment,
            capture_output=True, text=True, timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        return done.stdout

    corpus = str(ROOT / "docs" / "reference")
    said = invoke("ct", "--corpus", corpus, "--profile", str(profile))
    assert "step train: completed" in said
    assert f"promoted {production(home)}" in said or production(home) in said
    details = Bundles(home / "models").production().manifest["details"]
    assert (details["corpus"], details["profile"]) == (corpus, "there")
    assert "stages.md" in invoke("ask", "What does a stage's cache key cover?")
    assert "nothing changed" in invoke("ct", "--corpus", corpus, "--profile", str(profile))
