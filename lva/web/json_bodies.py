"""JSON that clients send, read the same way for handlers of both styles; what is none is their mistake."""

from __future__ import annotations

import json
from typing import Any, Never

from werkzeug.exceptions import BadRequest


def read_json(body: bytes) -> Any:
    """Return what a body holds as JSON.

    It is UTF-8 (RFC 8259), with a byte-order mark or without one. Of equal keys the last one counts.

    Raises:
        BadRequest: It is not JSON, is nested too deeply, or has text that no UTF-8 can hold, and so neither a
            response nor a point.
    """
    try:
        value = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse)
        if b"\\u" in body:  # the only way to half a character
            json.dumps(value, ensure_ascii=False).encode()
    except ValueError as error:
        raise BadRequest(f"The request's body is not JSON: {error}.") from error
    except RecursionError as error:
        raise BadRequest("The request's body is not JSON: it is nested too deeply.") from error
    return value


def _refuse(constant: str) -> Never:
    raise ValueError(f"{constant} is no number in JSON")
