"""What the types of JSON documents are made of: the API document's schemas are derived from them.

Such a type is a `TypedDict`; the text below a member is its description.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, TypeAlias

from pydantic import Field

Count: TypeAlias = Annotated[int, Field(ge=0)]
#: A time in ISO 8601, in UTC.
Time: TypeAlias = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


def one_of(values: Iterable[str]) -> Any:
    """Say in the `Annotated` type of a text which values there are."""
    return Field(json_schema_extra={"enum": [*values]})
