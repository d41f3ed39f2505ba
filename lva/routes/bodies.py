"""What a route's handler takes as a body, and what it responds, for the API documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])
#: A JSON Schema without references, or a pydantic model.
SchemaOrModel: TypeAlias = "Mapping[str, Any] | type[BaseModel]"
BODY: Final = "lva_request_body"
RESPONSES: Final = "lva_responses"


@dataclass(frozen=True, slots=True)
class DeclaredResponse:
    """One declared response.

    Attributes:
        status: Of HTTP.
        meaning: For people.
        media_type: What is sent.
        schema: Of what is sent as JSON; None if it is not known.
        links: Members that are variables in paths of the plugin's other routes.
    """

    status: int
    meaning: str
    media_type: str | None
    schema: Mapping[str, Any] | None
    links: Sequence[str]


def request_body(schema: SchemaOrModel) -> Callable[[HandlerT], HandlerT]:
    """Declare the JSON body of a route's handler; it changes nothing but the API documentation.

    For functions and for the verbs of handler classes::

        @request_body({"type": "object", "properties": {"on": {"type": "boolean"}}})
        async def put(self, request): ...

    Args:
        schema: Its JSON Schema, without references; or a pydantic model, which does not stand in itself.
    """
    found = _whole(schema)

    def declare(handler: HandlerT) -> HandlerT:
        setattr(handler, BODY, found)
        return handler

    return declare


def response(
    status: int,
    meaning: str,
    schema: SchemaOrModel | None = None,
    *,
    media_type: str | None = None,
    links: Sequence[str] = (),
) -> Callable[[HandlerT], HandlerT]:
    """Declare a response of a route's handler; one decorator for each status. Errors need none.

    Args:
        status: Of HTTP.
        meaning: When it is given, for people.
        schema: Of its JSON body, as for `request_body`.
        media_type: Of its body; JSON if left out and there is a schema, else there is no body.
        links: Members of its body that are variables in paths of the plugin's other routes.
    """
    found = None if schema is None else _whole(schema)
    media_type = media_type or (None if schema is None else "application/json")
    declared = DeclaredResponse(status, meaning, media_type, found, tuple(links))

    def declare(handler: HandlerT) -> HandlerT:
        setattr(handler, RESPONSES, (declared, *responses_of(handler)))
        return handler

    return declare


def request_body_of(handler: Any) -> Mapping[str, Any] | None:
    """Return the schema that a handler declares; None without one."""
    found = getattr(handler, BODY, None)
    return found if isinstance(found, Mapping) else None


def responses_of(handler: Any) -> tuple[DeclaredResponse, ...]:
    """Return the responses that a handler declares."""
    found = getattr(handler, RESPONSES, ())
    right = isinstance(found, tuple) and all(isinstance(item, DeclaredResponse) for item in found)
    return found if right else ()


def _whole(schema: SchemaOrModel) -> Mapping[str, Any]:
    """Return a schema with what it refers to in the place of each reference."""
    if isinstance(schema, Mapping):
        return schema
    found = schema.model_json_schema()
    parts = found.pop("$defs", {})
    whole: dict[str, Any] = _resolved(found, parts, ())
    return whole


def _resolved(schema: Any, parts: Mapping[str, Any], within: tuple[str, ...]) -> Any:
    if isinstance(schema, list):
        return [_resolved(item, parts, within) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if (reference := schema.get("$ref")) is not None:
        name = str(reference).rpartition("/")[2]
        if name in within:
            raise TypeError(f"{name} stands in itself; give a JSON Schema")
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return _resolved({**parts[name], **rest}, parts, (*within, name))
    return {key: _resolved(value, parts, within) for key, value in schema.items()}
