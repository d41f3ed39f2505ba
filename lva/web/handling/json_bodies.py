"""JSON that clients send, read the same way for handlers of both styles; what is none is their mistake."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, Final, Never

from werkzeug.exceptions import BadRequest

#: Most characters of what is refused that are shown.
_SHOWN: Final = 50


def read_json(body: bytes) -> Any:
    """Return what a body holds as JSON.

    It is UTF-8 (RFC 8259), with a byte-order mark or without one.

    Raises:
        BadRequest: It is not JSON, is nested too deeply, has a key twice in one object, a number that is too
            large, or text that no UTF-8 can hold, and so neither a response nor a point.
    """
    try:
        value = json.loads(
            body.decode("utf-8-sig"),
            parse_constant=_refuse,
            parse_float=_finite,
            object_pairs_hook=_of_pairs,
        )
        if b"\\u" in body:  # the only way to half a character
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise BadRequest("The request's body is not JSON: it is nested too deeply.") from error
    except ValueError as error:
        # Of the errors of json.loads() one more is a bare ValueError: an integer of too many digits.
        plain = isinstance(error, json.JSONDecodeError | UnicodeError | _NotJsonError)
        what = f"is not JSON: {error}" if plain else "has a number with too many digits"
        raise BadRequest(f"The request's body {what}.") from error
    return value


class _NotJsonError(ValueError):
    """What Python takes for JSON, and others do not."""


def _refuse(constant: str) -> Never:
    raise _NotJsonError(f"{constant} is no number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _NotJsonError(f"{text[:_SHOWN]} is too large a number")
    return number


def _of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise _NotJsonError(f"the key {twice[:_SHOWN]!r} is twice in one object")
    return found
