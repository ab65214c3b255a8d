"""Continuous training: the ZenML pipeline over corpus, retrieval and model, and its local stack."""
