"""Previews of a stream: small JPEGs of its newest frame, made by the worker when somebody asks for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import trio

from lva.video.processes.process import WorkerProcess

#: Longest edge in pixels and quality of a preview: least, most, and what is given who does not say.
EDGE: Final = (64, 1920, 640)
QUALITY: Final = (1, 95, 75)
#: How old, in seconds, a preview may be to be sent again.
FRESH: Final = 0.5
#: Kinds of previews, by edge and quality, that are made at once.
MOST_KINDS: Final = 4


@dataclass(frozen=True, slots=True)
class Preview:
    """One.

    Attributes:
        time: When its frame was decoded, in Unix seconds.
        jpeg: The picture.
        kind: Its longest edge in pixels, and its quality.
        arrived: When it came, on Trio's clock.
    """

    time: float
    jpeg: bytes
    kind: tuple[int, int]
    arrived: float


class TooManyKindsError(Exception):
    """There are as many sizes and qualities being made as may be."""


class Previews:
    """Those of one stream.

    Attributes:
        newest: The last one that was made, whatever its size; None before the first.
    """

    def __init__(self) -> None:
        self.newest: Preview | None = None
        self._wanted: dict[tuple[int, int], trio.Event] = {}

    async def take(
        self, worker: WorkerProcess | None, edge: int, quality: int, patience: float
    ) -> Preview | None:
        """Return a preview of the next frame; the newest there is, if none comes in time.

        Those who ask for the same within half a second get the same.

        Cancellation: ends the wait; if it comes before the worker was asked, others who wait get the newest.

        Args:
            worker: That of the stream, if there is one.
            edge: Its longest edge in pixels.
            quality: 1 to 100.
            patience: How long to wait, in seconds.

        Raises:
            TooManyKindsError: Too many other ones are being made.
        """
        if worker is not None and not self._is_fresh((edge, quality)):
            arrived = await self._ask(worker, edge, quality)
            with trio.move_on_after(patience):
                await arrived.wait()
        return self.newest

    def _is_fresh(self, kind: tuple[int, int]) -> bool:
        newest = self.newest
        if newest is None or newest.kind != kind:
            return False
        return trio.current_time() - newest.arrived < FRESH

    async def _ask(self, worker: WorkerProcess, edge: int, quality: int) -> trio.Event:
        if (arrived := self._wanted.get((edge, quality))) is None:
            if len(self._wanted) >= MOST_KINDS:
                raise TooManyKindsError
            arrived = self._wanted[edge, quality] = trio.Event()
            try:
                await worker.send({"type": "preview", "edge": edge, "quality": quality})
            except BaseException:  # nothing was asked, so nothing would come
                self._wanted.pop((edge, quality), None)
                arrived.set()
                raise
        return arrived

    def arrived(self, message: Any, jpeg: bytes) -> None:
        """Take what the worker sent.

        Raises:
            KeyError, TypeError: It is no preview.
        """
        kind = message["edge"], message["quality"]
        self.newest = Preview(float(message["time"]), jpeg, kind, trio.current_time())
        if (waiting := self._wanted.pop(kind, None)) is not None:
            waiting.set()

    def forget(self) -> None:
        """Let nobody wait any more: the worker has ended."""
        for waiting in self._wanted.values():
            waiting.set()
        self._wanted.clear()
