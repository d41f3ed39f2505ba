"""The body that a plugin's handler streams, each piece of which its code makes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from quart.wrappers.response import IterableBody, Response

from lva.host.watch.clock import enter_plugin, leave_plugin


def stream_for_plugin(name: str, response: Any) -> None:
    """Let the pieces of a streamed response be made as the plugin's: in its threads, under its name.

    Args:
        name: The plugin's name.
        response: What its handler's result was turned into.
    """
    body = response.response if isinstance(response, Response) else None
    if isinstance(body, IterableBody):
        body.iter = _pieces(name, body.iter)


async def _pieces(name: str, pieces: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Yield the pieces. Between two of them runs the server, which is not the plugin's."""
    try:
        while True:
            token = enter_plugin(name)
            try:
                piece = await anext(pieces)
            except StopAsyncIteration:
                return
            finally:
                leave_plugin(token)
            yield piece
    finally:
        if hasattr(pieces, "aclose"):
            token = enter_plugin(name)
            try:
                await pieces.aclose()
            finally:
                leave_plugin(token)
