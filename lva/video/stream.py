"""One stream, supervised: its worker is started, heard, watched and ended; each state has a reason."""

from __future__ import annotations

import logging
import random
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final, Protocol

import trio

from lva.errors import counted
from lva.video.board import STEPS, FrameLedger
from lva.video.codes import CODES, SLOW, TRANSITIONS, StreamState
from lva.video.definition import Retry, StreamDefinition
from lva.video.process import WorkerProcess, open_worker
from lva.video.schedule import works_at
from lva.video.source import Source

#: Entries of a stream's log that are kept, and newest events.
LOG_LENGTH: Final = 500
EVENTS_KEPT: Final = 200
#: Seconds between two looks at a worker; for how long it may be silent.
LOOK: Final = 0.25
SILENT: Final = 5.0
#: For how long frames must come until earlier failures are forgotten.
LASTING: Final = 10.0
#: Longest back-off in seconds, and the shortest for what will not get better soon.
MOST_DELAY: Final = 60.0
SLOW_DELAY: Final = 10.0
#: The first back-off, in seconds, when a worker died: nobody outside is hurt by another.
CRASH_DELAY: Final = 0.1
#: Times that an analytics plugin may end the worker until it is set aside for the stream.
MOST_CRASHES: Final = 3
_SECOND: Final = 1e9


@dataclass(frozen=True, slots=True)
class StreamChange:
    """A change of a stream's state.

    Attributes:
        stream_id, name: The stream's.
        time: In Unix seconds.
        before, status: The states.
        code: Of `lva.video.codes.CODES`, if something went wrong or ended.
        reason: In words.
    """

    stream_id: str
    name: str
    time: float
    before: StreamState | None
    status: StreamState
    code: str | None
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "time": round(self.time, 3),
            "status": self.status.value,
            "before": None if self.before is None else self.before.value,
            "code": self.code,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """What an analytics plugin has seen in one frame of a stream.

    Attributes:
        number: Of the stream's events, from 1 on.
        event_type, data, image: As the plugin gave them.
        stream_id, name: The stream's.
        analytics: The plugin's name.
        frame: The frame's number.
        time: The frame's, in Unix seconds.
    """

    number: int
    event_type: str
    stream_id: str
    name: str
    analytics: str
    frame: int
    time: float
    data: Mapping[str, Any]
    image: bytes

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, without the picture."""
        return {
            "number": self.number,
            "event_type": self.event_type,
            "stream_id": self.stream_id,
            "stream": self.name,
            "analytics": self.analytics,
            "frame": self.frame,
            "time": round(self.time, 3),
            "data": dict(self.data),
            "image": bool(self.image),
        }


@dataclass(frozen=True, slots=True)
class Ended:
    """How the work of one worker ended.

    Attributes:
        code: Of `CODES`.
        reason: In words.
        blamed: The analytics plugin that is to blame.
        final: The stream's state, if it is not to go on.
    """

    code: str
    reason: str
    blamed: str | None = None
    final: StreamState | None = None


class Listener(Protocol):
    """Who gets what happens; called in the service's thread, must not wait."""

    def changed(self, change: StreamChange) -> None:
        """A state was entered."""

    def seen(self, event: SeenEvent) -> None:
        """An analytics plugin saw something."""


@dataclass(frozen=True, slots=True)
class StreamServices:
    """What streams use of who has them.

    Attributes:
        analytics: Given a definition, what the worker is sent of the plugins in use; raises LookupError
            for an unknown one and ValueError for wrong parameters.
        listener: Gets changes and events.
        logger: Where what happens, and what plugins log, is logged.
        pace: Waited for before each connection: not all streams connect in the same second.
        rng: Source of the jitter.
    """

    analytics: Callable[[StreamDefinition], Sequence[Mapping[str, Any]]]
    listener: Listener
    logger: logging.Logger
    pace: Callable[[], Awaitable[None]]
    rng: random.Random = field(default_factory=random.Random)  # noqa: S311 - jitter


class Stream:
    """One stream and its supervisor.

    Args:
        stream_id: Its id.
        definition: What the user asked for.
        source: The definition's, which is allowed.
        services: What it uses of who has it.

    Attributes:
        ledger: The account of its frames.
        log: Its changes, oldest first.
        events: The newest events, oldest first.
        logger: As given.
        set_aside: Why analytics plugins do not get its frames any more, by name.
    """

    def __init__(
        self,
        stream_id: str,
        definition: StreamDefinition,
        source: Source,
        services: StreamServices,
    ) -> None:
        self.id: str = stream_id
        self.definition: StreamDefinition = definition
        self.source: Source = source
        self.version: int = 1
        self.state: StreamState = StreamState.PENDING
        self.change: StreamChange | None = None
        self.ledger: FrameLedger = FrameLedger()
        self.log: deque[dict[str, Any]] = deque(maxlen=LOG_LENGTH)
        self.events: deque[SeenEvent] = deque(maxlen=EVENTS_KEPT)
        self.set_aside: dict[str, str] = {}
        self.worker: WorkerProcess | None = None
        self.info: dict[str, Any] = {}
        self.preview: tuple[float, bytes] | None = None
        self.previewed: trio.Event = trio.Event()
        self.logger: logging.Logger = services.logger
        self._services = services
        self._number = 0
        self._crashes: dict[str, int] = {}
        self._failures = {"eof_retry": 0, "decode_error_retry": 0}
        self._frames_since: float | None = None
        self._longest = 0.0  # seconds between two packets, so far
        self._patience = 1.0
        self._last_packet = 0  # of which the watch knows; monotonic ns
        self._heard = 0.0
        self._used: list[str] = []

    def move(self, state: StreamState, reason: str, code: str | None = None) -> None:
        """Enter a state, for a reason.

        Raises:
            ValueError: It cannot follow the one before.
        """
        before = self.change.status if self.change is not None else None
        if before is not None and state != before and state not in TRANSITIONS[before]:
            raise ValueError(f"{before} cannot become {state}")
        self.state = state
        change = StreamChange(
            self.id, self.definition.name, time.time(), before, state, code, reason
        )
        self.change = change
        self.log.append(change.as_dict())
        level = logging.WARNING if code and code != "end_of_stream" else logging.INFO
        self.logger.log(level, "stream %s: %s: %s", self.definition.name, state.value, reason)
        self._services.listener.changed(change)

    async def run(self) -> None:
        """Work on the stream until it is done or has failed.

        Cancellation ends its worker, within a second and a half and a moment; no process is left.
        """
        while True:
            await self._until_scheduled()
            ended = await self._within_schedule()
            if ended is None:
                continue
            if ended.blamed is not None:
                self._blame(ended)
            if ended.final is not None:
                self.move(ended.final, ended.reason, ended.code)
                return
            final = self._used_up(ended.code)
            if final is not None or not self.definition.autorestart:
                self.move(final or StreamState.FAILURE, ended.reason, ended.code)
                return
            await self._wait_to_retry(ended.code, ended.reason)

    async def _until_scheduled(self) -> None:
        while not works_at(self.definition.schedule, datetime.now()):  # noqa: DTZ005 - local time is meant
            if self.state is not StreamState.PAUSED:
                self.move(StreamState.PAUSED, "outside of its schedule")
            await trio.sleep(1)
        if self.state is StreamState.PAUSED:
            self.move(StreamState.PENDING, "within its schedule")

    async def _within_schedule(self) -> Ended | None:
        """Let one worker work; return how that ended, None if the schedule did."""
        ended = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_with_schedule, nursery.cancel_scope)
            ended = await self._one_worker()
            nursery.cancel_scope.cancel()
        return ended

    async def _end_with_schedule(self, scope: trio.CancelScope) -> None:
        while works_at(self.definition.schedule, datetime.now()):  # noqa: ASYNC110, DTZ005 - local time
            await trio.sleep(1)
        scope.cancel()

    async def _one_worker(self) -> Ended:
        worker = None
        try:
            spec = self._spec()
        except (LookupError, ValueError) as error:  # deactivated, or reloaded with other parameters
            return Ended("analytics_failed", str(error.args[0] if error.args else error))
        try:
            async with open_worker(spec) as worker:
                self.worker = worker
                self.ledger.begin(worker.board)
                return await self._attend(worker)
        except OSError as error:
            return Ended("worker_crashed", f"no worker process can be started: {error}")
        finally:
            self.worker = None
            if worker is not None:
                self.ledger.end()
                worker.board.close()

    def _spec(self) -> dict[str, Any]:
        definition = self.definition
        used = [
            spec
            for spec in self._services.analytics(definition)
            if spec["name"] not in self.set_aside
        ]
        self._used = [str(spec["name"]) for spec in used]
        return {
            "stream_id": self.id,
            "name": definition.name,
            "source": self.source.as_message(),
            "timeout": definition.timeout,
            "rate": None if definition.rate is None else definition.rate.model_dump(),
            "roi": None if definition.roi is None else definition.roi.model_dump(),
            "analytics": used,
        }

    async def _attend(self, worker: WorkerProcess) -> Ended:
        """Hear and watch a worker until its work has ended."""
        found: list[Ended] = []

        async def note(work: Callable[[WorkerProcess], Awaitable[Ended]]) -> None:
            found.append(await work(worker))
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(note, partial(self._hear, nursery))
            nursery.start_soon(note, self._watch)
        return found[0]

    # What the worker says.

    async def _hear(self, nursery: trio.Nursery, worker: WorkerProcess) -> Ended:
        self._heard = trio.current_time()
        await self._connect(worker)
        while (received := await worker.receive()) is not None:
            message, data = received
            self._heard = trio.current_time()
            try:
                end = self._take(message["type"], message, data)
            except (KeyError, TypeError, ValueError) as error:  # a plugin has its connection, too
                return Ended("worker_crashed", f"the worker sent what is no message: {error!r}")
            if end is not None:
                if (ended := self._given_up(*end)) is not None:
                    return ended
                nursery.start_soon(self._reconnect, worker, *end)
        return self._death(worker, await worker.wait())

    def _take(self, kind: str, message: Mapping[str, Any], data: bytes) -> tuple[str, str] | None:
        """Note what the worker says; return code and reason if its connection has ended."""
        if kind == "disconnected":
            code = message["code"]
            return (code if code in CODES else "invalid_data"), str(message["message"])
        if kind == "connected":
            names = ("codec", "width", "height", "declared_fps")
            self.info = {name: message[name] for name in names}
        elif kind == "frames":
            self._frames_since = trio.current_time()
            self.info |= {"width": message["width"], "height": message["height"]}
            self.move(StreamState.IN_PROGRESS, f"frames of {message['width']}x{message['height']}")
        elif kind == "event":
            self._seen(message, data)
        elif kind == "preview":
            self.preview = (message["time"], data)
            self.previewed.set()
            self.previewed = trio.Event()
        elif kind == "log":
            self.logger.log(
                message["level"], "stream %s: %s", self.definition.name, message["text"]
            )
        elif kind == "analytics_failed":
            self._analytics_failed(message)
        elif kind == "set_aside":
            self._set_aside(
                message["analytics"], f"failed too often, last at frame {message['frame']}"
            )
        return None

    def _seen(self, message: Mapping[str, Any], data: bytes) -> None:
        self._number += 1
        event = SeenEvent(
            self._number,
            message["event_type"],
            self.id,
            self.definition.name,
            message["analytics"],
            message["frame"],
            message["time"],
            dict(message["data"]),
            data,
        )
        self.events.append(event)
        self._services.listener.seen(event)

    def _analytics_failed(self, message: Mapping[str, Any]) -> None:
        what = f"{message['analytics']} failed in {message['step']}()"
        if message["frame"]:
            what += f" at frame {message['frame']}"
        self.logger.warning(
            "stream %s: %s: %s\n%s",
            self.definition.name,
            what,
            message["error"],
            message["traceback"],
        )
        if message["step"] == "open":
            self._set_aside(message["analytics"], message["error"])

    def _set_aside(self, analytics: str, why: str) -> None:
        self.set_aside[analytics] = why
        reason = f"analytics plugin {analytics} is set aside: {why}"
        self.move(self.state, reason, "analytics_failed")

    def _given_up(self, code: str, reason: str) -> Ended | None:
        """Count the end of a connection; return how the work has ended if there is not to be another."""
        if code == "end_of_stream" and not self.source.live:
            return Ended(code, "the file's end", final=StreamState.DONE)
        if (final := self._used_up(code)) is not None:
            return Ended(code, f"{reason}; no attempt is left", final=final)
        return None

    async def _reconnect(self, worker: WorkerProcess, code: str, reason: str) -> None:
        """Connect again after a while, the worker being heard and watched meanwhile."""
        await self._wait_to_retry(code, reason)
        await self._connect(worker)

    async def _connect(self, worker: WorkerProcess) -> None:
        await self._services.pace()
        await worker.send({"type": "connect"})

    # What comes after a failure.

    def _retry(self, code: str) -> tuple[str, Retry]:
        name = "eof_retry" if code == "end_of_stream" else "decode_error_retry"
        return name, getattr(self.definition, name)

    def _used_up(self, code: str) -> StreamState | None:
        """Count a failure; return the state to end in if no attempt is left."""
        if self._frames_since is not None and trio.current_time() - self._frames_since > LASTING:
            self._failures = dict.fromkeys(self._failures, 0)
        self._frames_since = None
        name, retry = self._retry(code)
        self._failures[name] += 1
        if retry.attempt_count is None or self._failures[name] <= retry.attempt_count:
            return None
        return StreamState.DONE if code == "end_of_stream" else StreamState.FAILURE

    async def _wait_to_retry(self, code: str, reason: str) -> None:
        name, retry = self._retry(code)
        attempt = self._failures[name]
        first = CRASH_DELAY if code == "worker_crashed" and attempt == 1 else retry.delay
        delay = self._delay(code, first, attempt)
        most = "" if retry.attempt_count is None else f" of {retry.attempt_count}"
        self.ledger.reconnects[code] = self.ledger.reconnects.get(code, 0) + 1
        self.move(
            StreamState.RESTART,
            f"{CODES[code]} ({reason}); attempt {attempt}{most} to reconnect in {delay:.1f} s",
            code,
        )
        await trio.sleep(delay)
        self.move(StreamState.PENDING, "connecting")

    def _delay(self, code: str, first: float, attempt: int) -> float:
        """Return the back-off: doubled with each attempt, at most a minute, with half of it jittered."""
        first = max(first, SLOW_DELAY) if code in SLOW else first
        most = max(first, min(MOST_DELAY, first * 2.0 ** min(attempt - 1, 16)))
        return most * self._services.rng.uniform(0.5, 1.0)

    def _blame(self, ended: Ended) -> None:
        """Count that an analytics plugin ended the worker; the third time it is set aside."""
        assert ended.blamed is not None
        count = self._crashes[ended.blamed] = self._crashes.get(ended.blamed, 0) + 1
        if count >= MOST_CRASHES:
            self._set_aside(
                ended.blamed, f"it ended the worker {counted(count, 'time')}, last: {ended.reason}"
            )

    def _death(self, worker: WorkerProcess, code: int) -> Ended:
        how = f"exit code {code}"
        if code < 0:
            with suppress(ValueError):
                how = signal.Signals(-code).name
        step = self._step(worker)
        if step is None:
            return Ended("worker_crashed", f"the worker died ({how})")
        analytics, doing = step
        return Ended("worker_crashed", f"the worker died ({how}) in {doing}", blamed=analytics)

    def _step(self, worker: WorkerProcess) -> tuple[str, str] | None:
        """Return the analytics plugin that the worker is in, and where; None if it is in none."""
        board = worker.board
        if not (step := board["step"]):
            return None
        name = self._used[board["step_analytics"]]
        frame = board["step_frame"]
        doing = f"{name}, {STEPS[step]}()" + (f" at frame {frame}" if frame else "")
        return name, doing

    # What the worker does not say.

    async def _watch(self, worker: WorkerProcess) -> Ended:
        """Look at the worker from time to time; return what it is to be ended for.

        All times are of monotonic clocks. After a pause of the service itself, nobody is judged for a while.
        """
        looked = trio.current_time()
        judge_from = 0.0
        while True:
            await trio.sleep(LOOK)
            now = trio.current_time()
            if now - looked > LOOK + 1:
                judge_from = now + SILENT
                self._heard = now
            looked = now
            if now < judge_from:
                continue
            ended = self._hung(worker) or self._stalled(worker) or self._too_large(worker)
            if ended is None and now - self._heard > SILENT:
                ended = Ended(
                    "worker_silent", f"nothing was heard of the worker for {SILENT:.0f} s"
                )
            if ended is not None:
                worker.hangs = True
                return ended

    def _hung(self, worker: WorkerProcess) -> Ended | None:
        limit = self.definition.analytics_timeout
        since = worker.board["step_since"]
        if worker.board["step"] <= 1 or _seconds_since(since) <= limit:
            return None
        step = self._step(worker)
        if step is None:
            return None
        return Ended("analytics_hung", f"{step[1]} took longer than {limit:g} s", blamed=step[0])

    def _stalled(self, worker: WorkerProcess) -> Ended | None:
        board, timeout = worker.board, self.definition.timeout
        reading = board["reading_since"]
        if self.state is not StreamState.IN_PROGRESS:
            # FFmpeg's own limit counts for opening and once more for looking into the stream.
            limit = 2 * timeout + 1
            if reading and _seconds_since(reading) > limit:
                return Ended("timeout", f"no frame within {limit:g} s of connecting")
            return None
        if not reading or not self.source.live:
            limit = 10 * timeout
            silent = bool(reading) and _seconds_since(reading) > limit
            return Ended("stalled", f"one read took longer than {limit:g} s") if silent else None
        waits = _seconds_since(board["last_packet"])
        limit = max(timeout * self._patience, 4 * self._longest)
        if waits > limit:
            self._patience = min(self._patience * 2, 40.0)  # a slow stream is not killed for ever
            return Ended("stalled", f"no data for {limit:.1f} s")
        if board["last_packet"] != self._last_packet:
            interval = (board["last_packet"] - self._last_packet) / _SECOND
            if self._last_packet and interval < MOST_DELAY:
                self._longest = max(self._longest, interval)
            self._last_packet = board["last_packet"]
        silent_frames = (board["last_packet"] - board["last_frame"]) / _SECOND
        if silent_frames > 3 * limit:
            return Ended("stalled", f"data, but no frame for {silent_frames:.1f} s")
        return None

    def _too_large(self, worker: WorkerProcess) -> Ended | None:
        limit = self.definition.memory_limit
        used = worker.memory()
        if used is None or used <= limit:
            return None
        step = self._step(worker)
        size = f"{used // 2**20} MiB of memory, more than {limit // 2**20} MiB"
        return Ended("memory_limit", size, blamed=None if step is None else step[0])

    def status(self) -> dict[str, Any]:
        """Return what `/streams/ID` shows."""
        worker, change = self.worker, self.change
        return {
            "stream_id": self.id,
            "name": self.definition.name,
            "version": self.version,
            "source": self.source.shown,
            "status": self.state.value,
            "reason": None if change is None else change.reason,
            "code": None if change is None else change.code,
            "since": None if change is None else round(change.time, 3),
            "video": self.info or None,
            "frames": self.ledger.frames(),
            "input": self.ledger.source(),
            "frame_age_ms": self.ledger.ages(),
            "worker": None if worker is None else {"pid": worker.pid, "memory": worker.memory()},
            "analytics": [
                {"name": use.name, "set_aside": self.set_aside.get(use.name)}
                for use in self.definition.analytics
            ],
            "events": self._number,
        }


def _seconds_since(nanoseconds: int) -> float:
    return (time.monotonic_ns() - nanoseconds) / _SECOND
