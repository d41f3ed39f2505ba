"""The JSON Schemas of the API document: derived from the types of what is sent.

The tests hold every response against these, with no member left undescribed.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Final, get_args

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import get_original_bases, get_type_hints, is_typeddict

Schema = dict[str, Any]

_REF: Final = "#/components/schemas/{model}"
#: A member of a class, or a text below one.
_MEMBER_OR_TEXT: Final = re.compile(r'^    (?:(\w+): |"""(.+?)""")', re.MULTILINE | re.DOTALL)


class _Untitled(GenerateJsonSchema):
    """Leaves out the titles of members, which say nothing that the names do not."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def reference(kind: Any) -> Schema:
    """Return a reference to the schema of a type; to one of several for a union."""
    if isinstance(kind, UnionType):
        return {"anyOf": [reference(item) for item in get_args(kind)]}
    return {"$ref": _REF.format(model=kind.__name__)}


@cache
def schemas_of(*kinds: Any) -> Mapping[str, Schema]:
    """Return the schemas of `TypedDict`s, and of those that stand in them, by name; made once."""
    found: dict[str, Any] = {}
    for kind in kinds:
        _collect(kind, found)
    return {name: _schema(kind) for name, kind in found.items()}


def _collect(kind: Any, found: dict[str, Any]) -> None:
    inside = get_args(kind)
    if is_typeddict(kind) and kind.__name__ not in found:
        found[kind.__name__] = kind
        inside = tuple(get_type_hints(kind).values())
    for item in inside:
        _collect(item, found)


def _schema(kind: Any) -> Schema:
    schema = TypeAdapter(kind).json_schema(
        mode="serialization", ref_template=_REF, schema_generator=_Untitled
    )
    others = schema.pop("$defs", {})
    schema = dict(others.get(kind.__name__, schema))  # there it is if it stands in itself
    schema.pop("title", None)
    for name, text in _descriptions(kind).items():
        schema["properties"][name]["description"] = text
    return schema


def _descriptions(kind: Any) -> dict[str, str]:
    """Return what the source says below each member of a type, those that it inherits included.

    pydantic can do this by parsing: which takes its time, knows nothing of inherited members, and makes
    Python 3.11 fail when another thread parses too, as a traceback does that is logged.
    """
    found: dict[str, str] = {}
    for base in filter(is_typeddict, get_original_bases(kind)):
        found |= _descriptions(base)
    source = Path(inspect.getfile(kind)).read_text(encoding="utf-8")
    after = source.partition(f"\nclass {kind.__name__}(")[2]
    member = None
    for name, text in _MEMBER_OR_TEXT.findall(re.split(r"\n(?=\S)", after, maxsplit=1)[0]):
        if text and member is not None:
            found[member] = " ".join(text.split())
        member = name or None
    return found
