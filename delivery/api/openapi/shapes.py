"""Builders of the OpenAPI document: types, operations, parameters, and the values that recur.

Owns: how a schema and an operation are written. Never does: describe one route or body.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from delivery.domain.lifecycle import State

Schema = dict[str, Any]
JSON = "application/json"
_BEARER: list[dict[str, list[str]]] = [{"bearer": []}]


def text(description: str = "", **more: Any) -> Schema:
    """A string."""
    return {"type": "string", **({"description": description} if description else {}), **more}


def ref(name: str) -> Schema:
    """A reference to a schema of ``SCHEMAS``."""
    return {"$ref": f"#/components/schemas/{name}"}


def listing(of: Schema, **more: Any) -> Schema:
    """An array."""
    return {"type": "array", "items": of, **more}


def record(properties: Schema, required: list[str] | None = None, **more: Any) -> Schema:
    """An object; without ``required`` all properties are required."""
    needed = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": needed, **more}


def nullable(schema: Schema) -> Schema:
    """The schema, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def operation(
    summary: str,
    answers: Mapping[int, Schema | None],
    problems: tuple[int, ...] = (),
    *,
    body: Mapping[str, Schema] | None = None,
    parameters: tuple[Schema, ...] = (),
    media: str = JSON,
    open_to_all: bool = False,
) -> Schema:
    """One operation. ``answers``: status -> schema (``None``: no body)."""
    responses: Schema = {str(status): _answer(media, schema) for status, schema in answers.items()}
    known = sorted({*problems} if open_to_all else {401, 429, *problems})
    responses |= {str(code): {"$ref": "#/components/responses/Problem"} for code in known}
    operation: Schema = {"summary": summary, "responses": responses}
    if not open_to_all:
        operation["security"] = _BEARER
    if body is not None:
        content = {name: {"schema": schema} for name, schema in body.items()}
        operation["requestBody"] = {"required": True, "content": content}
    if parameters:
        operation["parameters"] = list(parameters)
    return operation


def _answer(media: str, schema: Schema | None) -> Schema:
    if schema is None:
        return {"description": "Done"}
    return {"description": "As asked", "content": {media: {"schema": schema}}}


def path(name: str, schema: Schema | None = None) -> Schema:
    """A parameter of a path."""
    return {"name": name, "in": "path", "required": True, "schema": schema or text()}


def query(name: str, schema: Schema) -> Schema:
    """A query parameter, which may be left out."""
    return {"name": name, "in": "query", "required": False, "schema": schema}


INSTANT = text(format="date-time")


CONTROL = r"\u0000-\u001f\u007f-\u009f"
BLANK = r" \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
STORABLE = text(pattern=r"^[^\u0000]*$")
"""A text that any database takes."""
CONTEXT_ID = text(
    "no control characters, not blank",
    minLength=1,
    maxLength=128,
    pattern=f"^[{BLANK}]*[^{BLANK}{CONTROL}][^{CONTROL}]*$",
)
PAGE_AFTER = text("the next of the page before", pattern="^[0-9]{1,18}$")
BEFORE = text(
    "the next of the page before, or an event's id",
    pattern="^([0-9]{1,18}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$",
)


STATE = text(enum=[state.value for state in State])

EVENT_TYPE = text(pattern="^[A-Za-z][A-Za-z0-9_.:-]*$", maxLength=128)
