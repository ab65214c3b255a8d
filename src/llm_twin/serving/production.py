"""The promoted bundle in a process that lives on: opened anew when another one is promoted.

A request keeps the twin that it began with; an old one is closed when its last request is done.
"""

from __future__ import annotations

import threading
import time
import weakref
from contextlib import nullcontext
from typing import TYPE_CHECKING

from llm_twin.errors import TwinError
from llm_twin.model.bundles import PRODUCTION
from llm_twin.serving.answer import answer
from llm_twin.serving.llm import open_llm
from llm_twin.serving.twin import open_production

if TYPE_CHECKING:
    from collections.abc import Callable

    from llm_twin.serving.answer import Answer
    from llm_twin.serving.llm import LLM
    from llm_twin.serving.twin import Twin
    from llm_twin.settings import Settings

RETRY_SECONDS = 10.0
"""How long a promoted bundle that does not open is left alone while an older one answers."""


class OpenTwin:
    """A twin and the LLMs that its requests named, each opened once; safe to share by threads."""

    def __init__(self, twin: Twin, settings: Settings) -> None:
        self.twin = twin
        self._settings = settings
        self._opening = threading.Lock()
        self._alone = threading.Lock()
        self._llms: dict[str, LLM | None] = {}

    def answer(self, question: str, k: int, name: str = "", thread: str = "") -> Answer:
        """Answer with the LLM of that name, or with that of the settings; see `answer.answer`."""
        llm = self.llm(name)
        # The small model runs under torch's process-wide seed and thread count.
        alone = self._alone if llm is not None and llm.mode == "local" else nullcontext()
        with alone:
            return answer(question, self.twin, llm, k, thread)

    def llm(self, name: str = "") -> LLM | None:
        """Return the LLM of that name, or that of the settings; see `llm.open_llm`."""
        chosen = name or self._settings.llm
        if chosen not in self._llms:
            with self._opening:
                if chosen not in self._llms:
                    self._llms[chosen] = open_llm(chosen, self._settings, self.twin)
        return self._llms[chosen]


class Production:
    """What is in production now.

    Args:
        settings: where bundles are, and which LLM is used when a request names none.
        twin: answer with this one for good, and leave its closing to the caller.
        tell: told the error when a promoted bundle does not open and an older one goes on.

    """

    def __init__(
        self, settings: Settings, twin: Twin | None, tell: Callable[[TwinError], None]
    ) -> None:
        self._settings = settings
        self._tell = tell
        self._follows = twin is None
        self._open = OpenTwin(twin, settings) if twin else None
        self._link = settings.home / "models" / PRODUCTION
        self._target = ""
        self._refused = ("", 0.0)
        self._lock = threading.Lock()

    def current(self) -> OpenTwin:
        """Return the promoted twin; while a new one is being opened, the one before it.

        Raises:
            NotReadyError: there is none, or the only one is damaged.

        """
        opened = self._open
        if opened is None:
            with self._lock:
                return self._open or self._switch(self._leads_to())
        target = self._leads_to() if self._follows else ""
        if not self._is_news(target) or not self._lock.acquire(blocking=False):
            return opened
        try:
            return self._switch(target)
        except TwinError as error:
            self._refused = (target, time.monotonic() + RETRY_SECONDS)
            self._tell(error)
            return opened
        finally:
            self._lock.release()

    def probe(self) -> str:
        """Search once and return the version that answered.

        Raises:
            TwinError: it cannot answer now, and why.

        """
        opened = self.current()
        opened.llm()
        opened.twin.search("ready", 1)
        return opened.twin.version

    def _switch(self, target: str) -> OpenTwin:
        twin = open_production(self._settings)
        weakref.finalize(twin, twin.index.close)
        self._open = OpenTwin(twin, self._settings)
        self._target = target
        return self._open

    def _is_news(self, target: str) -> bool:
        refused, until = self._refused
        waits = target == refused and time.monotonic() < until
        return target not in ("", self._target) and not waits

    def _leads_to(self) -> str:
        try:
            return str(self._link.readlink())
        except OSError:
            return ""
