"""ZenML's alerter on our channels: what a pipeline posts goes through the outbox.

``post`` returns as soon as the message is durable, so that no channel can slow or break a run;
``alerts.watch`` delivers it. A step that runs on another machine has no such outbox: an alerter
registered with ``direct`` sends by itself, to the addresses in a ZenML secret.

Imports ZenML, which in turn imports this by its name: from the installed package, so that it is
found wherever a client is started.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sqlite3
import sys
import time
from typing import TYPE_CHECKING, Any

from zenml.alerter import (
    BaseAlerter,
    BaseAlerterConfig,
    BaseAlerterFlavor,
    BaseAlerterStepParameters,
)
from zenml.client import Client
from zenml.enums import StackComponentType
from zenml.utils.secret_utils import SecretField

from llm_twin.alerting import approval, notes
from llm_twin.alerting.channels import Undelivered, load
from llm_twin.alerting.outbox import LOG, Delivery
from llm_twin.alerting.privacy import Privacy
from llm_twin.alerting.store import Store
from llm_twin.errors import TwinError
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from uuid import UUID

NAME = "llm_twin"
SECRET = "llm_twin_alerts"  # noqa: S105  # pragma: allowlist secret
STACK = "llm-twin"
DEDUP_SECONDS = 3600.0
DUMPED = re.compile(r"^(Parameters|Exception): .*|^Traceback \(most recent.*", re.M | re.S)
"""What ZenML's own hooks add: a step's parameters and a traceback."""


class TwinAlerterConfig(BaseAlerterConfig):
    """Where messages go.

    Attributes:
        urls: Apprise URLs, a line each: ``name=url``; a reference to a ZenML secret.
        direct: send at once instead of through the outbox of this machine.

    """

    urls: str = SecretField(default="")
    direct: bool = False


class TwinAlerterParameters(BaseAlerterStepParameters):
    """What can be said beside a message; ``timeout`` is how many seconds ``ask`` waits."""

    title: str = "ZenML"
    severity: str = "info"
    timeout: float = 3600.0


class TwinAlerter(BaseAlerter):
    """Posts into the outbox and asks through it."""

    @property
    def config(self) -> TwinAlerterConfig:
        """The component's configuration."""
        assert isinstance(self._config, TwinAlerterConfig)
        return self._config

    def post(self, message: str, params: BaseAlerterStepParameters | None = None) -> bool:
        """Have a message sent, once in an hour; never raises into the run.

        Parameters and tracebacks, as ZenML's own hooks post them, are cut off; the rest is
        redacted.

        Returns:
            Whether it is in the outbox or, with ``direct``, was sent.

        """
        given = _given(params)
        try:
            privacy = Privacy.of(Settings.load().home)
            title = privacy.text(given.title)
            body = notes.lines(privacy, DUMPED.sub("", message))
            if self.config.direct:
                return _send(self.config.urls, title, body, given.severity)
            with contextlib.closing(Store(Settings.load().home)) as store, store.transaction():
                notes.put(store, "note", given.severity, title, body, time.time(), DEDUP_SECONDS)
        except (OSError, sqlite3.Error, TwinError) as error:
            print(f"error: a message could not be kept: {error}", file=sys.stderr)
            return False
        return True

    def ask(self, question: str, params: BaseAlerterStepParameters | None = None) -> bool:
        """Send a question and wait for ``invoke alerts.approve``; no answer in time is a no.

        Raises:
            SpaceError: it cannot be written.

        """
        given = _given(params)
        answered = approval.ask(Settings.load().home, question, given.timeout)
        return answered.state == approval.APPROVED


class TwinAlerterFlavor(BaseAlerterFlavor):
    """What ZenML is told about the alerter."""

    @property
    def name(self) -> str:
        """The flavour's name."""
        return NAME

    @property
    def config_class(self) -> type[TwinAlerterConfig]:
        """Class of the configuration."""
        return TwinAlerterConfig

    @property
    def implementation_class(self) -> type[TwinAlerter]:
        """Class of the component."""
        return TwinAlerter


def set_up(settings: Settings, *, direct: bool | None = None) -> str:
    """Register flavour, secret and component, and put it on the active stack; return its name.

    Args:
        settings: ``alert_urls`` becomes the secret.
        direct: as in the configuration; None: as it is, or not at first.

    The default stack cannot be changed, so one like it is made and activated. A stack that has an
    alerter already keeps it. Called again, it does nothing twice.
    """
    client = Client()
    try:
        client.get_flavor_by_name_and_type(NAME, StackComponentType.ALERTER)
    except KeyError:
        source = f"{__name__}.{TwinAlerterFlavor.__name__}"
        client.create_flavor(source=source, component_type=StackComponentType.ALERTER)
    _keep_secret(client, settings.alert_urls)
    return _on_stack(client, _component(client, direct))


def _keep_secret(client: Client, urls: str) -> None:
    try:
        kept = client.get_secret(SECRET).secret_values
    except KeyError:
        client.create_secret(SECRET, values={"urls": urls})
        return
    if kept != {"urls": urls}:
        client.update_secret(SECRET, add_or_update_values={"urls": urls})


def _component(client: Client, direct: bool | None) -> UUID:
    kind = StackComponentType.ALERTER
    wanted: dict[str, Any] = {"urls": f"{{{{{SECRET}.urls}}}}", "direct": bool(direct)}
    try:
        found = client.get_stack_component(kind, NAME)
    except KeyError:
        return client.create_stack_component(NAME, NAME, kind, configuration=wanted).id
    if direct is not None and found.configuration != wanted:
        client.update_stack_component(NAME, kind, configuration=wanted)
    return found.id


def _on_stack(client: Client, alerter: UUID) -> str:
    active = client.active_stack_model
    if StackComponentType.ALERTER in active.components:
        return active.name
    if active.name != "default":
        client.update_stack(active.id, component_updates={StackComponentType.ALERTER: [alerter]})
        return active.name
    try:
        made = client.get_stack(STACK)
    except KeyError:
        parts = {kind: found[0].id for kind, found in active.components.items()}
        made = client.create_stack(STACK, {**parts, StackComponentType.ALERTER: alerter})
    client.activate_stack(made.id)
    return made.name


def _given(params: BaseAlerterStepParameters | None) -> TwinAlerterParameters:
    return params if isinstance(params, TwinAlerterParameters) else TwinAlerterParameters()


def _send(urls: str, title: str, body: str, severity: str) -> bool:
    """Send to the first channel that takes it."""
    settings = dataclasses.replace(Settings.load(), alert_urls=urls)
    delivery = Delivery(0, "", severity, "note", title, body, "")
    for name, channel in load(settings).items():
        if name == LOG:
            continue
        try:
            channel.send(delivery)
        except Undelivered as error:
            print(f"error: a message was not sent through {name}: {error}", file=sys.stderr)
        else:
            return True
    return False
