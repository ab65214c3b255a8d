"""Bodies of requests: JSON whatever their declared type, because ``curl -d`` calls it a form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import fastapi  # noqa: TC002 (read from the annotation)
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Model = TypeVar("Model", bound=BaseModel)


def body_of(model: type[Model]) -> Callable[[fastapi.Request], Awaitable[Model]]:
    """Return the dependency that reads a request's body as this model."""

    async def read(request: fastapi.Request) -> Model:
        try:
            return model.model_validate_json(await request.body())
        except ValidationError as error:
            raise RequestValidationError(error.errors(include_url=False)) from None

    return read


def described(model: type[BaseModel]) -> dict[str, Any]:
    """Return how the body is described in ``/openapi.json``."""
    schema = model.model_json_schema()
    inlined = _inlined(schema, schema.pop("$defs", {}))
    content = {"application/json": {"schema": inlined}}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(schema: Any, parts: dict[str, Any]) -> Any:
    """Put what is referred to where it is referred to: the references end at another root."""
    if isinstance(schema, list):
        return [_inlined(one, parts) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(parts[schema["$ref"].rpartition("/")[2]], parts)
    return {name: _inlined(value, parts) for name, value in schema.items()}
