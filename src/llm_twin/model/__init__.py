"""The small language model: its data, training, evaluation, gate, and the bundle it ships in.

Nothing is imported here, so that ``llm_twin.model.bundles`` and ``llm_twin.model.gate`` stay light:
torch and transformers load only when a model is trained or read.
"""
