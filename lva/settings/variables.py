"""Values from the environment: text, until the type of a field says otherwise.

A variable's value stays a `VariableText` until a model has looked at it. Only a field that refuses the text,
since it takes a list, a table or the like, gets what the text says in JSON: so `12e4` and `0042` stay what
they are where a text is wanted, at every depth.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_Model = TypeVar("_Model", bound=BaseModel)


class VariableText(str):
    """The value of a variable."""

    __slots__ = ()

    def decoded(self) -> Any:
        """Return what it says in JSON; the text itself if it is none."""
        try:
            return json.loads(self)
        except (ValueError, RecursionError):
            return self


def validated(
    model: type[_Model],
    values: Mapping[str, Any],
    prepare: Callable[[Any], Any] = lambda values: values,
    context: Mapping[str, Any] | None = None,
) -> _Model:
    """Validate values of which some may come from variables.

    Args:
        model: The model.
        values: The values.
        prepare: What is done to them before the model sees them; `plain` if the types end with this model.
        context: For the model's validators.

    Raises:
        pydantic.ValidationError: They are wrong.
    """
    try:
        return model.model_validate(prepare(values), context=context)
    except ValidationError as error:
        decoded = values
        for item in error.errors(include_input=False, include_context=False, include_url=False):
            decoded = _with_json(decoded, item)
        if decoded is values:
            raise
    return model.model_validate(prepare(decoded), context=context)


def settled(
    model: type[BaseModel], values: Mapping[str, Any]
) -> tuple[dict[str, Any], ValidationError | None]:
    """Return values, those of variables as the model's fields want them, and what is wrong with them."""
    error: ValidationError | None = None
    for _ in range(2):
        try:
            model.model_validate(plain(values))
            return dict(plain(values)), None
        except ValidationError as found:
            error = found
        for item in error.errors(include_input=False, include_context=False, include_url=False):
            values = _with_json(values, item)
    return dict(plain(values)), error


def plain(value: Any) -> Any:
    """Return a value with ordinary text in place of that of variables, at every depth."""
    if isinstance(value, VariableText):
        return str(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def _with_json(values: Any, error: ErrorDetails) -> Any:
    """Return values with the variable that an error is about decoded, if the field wants no text."""
    wants_other = error["type"].endswith("_type") and error["type"] != "string_type"
    return _replaced(values, error["loc"], wants_other)


def _replaced(value: Any, keys: tuple[str | int, ...], wants_other: bool) -> Any:
    if isinstance(value, VariableText):
        decoded = value.decoded()
        return decoded if wants_other or decoded is None else value
    if keys and isinstance(value, Mapping) and keys[0] in value:
        inner = value[str(keys[0])]
        new = _replaced(inner, keys[1:], wants_other)
        return value if new is inner else {**value, str(keys[0]): new}
    return value
