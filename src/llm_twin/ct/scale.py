"""Who does the work on documents: this process, or the machines of a Ray cluster.

Both call the same functions with the same items and give the results in the same order, so what
comes out does not depend on who did it. Ray is imported when it is asked for.
"""

from __future__ import annotations

import os
import time
from collections import deque
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from llm_twin.errors import ConfigError, NotReadyError, RemoteError, TwinError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Given = TypeVar("Given")
    Made = TypeVar("Made")
    Progress = Callable[[str], object]

KINDS = ("local", "ray")
IN_FLIGHT = 3
"""Batches for each of Ray's cores that are under way; more wait in the source."""
SAY_EVERY = 2.0
ATTEMPTS = 4
OBJECT_STORE = 256 * 2**20


class Workers(Protocol):
    """Calls a function for each of many items."""

    def map(
        self, function: Callable[[Given], Made], items: Iterable[Given], *, batch: int, what: str,
        progress: Progress | None = None, total: int | None = None,
    ) -> Iterator[Made]:  # fmt: skip
        """Yield what the function makes of each item, in their order.

        Args:
            function: known by its module's name, so that another machine finds it.
            items: read as far as there is room for more work, not all at once.
            batch: how many are sent together.
            what: the work, for messages, like "cutting".
            progress: told how far it is, with the rate and what is left.
            total: how many items there are, if that is known.

        Raises:
            TwinError: as the function raised it, or naming the item that it failed on.

        """
        ...


class Local:
    """Does everything in this process, an item when its result is asked for."""

    def map(
        self, function: Callable[[Given], Made], items: Iterable[Given], *, batch: int, what: str,
        progress: Progress | None = None, total: int | None = None,
    ) -> Iterator[Made]:  # fmt: skip
        """See Workers.map."""
        pace = Pace(what, progress, total)
        for item in items:
            made = _done(function, item, what)
            pace.step()
            yield made


class OnRay:
    """Sends batches to Ray's workers; a batch whose worker died is done again by another."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._remote = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(_batch)

    def map(
        self, function: Callable[[Given], Made], items: Iterable[Given], *, batch: int, what: str,
        progress: Progress | None = None, total: int | None = None,
    ) -> Iterator[Made]:  # fmt: skip
        """See Workers.map."""
        pace = Pace(what, progress, total)
        left = iter(items)
        flying: deque[Any] = deque()
        most = IN_FLIGHT * max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        try:
            while True:
                while len(flying) < most and (some := list(islice(left, batch))):
                    flying.append(self._remote.remote(function, some, what))
                if not flying:
                    return
                for made in self._result(flying.popleft(), what):
                    pace.step()
                    yield made
        finally:
            for one in flying:
                self._ray.cancel(one)

    def _result(self, reference: Any, what: str) -> list[Any]:
        try:
            made, error = self._ray.get(reference)
        except self._ray.exceptions.RayError as failure:
            reason = str(failure).strip().rpartition("\n")[2] or type(failure).__name__
            raise RemoteError(
                f"Ray could not finish {what} in {ATTEMPTS} attempts ({reason[:200]})",
                os.environ.get("RAY_ADDRESS", "this machine"),
                "Its workers need this version of llm-twin and enough memory: see ray status,"
                " or use --workers local",
            ) from failure
        if error is not None:
            raise error
        return list(made)


def _batch(
    function: Callable[[Any], Any], items: list[Any], what: str
) -> tuple[list[Any], TwinError | None]:
    """Do a batch; an error is a result, so that it arrives as what it is and is not retried."""
    try:
        return [_done(function, item, what) for item in items], None
    except TwinError as error:
        return [], error


def _done(function: Callable[[Given], Made], item: Given, what: str) -> Made:
    try:
        return function(item)
    except TwinError:
        raise
    except Exception as error:
        raise TwinError(
            f"{what} failed ({type(error).__name__}: {error})",
            _name(item),
            "Leave it out with --exclude, or report it",
        ) from error


def _name(item: object) -> str:
    """The uri of a document, wherever it stands in an item."""
    if isinstance(item, tuple | list):
        return next((name for part in item if (name := _name(part))), "")
    return str(getattr(item, "uri", ""))


class Pace:
    """Tells every two seconds how many items are done, how fast, and when the rest will be."""

    def __init__(self, what: str, progress: Progress | None, total: int | None) -> None:
        self._what, self._progress, self._total = what, progress, total
        self._begun = self._told = time.monotonic()
        self._done = 0

    def step(self, count: int = 1) -> None:
        """Count items that are done."""
        self._done += count
        now = time.monotonic()
        if self._progress is None or now - self._told < SAY_EVERY:
            return
        self._told = now
        rate = self._done / (now - self._begun)
        said = f"{self._what} {self._done:,}"
        if self._total:
            left = max(self._total - self._done, 0) / rate
            said += f"/{self._total:,}, {rate:,.1f}/s, {_clock(left)} left"
        else:
            said += f", {rate:,.1f}/s"
        self._progress(said)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def open_workers(kind: str) -> Iterator[Workers]:
    """Have workers while a block lasts.

    Args:
        kind: ``local``; or ``ray``: the cluster at RAY_ADDRESS, else one on this machine that ends
            with the block.

    Raises:
        ConfigError: it is neither.
        NotReadyError: Ray is not installed.
        RemoteError: no cluster answers.

    """
    if kind not in KINDS:
        raise ConfigError("there are no such workers", repr(kind), f"Use {' or '.join(KINDS)}")
    if kind == "local":
        yield Local()
        return
    ray = _ray()
    started = not ray.is_initialized()
    if started:
        _start(ray)
    try:
        yield OnRay(ray)
    finally:
        if started:
            ray.shutdown()


def _ray() -> Any:
    # Read when it is imported, and by the processes that it starts.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not os.environ.get("RAY_ADDRESS"):
        # Else it listens on every interface of this machine, to whom it lets run anything.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray
    except ImportError:
        raise NotReadyError(
            "Ray is not installed", hint="Type: pip install 'llm-twin[scale]'"
        ) from None
    return ray


def _start(ray: Any) -> None:
    address = os.environ.get("RAY_ADDRESS", "")
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    own = {
        "include_dashboard": False,
        "num_cpus": len(os.sched_getaffinity(0)),
        "object_store_memory": OBJECT_STORE,
    }
    try:
        if address and address != "local":
            ray.init(address=address, **quiet)
        else:
            ray.init(address="local", **own, **quiet)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError, OSError) as error:
        raise RemoteError(
            f"Ray does not start ({type(error).__name__}: {error})",
            address or "this machine",
            "Check RAY_ADDRESS, or use --workers local",
        ) from None
