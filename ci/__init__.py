"""What this repository's pipelines do: its stages, one module a family.

Importing this package registers every stage. It must stay cheap: whatever a stage needs beyond the
standard library is imported when the stage runs.
"""

from ci import image, loop, loop_history, quality, release, stacks, supply_chain, training
from ci.alerts import alerts
from ci.answering import ask, search
from ci.cloud import aws
from ci.curate import curate
from ci.dataset import dataset as ct_dataset
from ci.drift import drift as watch_drift
from ci.due import triggers
from ci.features import features
from ci.forget import forget
from ci.lineage import lineage
from ci.profiles import profiles
from ci.prompts import prompts
from ci.report import report as ct_report
from ci.serve import serve
from ci.traces import traces
from ci.watch import collection as watch
from llm_twin.flow import registry

__all__ = [
    "alerts", "ask", "aws", "ct_dataset", "ct_report", "curate", "features", "forget", "image",
    "lineage", "loop", "loop_history", "profiles", "prompts", "quality", "registry", "release",
    "search", "serve", "stacks", "supply_chain", "traces", "training", "triggers", "watch",
    "watch_drift",
]  # fmt: skip
