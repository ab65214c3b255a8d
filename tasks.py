"""Front door for invoke: the stages of ``ci/`` as tasks. ``invoke --list`` shows them."""

import sys
from pathlib import Path

# Invoke turns it off, and then every command compiles all that it imports.
sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)

import ci  # noqa: E402
from llm_twin.flow.tasks import beside, collection  # noqa: E402

MORE = (
    ci.ask, ci.search, ci.serve, ci.curate, ci.features, ci.forget, ci.lineage, *ci.release.TASKS,
)  # fmt: skip

ci.watch.add_task(ci.watch_drift)
namespace = collection(ci.registry, Path(__file__).resolve().parent, *MORE)
for more in (
    ci.image.registry, ci.supply_chain.image, ci.alerts, ci.aws, ci.prompts, ci.traces, ci.watch
):  # fmt: skip
    namespace.add_collection(more)
beside(namespace, "loop", ci.loop_history.history)
beside(
    namespace, "ct",
    ci.profiles, ci.ct_dataset, ci.ct_report, ci.triggers, *ci.stacks.TASKS,
)  # fmt: skip
