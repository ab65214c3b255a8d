"""Stages and their runs: a memory for plain Python functions, without a server.

Knows nothing of twins, Docker, AWS, ZenML or Opik. Importing it costs a few milliseconds, because
every task file does. What a stage asks for while it runs is in ``llm_twin.flow.context``.
"""

from llm_twin.flow.policy import Backoff, Crashed, Jitter, Retry, TimedOut, backoff, jitter
from llm_twin.flow.stage import Registry, Stage, registry, stage

__all__ = [
    "Backoff",
    "Crashed",
    "Jitter",
    "Registry",
    "Retry",
    "Stage",
    "TimedOut",
    "backoff",
    "jitter",
    "registry",
    "stage",
]
