"""The tables of ``alerts.db``, as numbered migrations: append, never edit."""

MIGRATIONS = (
    """
    CREATE TABLE event (
        id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
        subject TEXT NOT NULL, at REAL NOT NULL, data TEXT NOT NULL
    );
    CREATE TABLE position (source TEXT PRIMARY KEY, number INTEGER NOT NULL);
    CREATE TABLE alert (
        id TEXT PRIMARY KEY, rule TEXT NOT NULL, about TEXT NOT NULL, began REAL NOT NULL,
        ended REAL, data TEXT NOT NULL
    );
    CREATE UNIQUE INDEX alert_open ON alert (rule, about) WHERE ended IS NULL;
    CREATE INDEX alert_ended ON alert (rule, about, ended);
    CREATE TABLE silence (
        id TEXT PRIMARY KEY, target TEXT NOT NULL, until REAL NOT NULL, reason TEXT NOT NULL
    );
    CREATE TABLE message (
        id INTEGER PRIMARY KEY AUTOINCREMENT, alert TEXT NOT NULL, what TEXT NOT NULL,
        severity TEXT NOT NULL, title TEXT NOT NULL, body TEXT NOT NULL, made REAL NOT NULL
    );
    CREATE INDEX message_by_alert ON message (alert);
    CREATE TABLE delivery (
        id INTEGER PRIMARY KEY, message INTEGER NOT NULL REFERENCES message, channel TEXT NOT NULL,
        state TEXT NOT NULL DEFAULT 'waiting', again REAL NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0, unsure INTEGER NOT NULL DEFAULT 0,
        at REAL, error TEXT NOT NULL DEFAULT '', UNIQUE (message, channel)
    );
    CREATE INDEX delivery_open ON delivery (channel, message)
        WHERE state IN ('waiting', 'sending');
    CREATE TABLE channel (
        name TEXT PRIMARY KEY, failures INTEGER NOT NULL, again REAL NOT NULL, error TEXT NOT NULL
    )
    """,
)
