"""The history's tables, as numbered migrations: append, never edit.

Each is applied once, in a transaction, by whoever opens the store first.
"""

MIGRATIONS = (
    """
    CREATE TABLE run (
        id TEXT PRIMARY KEY, flow TEXT NOT NULL, parameters TEXT NOT NULL,
        state TEXT NOT NULL, state_name TEXT NOT NULL, message TEXT NOT NULL,
        created REAL NOT NULL, ended REAL, pid INTEGER NOT NULL, source TEXT NOT NULL
    );
    CREATE TABLE stage_run (
        run TEXT NOT NULL REFERENCES run ON DELETE CASCADE, stage TEXT NOT NULL,
        position INTEGER NOT NULL, state TEXT NOT NULL, state_name TEXT NOT NULL,
        message TEXT NOT NULL, started REAL, ended REAL, cpu REAL, peak_mb REAL,
        parts TEXT, result TEXT, PRIMARY KEY (run, stage)
    );
    CREATE INDEX stage_run_by_stage ON stage_run (stage, state, ended);
    CREATE INDEX run_by_time ON run (created);
    CREATE TABLE file_digest (
        path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
        digest TEXT NOT NULL
    );
    """,
    """
    ALTER TABLE run ADD COLUMN options TEXT NOT NULL DEFAULT '{}';
    ALTER TABLE run ADD COLUMN host TEXT NOT NULL DEFAULT '';
    ALTER TABLE run ADD COLUMN heartbeat REAL;
    ALTER TABLE run ADD COLUMN cancel TEXT NOT NULL DEFAULT '';
    ALTER TABLE stage_run ADD COLUMN key TEXT NOT NULL DEFAULT '';
    ALTER TABLE stage_run ADD COLUMN evidence TEXT NOT NULL DEFAULT '{}';
    ALTER TABLE stage_run ADD COLUMN why TEXT NOT NULL DEFAULT '[]';
    ALTER TABLE stage_run ADD COLUMN outputs TEXT NOT NULL DEFAULT '{}';
    ALTER TABLE stage_run ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX stage_run_by_key ON stage_run (stage, key, ended);
    CREATE TABLE attempt (
        run TEXT NOT NULL REFERENCES run ON DELETE CASCADE, stage TEXT NOT NULL,
        number INTEGER NOT NULL, state TEXT NOT NULL, state_name TEXT NOT NULL,
        message TEXT NOT NULL, started REAL NOT NULL, ended REAL, cpu REAL, peak_mb REAL,
        PRIMARY KEY (run, stage, number)
    );
    DROP TABLE file_digest;
    CREATE TABLE file (
        path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
        digest TEXT NOT NULL, imports TEXT
    );
    """,
    """
    CREATE TABLE event (
        id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
        name TEXT NOT NULL, at REAL NOT NULL, data TEXT NOT NULL
    );
    CREATE INDEX event_by_name ON event (kind, name);
    CREATE TABLE automation (
        name TEXT PRIMARY KEY, trigger TEXT NOT NULL, event INTEGER NOT NULL, state TEXT NOT NULL
    );
    CREATE TABLE firing (
        id TEXT PRIMARY KEY, automation TEXT NOT NULL, occurrence TEXT NOT NULL,
        due REAL NOT NULL, fired REAL NOT NULL, reason TEXT NOT NULL, payload TEXT NOT NULL,
        state TEXT NOT NULL, message TEXT NOT NULL DEFAULT '', attempts INTEGER NOT NULL DEFAULT 0,
        again REAL NOT NULL DEFAULT 0, ended REAL, UNIQUE (automation, occurrence)
    );
    CREATE INDEX firing_unfinished ON firing (automation) WHERE ended IS NULL;
    """,
)
