"""The tasks that work on streams: one for each that is worked on."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from lva.video.codes import StreamState
from lva.video.supervision.stream import Stream
from lva.video.supervision.supervisor import Supervisor


class StreamTasks:
    """Begins and ends the work on streams.

    Args:
        over: Called with a stream that is done or has failed, in its task.
        logger: Where a fault of ours is logged.
    """

    def __init__(self, over: Callable[[Stream], Awaitable[None]], logger: logging.Logger) -> None:
        self._over = over
        self._logger = logger
        self._running: dict[str, tuple[trio.CancelScope, trio.Event]] = {}
        self._nursery: trio.Nursery | None = None

    @property
    def open(self) -> bool:
        """Whether work may begin: not before the service has started, nor when it stops."""
        return self._nursery is not None

    def begin_in(self, nursery: trio.Nursery | None) -> None:
        """Let work begin in a nursery, or no more."""
        self._nursery = nursery

    def begin(self, stream: Stream) -> None:
        """Begin to work on a stream; nothing happens when the service stops, it is taken up later."""
        if self._nursery is None:
            return
        stream.set_aside.clear()
        scope, ended = self._running[stream.id] = trio.CancelScope(), trio.Event()
        name = f"stream {stream.definition.name}"
        self._nursery.start_soon(self._run, stream, scope, ended, name=name)

    def soon(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Do something that is a part of the work on streams, in a task; nothing when the service stops."""
        if self._nursery is not None:
            self._nursery.start_soon(work, *arguments)

    async def _run(self, stream: Stream, scope: trio.CancelScope, ended: trio.Event) -> None:
        try:
            with scope:
                await Supervisor(stream).run()
        except Exception:
            self._logger.exception("stream %s: its supervisor failed", stream.definition.name)
            stream.move(StreamState.FAILURE, "a fault of the service; its log says more")
        finally:
            del self._running[stream.id]
            ended.set()
        if not scope.cancelled_caught:
            await self._over(stream)

    async def end(self, stream: Stream) -> None:
        """End the work on a stream, if there is some; afterwards no process of it is left.

        Cancellation: ends the wait; the work ends all the same.
        """
        if (running := self._running.get(stream.id)) is not None:
            scope, ended = running
            scope.cancel()
            await ended.wait()

    def __len__(self) -> int:
        return len(self._running)
