"""Tracing: the Opik SDK talks to a durable store here, which forwards to a real Opik."""
