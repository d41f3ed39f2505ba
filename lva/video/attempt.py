"""One worker's work on a stream: it is told to connect, heard and watched until it has ended."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import trio

from lva.video.codes import CODES, Ended, StreamState
from lva.video.process import WorkerProcess
from lva.video.retries import Retries
from lva.video.stream import Stream
from lva.video.watch import StallLimit, Watch


class Attempt:
    """The work of one worker, which may connect more than once.

    Args:
        stream: What it works on.
        worker: Its process.
        retries: The stream's attempts.
        stall: For how long no data may come.
    """

    def __init__(
        self, stream: Stream, worker: WorkerProcess, retries: Retries, stall: StallLimit
    ) -> None:
        self._stream = stream
        self._worker = worker
        self._retries = retries
        self._stall = stall
        self._watch = Watch(stream, worker, stall)

    async def run(self) -> Ended:
        """Hear and watch the worker until its work has ended; it is to be stopped then."""
        found: list[Ended] = []

        async def note(work: Callable[[], Awaitable[Ended]]) -> None:
            found.append(await work())
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(note, partial(self._hear, nursery))
            nursery.start_soon(note, self._watch.run)
        return found[0]

    async def _hear(self, nursery: trio.Nursery) -> Ended:
        await self._connect()
        while (received := await self._worker.receive()) is not None:
            message, data = received
            try:
                end = self._take(message["type"], message, data)
            except (KeyError, TypeError, ValueError) as error:  # a plugin has its connection, too
                return Ended("worker_crashed", f"the worker sent what is no message: {error!r}")
            if end is not None:
                if (ended := self._given_up(*end)) is not None:
                    return ended
                nursery.start_soon(self._reconnect, *end)
        return self._death(await self._worker.wait())

    def _take(self, kind: str, message: Mapping[str, Any], data: bytes) -> tuple[str, str] | None:
        """Note what the worker says; return code and reason if its connection has ended."""
        stream = self._stream
        if kind == "disconnected":
            code = message["code"]
            return (code if code in CODES else "invalid_data"), str(message["message"])
        if kind == "connected":
            names = ("codec", "width", "height", "declared_fps")
            stream.video = {name: message[name] for name in names}
        elif kind == "frames":
            self._retries.frames_come()
            size = {name: message[name] for name in ("width", "height")}
            stream.video |= size
            stream.move(StreamState.IN_PROGRESS, "frames of {width}x{height}".format(**size))
        elif kind == "event":
            stream.see(message, data)
        elif kind == "preview":
            stream.previews.arrived(message, data)
        elif kind == "log":
            name = stream.definition.name
            stream.logger.log(message["level"], "stream %s: %s", name, message["text"])
        elif kind == "analytics_failed":
            self._analytics_failed(message)
        elif kind == "set_aside":
            why = f"failed too often, last at frame {message['frame']}"
            stream.put_aside(message["analytics"], why)
        return None

    def _analytics_failed(self, message: Mapping[str, Any]) -> None:
        what = f"{message['analytics']} failed in {message['step']}()"
        if message["frame"]:
            what += f" at frame {message['frame']}"
        self._stream.logger.warning(
            "stream %s: %s: %s\n%s",
            self._stream.definition.name,
            what,
            message["error"],
            message["traceback"],
        )
        if message["step"] == "open":
            self._stream.put_aside(message["analytics"], message["error"])

    def _given_up(self, code: str, reason: str) -> Ended | None:
        """Count the end of a connection; return how the work has ended if there is not to be another."""
        if code == "timeout":
            self._stall.note_stall()
        if code == "end_of_stream" and not self._stream.source.live:
            return Ended(code, "the file's end", final=StreamState.DONE)
        if (final := self._retries.used_up(code)) is not None:
            return Ended(code, f"{reason}; no attempt is left", final=final)
        return None

    async def _reconnect(self, code: str, reason: str) -> None:
        """Connect again after a while, the worker being heard and watched meanwhile."""
        await self._retries.wait(code, reason)
        await self._connect()

    async def _connect(self) -> None:
        await self._stream.services.pace()
        await self._worker.send({"type": "connect", "timeout": self._stall.seconds})

    def _death(self, code: int) -> Ended:
        how = f"exit code {code}"
        if code < 0:
            with suppress(ValueError):
                how = signal.Signals(-code).name
        step = self._worker.step()
        if step is None:
            return Ended("worker_crashed", f"the worker died ({how})")
        analytics, doing = step
        return Ended("worker_crashed", f"the worker died ({how}) in {doing}", blamed=analytics)
