"""Online evaluation: rules in Python that score what was traced, and the figures of a time window.

Which rules there are is said in ``ci/watch.py``; importing this is cheap enough for it.
"""

from llm_twin.tracing.evaluation.rules import Rule, Score, Skip, rule

__all__ = ["Rule", "Score", "Skip", "rule"]
