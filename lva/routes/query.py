"""What a route's handler takes in the query."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])
#: The attribute of a handler that holds what it declares, in order.
QUERY_PARAMETERS: Final = "query_parameters"
_TYPES: Final = ("string", "integer", "number", "boolean", "array")
_KEYS: Final = (
    "type", "items", "enum", "default", "pattern", "format", "minimum", "maximum", "minLength", "maxLength",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class QueryParameter:
    """One declared parameter."""

    name: str
    description: str
    schema: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return it as OpenAPI has it."""
        found = {"name": self.name, "in": "query", "description": self.description}
        return {**found, "schema": dict(self.schema)}


def query_parameter(
    name: str, description: str, schema: Mapping[str, Any] | None = None
) -> Callable[[HandlerT], HandlerT]:
    """Declare a parameter of the query for a route's handler, for the API documentation.

    A handler that declares some takes no others: a request with another one gets 400, which names those that
    there are. Values are the handler's to check.

    For functions and for the verbs of handler classes; one decorator for each parameter::

        @query_parameter("limit", "Most items in the response.", {"type": "integer", "minimum": 1})
        async def items(self, request): ...

    Args:
        name: Its name in the query.
        description: What it means, for people.
        schema: Its JSON Schema, of the simple kind: a ``type``, which may have bounds, a ``pattern``, a
            ``format``, an ``enum`` and a ``default``; of an ``array``, for a parameter that may be repeated,
            the ``items``. Any text if left out.

    Raises:
        TypeError: One of these is of another type, or the schema is of another kind.
    """
    if not (isinstance(name, str) and name and isinstance(description, str)):
        raise TypeError("a query parameter has a name and a description, which are texts")
    checked = _checked(name, schema if schema is not None else {"type": "string"})
    parameter = QueryParameter(name, description, checked)

    def declare(handler: HandlerT) -> HandlerT:
        setattr(handler, QUERY_PARAMETERS, (parameter, *query_parameters_of(handler)))
        return handler

    return declare


def _checked(name: str, schema: Any) -> Mapping[str, Any]:
    """Return a copy of the schema, if it is of the simple kind, which the page can show."""
    if not isinstance(schema, Mapping) or schema.get("type") not in _TYPES:
        raise TypeError(f"the schema of {name!r} has a type: one of {', '.join(_TYPES)}")
    if unknown := schema.keys() - _KEYS:
        raise TypeError(
            f"the schema of {name!r} has {min(unknown)!r}; allowed are {', '.join(_KEYS)}"
        )
    if schema["type"] == "array":
        schema = {**schema, "items": _checked(name, schema.get("items"))}
    copied: dict[str, Any] = json.loads(json.dumps(schema))
    return copied


def query_parameters_of(handler: Any) -> tuple[QueryParameter, ...]:
    """Return what a handler declares; nothing if it has something else under the attribute's name."""
    found = getattr(handler, QUERY_PARAMETERS, ())
    right = isinstance(found, tuple) and all(isinstance(item, QueryParameter) for item in found)
    return found if right else ()
