"""What a client asks about the server itself: is it there, which version, may I come in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_twin.tracing.store.routing import Problem, Request, Response, json_response, ok, route

if TYPE_CHECKING:
    from llm_twin.tracing.store.store import Store

VERSION = "2.2.122"
"""The release of Opik whose API this store speaks."""
WORKSPACE = "default"


@route("GET", "is-alive/ping")
def ping(store: Store, request: Request) -> Response:
    """Be there; with anything but 200 the SDK keeps its messages to itself."""
    return json_response({"message": "Healthy Server", "healthy": True})


@route("GET", "is-alive/ver")
def version(store: Store, request: Request) -> Response:
    """Which Opik this is; the SDK sends items in parallel to those that are new enough."""
    return json_response({"version": VERSION})


@route("POST", "v1/private/auth")
def check_access(store: Store, request: Request) -> Response:
    """Let a client in that asks for the one workspace; its key was looked at before.

    Raises:
        Problem: 403, there is no such workspace.

    """
    _workspace(store, request)
    return ok()


@route("GET", "v1/private/auth/workspace")
def workspace(store: Store, request: Request) -> Response:
    """The name of the workspace."""
    return json_response({"workspace_name": _workspace(store, request)})


def _workspace(store: Store, request: Request) -> str:
    name = request.headers.get("comet-workspace") or WORKSPACE
    known = {WORKSPACE, store.settings.opik_workspace if store.settings else WORKSPACE}
    if name not in known:
        raise Problem(
            403, f"no such workspace: {name[:100]}; this store has {', '.join(sorted(known))}"
        )
    return name
