"""The shared stage cache: moto's S3 over HTTP, and servers that do everything wrong."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from llm_twin.flow.cache import Cache

pytestmark = pytest.mark.timeout(60)

KEY = "0" * 31 + "1"
URL = "s3://twin-cache/team/main"
TIMEOUT = 0.3


@pytest.fixture(autouse=True)
def aws(monkeypatch, tmp_path):
    """Credentials that are none, and nothing of this machine's own."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",  # pragma: allowlist secret
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def s3_url():
    """moto's server in a process of its own."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
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
def s3(s3_url, monkeypatch):
    """An empty bucket, as boto3 sees it."""
    import boto3

    urllib.request.urlopen(
        urllib.request.Request(f"{s3_url}/moto-api/reset", method="POST"), timeout=10
    ).close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_url)
    client = boto3.client("s3")
    client.create_bucket(
        Bucket="twin-cache", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    return client


def names(s3):
    return [item["Key"] for item in s3.list_objects_v2(Bucket="twin-cache").get("Contents", [])]


def make(home, **more):
    return Cache(home, **{"remote": URL, "timeout": 10, **more})


def archive(cache, root, text="from ci", *, source="ci", key=KEY):
    root.mkdir(parents=True, exist_ok=True)
    (root / "out").write_text(text)
    (root / "copy").write_text(text)
    if not (root / "link").is_symlink():
        (root / "link").symlink_to("out")
    return cache.archive(
        key=key,
        stage="docs",
        source=source,
        run="r1",
        root=root,
        paths=["out", "copy", "link"],
        result={"pages": 3},
    )


def test_what_ci_has_made_is_taken_over_by_a_laptop(s3, tmp_path):
    ci, laptop = make(tmp_path / "ci"), make(tmp_path / "laptop")
    entry = archive(ci, tmp_path / "a")
    assert ci.push(entry)
    assert sorted(names(s3)) == [
        f"team/main/blobs/{digest[:2]}/{digest}"
        for digest in {file.digest for file in entry.files.values() if file.digest}
    ] + [f"team/main/entries/{KEY}/ci.json"]
    assert laptop.find(KEY) is None
    assert laptop.fetch(KEY) == entry
    assert laptop.find(KEY) == entry
    laptop.restore(entry, tmp_path / "b")
    assert (tmp_path / "b/link").read_text() == "from ci"
    assert laptop.fetch("0" * 32) is None
    assert laptop.shared
    assert (ci.trouble, laptop.trouble) == ("", "")


def test_a_bucket_may_be_used_without_a_prefix(s3, tmp_path):
    cache = make(tmp_path / "home", remote="s3://twin-cache/")
    assert cache.push(archive(cache, tmp_path / "a"))
    assert f"entries/{KEY}/ci.json" in names(s3)
    assert make(tmp_path / "other", remote="s3://twin-cache").fetch(KEY)


def test_blobs_are_sent_once(s3, tmp_path):
    cache = make(tmp_path / "home")
    assert cache.push(archive(cache, tmp_path / "a"))
    (blob,) = [name for name in names(s3) if "/blobs/" in name]
    first = s3.head_object(Bucket="twin-cache", Key=blob)["LastModified"]
    time.sleep(1.1)  # S3 tells whole seconds
    assert cache.push(archive(cache, tmp_path / "a", key="f" * 32))
    assert len(names(s3)) == 3
    assert s3.head_object(Bucket="twin-cache", Key=blob)["LastModified"] == first


def test_many_outputs_make_the_trip(s3, tmp_path):
    root = tmp_path / "a"
    (root / "site").mkdir(parents=True)
    for number in range(60):
        (root / f"site/{number}").write_text(f"page {number}")
    (root / "site/big").write_bytes(bytes(3 * 2**20 + 1))
    cache, other = make(tmp_path / "home"), make(tmp_path / "other")
    entry = cache.archive(key=KEY, stage="s", source="ci", run="r", root=root, paths=["site"])
    assert cache.push(entry), cache.trouble
    assert len(other.restore(other.fetch(KEY), tmp_path / "b")) == 61
    assert (tmp_path / "b/site/59").read_text() == "page 59"


def test_evidence_tells_what_was_made_here_and_in_ci(s3, tmp_path):
    ci, laptop = make(tmp_path / "ci"), make(tmp_path / "laptop")
    there = archive(ci, tmp_path / "a", source="ci")
    assert ci.push(there)
    here = archive(laptop, tmp_path / "b", "from here", source="local")
    assert laptop.evidence(KEY) == {"ci": there, "local": here}
    assert laptop.find(KEY) == here


@pytest.mark.parametrize(("writer", "counts"), [("s", True), ("", False), ("other", False)])
def test_a_reader_that_requires_signatures_believes_no_others(s3, tmp_path, writer, counts):
    branch = make(tmp_path / "branch", secret=writer)
    assert branch.push(archive(branch, tmp_path / "a"))
    main = make(tmp_path / "main", secret="s", signed=True)
    assert (main.fetch(KEY) is not None) == counts
    assert (main.find(KEY) is not None) == counts
    assert main.trouble == ""


def test_a_local_entry_is_used_when_that_of_ci_is_not_believed(s3, tmp_path):
    branch, colleague = make(tmp_path / "branch"), make(tmp_path / "colleague", secret="s")
    assert branch.push(archive(branch, tmp_path / "a", source="ci"))
    assert colleague.push(archive(colleague, tmp_path / "b", source="local"))
    found = make(tmp_path / "main", secret="s", signed=True).fetch(KEY)
    assert found.source == "local"


@pytest.mark.parametrize("damage", [b"tampere", b"from", b"from ci and more", None])
def test_a_damaged_blob_is_a_miss_that_the_next_push_heals(s3, tmp_path, damage):
    ci, laptop = make(tmp_path / "ci"), make(tmp_path / "laptop")
    assert ci.push(archive(ci, tmp_path / "a"))
    (blob,) = [name for name in names(s3) if "/blobs/" in name]
    if damage is None:
        s3.delete_object(Bucket="twin-cache", Key=blob)
    else:
        s3.put_object(Bucket="twin-cache", Key=blob, Body=damage)
    assert laptop.fetch(KEY) is None
    assert laptop.find(KEY) is None
    assert laptop.usage().blobs == 0
    assert not list((laptop.folder / "tmp").iterdir())
    assert laptop.push(archive(laptop, tmp_path / "b"))
    assert make(tmp_path / "third").fetch(KEY)


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"files": {}}', b"[" * 2**16, b" " * (16 * 2**20 + 1)]
)
def test_a_damaged_entry_is_a_miss(s3, tmp_path, body):
    s3.put_object(Bucket="twin-cache", Key=f"team/main/entries/{KEY}/ci.json", Body=body)
    cache = make(tmp_path / "home")
    assert cache.fetch(KEY) is None
    assert cache.trouble == ""


def test_an_entry_larger_than_the_cache_or_of_no_blob_is_a_miss(s3, tmp_path):
    ci = make(tmp_path / "ci")
    entry = archive(ci, tmp_path / "a")
    assert ci.push(entry)
    assert make(tmp_path / "small", max_bytes=10).fetch(KEY) is None
    text = entry.to_json().replace(entry.files["out"].digest, "../../../out")
    s3.put_object(Bucket="twin-cache", Key=f"team/main/entries/{KEY}/ci.json", Body=text)
    assert make(tmp_path / "laptop").fetch(KEY) is None


def test_a_damaged_local_blob_is_not_pushed(s3, tmp_path):
    cache = make(tmp_path / "home")
    for damage in ("tampere", "short"):
        entry = archive(cache, tmp_path / "a")
        (blob,) = cache.folder.glob("blobs/*/*")
        blob.write_text(damage)
        assert cache.push(entry) is False
        blob.unlink()
    assert names(s3) == []
    assert cache.find(KEY) is None
    assert cache.trouble == ""


def test_a_forked_stage_uses_what_was_prepared(s3, tmp_path):
    cache = make(tmp_path / "home")
    cache.prepare()
    entry = archive(cache, tmp_path / "a")
    child = os.fork()
    if child == 0:
        os._exit(0 if cache.push(entry) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert make(tmp_path / "other").fetch(KEY) == entry


def test_what_another_process_found_wanting_is_left_alone(s3, tmp_path):
    cache = make(tmp_path / "home")
    cache.give_up("it is away")
    assert cache.push(archive(cache, tmp_path / "a")) is False
    assert (cache.trouble, cache.shared) == ("it is away", False)
    assert names(s3) == []


# Servers that do it wrong


def is_given_up(cache, sentence):
    """Whether a fetch is a miss with this trouble, and everything after it is left undone."""
    assert cache.fetch(KEY) is None
    assert cache.trouble == f"{URL} {sentence}"
    entry = archive(cache, cache.folder.parent / "project")
    assert cache.push(entry) is False
    assert cache.fetch("f" * 32) is None
    assert cache.evidence(KEY) == {"ci": entry}
    assert not cache.shared
    assert cache.trouble == f"{URL} {sentence}"
    return True


@pytest.fixture
def serve(monkeypatch):
    """Serve connections with a function of (socket, path asked for); returns those paths."""
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    asked = []

    def connection(client, answer):
        with client, contextlib.suppress(OSError):
            head = client.recv(65536).decode("latin-1")
            asked.append(head.split()[1])
            answer(client, head.split()[1], over)

    def accept(answer):
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=connection, args=(client, answer), daemon=True).start()

    def start(answer):
        threading.Thread(target=accept, args=(answer,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        return asked

    yield start
    over.set()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def http(status, body=b"", length=None):
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body) if length is None else length}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


def error(status, code):
    return http(status, f"<Error><Code>{code}</Code><Message>AKIA hush</Message></Error>".encode())


def silent(client, path, over):
    over.wait(30)


def trickle(client, path, over):
    for byte in http("200 OK", b" " * 1000):
        client.send(bytes([byte]))
        if over.wait(0.05):
            return


def trickle_body(client, path, over):
    client.send(http("200 OK", length=1000))
    while not over.wait(0.05):
        client.send(b" ")


LATE = "did not answer in time"
CUT = "closed the connection in the middle of an answer"


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (silent, LATE),
        (trickle, LATE),
        (trickle_body, LATE),
        (http("200 OK", b"{", length=1000), CUT),
        (b"", CUT),
        (
            error("403 Forbidden", "AccessDenied"),
            "refuses access: it takes s3:GetObject, s3:PutObject and s3:ListBucket",
        ),
        (error("404 Not Found", "NoSuchBucket"), "does not exist: there is no such bucket"),
        (error("500 Internal Server Error", "InternalError"), "answers with status 500"),
        (error("503 Slow Down", "SlowDown"), "answers with status 503"),
        (http("502 Bad Gateway", b"<html>proxy"), "answers with status 502"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", CUT),
    ],
)
def test_a_server_that_does_it_wrong_is_asked_once(serve, tmp_path, answer, sentence):
    def send(client, path, over):
        client.send(answer)

    asked = serve(answer if callable(answer) else send)
    patience = {"timeout": TIMEOUT} if sentence == LATE else {}
    assert is_given_up(make(tmp_path / "home", **patience), sentence)
    assert len(asked) == 1


def test_half_a_header_is_a_miss(serve, tmp_path):
    serve(lambda client, path, over: client.send(b"HTTP/1.1 200 OK\r\nContent-Le"))
    assert make(tmp_path / "home", timeout=TIMEOUT).fetch(KEY) is None


def test_nobody_listens(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    assert is_given_up(make(tmp_path / "home"), "cannot be reached")


def test_packets_vanish(tmp_path, monkeypatch):
    """A listener whose queue is full answers no further SYN, as a firewall that drops."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert is_given_up(make(tmp_path / "home", timeout=TIMEOUT), LATE)


def test_no_credentials(serve, tmp_path, monkeypatch):
    asked = serve(silent)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    early = make(tmp_path / "early", timeout=TIMEOUT)
    early.prepare()
    assert early.trouble
    sentence = "cannot be used: no AWS credentials were found"
    assert is_given_up(make(tmp_path / "home", timeout=TIMEOUT), sentence)
    assert asked == []


def test_a_metadata_server_that_does_not_answer_is_not_waited_for(serve, tmp_path, monkeypatch):
    asked = serve(silent)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", os.environ["AWS_ENDPOINT_URL"])
    sentence = "cannot be used: no AWS credentials were found"
    assert is_given_up(make(tmp_path / "home", timeout=2), sentence)
    assert asked[0] == "/latest/api/token"


def test_boto3_is_not_installed(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "boto3"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "boto3", None)
    sentence = "cannot be used: boto3 is not installed. Type: pip install boto3"
    assert is_given_up(make(tmp_path / "home"), sentence)


def test_an_endpoint_that_is_no_address(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    assert is_given_up(make(tmp_path / "home"), "cannot be used: ValueError")


def cut(client, path, data):
    client.send(http("200 OK", data[:100], length=len(data)))


def drip(client, path, data):
    client.send(http("200 OK", length=len(data)))
    with contextlib.suppress(OSError):
        while True:
            client.send(b"x")
            time.sleep(0.05)


@pytest.mark.parametrize(("blob", "sentence"), [(cut, CUT), (drip, LATE)])
def test_a_server_that_breaks_in_the_middle_of_a_blob(serve, tmp_path, blob, sentence):
    ci = Cache(tmp_path / "ci")
    archive(ci, tmp_path / "a", "x" * 100_000)

    def answer(client, path, over):
        file = ci.folder / Path(path).relative_to("/twin-cache/team/main")
        if not file.exists():
            client.send(error("404 Not Found", "NoSuchKey"))
        elif "/blobs/" in path:
            blob(client, path, file.read_bytes())
        else:
            client.send(http("200 OK", file.read_bytes()))

    serve(answer)
    cache = make(tmp_path / "home", **({"timeout": TIMEOUT} if sentence == LATE else {}))
    assert is_given_up(cache, sentence)
    assert cache.usage().blobs == 1  # its own, archived since
    shutil.rmtree(ci.folder)


def test_a_server_that_does_not_take_what_is_pushed(serve, tmp_path):
    def answer(client, path, over):
        if "/blobs/" in path:
            over.wait(30)

    serve(answer)
    cache = make(tmp_path / "home", timeout=TIMEOUT)
    assert cache.push(archive(cache, tmp_path / "a")) is False
    assert cache.trouble == f"{URL} {LATE}"
    assert cache.find(KEY)


# Through the front door

TASKS = """
from pathlib import Path
from llm_twin.flow import Registry
from llm_twin.flow.tasks import collection

ROOT = Path(__file__).resolve().parent
registry = Registry()

@registry.stage(cached=True, inputs=["in.txt"], outputs=["out"])
def build() -> dict:
    (ROOT / "out").mkdir(exist_ok=True)
    (ROOT / "out" / "a.txt").write_text((ROOT / "in.txt").read_text() * 2)
    print("really built")
    return {"message": "done"}

@registry.stage(cached=True, needs=["build"])
def check() -> None:
    print("really checked")

namespace = collection(registry, ROOT)
"""


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    """``invoke check`` in a clone of a small project: ``invoke("laptop", TWIN_CACHE=...)``."""
    monkeypatch.delenv("CI", raising=False)

    def run(clone, text="x", **env):
        folder = tmp_path / clone
        folder.mkdir(exist_ok=True)
        (folder / "tasks.py").write_text(TASKS)
        (folder / "in.txt").write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "invoke", "check"],
            cwd=folder,
            env={**os.environ, "TWIN_HOME": ".twin", "TWIN_CACHE_TIMEOUT": "10", **env},
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert (folder / "out" / "a.txt").read_text() == text * 2
        return done.stdout

    return run


def test_ci_builds_and_the_laptop_restores_once(s3, invoke):
    shown = invoke("ci", CI="true", TWIN_CACHE=URL)
    assert "really built" in shown
    assert "really checked" in shown
    shown = invoke("laptop", TWIN_CACHE=URL)
    assert "really" not in shown
    assert shown.count("restored from run") == 2
    assert "(ci)" in shown
    ci_run = shown.split("restored from run ")[1].split()[0]
    again = invoke("laptop", TWIN_CACHE=URL)
    assert again.count(f"nothing changed since run {ci_run}") == 2


def test_an_untrusted_branch_cannot_poison_main(s3, invoke):
    trusted = {"TWIN_CACHE": URL, "TWIN_CACHE_SIGNED": "1"}
    trusted["TWIN_CACHE_SECRET"] = "of main"  # pragma: allowlist secret
    shown = invoke("fork", CI="true", TWIN_CACHE=URL)
    assert "really built" in shown
    assert "really built" in invoke("main", **trusted)
    assert "restored from run" in invoke("another", **trusted)


@pytest.mark.parametrize("answer", ["refused", "silent"])
def test_a_shared_cache_that_is_away_is_said_once_and_fails_nothing(invoke, monkeypatch, answer):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if answer == "silent":
            listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        shown = invoke("laptop", TWIN_CACHE=URL, TWIN_CACHE_TIMEOUT="0.3", AWS_ENDPOINT_URL=url)
    assert "really checked" in shown
    assert shown.count("going on without the shared cache: s3://twin-cache/team/main") == 1
