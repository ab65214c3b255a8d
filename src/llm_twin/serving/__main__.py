"""``python -m llm_twin.serving``: the service as a container runs it.

Every flag has a variable: TWIN_HOST, TWIN_PORTS (with commas), TWIN_GRACE and TWIN_WORKERS.
SageMaker starts a container with the argument ``serve``, which changes nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from llm_twin.errors import TwinError
from llm_twin.serving.server import GRACE, serve
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

PORTS = "8000,8080"
"""Ours, and the one that SageMaker asks."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped; return the exit code."""
    given = _parser().parse_args(arguments)
    try:
        return serve(Settings.load(), given.host, given.port, given.grace, given.workers)
    except TwinError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    env = os.environ
    parser = argparse.ArgumentParser(
        prog="python -m llm_twin.serving", description="Serve the promoted twin over HTTP."
    )
    parser.add_argument("command", nargs="?", choices=["serve"], help="may be left out")
    parser.add_argument("--host", default=env.get("TWIN_HOST") or "127.0.0.1")
    parser.add_argument(
        "--port",
        type=_ports,
        default=env.get("TWIN_PORTS") or PORTS,
        metavar="N,N",
        help=f"default: {PORTS}; 0: a free one",
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=env.get("TWIN_GRACE") or GRACE,
        metavar="SECONDS",
        help=f"for running requests at the end; default: {GRACE:g}",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=env.get("TWIN_WORKERS") or 1,
        metavar="N",
        help="processes that answer; default: 1",
    )
    return parser


def _ports(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    raise SystemExit(main())
