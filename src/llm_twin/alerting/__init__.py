"""Alerting: what happened becomes one message to a person, durable before it is sent."""
