"""The tables of online evaluation, apart so that the schema need not import what works on them.

``traffic`` is what windows read of a trace, so that they read no questions and answers: SQLite
answers from an index alone only what stands in columns of its own.
"""

from __future__ import annotations

_TRAFFIC = """
    INSERT INTO traffic VALUES (
        NEW.id, NEW.project_id, NEW.started, json_extract(NEW.body, '$.end_time'),
        json_extract(NEW.body, '$.error_info') IS NOT NULL,
        coalesce(json_extract(NEW.body, '$.source'), '') NOT IN ('experiment', 'optimization')
    )
"""
TABLES = f"""
CREATE TABLE traffic (
    trace TEXT PRIMARY KEY, project_id TEXT NOT NULL, started TEXT NOT NULL, ended TEXT,
    failed INTEGER NOT NULL, live INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX traffic_window ON traffic (project_id, live, started, ended, failed);
CREATE TRIGGER traffic_insert AFTER INSERT ON trace BEGIN {_TRAFFIC}; END;
CREATE TRIGGER traffic_update AFTER UPDATE ON trace BEGIN
    DELETE FROM traffic WHERE trace = NEW.id;
    {_TRAFFIC};
END;
CREATE TRIGGER traffic_delete AFTER DELETE ON trace BEGIN
    DELETE FROM traffic WHERE trace = OLD.id;
    DELETE FROM evaluation WHERE trace = OLD.id;
    DELETE FROM evaluation_error WHERE trace = OLD.id;
END;
CREATE INDEX span_cost ON span (project_id, started, cost) WHERE cost IS NOT NULL;
CREATE INDEX trace_created ON trace (created, id);
CREATE TABLE evaluation (
    trace TEXT NOT NULL, lane TEXT NOT NULL, due INTEGER NOT NULL, done TEXT NOT NULL,
    PRIMARY KEY (trace, lane)
) WITHOUT ROWID;
CREATE INDEX evaluation_due ON evaluation (lane, trace) WHERE due;
CREATE TABLE evaluation_state (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE evaluation_error (
    at TEXT NOT NULL, rule TEXT NOT NULL, trace TEXT NOT NULL, message TEXT NOT NULL
);
CREATE INDEX evaluation_error_at ON evaluation_error (at);
CREATE INDEX evaluation_error_trace ON evaluation_error (trace)
"""  # noqa: S608
