"""Versions of prompts: immutable texts, numbered v1, v2 …; tags and environments may move.

A mask is a version without a number: it is found by its id alone and overrides what is served.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from llm_twin.tracing.store.environments import register, registered
from llm_twin.tracing.store.listing import Row, answer
from llm_twin.tracing.store.merge import id_of, new_id, now
from llm_twin.tracing.store.records import marks
from llm_twin.tracing.store.routing import (
    Problem,
    Request,
    Response,
    dumps,
    json_response,
    ok,
    route,
)

if TYPE_CHECKING:
    import sqlite3

    from llm_twin.tracing.store.store import Store

TABLES = """
CREATE TABLE prompt_version (
    id TEXT PRIMARY KEY, prompt_id TEXT NOT NULL, commit_id TEXT NOT NULL, number INTEGER,
    created_at TEXT NOT NULL, body TEXT NOT NULL,
    UNIQUE (prompt_id, commit_id), UNIQUE (prompt_id, number)
);
CREATE TABLE prompt_environment (
    prompt_id TEXT NOT NULL, environment TEXT NOT NULL, version_id TEXT NOT NULL,
    PRIMARY KEY (prompt_id, environment)
) WITHOUT ROWID
"""
SELECT = """
SELECT version.id, prompt_id, commit_id, number, version.created_at, structure, version.body,
    (SELECT json_group_array(environment) FROM prompt_environment WHERE version_id = version.id)
FROM prompt_version AS version JOIN prompt ON prompt.id = prompt_id
"""
NEWEST_FIRST = "number IS NOT NULL ORDER BY number DESC"
CONTENT = {"template": "", "metadata": None, "type": "mustache"}
"""What makes a version another one, and what it is when nothing is said."""
MASK = "mask"
COMMIT = re.compile(r"\w{8}")


def add_version(db: sqlite3.Connection, prompt_id: str, given: Row) -> Row:
    """Add a version to a prompt; what is the same as its newest version makes none.

    Raises:
        Problem: 400, it has no template or its commit is none; 409, the commit or the id is taken.

    """
    if not isinstance(given.get("template"), str):
        raise Problem(400, "template is a text")
    latest = next(iter(versions(db, f"prompt_id = ? AND {NEWEST_FIRST} LIMIT 1", prompt_id)), None)
    body = {key: given.get(key) or default for key, default in CONTENT.items()}
    mask, commit = given.get("version_type") == MASK, given.get("commit")
    if latest and not mask and not commit and all(latest[key] == body[key] for key in body):
        version_id = latest["id"]
    else:
        number = int(latest["version_number"][1:]) + 1 if latest else 1
        body |= {key: given[key] for key in ("change_description", "tags") if given.get(key)}
        version_id = _insert(db, prompt_id, given, None if mask else number, body)
    for name in given.get("environments") or []:
        register(db, name)
        own(db, prompt_id, version_id, name)
    return version_by_id(db, version_id)


def _insert(
    db: sqlite3.Connection, prompt_id: str, given: Row, number: int | None, body: Row
) -> str:
    version_id = id_of(given["id"]) if given.get("id") else new_id()
    commit = given.get("commit") or version_id[-8:]
    if not COMMIT.fullmatch(commit):
        raise Problem(400, "commit has 8 letters or digits")
    taken = "SELECT 1 FROM prompt_version WHERE id = ? OR (prompt_id = ? AND commit_id = ?)"
    if db.execute(taken, (version_id, prompt_id, commit)).fetchone():
        raise Problem(409, f"the prompt has this version already: {commit}")
    values = (version_id, prompt_id, commit, number, now(), dumps(body))
    db.execute(f"INSERT INTO prompt_version VALUES ({marks(values)})", values)  # noqa: S608
    return version_id


def versions(db: sqlite3.Connection, where: str, *values: object) -> list[Row]:
    """The versions that a condition on ``version`` and ``prompt`` chooses."""
    return [_row(row) for row in db.execute(f"{SELECT} WHERE {where}", values)]


def _row(row: tuple[Any, ...]) -> Row:
    version_id, prompt_id, commit, number, created_at, structure, body, environments = row
    names = json.loads(environments)
    return {
        "id": version_id, "prompt_id": prompt_id, "commit": commit,
        "version_number": f"v{number}" if number else None,
        "version_type": "prompt_version" if number else MASK,
        "environments": names or None, "environment": names[0] if names else None,
        "template_structure": structure, "created_at": created_at, "created_by": "admin",
        "change_description": None, "tags": None, **json.loads(body),
    }  # fmt: skip


def own(db: sqlite3.Connection, prompt_id: str, version_id: str, environment: str) -> None:
    """Let a version own an environment, which another version of the prompt then loses."""
    values = (prompt_id, environment, version_id)
    db.execute("INSERT OR REPLACE INTO prompt_environment VALUES (?, ?, ?)", values)


def version_by_id(db: sqlite3.Connection, version_id: str) -> Row:
    """One version or mask.

    Raises:
        Problem: 404, there is none.

    """
    found = versions(db, "version.id = ?", version_id)
    if not found:
        raise Problem(404, f"Prompt version not found: {version_id}")
    return found[0]


def chosen(db: sqlite3.Connection, prompt_id: str, body: Row) -> Row:
    """The version that a commit, a number or an environment names; else the newest.

    Raises:
        Problem: 404, there is none.

    """
    if commit := body.get("commit"):
        where, value = "commit_id = ?", commit
    elif number := body.get("version_number"):
        where, value = "'v' || number = ?", number
    elif environment := body.get("environment"):
        owner = "SELECT version_id FROM prompt_environment WHERE environment = ? AND prompt_id ="
        where, value = f"version.id = ({owner} prompt.id)", environment
    else:
        where, value = f"'' = ? AND {NEWEST_FIRST} LIMIT 1", ""
    found = versions(db, f"prompt_id = ? AND {where}", prompt_id, value)
    if not found:
        raise Problem(404, f"Prompt version not found: {value or 'there is none yet'}")
    return found[0]


@route("GET", "v1/private/prompts/versions/{version_id}")
def get_version(store: Store, request: Request, version_id: str) -> Response:
    """One version or mask by its id."""
    with store.database.read() as db:
        return json_response(version_by_id(db, version_id))


@route("POST", "v1/private/prompts/versions/retrieve-by-ids")
def get_versions(store: Store, request: Request) -> Response:
    """Those of some ids that there are."""
    ids = request.json().get("ids") or []
    with store.database.read() as db:
        return json_response(versions(db, f"version.id IN ({marks(ids)})", *ids))


@route("GET", "v1/private/prompts/{prompt_id}/versions")
def find_versions(store: Store, request: Request, prompt_id: str) -> Response:
    """A page of a prompt's versions, newest first; masks are hidden."""
    wanted = request.query.get("search", "").lower()
    with store.database.read() as db:
        rows = versions(db, f"prompt_id = ? AND {NEWEST_FIRST}", prompt_id)
    texts = ("template", "change_description")
    return answer(request, [r for r in rows if any(wanted in (r[t] or "").lower() for t in texts)])


@route("GET", "v1/private/prompts/{prompt_id}/versions/by-number/{number}")
def get_version_by_number(store: Store, request: Request, prompt_id: str, number: str) -> Response:
    """One version by its number, like v3."""
    with store.database.read() as db:
        return json_response(chosen(db, prompt_id, {"version_number": number}))


@route("POST", "v1/private/prompts/{prompt_id}/versions/{version_id}/restore")
def restore_version(store: Store, request: Request, prompt_id: str, version_id: str) -> Response:
    """Make an old version's text the newest version."""
    with store.database.write() as db:
        old = version_by_id(db, version_id)
        if old["prompt_id"] != prompt_id:
            raise Problem(404, f"Prompt version not found: {version_id}")
        again = {key: old[key] for key in CONTENT}
        again["change_description"] = f"Restored from version {old['version_number']}"
        return json_response(add_version(db, prompt_id, again))


@route("PATCH", "v1/private/prompts/versions")
def update_versions(store: Store, request: Request) -> Response:
    """Set the tags of some versions, or add to them; no list leaves them as they are."""
    body = request.json()
    tags, merge = (body.get("update") or {}).get("tags"), body.get("merge_tags")
    if tags is None:
        return ok()
    if not isinstance(tags, list):
        raise Problem(400, "tags is no list")
    with store.database.write() as db:
        for version_id in body.get("ids") or []:
            old = version_by_id(db, version_id)["tags"] if merge else None
            db.execute(
                "UPDATE prompt_version SET body = json_set(body, '$.tags', json(?)) WHERE id = ?",
                (dumps(list(dict.fromkeys([*(old or []), *tags]))), version_id),
            )
    return ok()


@route("PATCH", "v1/private/prompts/versions/{version_id}/environments")
def set_environments(store: Store, request: Request, version_id: str) -> Response:
    """Let a version own exactly these environments of its prompt.

    Raises:
        Problem: 404, the workspace has no such environment.

    """
    names = request.json().get("environments") or []
    with store.database.write() as db:
        prompt_id = version_by_id(db, version_id)["prompt_id"]
        db.execute("DELETE FROM prompt_environment WHERE version_id = ?", (version_id,))
        for name in names:
            if not registered(db, name):
                raise Problem(404, f"Environment not found: {name}")
            own(db, prompt_id, version_id, name)
    return ok()
