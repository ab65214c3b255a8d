"""Front door for invoke: the stages of ``ci/`` as tasks. ``invoke --list`` shows them."""

from pathlib import Path

import ci
from llm_twin.flow.tasks import collection

MORE = (ci.ask, ci.search, ci.serve, ci.curate, ci.forget, ci.lineage, *ci.release.TASKS)

namespace = collection(ci.registry, Path(__file__).resolve().parent, *MORE)
for more in (
    ci.image.registry, ci.supply_chain.image, ci.alerts, ci.aws, ci.prompts, ci.traces, ci.watch
):  # fmt: skip
    namespace.add_collection(more)
ci.loop_history.add_to(namespace)
