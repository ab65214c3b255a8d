"""Front door for invoke: the stages of ``ci/`` as tasks. ``invoke --list`` shows them."""

from pathlib import Path

import ci
from llm_twin.flow.tasks import collection

namespace = collection(ci.registry, Path(__file__).resolve().parent, ci.ask, ci.search, ci.serve)
namespace.add_collection(ci.image.registry)
namespace.add_collection(ci.aws)
