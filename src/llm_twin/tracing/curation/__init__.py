"""From traces to rows that a model can learn from: chosen, cleaned, versioned."""

from llm_twin.tracing.curation.choose import Choice, choose
from llm_twin.tracing.curation.clean import REASONS, Curated, curate
from llm_twin.tracing.curation.publish import Published, publish

__all__ = ["REASONS", "Choice", "Curated", "Published", "choose", "curate", "publish"]
