"""What a handler on a plugin's own loop returns, with texts that run no code of the plugin's any more.

The methods of a class derived from `str` are the plugin's code: the server, which asks for a header's name in
small letters, would run them on the service's event loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from werkzeug.datastructures import Headers
from werkzeug.sansio.response import Response


def plain(result: Any) -> Any:
    """Return a handler's result, or a part of it, with plain texts. In the plugin's own thread."""
    if isinstance(result, str):
        return str.__str__(result)
    if isinstance(result, bytes):
        return bytes(result)
    if isinstance(result, tuple):
        return tuple(map(plain, result))
    if isinstance(result, list):
        return [*map(plain, result)]
    if isinstance(result, Mapping):
        return {plain(name): plain(value) for name, value in result.items()}
    if isinstance(result, Response):
        result.headers = Headers([(plain(name), plain(value)) for name, value in result.headers])
    return result
