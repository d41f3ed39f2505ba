"""One worker's work on a stream: it is told to connect, heard and watched until it has ended."""

from __future__ import annotations

import logging
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

import trio

from lva.logs.loggers import own_logger
from lva.video.codes import CODES, LASTING, Ended, StreamState
from lva.video.processes.process import WorkerProcess
from lva.video.supervision.pacing import Pacing
from lva.video.supervision.retries import Retries
from lva.video.supervision.stream import Stream
from lva.video.supervision.watch import StallLimit, Watch

#: For how many seconds a worker that has ended is heard at most.
LAST_WORDS: Final = 0.5


class WorkerAttempt:
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
        self._pacing = Pacing(stream.services.events_per_second)

    async def run(self) -> Ended:
        """Hear and watch the worker until its work has ended; it is to be stopped then.

        Resources: the worker is the caller's, but has been stopped when this returns or raises.

        Cancellation: the worker is stopped all the same, as by `WorkerProcess.stop`.

        Errors: that the worker sends what is no message ends its work; a fault of ours is raised.
        """
        found: list[Ended] = []

        async def note(work: Callable[[], Awaitable[Ended]]) -> None:
            found.append(await work())
            nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(note, partial(self._hear, nursery))
                nursery.start_soon(note, self._watch.run)
                nursery.start_soon(note, self._wait)
                nursery.start_soon(self._worker.printed.run, self._said)
        finally:
            await self._stop()
        return found[0]

    async def _stop(self) -> None:
        """Stop the worker, and hear meanwhile what its plugins have to say at the end.

        Shielded, as `WorkerProcess.stop`.
        """
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear_last)
                await self._worker.stop()
                # What it sent before it ended; a process that it started may have the connection, too.
                nursery.cancel_scope.deadline = trio.current_time() + LAST_WORDS
            self._worker.printed.drain(self._said)
            if words := self._worker.board.last_words:
                self._said(logging.WARNING, words)

    async def _hear_last(self) -> None:
        while (received := await self._worker.receive()) is not None:
            with suppress(KeyError, TypeError, ValueError):  # it is being ended anyway
                kind = received[0]["type"]
                if kind in {"event", "log", "analytics_failed"}:
                    self._take(kind, *received)

    async def _wait(self) -> Ended:
        """Wait for the worker's end; a process that it started may have its connection, and go on."""
        code = await self._worker.wait()
        await trio.sleep(LAST_WORDS)
        return self._death(code)

    async def _hear(self, nursery: trio.Nursery) -> Ended:
        await self._connect()
        while (received := await self._worker.receive()) is not None:
            message, data = received
            try:
                end = self._take(message["type"], message, data)
            except (KeyError, TypeError, ValueError):  # a plugin has its connection, too
                return Ended("worker_crashed", "the worker sent what is no message")
            if message["type"] == "event":
                await trio.sleep(self._pacing.spend(self._stream.events[-1].size + len(data)))
            elif message["type"] == "analytics_failed":
                await trio.sleep(self._pacing.spend(len(message["traceback"])))
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
            self._log(message["analytics"], message["level"], message["text"])
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
        text = f"{what}: {message['error']}\n{message['traceback']}".rstrip()
        self._log(message["analytics"], logging.WARNING, text)
        if message["step"] == "open":
            self._stream.put_aside(message["analytics"], message["error"])

    def _said(self, level: int, text: str) -> None:
        """Log a line that the worker wrote to its descriptors 1 and 2."""
        self._log(self._worker.running, level, text)

    def _log(self, analytics: str | None, level: int, text: str) -> None:
        """Log in the plugin's log, with the stream's name; in that of streams if the plugin is not known."""
        known = any(use.name == analytics for use in self._stream.definition.analytics)
        logger = own_logger(str(analytics)) if known else self._stream.logger
        logger.log(level, "stream %s: %s", self._stream.definition.name, text)

    def _given_up(self, code: str, reason: str) -> Ended | None:
        """Count the end of a connection; return how the work has ended if there is not to be another."""
        if code == "timeout":
            self._stall.note_stall()
        if code in LASTING:
            return Ended(code, reason, final=StreamState.FAILURE)
        if not self._stream.source.live:
            if code == "end_of_stream":
                return Ended(code, "the file's end", final=StreamState.DONE)
            return Ended(code, f"{reason}; a file is not tried again", final=StreamState.FAILURE)
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
