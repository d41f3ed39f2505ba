"""The body that a plugin's handler streams, each piece of which its code makes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import trio
from quart.wrappers.response import IterableBody, Response
from trio_util import move_on_when

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


def end_with_server(response: Any, closing: trio.Event) -> bool:
    """Let server-sent events, which have no end of their own, take as long as they like.

    They end when the server is about to close its connections, which would otherwise wait for them.

    Args:
        response: What a plugin's handler's result was turned into.
        closing: Set when the server is about to close its connections.

    Returns:
        Whether it is such a response: then the client's leaving is its ordinary end.
    """
    body = response.response if isinstance(response, Response) else None
    if not isinstance(body, IterableBody) or response.mimetype != "text/event-stream":
        return False
    response.timeout = None
    body.iter = _until(closing, body.iter)
    return True


async def _until(closing: trio.Event, pieces: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Yield the pieces that come before an event is set."""
    try:
        while not closing.is_set():
            piece = None
            async with move_on_when(closing.wait):
                piece = await anext(pieces, None)
            if piece is None:
                return
            yield piece
    finally:
        if hasattr(pieces, "aclose"):
            await pieces.aclose()


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
