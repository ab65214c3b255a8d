"""Credentials and roles against moto's STS, IAM and ECR over HTTP, and servers that refuse.

GitHub's token service and the STS that says no are small servers on loopback: moto trusts anybody.
"""

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest

from llm_twin.delivery.aws import find_region, session
from llm_twin.delivery.aws_roles import account_of, bootstrap, look_up_ids
from llm_twin.delivery.aws_scope import Scope
from llm_twin.errors import ConfigError, RemoteError, TwinError
from llm_twin.settings import Settings

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).resolve().parents[2]
ACCOUNT = "123456789012"
REGION = "eu-central-1"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/llm-twin-build-push"
OTHER = "arn:aws:iam::210987654321:role/llm-twin-build-push"
SUBJECT = "repo:octo-org/llm-twin:ref:refs/heads/main"
ISSUER = "token.actions.githubusercontent.com"
SCOPE = Scope(repository="octo-org/llm-twin", account=ACCOUNT, region=REGION)
KEY = "asked-for-this-job"


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch, tmp_path):
    """No credentials, no configuration, no CI around the test."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "GITHUB_", "ACTIONS_", "TWIN_AWS")):
            monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


@pytest.fixture(scope="module")
def moto_url():
    """moto's server in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env={**os.environ, "MOTO_IAM_LOAD_MANAGED_POLICIES": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
                break
            assert server.poll() is None
            time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait(10)


@pytest.fixture
def aws(moto_url, monkeypatch):
    """An empty account."""
    reset = urllib.request.Request(f"{moto_url}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset, timeout=10).close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_url)
    return moto_url


@pytest.fixture
def admin(aws):
    """A session of somebody who may write IAM."""
    return boto3.Session("testing", "testing", region_name=REGION)  # pragma: allowlist secret


@contextlib.contextmanager
def serving(answer):
    """A server on loopback; ``answer(handler)`` returns status and body, or None to hang up."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found = answer(self)
            if found is None:
                self.close_connection = True
                return
            status, body = found
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_):
            """Stay quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class GitHub:
    """GitHub's token service: what it was asked, what it gives."""

    def __init__(self):
        self.asked = []
        self.answers = []
        self.subject = SUBJECT

    def answer(self, handler):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(handler.path).query)
        self.asked.append((query, handler.headers["Authorization"]))
        if self.answers:
            return self.answers.pop(0)
        return 200, json.dumps({"value": self.token(query["audience"][0])}).encode()

    def token(self, audience):
        claims = {
            "sub": self.subject,
            "aud": audience,
            "jti": len(self.asked),
            "repository": "octo-org/llm-twin",
            "repository_owner_id": "123456",
            "repository_id": "456789",
        }
        parts = [{"alg": "RS256"}, claims]
        encoded = [base64.urlsafe_b64encode(json.dumps(p).encode()).decode() for p in parts]
        return ".".join([part.rstrip("=") for part in encoded] + ["signature"])


@pytest.fixture
def github(monkeypatch):
    """A job of GitHub's with permission to ask for its token."""
    service = GitHub()
    with serving(service.answer) as url:
        for name, value in {
            "GITHUB_ACTIONS": "true",
            "GITHUB_RUN_ID": "77",
            "GITHUB_RUN_ATTEMPT": "2",
            "GITHUB_WORKFLOW_REF": "octo-org/llm-twin/.github/workflows/cd.yml@refs/heads/main",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{url}/token?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": KEY,
        }.items():
            monkeypatch.setenv(name, value)
        yield service


class Sts:
    """An STS that says no, or gives credentials for as long as it is told."""

    def __init__(self):
        self.asked = []
        self.refusals = {}
        self.seconds = 3600

    def answer(self, handler):
        length = int(handler.headers["Content-Length"])
        form = urllib.parse.parse_qs(handler.rfile.read(length).decode())
        asked = {name: values[0] for name, values in form.items()}
        self.asked.append(asked)
        action = asked["Action"]
        if action in self.refusals:
            status, code, message = self.refusals[action]
            error = (
                f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
            )
            return status, f"<ErrorResponse>{error}</ErrorResponse>".encode()
        until = (datetime.now(UTC) + timedelta(seconds=self.seconds)).isoformat()
        given = (
            f"<Credentials><AccessKeyId>ASIA{len(self.asked)}</AccessKeyId>"
            f"<SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>"
            f"<Expiration>{until}</Expiration></Credentials>"
        )
        return 200, f"<R><{action}Result>{given}</{action}Result></R>".encode()


@pytest.fixture
def sts(monkeypatch):
    """AWS's token service, played by a server that can refuse."""
    service = Sts()
    with serving(service.answer) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        yield service


def settings(**more):
    return Settings(aws_region=REGION, **more)


def keys_in_environment(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")


def test_a_github_job_gets_credentials_that_work_without_any_key(aws, github, admin):
    bootstrap(admin, SCOPE, tell=str)
    found = session(settings(aws_role=ROLE))
    who = found.client("sts").get_caller_identity()["Arn"]
    assert who.endswith("assumed-role/llm-twin-build-push/llm-twin-77-2")
    found.client("ecr").create_repository(repositoryName="llm-twin")
    assert found.client("ecr").describe_repositories()["repositories"]
    ((query, authorization),) = github.asked
    assert query == {"api-version": ["2.0"], "audience": ["sts.amazonaws.com"]}
    assert authorization == f"Bearer {KEY}"


def test_a_second_role_is_taken_on_after_the_first(github, sts):
    found = session(settings(aws_role=ROLE, aws_assume_role=OTHER))
    first, second = sts.asked
    assert (first["Action"], first["RoleArn"]) == ("AssumeRoleWithWebIdentity", ROLE)
    assert (second["Action"], second["RoleArn"]) == ("AssumeRole", OTHER)
    assert {one["RoleSessionName"] for one in sts.asked} == {"llm-twin-77-2"}
    assert {one["DurationSeconds"] for one in sts.asked} == {"3600"}
    assert found.get_credentials().access_key == "ASIA2"


def test_on_a_laptop_the_second_role_is_taken_on_from_the_own_credentials(sts, monkeypatch):
    keys_in_environment(monkeypatch)
    assert session(settings(aws_role=ROLE, aws_assume_role=OTHER)).get_credentials()
    (asked,) = sts.asked
    assert (asked["Action"], asked["RoleArn"]) == ("AssumeRole", OTHER)
    assert asked["RoleSessionName"] == f"llm-twin-{os.getpid()}"


def test_a_laptop_uses_its_own_profile_and_asks_nobody(monkeypatch, tmp_path):
    (tmp_path / "config").write_text(
        "[profile team]\naws_access_key_id=of-team\naws_secret_access_key=x\nregion=eu-west-1\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "team")
    found = session(Settings(aws_role=ROLE))
    assert found.get_credentials().access_key == "of-team"
    assert found.region_name == "eu-west-1"


def test_credentials_about_to_expire_are_renewed_with_a_new_token(github, sts):
    sts.seconds = 120
    credentials = session(settings(aws_role=ROLE, aws_assume_role=OTHER)).get_credentials()
    before = credentials.get_frozen_credentials().access_key
    assert credentials.get_frozen_credentials().access_key != before
    tokens = [one["WebIdentityToken"] for one in sts.asked if "WebIdentityToken" in one]
    assert len(tokens) == len(set(tokens)) >= 2


def test_credentials_that_last_are_not_asked_for_again(github, sts):
    found = session(settings(aws_role=ROLE)).get_credentials()
    for _ in range(3):
        found.get_frozen_credentials()
    assert len(sts.asked) == 1


def test_a_renewal_that_is_refused_says_why_in_the_midst_of_the_work(aws, github, sts):
    sts.seconds = 120
    client = session(settings(aws_role=ROLE)).client("ecr")
    sts.refusals["AssumeRoleWithWebIdentity"] = 403, "AccessDenied", NOT_TRUSTED
    with pytest.raises(ConfigError, match="does not trust this job"):
        client.describe_repositories()


NOT_TRUSTED = "Not authorized to perform sts:AssumeRoleWithWebIdentity"


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (
            (403, "AccessDenied", NOT_TRUSTED),
            [f"whose subject is {SUBJECT}", ROLE, f'com:sub": "{SUBJECT}"', "aws.bootstrap"],
        ),
        (
            (400, "InvalidIdentityToken", "Incorrect token audience"),
            ["does not expect the token's audience sts.amazonaws.com", "Add sts.amazonaws.com"],
        ),
        (
            (400, "InvalidIdentityToken", "No OpenIDConnect provider found in your account for x"),
            ["has no provider for token.actions.githubusercontent.com", "aws.bootstrap"],
        ),
        (
            (
                400,
                "ExpiredTokenException",
                "Token expired: current date/time 2 must be before the expiration date/time 1",
            ),
            ["do not agree on the time", "timedatectl"],
        ),
        (
            (400, "ValidationError", "The requested DurationSeconds exceeds the limit"),
            ["AWS refused with ValidationError", "DurationSeconds exceeds"],
        ),
        ((503, "ServiceUnavailable", "busy"), ["AWS failed with ServiceUnavailable", "Try again"]),
    ],
)
def test_a_refused_job_is_told_what_to_change(github, sts, refusal, words):
    sts.refusals["AssumeRoleWithWebIdentity"] = refusal
    with pytest.raises(TwinError) as caught:
        session(settings(aws_role=ROLE))
    for word in words:
        assert word in str(caught.value)
    assert sts.asked[0]["WebIdentityToken"] not in str(caught.value)


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (
            (
                403,
                "AccessDenied",
                f"User: a is not authorized to perform: sts:AssumeRole on resource: {OTHER}",
            ),
            ["lack the permission sts:AssumeRole", OTHER],
        ),
        (
            (403, "SignatureDoesNotMatch", "Signature expired: 1 is now earlier than 2"),
            ["do not agree on the time"],
        ),
        (
            (403, "ExpiredToken", "The security token included in the request is expired"),
            ["does not accept these credentials any more", "aws sso login"],
        ),
        ((403, "AccessDenied", "no"), ["AWS refused with AccessDenied: AssumeRole. no"]),
    ],
)
def test_a_refused_second_role_is_explained(sts, monkeypatch, refusal, words):
    keys_in_environment(monkeypatch)
    sts.refusals["AssumeRole"] = refusal
    with pytest.raises(TwinError) as caught:
        session(settings(aws_assume_role=OTHER))
    for word in words:
        assert word in str(caught.value)


def test_a_job_of_a_new_repository_is_told_the_numbers_to_bootstrap_with(github, sts):
    github.subject = "repo:octo-org@123456/llm-twin@456789:ref:refs/heads/main"
    sts.refusals["AssumeRoleWithWebIdentity"] = 403, "AccessDenied", NOT_TRUSTED
    line = (
        "invoke aws.bootstrap --repository octo-org/llm-twin --owner-id 123456 --repository-id 456"
    )
    with pytest.raises(ConfigError, match=line) as caught:
        session(settings(aws_role=ROLE))
    assert f'"{ISSUER}:sub": "{github.subject}"' in str(caught.value)


def test_a_workflow_without_permission_for_a_token_is_named(github, monkeypatch):
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_URL")
    with pytest.raises(ConfigError, match=r"may not ask GitHub .*cd\.yml.*id-token: write"):
        session(settings(aws_role=ROLE))


@pytest.mark.parametrize(
    ("answers", "error", "message"),
    [
        ([(401, b"no")], ConfigError, "gives this job no identity token: .*id-token: write"),
        ([(200, b"<html>")], RemoteError, "answered 200 and no token: 127"),
        ([(200, b"[]")], RemoteError, "answered 200 and no token"),
        ([(500, b"")] * 3, RemoteError, "answered 500 and no token.*Run the job again"),
        ([None] * 3, RemoteError, r"cannot be reached \(ConnectionError\): 127"),
    ],
)
def test_a_token_service_that_fails_is_named(github, sts, answers, error, message):
    github.answers = answers
    with pytest.raises(error, match=message) as caught:
        session(settings(aws_role=ROLE))
    assert KEY not in str(caught.value)
    assert not sts.asked


def test_a_token_service_that_fails_once_is_asked_again(github, sts):
    github.answers = [(503, b"")]
    assert session(settings(aws_role=ROLE)).get_credentials().access_key == "ASIA1"


@pytest.mark.parametrize("token", ["opaque", "a.b.c", "a.W10.c"])
def test_a_token_that_cannot_be_read_is_still_aws_to_judge(github, sts, token):
    github.answers = [(200, json.dumps({"value": token}).encode())]
    sts.refusals["AssumeRoleWithWebIdentity"] = 403, "AccessDenied", NOT_TRUSTED
    with pytest.raises(ConfigError, match="whose subject is unknown"):
        session(settings(aws_role=ROLE))


def test_no_credentials_at_all_says_how_to_get_some():
    with pytest.raises(ConfigError, match=r"no AWS credentials were found\. Type: aws sso login"):
        session(settings())
    with pytest.raises(ConfigError, match="no AWS credentials were found"):
        session(settings(aws_assume_role=OTHER))


def test_a_profile_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigError, match=r"ProfileNotFound.*nobody.*AWS_PROFILE"):
        session(settings())


def test_aws_that_does_not_answer_is_a_sentence(github, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9")
    with pytest.raises(RemoteError, match=r"AWS does not answer: http://127\.0\.0\.1:9"):
        session(settings(aws_role=ROLE))


def test_something_that_is_not_aws_in_between_is_a_sentence(monkeypatch):
    keys_in_environment(monkeypatch)
    with serving(lambda _: (403, b"<html>Sign in to the hotel")) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(RemoteError, match=r"something that is not AWS answered.*proxy"):
            account_of(session(settings()))


@pytest.mark.parametrize("name", ["aws_role", "aws_assume_role"])
def test_a_role_that_is_no_arn_is_refused_before_anybody_is_asked(github, sts, name):
    with pytest.raises(ConfigError, match=f"TWIN_{name.upper()} is not the ARN of a role: 'admin'"):
        session(settings(**{"aws_role": ROLE, name: "admin"}))


def test_the_region_comes_from_the_nearest_that_names_one(monkeypatch):
    assert find_region(settings(), "us-east-1") == "us-east-1"
    assert find_region(settings()) == REGION
    assert find_region(Settings(), environ={"AWS_REGION": "eu-west-3"}) == "eu-west-3"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-2")
    assert find_region(Settings()) == "eu-west-2"


def test_no_region_says_what_to_set():
    with pytest.raises(ConfigError, match=r"no AWS region is set\. Set it like TWIN_AWS_REGION="):
        session(Settings())


def invoke(*arguments, **environ):
    """Run the task in a process of its own, as invoke does."""
    program = (
        "import ci.cloud; from invoke import Collection, Program; space = Collection();"
        "space.add_collection(ci.cloud.aws); Program(namespace=space).run()"
    )
    return subprocess.run(
        [sys.executable, "-c", program, "aws.bootstrap", *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


ONCE = ("--repository", "octo-org/llm-twin")
KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",  # pragma: allowlist secret
    "TWIN_AWS_REGION": REGION,
}


def test_a_dry_run_prints_json_and_needs_no_credentials():
    ended = invoke(*ONCE, "--dry-run", "--account", ACCOUNT, TWIN_AWS_REGION=REGION)
    assert ended.returncode == 0, ended.stderr
    printed = json.loads(ended.stdout)
    assert set(printed["roles"]) == {
        "llm-twin-build-push",
        "llm-twin-deploy",
        "llm-twin-endpoint",
    }
    assert printed["roles"]["llm-twin-build-push"]["arn"] == ROLE
    assert SUBJECT in json.dumps(printed["roles"]["llm-twin-build-push"]["trust"])


def test_ids_are_looked_up_only_when_asked_for(monkeypatch):
    asked = []

    def answer(handler):
        asked.append((handler.path, handler.headers["Authorization"]))
        return 200, b'{"id": 456789, "owner": {"id": 123456}}'

    with serving(answer) as url:
        more = {"GITHUB_API_URL": url, "TWIN_AWS_REGION": REGION, "GITHUB_TOKEN": "secret-token"}
        arguments = (*ONCE, "--dry-run", "--account", ACCOUNT)
        assert "octo-org/llm-twin:ref" in invoke(*arguments, **more).stdout
        assert asked == []
        printed = invoke(*arguments, "--look-up-ids", **more).stdout
    assert "repo:octo-org@123456/llm-twin@456789:ref:refs/heads/main" in printed
    assert asked == [("/repos/octo-org/llm-twin", "Bearer secret-token")]


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((404, b"{}"), ConfigError, r"no such repository \(404\): octo-org/llm-twin.*GITHUB_TOKEN"),
        ((200, b"{}"), RemoteError, r"gave no ids \(KeyError\).*--owner-id and --repository-id"),
        ((200, b"[]"), RemoteError, r"gave no ids \(TypeError\)"),
        ((200, b"<html>"), RemoteError, r"gave no ids \(JSONDecodeError\)"),
    ],
)
def test_ids_that_cannot_be_looked_up_are_a_sentence(answer, error, message):
    with serving(lambda _: answer) as url, pytest.raises(error, match=message):
        look_up_ids("octo-org/llm-twin", {"GITHUB_API_URL": url})


def test_the_roles_are_made_once_and_a_second_run_changes_nothing(aws, admin):
    first = invoke(*ONCE, **KEYS)
    assert first.returncode == 0, first.stderr
    assert "created: provider token.actions.githubusercontent.com" in first.stdout
    assert "created: role llm-twin-deploy" in first.stdout
    assert f"TWIN_AWS_ROLE of the build-push job: {ROLE}" in first.stdout
    second = invoke(*ONCE, **KEYS)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("unchanged") == 4
    assert "nothing to change" in second.stdout
    iam = admin.client("iam")
    role = iam.get_role(RoleName="llm-twin-build-push")["Role"]
    (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Condition"]["StringEquals"][f"{ISSUER}:sub"] == SUBJECT
    (provider,) = iam.list_open_id_connect_providers()["OpenIDConnectProviderList"]
    assert provider["Arn"] == SCOPE.provider


def test_a_role_that_was_changed_is_shown_as_a_diff_and_mended_when_told(aws, admin):
    bootstrap(admin, SCOPE, tell=str)
    iam, name = admin.client("iam"), "llm-twin-deploy"
    iam.attach_role_policy(RoleName=name, PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")
    iam.put_role_policy(
        RoleName=name,
        PolicyName="more",
        PolicyDocument=json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"},
            }
        ),
    )
    iam.delete_role_policy(RoleName=name, PolicyName="llm-twin")
    shown = invoke(*ONCE, **KEYS)
    assert shown.returncode == 1
    assert "1 of 4 differ from what they should be" in shown.stderr
    assert "--update" in shown.stderr
    assert '-    "arn:aws:iam::aws:policy/AdministratorAccess"' in shown.stdout
    assert iam.list_role_policies(RoleName=name)["PolicyNames"] == ["more"]
    mended = invoke(*ONCE, "--update", **KEYS)
    assert mended.returncode == 0, mended.stderr
    assert "updated: role llm-twin-deploy" in mended.stdout
    assert iam.list_role_policies(RoleName=name)["PolicyNames"] == ["llm-twin"]
    assert iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"] == []
    assert bootstrap(admin, SCOPE, tell=str) == 0


def test_a_trust_policy_somebody_widened_is_put_right(aws, admin):
    bootstrap(admin, SCOPE, tell=str)
    iam, name = admin.client("iam"), "llm-twin-build-push"
    right = iam.get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"]
    wide = json.dumps(right).replace(SUBJECT, "repo:octo-org/*")
    iam.update_assume_role_policy(RoleName=name, PolicyDocument=wide)
    told = []
    with pytest.raises(TwinError, match="1 of 4 differ"):
        bootstrap(admin, SCOPE, tell=told.append)
    assert any('"repo:octo-org/*"' in line for line in told)
    assert bootstrap(admin, SCOPE, update=True, tell=str) == 1
    assert iam.get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"] == right


def test_a_role_whose_creation_was_cut_off_is_finished_without_being_told(aws, admin):
    bootstrap(admin, SCOPE, tell=str)
    admin.client("iam").delete_role_policy(RoleName="llm-twin-deploy", PolicyName="llm-twin")
    assert bootstrap(admin, SCOPE, tell=str) == 1
    assert bootstrap(admin, SCOPE, tell=str) == 0


def adding_audiences(aws, admin):
    """moto, with the one request that it does not know answered before it gets there."""

    def answer(handler):
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        asked = urllib.parse.parse_qs(body.decode())
        if asked["Action"] != ["AddClientIDToOpenIDConnectProvider"]:
            passed = urllib.request.Request(aws, body, dict(handler.headers))
            try:
                with urllib.request.urlopen(passed, timeout=10) as answered:
                    return answered.status, answered.read()
            except urllib.error.HTTPError as refused:
                return refused.code, refused.read()
        iam = admin.client("iam", endpoint_url=aws)
        iam.delete_open_id_connect_provider(OpenIDConnectProviderArn=SCOPE.provider)
        added = [*asked["ClientID"], "theirs"]
        iam.create_open_id_connect_provider(Url=f"https://{ISSUER}", ClientIDList=added)
        return 200, b"<AddClientIDToOpenIDConnectProviderResponse/>"

    return serving(answer)


def test_a_provider_of_others_keeps_their_audience_and_gets_ours_when_told(aws, admin, monkeypatch):
    iam = admin.client("iam")
    iam.create_open_id_connect_provider(Url=f"https://{ISSUER}", ClientIDList=["theirs"])
    told = []
    with pytest.raises(TwinError, match="1 of 4 differ"):
        bootstrap(admin, SCOPE, tell=told.append)
    assert any('+  "sts.amazonaws.com",' in line for line in told)
    with adding_audiences(aws, admin) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        assert bootstrap(admin, SCOPE, update=True, tell=str) == 1
    found = iam.get_open_id_connect_provider(OpenIDConnectProviderArn=SCOPE.provider)
    assert sorted(found["ClientIDList"]) == ["sts.amazonaws.com", "theirs"]


def test_credentials_of_another_account_are_noticed(aws, admin):
    assert account_of(admin) == ACCOUNT
    with pytest.raises(ConfigError, match=rf"are of account {ACCOUNT}.*--account 210987654321"):
        account_of(admin, "210987654321")
    ended = invoke(*ONCE, "--account", "210987654321", **KEYS)
    assert ended.returncode == 2
    assert f"error: these credentials are of account {ACCOUNT}" in ended.stderr


def test_what_cannot_be_a_repository_ends_before_anything_is_made(aws, admin):
    ended = invoke("--repository", "llm-twin", **KEYS)
    assert ended.returncode == 2
    assert "this repository cannot be used: 'llm-twin'" in ended.stderr
    assert admin.client("iam").list_roles()["Roles"] == []


def test_a_permission_that_is_missing_is_named(monkeypatch):
    message = (
        "User: arn:aws:iam::123456789012:user/me is not authorized to perform: "
        f"iam:CreateRole on resource: {ROLE} because no identity-based policy allows it"
    )
    error = f"<Error><Code>AccessDenied</Code><Message>{message}</Message></Error>"
    body = f"<ErrorResponse>{error}</ErrorResponse>".encode()
    with serving(lambda _: (403, body)) as url:
        me = boto3.Session("testing", "testing", region_name=REGION)  # pragma: allowlist secret
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(ConfigError, match=f"lack the permission iam:CreateRole: {ROLE}"):
            bootstrap(me, SCOPE, tell=str)


def test_neither_token_nor_key_is_written_or_shown(github, sts, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    found = session(settings(aws_role=ROLE))
    token = sts.asked[0]["WebIdentityToken"]
    shown = "".join(capfd.readouterr()) + repr(found) + repr(found.get_credentials())
    assert token not in shown
    assert KEY not in shown
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert token not in json.dumps(dict(os.environ))
