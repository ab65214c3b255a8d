"""The prompt library: prompts by name, each with its versions.

A name is unique in the workspace, as in Opik; the project says only where a prompt is listed.
"""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, Any

from llm_twin.tracing.store.datasets import project_of
from llm_twin.tracing.store.listing import Row, answer
from llm_twin.tracing.store.merge import id_of, new_id, now
from llm_twin.tracing.store.prompt_versions import add_version, chosen, version_by_id, versions
from llm_twin.tracing.store.records import marks
from llm_twin.tracing.store.routing import (
    Problem,
    Request,
    Response,
    created,
    dumps,
    json_response,
    ok,
    route,
)
from llm_twin.tracing.store.shapes import wrong

if TYPE_CHECKING:
    from llm_twin.tracing.store.store import Store

TABLES = """
CREATE TABLE prompt (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, project_id TEXT NOT NULL,
    structure TEXT NOT NULL, created_at TEXT NOT NULL, last_updated_at TEXT NOT NULL,
    body TEXT NOT NULL
)
"""
SELECT = """
SELECT id, name, project_id, structure, created_at, last_updated_at,
    (SELECT count(number) FROM prompt_version WHERE prompt_id = prompt.id), body
FROM prompt
"""
COLUMNS = (
    "id", "name", "project_id", "template_structure", "created_at", "last_updated_at",
    "version_count",
)  # fmt: skip
LONGEST_NAME = 255


def find_prompts(db: sqlite3.Connection, where: str, *values: object) -> list[Row]:
    """The prompts that a condition chooses, newest first."""
    return [_row(row) for row in db.execute(f"{SELECT} WHERE {where} ORDER BY rowid DESC", values)]


def _row(row: tuple[Any, ...]) -> Row:
    public = dict(zip(COLUMNS, row, strict=False))
    return {**public, "created_by": "admin", "last_updated_by": "admin", **json.loads(row[-1])}


def get_prompt(db: sqlite3.Connection, column: str, value: object) -> Row:
    """One prompt by its ``id`` or its ``name``.

    Raises:
        Problem: 404, there is none.

    """
    found = find_prompts(db, f"{column} = ?", value)
    if not found:
        raise Problem(404, f"Prompt not found: {value}")
    return found[0]


def insert_prompt(db: sqlite3.Connection, body: Row) -> Row:
    """Make a prompt without versions.

    Raises:
        Problem: 400, it has no name, or a structure that there is not; 409, the name is taken.

    """
    name, structure = _name(body), body.get("template_structure") or "text"
    if structure not in ("text", "chat"):
        raise Problem(400, "template_structure is text or chat")
    prompt_id, at = id_of(body["id"]) if body.get("id") else new_id(), now()
    kept = {"description": body.get("description"), "tags": body.get("tags")}
    values = (prompt_id, name, project_of(db, body), structure, at, at, dumps(kept))
    try:
        db.execute(f"INSERT INTO prompt VALUES ({marks(values)})", values)  # noqa: S608
    except sqlite3.IntegrityError:
        raise Problem(409, f"Prompt already exists: {name}") from None
    return get_prompt(db, "id", prompt_id)


def _name(body: Row) -> str:
    name = body.get("name")
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME:
        raise Problem(400, f"name is a text of 1 to {LONGEST_NAME} characters")
    return name


@route("POST", "v1/private/prompts")
def create_prompt(store: Store, request: Request) -> Response:
    """Make a prompt, and its first version when there is a template."""
    body = request.json()
    with store.database.write() as db:
        prompt = insert_prompt(db, body)
        if body.get("template"):
            # Its id and tags are the prompt's.
            add_version(db, prompt["id"], {**body, "id": None, "tags": None})
    return created(f"v1/private/prompts/{prompt['id']}")


@route("POST", "v1/private/prompts/versions")
def create_version(store: Store, request: Request) -> Response:
    """Add a version to the prompt of a name, which is made when there is none."""
    body = request.json()
    given = body.get("version") or {}
    if said := wrong(given):
        raise Problem(400, said)
    with store.database.write() as db:
        found = find_prompts(db, "name = ?", _name(body))
        if not found and given.get("version_type") == "mask":
            raise Problem(404, f"Prompt not found: {body['name']}")
        prompt = found[0] if found else insert_prompt(db, {**body, "id": None})
        if (wanted := body.get("template_structure") or "text") != prompt["template_structure"]:
            raise Problem(409, f"{prompt['name']} is no {wanted} prompt, and cannot become one")
        db.execute("UPDATE prompt SET last_updated_at = ? WHERE id = ?", (now(), prompt["id"]))
        return json_response(add_version(db, prompt["id"], given))


@route("POST", "v1/private/prompts/versions/retrieve")
def retrieve_version(store: Store, request: Request) -> Response:
    """The version of a named prompt that a commit, a number or an environment chooses."""
    body = request.json()
    with store.database.read() as db:
        return json_response(chosen(db, get_prompt(db, "name", _name(body))["id"], body))


@route("GET", "v1/private/prompts")
def list_prompts(store: Store, request: Request) -> Response:
    """A page of prompts, newest first."""
    return list_project(store, request, request.query.get("project_id", ""))


@route("GET", "v1/private/projects/{project_id}/prompts")
def list_project(store: Store, request: Request, project_id: str) -> Response:
    """A page of a project's prompts, newest first; no project is all of them."""
    where = "instr(lower(name), lower(?)) AND project_id = ifnull(nullif(?, ''), project_id)"
    with store.database.read() as db:
        rows = find_prompts(db, where, request.query.get("name", ""), project_id)
    return answer(request, rows)


@route("GET", "v1/private/prompts/by-commit/{commit}")
def get_by_commit(store: Store, request: Request, commit: str) -> Response:
    """The prompt that has a version of this commit, and that version."""
    with store.database.read() as db:
        found = versions(db, "commit_id = ?", commit)
        if not found:
            raise Problem(404, f"Prompt version not found: {commit}")
        return json_response(_detail(db, found[0]["prompt_id"], found[0]))


@route("POST", "v1/private/prompts/retrieve-by-commits")
def get_by_commits(store: Store, request: Request) -> Response:
    """Which prompts and versions some commits are of."""
    commits = request.json().get("commits") or []
    with store.database.read() as db:
        links = [
            {
                "prompt_version_id": version["id"],
                "commit": version["commit"],
                "prompt_id": version["prompt_id"],
                "prompt_name": get_prompt(db, "id", version["prompt_id"])["name"],
            }
            for version in versions(db, f"commit_id IN ({marks(commits)})", *commits)
        ]
    return json_response(links)


@route("GET", "v1/private/prompts/{prompt_id}")
def get_by_id(store: Store, request: Request, prompt_id: str) -> Response:
    """One prompt with its newest version and the one that a mask or an environment chooses."""
    mask, environment = (request.query.get(key) for key in ("mask_id", "environment"))
    with store.database.read() as db:
        get_prompt(db, "id", prompt_id)
        requested = version_by_id(db, mask) if mask else None
        if environment:
            requested = chosen(db, prompt_id, {"environment": environment})
        return json_response(_detail(db, prompt_id, requested))


def _detail(db: sqlite3.Connection, prompt_id: str, requested: Row | None) -> Row:
    prompt = get_prompt(db, "id", prompt_id)
    latest = chosen(db, prompt_id, {}) if prompt["version_count"] else None
    return {**prompt, "latest_version": latest, "requested_version": requested or latest}


@route("PUT", "v1/private/prompts/{prompt_id}")
def update_prompt(store: Store, request: Request, prompt_id: str) -> Response:
    """Rename and describe a prompt; its tags stay when none are given."""
    body = request.json()
    with store.database.write() as db:
        old = get_prompt(db, "id", prompt_id)
        tags = old["tags"] if body.get("tags") is None else body["tags"]
        kept = dumps({"description": body.get("description"), "tags": tags})
        try:
            db.execute(
                "UPDATE prompt SET name = ?, body = ?, last_updated_at = ? WHERE id = ?",
                (_name(body), kept, now(), prompt_id),
            )
        except sqlite3.IntegrityError:
            raise Problem(409, f"Prompt already exists: {body['name']}") from None
    return ok()


@route("DELETE", "v1/private/prompts/{prompt_id}")
def delete_prompt(store: Store, request: Request, prompt_id: str) -> Response:
    """Delete a prompt with its versions."""
    return _deleted(store, [prompt_id])


@route("POST", "v1/private/prompts/delete")
def delete_prompts(store: Store, request: Request) -> Response:
    """Delete some prompts with their versions."""
    return _deleted(store, request.json().get("ids") or [])


def _deleted(store: Store, ids: list[str]) -> Response:
    with store.database.write() as db:
        for table in ("prompt_environment", "prompt_version"):
            db.executemany(f"DELETE FROM {table} WHERE prompt_id = ?", [(each,) for each in ids])  # noqa: S608
        db.executemany("DELETE FROM prompt WHERE id = ?", [(each,) for each in ids])
    return ok()
