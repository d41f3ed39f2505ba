"""The JSON Schemas of the API document: derived from the types of what is sent.

The tests hold every response against these, with no member left undescribed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any, Final, get_args

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import get_original_bases, is_typeddict

Schema = dict[str, Any]

_REF: Final = "#/components/schemas/{model}"
#: pydantic parses the types' source for their descriptions, and Python 3.11 fails when two threads parse.
_one_parses: Final = threading.Lock()


class _Untitled(GenerateJsonSchema):
    """Leaves out the titles of members, which say nothing that the names do not."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def reference(kind: Any) -> Schema:
    """Return a reference to the schema of a type; to one of several for a union."""
    if isinstance(kind, UnionType):
        return {"anyOf": [reference(item) for item in get_args(kind)]}
    return {"$ref": _REF.format(model=kind.__name__)}


def schemas_of(kinds: Iterable[Any]) -> Mapping[str, Schema]:
    """Return the schemas of `TypedDict`s, and of those that stand in them, by name."""
    found: dict[str, Schema] = {}
    for kind in kinds:
        if isinstance(kind, UnionType):
            found |= schemas_of(get_args(kind))
            continue
        schema = _schema(kind)
        found = {**schema.pop("$defs", {}), **found, kind.__name__: schema}
    for schema in found.values():
        schema.pop("title", None)
    return found


def _schema(kind: Any) -> Schema:
    with _one_parses:
        schema = TypeAdapter(kind).json_schema(
            mode="serialization", ref_template=_REF, schema_generator=_Untitled
        )
    for base in filter(is_typeddict, get_original_bases(kind)):
        # pydantic reads the descriptions of a type's own members only.
        for name, inherited in _schema(base)["properties"].items():
            schema["properties"][name] = inherited | schema["properties"][name]
    return schema
