"""Ways to a person: ``alerts.log`` and the console always, and whatever Apprise reaches by URL."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from llm_twin.alerting.outbox import LOG
from llm_twin.alerting.privacy import Privacy
from llm_twin.errors import ConfigError, NotReadyError

if TYPE_CHECKING:
    from pathlib import Path

    from llm_twin.alerting.outbox import Delivery
    from llm_twin.settings import Settings

TAIL_BYTES = 1 << 20
PACE_SECONDS = 0.5
"""Between two messages; Apprise's own pause can be longer than a message may take to arrive."""
KINDS = {"info": "info", "warning": "warning", "error": "failure", "critical": "failure"}
REACHABLE = ("json", "jsons", "xml", "xmls", "form", "forms")
_REFUSED = re.compile(r"\berror=4(?!08|29)\d\d")
LOGGER = logging.getLogger("apprise")


class Undelivered(Exception):
    """A message did not arrive; ``refused``: it will not another time either."""

    def __init__(self, why: str, *, refused: bool = False) -> None:
        super().__init__(why)
        self.refused = refused


class Channel(Protocol):
    """A way to a person; ``always`` whether what goes to the default goes here too."""

    always: bool

    def reach(self) -> None:
        """See that somebody listens, before a message counts as perhaps sent.

        Raises:
            Undelivered: nobody does.

        """
        ...

    def send(self, delivery: Delivery) -> None:
        """Send a message; return once it was taken.

        Raises:
            Undelivered: it was not.

        """
        ...


class Log:
    """A line in ``alerts.log``, written once however often it is tried, and one on stderr."""

    always = False

    def __init__(self, home: Path) -> None:
        self.path = home / "alerts.log"

    def reach(self) -> None:
        """A file can always be tried."""

    def send(self, delivery: Delivery) -> None:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        said = " | ".join([delivery.title, *delivery.body.splitlines()])
        line = f"{at} {said} {delivery.mark}\n"
        try:
            written = self._append(line.encode("utf-8", "replace"), f"{delivery.mark}\n".encode())
        except OSError as error:
            raise Undelivered(f"alerts.log cannot be written ({error})") from None
        if written:
            print(f"alert {line}", end="", file=sys.stderr, flush=True)

    def _append(self, line: bytes, mark: bytes) -> bool:
        with self.path.open("ab+") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            tail = file.read()
            if mark in tail:
                return False
            file.write(line if not tail or tail.endswith(b"\n") else b"\n" + line)
            file.flush()
            os.fsync(file.fileno())
        return True


class Apprise:
    """One of the services that Apprise knows, by its URL, which is a secret.

    Args:
        name: of the channel.
        url: like ``slack://…``, ``mailto://…``, ``json://host/path``; see Apprise's list.
        timeout: seconds to connect, and to wait for an answer.
        always: whether what goes to the default goes here too.

    Raises:
        ConfigError: Apprise makes nothing of the URL.
        NotReadyError: Apprise is not installed.

    """

    def __init__(self, name: str, url: str, timeout: float, *, always: bool = False) -> None:
        try:
            import apprise
        except ImportError:
            hint = "Type: pip install 'llm-twin[alert]'"
            raise NotReadyError("alert channels need a package", "apprise", hint) from None
        with _Heard():
            asset = apprise.AppriseAsset(app_id="llm-twin", app_desc="alerts", app_url="")
            found: Any = apprise.Apprise.instantiate(url, asset=asset)
        if not found:
            hint = f"Mend the line {name}= of TWIN_ALERT_URLS"
            raise ConfigError("Apprise makes nothing of an alert channel's URL", name, hint)
        found.socket_connect_timeout = found.socket_read_timeout = timeout
        found.request_rate_per_sec = min(found.request_rate_per_sec, PACE_SECONDS)
        # A POST that is sent on as a GET loses its message and looks delivered.
        found.redirects = False
        self.always = always
        self._service, self._timeout = found, timeout
        self._privacy = Privacy(
            secrets=[part for part in re.split(r"[/?&=@:]", url) if len(part) > 5]
        )

    def reach(self) -> None:
        host, port = self._address()
        if not host:
            return
        try:
            socket.create_connection((host, port), self._timeout).close()
        except OSError as error:
            raise Undelivered(f"nobody listens ({error})") from None

    def send(self, delivery: Delivery) -> None:
        with _Heard() as heard:
            try:
                taken = self._service.notify(
                    body=delivery.body,
                    title=delivery.title,
                    notify_type=KINDS["info" if delivery.what == "resolved" else delivery.severity],
                    body_format="text",
                )
            # A plugin may raise anything, and its text may hold the URL.
            except Exception as error:
                raise Undelivered(f"Apprise raised {type(error).__name__}") from None
        if not taken:
            said = " ".join(heard.lines) or "not taken"
            raise Undelivered(self._privacy.text(said), refused=bool(_REFUSED.search(said)))

    def _address(self) -> tuple[str, int]:
        """Host and port, of services whose URL names their server."""
        service = self._service
        secure = bool(getattr(service, "secure", False))
        if host := getattr(service, "smtp_host", ""):
            return str(host), int(service.port or 587)
        if str(service.schema) not in REACHABLE:
            return "", 0
        return str(service.host), int(service.port or (443 if secure else 80))


class _Heard(logging.Handler):
    """What Apprise logs in this thread, which is all it says about a failure."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.lines.append(record.getMessage())

    def __enter__(self) -> _Heard:
        LOGGER.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        LOGGER.removeHandler(self)


def load(settings: Settings) -> dict[str, Channel]:
    """The channels of ``TWIN_ALERT_URLS`` in their order, and the log.

    Raises:
        ConfigError: a line is not ``name=url``, or Apprise makes nothing of its URL.
        NotReadyError: Apprise is not installed.

    """
    found: dict[str, Channel] = {LOG: Log(settings.home)}
    for number, line in enumerate(settings.alert_urls.splitlines(), 1):
        name, _, url = (part.strip() for part in line.partition("="))
        if not (name or url):
            continue
        always, name = name.startswith("+"), name.removeprefix("+")
        if not re.fullmatch(r"[a-z0-9_-]+", name) or not url or name in found:
            hint = (
                "Write one name=url a line, like ops=slack://…; names in small letters, each once"
            )
            raise ConfigError(
                "an alert channel cannot be read", f"TWIN_ALERT_URLS, line {number}", hint
            )
        found[name] = Apprise(name, url, settings.alert_timeout, always=always)
    return found
