"""An LLM twin, and the machine that keeps it shipping.

The packages are rooms with one-way doors (see ARCHITECTURE.md); nothing is imported here, so that
``import llm_twin`` costs nothing.
"""

__version__ = "0.1.0"
