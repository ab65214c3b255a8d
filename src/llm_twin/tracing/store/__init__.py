"""A small Opik server over one SQLite file: what it acknowledged, it keeps."""
