"""Why a build failed, in one sentence, from what the builder said in many.

The engines word the same failure differently from version to version, and a full disk is often
named only in the output of the step that met it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llm_twin.errors import TwinError

if TYPE_CHECKING:
    from llm_twin.delivery.engine import Engine
    from llm_twin.delivery.events import Step

NO_SPACE = re.compile(r"no space left on device|Errno 28", re.IGNORECASE)
STATUS = re.compile(r"(?:exit code|exit status|non-zero code):? (\d+)")
TYPO = re.compile(r"dockerfile parse error (?:on )?line (\d+): (.*)", re.IGNORECASE)
NOT_COPIED = re.compile(r'"([^"]+)"(?:: | )not found|stat:? "?([^\s"]+)"?: no such file')
BASE = re.compile(r"load metadata for (\S+)")
# What BuildKit puts in front of the cause, once for each layer of itself.
WRAPPING = re.compile(
    r"(?:failed to solve(?: with frontend \S+)?|rpc error: code = \w+ desc =|failed to build LLB"
    r"|failed to compute cache key|failed to create LLB definition):? "
)


class BuildFailed(TwinError):
    """The image could not be built.

    Attributes:
        step: the name of the step that failed; empty if it did not come to a step.
        tail: the last lines that it printed, at most 30.
        status: the exit code of its command, if it had one.

    """

    def __init__(
        self,
        what: str,
        where: object = "",
        hint: str = "",
        *,
        step: str = "",
        tail: tuple[str, ...] = (),
        status: int | None = None,
    ) -> None:
        super().__init__(what, where, hint)
        self.step = step
        self.tail = tail
        self.status = status


def explain(
    message: str, step: Step | None, tail: tuple[str, ...], engine: Engine, dockerfile: str
) -> BuildFailed:
    """The error for a build that ended with ``message``.

    Args:
        message: what the engine said last.
        step: the step that failed, if one did.
        tail: that step's last lines.
        engine: asked how much room its build cache would give back when its disk is full.
        dockerfile: the Dockerfile's path in the context.

    """
    name = step.name if step else ""
    said = f"{message}\n{step.error if step else ''}"
    cause = " ".join(WRAPPING.sub("", message).split())
    found = STATUS.search(said)
    status = int(found[1]) if found else None
    if NO_SPACE.search("\n".join((said, *tail))):
        what, where, hint = "The engine's disk is full", name or cause, _make_room(engine)
    elif typo := TYPO.search(message):
        what, where = f"The Dockerfile is wrong ({typo[2].strip()})", f"{dockerfile}:{typo[1]}"
        hint = "Correct the line"
    elif found:
        what, where = f"A build step ended with exit code {status}", name
        hint = f"Its last line was: {tail[-1].strip()}" if tail else "It printed nothing"
    elif base := BASE.search(name):
        what, where = "The base image cannot be had", base[1]
        hint = f"Check its name, docker login and the network ({cause})"
    elif missing := NOT_COPIED.search(message):
        what, where = "The build context has no such file", missing[1] or missing[2]
        hint = f"Check {name or dockerfile} and .dockerignore"
    else:
        what, where, hint = "The image could not be built", name, cause
    return BuildFailed(what, where, hint, step=name, tail=tail, status=status)


def _make_room(engine: Engine) -> str:
    free = engine.reclaimable()
    if free < 1e6:
        return "Make room, for example: docker system prune"
    return f"Free {free / 1e6:.0f} MB of build cache with: docker builder prune"
