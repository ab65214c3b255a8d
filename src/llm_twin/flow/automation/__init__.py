"""Automations: when something happens, or fails to, do something about it, once.

Declared in Python (``ci/automations.py``), seen to by ``invoke automate``.
"""

from llm_twin.flow.automation.actions import alert, call_webhook, from_payload, run_flow
from llm_twin.flow.automation.declare import Automation, Automations
from llm_twin.flow.automation.ledger import emit
from llm_twin.flow.automation.timers import cron, every
from llm_twin.flow.automation.triggers import (
    absent,
    event,
    files_changed,
    metric,
    run_ended,
    webhook,
)

__all__ = [
    "Automation",
    "Automations",
    "absent",
    "alert",
    "call_webhook",
    "cron",
    "emit",
    "event",
    "every",
    "files_changed",
    "from_payload",
    "metric",
    "run_ended",
    "run_flow",
    "webhook",
]
