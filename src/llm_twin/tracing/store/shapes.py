"""What the fields of a request hold by their names, looked at once for all that read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def _list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(isinstance(one, kind) for one in value)


KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "a text": (
        lambda value: isinstance(value, str),
        "id name type tag commit environment version_number template_structure description",
    ),
    "an object": (
        lambda value: isinstance(value, dict),
        "update trace prompt_version execution_policy data version",
    ),
    "a list": (lambda value: isinstance(value, list), "tags tags_to_add tags_to_remove evaluators"),
    "a list of texts": (
        _list_of(str),
        "ids item_ids thread_ids deleted_ids environments commits names file_names exclude",
    ),
    "a list of objects": (
        _list_of(dict),
        "items added_items edited_items experiment_items prompt_versions spans feedback_scores"
        " experiment_scores",
    ),
}
FIELDS = {name: (fits, kind) for kind, (fits, names) in KINDS.items() for name in names.split()}
NESTED = {"update", "trace"}
TEXT_ENDINGS = ("_id", "_name", "_version", "_ref", "_description")


def wrong(body: dict[str, Any]) -> str | None:
    """Say which field of a body, or of the rows in it, holds what it cannot; None when none."""
    for name, value in body.items():
        usual = FIELDS["name"] if name.endswith(TEXT_ENDINGS) else (None, "")
        fits, kind = FIELDS.get(name, usual)
        if value is None or fits is None:
            continue
        if not fits(value):
            return f"{name} is no {kind.split(maxsplit=1)[1]}"
        rows = value if kind == "a list of objects" else [value] if name in NESTED else []
        for row in rows:
            if found := wrong(row):
                return found
    return None
