"""Stages and their runs: a memory for plain Python functions, without a server.

Knows nothing of twins, Docker, AWS, ZenML or Opik. Importing it costs a few milliseconds, because
every task file does.
"""

from llm_twin.flow.stage import Registry, Stage, registry, stage

__all__ = ["Registry", "Stage", "registry", "stage"]
