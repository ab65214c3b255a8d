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
    a able about above actually after again against all also am an and another any anyone
    anything are as ask at be because been before being below best better between both but by
    can cannot come could describe did difference different do does doing don done down during
    each easiest easy either else even ever every example explain few find first for from
    further general get gets getting give given go goes going good got had has have having he
    help her here hers him his how i if in instead into is isn it its itself just keep kind know
    let like list look made main make makes many may me mean means meant might mine more most
    much must my need needed needs never next no nor not now of off often on once one only onto
    or other our ourselves out over own people please possible prefer put rather really s same
    say says see several shall she should show so some someone something still such suggest t
    take talk tell than that the their them then there these they thing things think this those
    through to together too toward under until up upon us use used useful uses using usually
    various versus very vs want was way ways we well were what when where whether which while
    who whom whose why will with within without word words work works would write you your yours
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
