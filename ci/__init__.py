"""What this repository's pipelines do: its stages, one module a family.

Importing this package registers every stage. It must stay cheap: whatever a stage needs beyond the
standard library is imported when the stage runs.
"""

from ci import image, loop, loop_history, quality, release, supply_chain, training
from ci.alerts import alerts
from ci.answering import ask, search
from ci.cloud import aws
from ci.curate import curate
from ci.forget import forget
from ci.lineage import lineage
from ci.prompts import prompts
from ci.serve import serve
from ci.traces import traces
from ci.watch import collection as watch
from llm_twin.flow import registry

__all__ = [
    "alerts", "ask", "aws", "curate", "forget", "image", "lineage", "loop", "loop_history",
    "prompts", "quality", "registry", "release", "search", "serve", "supply_chain", "traces",
    "training", "watch",
]  # fmt: skip
