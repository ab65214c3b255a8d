"""Turns text into terms: the words that carry meaning, stemmed.

The stemmer is FTS5's own porter tokenizer, asked through a table in memory, so both indexes and the
passages they hold agree on what a term is.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from functools import cache

TOKENIZER = "porter unicode61"
MAX_TERMS = 64
_STOPWORDS = """
    a about after again all also am an and another any are as at be because been before being
    between both but by can cannot could did do does doing done each even ever every few for from
    get gets getting give given go goes had has have having he her here hers him his how i if in
    into is isn it its itself just know let like made make makes many may me might more most much
    must my need needs no nor not of off on once one only onto or other our out over own please
    really s same say says shall she should so some something such t tell than that the their them
    then there these they thing things this those through to too under until up us use used uses
    using very was way ways we were what when where whether which while who whom whose why will
    with within without would you your
"""
STOPWORDS = frozenset(_STOPWORDS.split())


def question_terms(text: str) -> dict[str, str]:
    """Return the question's terms: stem → the word as FTS5 should be asked for it, at most 64.

    Words that say nothing about the subject are left out, unless there are no others.
    """
    words = re.findall(r"[^\W_]+", text.lower())[: MAX_TERMS * 50]
    telling = [word for word in words if word not in STOPWORDS] or words
    found: dict[str, str] = {}
    for word in dict.fromkeys(telling):
        for stem in stems(word):
            found.setdefault(stem, word)
        if len(found) >= MAX_TERMS:
            break
    return found


def stems(text: str) -> list[str]:
    """Return the stems of a text in order, stop words included."""
    with _LOCK:
        database = _tokenizer()
        database.execute("INSERT INTO text (rowid, body) VALUES (1, ?)", (_sound(text),))
        try:
            rows = database.execute("SELECT term FROM terms ORDER BY offset").fetchall()
        finally:
            database.execute("DELETE FROM text")
    return [term for (term,) in rows]


_LOCK = threading.Lock()


@cache
def _tokenizer() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    database.execute(f"CREATE VIRTUAL TABLE text USING fts5(body, tokenize='{TOKENIZER}')")
    database.execute("CREATE VIRTUAL TABLE terms USING fts5vocab(text, instance)")
    return database


def _sound(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
