"""As much of a Kubernetes API server as a job needs: it accepts one, runs it, and tells of it.

An image called ``missing`` cannot be pulled, and no node has eight GPUs.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.integration.job_containers import Container

KINDS = ("secrets", "serviceaccounts", "rolebindings", "jobs", "pods")
PATH = re.compile(
    r"/(?:api/v1|apis/(?:batch|rbac\.authorization\.k8s\.io)/v1)"
    r"/namespaces/([\w-]+)/(\w+)(?:/([\w.-]+))?(?:/(log))?"
)
UNSCHEDULABLE = {"phase": "Pending", "conditions": [{
    "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu"}]}  # fmt: skip


def container_status(image: str, **state: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": "main", "image": image, "imageID": "", "ready": False, "restartCount": 0,
             "state": state}]  # fmt: skip


def waiting(image: str, gpus: str) -> dict[str, Any] | None:
    """The status of a pod that waits in vain; None for one that runs."""
    if "/missing@" in image:
        said = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "llm-twin"'}
        return {"phase": "Pending", "containerStatuses": container_status(image, waiting=said)}
    return UNSCHEDULABLE if gpus == "8" else None


def stamp() -> str:
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{now % 1 * 1e9:09.0f}Z"


class Cluster:
    """What it holds, by kind and name, and the containers that run."""

    def __init__(self, folder: Path, kubeconfig: Path) -> None:
        self.folder, self.kubeconfig = folder, kubeconfig
        self.held: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS}
        self.containers: dict[str, Container] = {}
        self.lines: dict[str, list[str]] = {}
        self.deleted: list[str] = []

    def create(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        name = body["metadata"]["name"]
        self.held[kind][name] = body
        if kind == "jobs":
            self._start(name, body)
        return body

    def _start(self, job: str, body: dict[str, Any]) -> None:
        template, pod = body["spec"]["template"], f"{job}-x7k2p"
        (main,) = template["spec"]["containers"]
        limits = (main.get("resources") or {}).get("limits") or {}
        vain = waiting(main["image"], limits.get("nvidia.com/gpu", ""))
        made = {
            "metadata": {
                "name": pod, "labels": {"job-name": job},
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": job,
                                     "uid": "1", "controller": True}],
            },
            "spec": template["spec"],
            "status": vain or {"phase": "Running"},
        }  # fmt: skip
        body["status"] = {"active": 1}
        self.held["pods"][pod] = made
        self.lines[pod] = []
        if not vain:
            environment = {one["name"]: self._value(one) for one in main.get("env") or []}
            environment |= {"HOSTNAME": pod, "KUBECONFIG": str(self.kubeconfig)}
            container = Container(
                self.folder / pod, [*main["command"], *main["args"]], environment, hostname=pod
            )
            self.containers[job] = container
            threading.Thread(target=self._watch, args=(job, pod, container), daemon=True).start()

    def _value(self, said: dict[str, Any]) -> str:
        if "value" in said:
            return str(said["value"])
        reference = said["valueFrom"]["secretKeyRef"]
        data = self.held["secrets"][reference["name"]]["data"]
        return base64.b64decode(data[reference["key"]]).decode()

    def _watch(self, job: str, pod: str, container: Container) -> None:
        while (code := container.ended()) is None:
            self._note(pod, container)
            time.sleep(0.2)
        self._note(pod, container)
        if pod not in self.held["pods"]:
            return
        ended = {"exitCode": code, "reason": "Completed" if code == 0 else "Error"}
        self.held["pods"][pod]["status"] = {
            "phase": "Succeeded" if code == 0 else "Failed",
            "containerStatuses": container_status("llm-twin", terminated=ended),
        }
        condition = {"type": "Complete", "status": "True"}
        if code:
            condition = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}
        self.held["jobs"][job]["status"] = {"conditions": [condition]}

    def _note(self, pod: str, container: Container) -> None:
        self.lines[pod] += [f"{stamp()} {line}" for line in container.fresh_lines()]

    def delete(self, kind: str, name: str) -> bool:
        self.deleted.append(f"{kind}/{name}")
        if kind == "jobs":
            for pod in [pod for pod in self.held["pods"] if pod.startswith(f"{name}-")]:
                del self.held["pods"][pod]
            if container := self.containers.get(name):
                container.kill()
        return self.held[kind].pop(name, None) is not None

    def select(self, kind: str, selector: str) -> list[dict[str, Any]]:
        wanted = dict(part.split("=") for part in selector.split(",") if part)
        return [
            one for one in self.held[kind].values()
            if wanted.items() <= (one["metadata"].get("labels") or {}).items()
        ]  # fmt: skip


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A cluster on loopback; its kubeconfig, with the context ``test``, is in the folder."""
    folder.mkdir(parents=True)
    cluster = Cluster(folder, folder / "kubeconfig")

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, status: int, body: Any) -> None:
            text = isinstance(body, str)
            data = body.encode() if text else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if text else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _handle(self) -> None:
            address = urlsplit(self.path)
            asked = {name: values[0] for name, values in parse_qs(address.query).items()}
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}") if length else {}
            found = PATH.fullmatch(address.path)
            if not found:
                self._answer(404, {"message": "not served"})
                return
            _, kind, name, log = found.groups()
            missing = (404, {"kind": "Status", "message": "not found", "code": 404})
            if log:
                lines = cluster.lines.get(name, [])
                self._answer(200, "".join(f"{line}\n" for line in lines))
            elif self.command == "POST":
                self._answer(201, cluster.create(kind, body))
            elif self.command == "DELETE":
                self._answer(*((200, {}) if cluster.delete(kind, name) else missing))
            elif name:
                one = cluster.held[kind].get(name)
                self._answer(*((200, one) if one else missing))
            else:
                found = cluster.select(kind, asked.get("labelSelector", ""))
                self._answer(200, {"items": found})

        do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = _handle

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    cluster.kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1", "kind": "Config", "current-context": "test",
                "clusters": [{"name": "test", "cluster": {"server": address}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                "users": [{"name": "test", "user": {}}],
            }
        )
    )  # fmt: skip
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()
        for container in cluster.containers.values():
            container.kill()
