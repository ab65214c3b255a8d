"""Registries for tests: Debian's docker-registry, with TLS and a password if wanted, and ECR.

ECR is moto's server for what boto3 asks, and in front of a real registry the rules that ECR has
and a plain registry lacks: its password, repositories that must exist, tags that cannot move.
"""

from __future__ import annotations

import base64
import contextlib
import fnmatch
import hashlib
import http.client
import http.server
import io
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bcrypt
import boto3
import httpx
import pytest
import uvicorn
from botocore.exceptions import ClientError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from llm_twin.delivery.engine import Engine
from llm_twin.delivery.reference import Reference
from llm_twin.delivery.registry import OCI_MANIFEST, Registry

ACCOUNT = "123456789012"
REGION = "eu-central-1"
ECR_HOST = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
PATHS = re.compile(r"/v2/(.+?)/(blobs|manifests|tags|referrers)/(.*)")
HOP = {"connection", "transfer-encoding", "host", "authorization", "keep-alive"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_it_answers(port: int, ca: Path | None = None, alive=lambda: True) -> None:
    """Until some HTTP answer comes from a port of this machine, for at most 30 s."""
    for _ in range(300):
        kind = http.client.HTTPSConnection if ca else http.client.HTTPConnection
        context = {"context": ssl.create_default_context(cafile=ca)} if ca else {}
        connection = kind("localhost", port, timeout=5, **context)
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            contextlib.closing(connection),
        ):
            connection.request("GET", "/")
            connection.getresponse()
            return
        assert alive()
        time.sleep(0.1)
    pytest.fail(f"nothing answers on port {port}")


@contextlib.contextmanager
def running(command: list[str], port: int, ca: Path | None = None) -> Iterator[subprocess.Popen]:
    """A server in a process of its own, ready; killed at the end."""
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null)
    try:
        wait_until_it_answers(port, ca, lambda: process.poll() is None)
        yield process
    finally:
        process.kill()
        process.wait(10)


def certificate(folder: Path, *hosts: str) -> tuple[Path, Path]:
    """A certificate that is its own authority, and its key."""
    paths = folder / "cert.pem", folder / "key.pem"
    names = ",".join(f"DNS:{host}" for host in hosts) + ",IP:127.0.0.1"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=llm-twin test", "-addext", f"subjectAltName={names}",
         "-out", paths[0], "-keyout", paths[1]],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    return paths


@contextlib.contextmanager
def docker_registry(
    folder: Path,
    *,
    port: int = 0,
    data: Path | None = None,
    tls: tuple[Path, Path] | None = None,
    user: str = "",
    password: str = "",
) -> Iterator[str]:
    """Debian's registry; its host. With ``tls`` it wants HTTPS, with ``user`` a password."""
    if not shutil.which("docker-registry"):
        pytest.skip("needs Debian's docker-registry")
    port = port or free_port()
    config: dict = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {
            "filesystem": {"rootdirectory": str(data or folder / "data")},
            "delete": {"enabled": True},
        },
        "http": {"addr": f"127.0.0.1:{port}", "relativeurls": True},
    }
    if tls:
        config["http"]["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
    if user:
        hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
        (folder / "htpasswd").write_text(f"{user}:{hashed}\n")
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    path = folder / f"registry-{port}.yml"
    path.write_text(json.dumps(config))
    with running(["docker-registry", "serve", str(path)], port, tls[0] if tls else None):
        yield f"localhost:{port}"


def put_image(registry: Registry, text: str, *layers: bytes) -> str:
    """A small image put together by hand, without an engine; its digest."""
    ref = Reference.parse(text)
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
    blobs = [json.dumps(config).encode(), *(layers or (b"a layer",))]
    digests = [registry.put_blob(ref.name, blob) for blob in blobs]
    kinds = [("config", "json"), *[("layer", "tar")] * (len(blobs) - 1)]
    items = [
        {
            "mediaType": f"application/vnd.oci.image.{kind}.v1+{ending}",
            "digest": digest,
            "size": len(blob),
        }
        for (kind, ending), digest, blob in zip(kinds, digests, blobs, strict=True)
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": items[0],
        "layers": items[1:],
    }
    return registry.put_manifest(ref, json.dumps(manifest).encode())


def import_image(engine: Engine, name: str, size: int = 1000) -> str:
    """An image of random bytes in an engine; its name."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("data")
        member.size = size
        tar.addfile(member, io.BytesIO(os.urandom(size)))
    engine.api.import_image_from_data(archive.getvalue(), *name.rsplit(":", 1))
    return name


def damage(data: Path, digest: str) -> None:
    """Lose a blob of a registry behind its back."""
    kind, _, value = digest.partition(":")
    (data / "docker/registry/v2/blobs" / kind / value[:2] / value / "data").unlink()


@contextlib.contextmanager
def moto_server() -> Iterator[str]:
    """moto's server, and AWS's SDK pointed to it; its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        "AWS_ENDPOINT_URL": url,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",  # pragma: allowlist secret
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, port), pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield url


class EcrRules:
    """What ECR's own registry checks before a real registry, ``upstream``, gets to see it.

    Attributes:
        ecr: boto3's client, by which it also tells moto what was pushed.
        old: passwords that are not accepted any more, as they are after twelve hours.
        refused: how often one of those came.
        denied: a permission that the pusher lacks, like ``ecr:PutImage``; empty: none.

    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.ecr = boto3.client("ecr", region_name=REGION)
        self.old: set[str] = set()
        self.refused = 0
        self.denied = ""

    @contextlib.contextmanager
    def serving(self, cert: Path, key: Path, port: int) -> Iterator[EcrRules]:
        """Over TLS on a port of this machine."""
        app = Starlette(routes=[Route("/{path:path}", self._answer, methods=[
            "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])])  # fmt: skip
        config = uvicorn.Config(
            app, "127.0.0.1", port, ssl_certfile=cert, ssl_keyfile=key, log_level="error"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            wait_until_it_answers(port, cert, thread.is_alive)
            yield self
        finally:
            server.should_exit = True
            thread.join(10)

    async def _answer(self, request: Request) -> Response:
        found = PATHS.fullmatch(request.url.path)
        repository, kind, version = found.groups() if found else ("", "", "")
        is_manifest = kind == "manifests" and request.method == "PUT"
        tag = version if is_manifest and not version.startswith("sha256:") else ""
        refusal = await run_in_threadpool(self._refusal, request, repository, tag)
        if refusal is not None:
            return refusal
        if not tag:
            return await self._pass_on(request, request.stream())
        body = await request.body()
        answer = await self._pass_on(request, body)
        if answer.status_code == 201:
            await run_in_threadpool(self._put_image, repository, tag, body)
        return answer

    async def _pass_on(self, request: Request, content) -> Response:
        headers = {k: v for k, v in request.headers.items() if k not in HOP}
        if not {"content-length", "transfer-encoding"} & set(request.headers):
            content = None
        async with httpx.AsyncClient(timeout=60) as client:
            url = f"http://{self.upstream}{request.url.path}"
            ask = client.build_request(
                request.method, url, params=request.query_params, headers=headers, content=content
            )
            answer = await client.send(ask, stream=True)
            data = await answer.aread()
        kept = {k: v for k, v in answer.headers.items() if k not in HOP}
        if request.method == "HEAD":  # its length is that of the body it does not have
            return StreamingResponse(iter(()), answer.status_code, kept)
        return Response(data, answer.status_code, kept)

    def _refusal(self, request: Request, repository: str, tag: str) -> Response | None:
        given = request.headers.get("authorization")
        if not given:
            realm = f'Basic realm="https://{request.url.netloc}/",service="ecr.amazonaws.com"'
            return Response("Not Authorized\n", 401, {"WWW-Authenticate": realm})
        password = base64.b64decode(given.removeprefix("Basic ")).decode().partition(":")[2]
        token = self.ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
        if password in self.old:
            self.refused += 1
            return _no(403, "DENIED", "Your authorization token has expired. Reauthenticate and "
                       "try again.")  # fmt: skip
        if given.removeprefix("Basic ") != token:
            return _no(401, "UNAUTHORIZED", "authentication required")
        if not repository:
            return None
        if self.denied and request.method not in ("GET", "HEAD"):
            arn = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/{repository}"
            return _no(403, "DENIED", f"User: arn:aws:iam::{ACCOUNT}:user/ci is not authorized to "
                       f"perform: {self.denied} on resource: {arn}")  # fmt: skip
        try:
            found = self.ecr.describe_repositories(repositoryNames=[repository])
        except ClientError:
            return _no(404, "NAME_UNKNOWN", f"The repository with name '{repository}' does "
                       f"not exist in the registry with id '{ACCOUNT}'")  # fmt: skip
        return self._immutable(found["repositories"][0], repository, tag)

    def _immutable(self, found: dict, repository: str, tag: str) -> Response | None:
        filters = [each["filter"] for each in found.get("imageTagMutabilityExclusionFilters", [])]
        exempt = any(fnmatch.fnmatch(tag, each) for each in filters)
        if not tag or exempt or found["imageTagMutability"] == "MUTABLE":
            return None
        asked = self.ecr.batch_get_image(repositoryName=repository, imageIds=[{"imageTag": tag}])
        if not asked["images"]:
            return None
        return _no(400, "TAG_INVALID", f"The image tag '{tag}' already exists in the "
                   f"'{repository}' repository and cannot be overwritten because the tag is "
                   "immutable.")  # fmt: skip

    def _put_image(self, repository: str, tag: str, body: bytes) -> None:
        with contextlib.suppress(self.ecr.exceptions.ImageAlreadyExistsException):
            self.ecr.put_image(
                repositoryName=repository,
                imageManifest=body.decode(),
                imageTag=tag,
                imageDigest="sha256:" + hashlib.sha256(body).hexdigest(),
            )


def _no(status: int, code: str, message: str) -> Response:
    return JSONResponse({"errors": [{"code": code, "message": message}]}, status)


@contextlib.contextmanager
def running_http(answer: Callable[[Any], tuple[int, dict[str, str], bytes]]) -> Iterator[str]:
    """A server of this process; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            asked = SimpleNamespace(command=self.command, path=self.path, headers=self.headers)
            asked.data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, body = answer(asked)
            self.send_response(status)
            if "Transfer-Encoding" not in headers:
                headers = {"Content-Length": str(len(body)), **headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _any

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Wire:
    """A TCP proxy to a port of this machine whose connections a test cuts.

    Attributes:
        cuts: how many connections are still cut, each after ``after`` bytes sent; -1: all.

    """

    def __init__(self, upstream: int, cuts: int = 0, after: int = 1_000_000) -> None:
        self.upstream, self.cuts, self.after = upstream, cuts, after
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.host = f"localhost:{self.port}"

    def __enter__(self) -> Wire:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.upstream), 10)
                far.settimeout(None)
                threading.Thread(target=self._pump, args=(near, far, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(far, near, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        total = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                total += len(data)
                if counted and self.cuts and total > self.after:
                    self.cuts -= 1
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
