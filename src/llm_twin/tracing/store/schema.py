"""The tables, as numbered migrations: append one, never change one that was released."""

from __future__ import annotations

from llm_twin.tracing.evaluation.tables import TABLES as EVALUATION
from llm_twin.tracing.outbox import TABLES as OUTBOX
from llm_twin.tracing.sampling import TABLES as SAMPLING
from llm_twin.tracing.store import (
    dataset_items,
    dataset_versions,
    datasets,
    environments,
    experiment_items,
    experiments,
    prompt_versions,
    prompts,
)

CORE = """
CREATE TABLE project (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, body TEXT NOT NULL);
CREATE TABLE trace (
    id TEXT PRIMARY KEY, project_id TEXT NOT NULL, thread_id TEXT, started TEXT NOT NULL,
    updated TEXT NOT NULL, newer TEXT NOT NULL, created TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX trace_project ON trace (project_id, id);
CREATE INDEX trace_thread ON trace (project_id, thread_id) WHERE thread_id IS NOT NULL;
CREATE TABLE span (
    id TEXT PRIMARY KEY, project_id TEXT NOT NULL, trace_id TEXT, type TEXT, cost REAL,
    provider TEXT, usage TEXT, started TEXT NOT NULL, updated TEXT NOT NULL, newer TEXT NOT NULL,
    created TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX span_project ON span (project_id, id);
CREATE INDEX span_trace ON span (trace_id, id);
CREATE TABLE thread (
    id TEXT PRIMARY KEY, project_id TEXT NOT NULL, name TEXT NOT NULL, status TEXT NOT NULL,
    tags TEXT NOT NULL, created TEXT NOT NULL, updated TEXT NOT NULL, UNIQUE (project_id, name)
);
CREATE TABLE score (
    kind TEXT NOT NULL, entity TEXT NOT NULL, name TEXT NOT NULL, author TEXT NOT NULL,
    value REAL NOT NULL, source TEXT, reason TEXT, category TEXT, queue TEXT,
    created TEXT NOT NULL, updated TEXT NOT NULL, PRIMARY KEY (kind, entity, name, author)
) WITHOUT ROWID;
CREATE TABLE comment (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, entity TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX comment_entity ON comment (kind, entity);
CREATE TABLE guardrail (
    id TEXT PRIMARY KEY, trace_id TEXT NOT NULL, span_id TEXT, name TEXT, result TEXT,
    body TEXT NOT NULL
);
CREATE INDEX guardrail_trace ON guardrail (trace_id);
CREATE TABLE assertion_result (
    kind TEXT NOT NULL, entity TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (kind, entity, name)
) WITHOUT ROWID;
CREATE TABLE attachment (
    kind TEXT NOT NULL, entity TEXT NOT NULL, name TEXT NOT NULL, mime TEXT NOT NULL,
    size INTEGER NOT NULL, blob TEXT NOT NULL, PRIMARY KEY (kind, entity, name)
) WITHOUT ROWID
"""

MIGRATIONS = [
    CORE,
    datasets.TABLES,
    dataset_versions.TABLES,
    dataset_items.TABLES,
    experiments.TABLES,
    experiment_items.TABLES,
    prompts.TABLES,
    prompt_versions.TABLES,
    environments.TABLES,
    EVALUATION,
    OUTBOX,
    SAMPLING,
]
