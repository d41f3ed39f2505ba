"""Works on the streams that this agent holds of its fleet, and publishes nothing once a lease is over."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Protocol

import trio

from lva.boot_clock import boot_time
from lva.events.streams import StreamAnalyticsEvent
from lva.fleet.rows import ReportedState, StreamRow
from lva.routes.wrong_keys import WrongKeysError
from lva.video.codes import ENDED, StreamState
from lva.video.definition import StreamDefinition, parse_definition
from lva.video.processes.forks import ForkServer
from lva.video.registry.admission import Admission, SilentFilesError
from lva.video.source import no_source
from lva.video.supervision.record import Listener, StreamChange
from lva.video.supervision.stream import Stream, StreamServices
from lva.video.supervision.tasks import StreamTasks


class StateReporter(Protocol):
    """Who tells the fleet of streams: `lva.fleet.fleet.Fleet.report`."""

    def __call__(
        self, stream_id: str, state: ReportedState, entry: str = "", version: int | None = None
    ) -> None:
        """Tell how a stream is."""


class FleetHolder:
    """The `Holder` of `lva.fleet.work`; it is the listener of its streams, too.

    Args:
        agent: This agent's name.
        admission: Says which sources are allowed.
        listener: Gets what happens as long as the leases are good.
        forks: Ends all workers at the time that it is told.

    Attributes:
        streams: Those that it works on, and those that it has worked on last, by id.
        late: How many changes and events came after the end of their lease, and were dropped.
        tasks: The work on them.
    """

    def __init__(
        self, agent: str, admission: Admission, listener: Listener, forks: ForkServer
    ) -> None:
        self.streams: dict[str, Stream] = {}
        self.late: int = 0
        self.tasks: StreamTasks | None = None
        self._agent = agent
        self._admission = admission
        self._listener = listener
        self._forks = forks
        self._until = -math.inf
        self._lost: set[str] = set()
        self._taken: set[Stream] = set()
        self._services: StreamServices | None = None
        self._report: StateReporter | None = None

    def begin(self, services: StreamServices, report: StateReporter) -> None:
        """Get what it needs of those that need it."""
        self._services, self._report = services, report
        self.tasks = StreamTasks(self._over, services.logger)

    # What the fleet has it do.

    async def renewed(self, until: float) -> None:
        """All leases are good until then: at that time the kernel ends all workers."""
        self._until = until
        await self._forks.end_at(until)

    def take(self, row: StreamRow, epoch: int) -> None:
        """Begin to work on a stream."""
        assert self._services is not None
        assert self.tasks is not None
        self._lost.discard(row.id)
        definition, why = self._understood(row)
        source = no_source(definition.source)  # until files have been looked at
        stream = self.streams[row.id] = Stream(row.id, definition, source, self._services)
        stream.version, stream.created, stream.epoch = row.version, row.created, epoch
        stream.move(StreamState.PENDING, f"taken by agent {self._agent}")
        self._taken.add(stream)
        self.tasks.soon(self._begin, stream, why)

    def _understood(self, row: StreamRow) -> tuple[StreamDefinition, str | None]:
        """Return a row's definition, and why it cannot be worked on."""
        try:
            return parse_definition(dict(row.definition)), None
        except WrongKeysError as error:
            nothing = StreamDefinition(name=row.id, source="test:")
            return nothing, f"agent {self._agent} does not understand it: {error}"

    async def _begin(self, stream: Stream, why: str | None) -> None:
        """Begin to work on a stream that was taken, unless it has been given up meanwhile."""
        async with stream.changing:
            if stream in self._taken:
                await self._work_on(stream, why)

    async def _work_on(self, stream: Stream, why: str | None) -> None:
        assert self.tasks is not None
        code = "forbidden"
        try:
            stream.source = await self._admission.source(stream.definition)
        except WrongKeysError as error:
            why = why or f"agent {self._agent}: {error}"
        except SilentFilesError as error:
            why, code = why or f"agent {self._agent}: {error}", "timeout"
        if why is None:
            self.tasks.begin(stream)
        else:
            self._taken.discard(stream)
            stream.move(StreamState.FAILURE, why, code)

    async def change(self, row: StreamRow) -> None:
        """Go on with another definition."""
        assert self.tasks is not None
        if (stream := self.streams.get(row.id)) is None:
            return
        async with stream.changing:
            if stream.version >= row.version or stream not in self._taken:
                return
            await self.tasks.end(stream)
            if stream.state in ENDED:
                return  # that releases it, and this version begins in the next lease
            stream.definition, why = self._understood(row)
            stream.version = row.version
            stream.move(StreamState.PENDING, f"version {row.version}")
            await self._work_on(stream, why)

    async def stop(self, stream_id: str, why: str) -> None:
        """End the work on a stream as its users have asked, and tell."""
        await self._end(stream_id, StreamState.STOP, why)

    async def let_go(self, stream_id: str, why: str) -> None:
        """End the work on a stream."""
        await self._end(stream_id, StreamState.PENDING, why)

    def lose(self, stream_id: str) -> None:
        """Tell nothing more of a stream: another agent may have it already."""
        self._lost.add(stream_id)

    async def _end(self, stream_id: str, state: StreamState, why: str) -> None:
        assert self.tasks is not None
        if (stream := self.streams.get(stream_id)) is None:
            return
        async with stream.changing:
            self._taken.discard(stream)
            await self.tasks.end(stream)
            if stream.state not in ENDED:
                stream.move(state, why)

    async def _over(self, stream: Stream) -> None:
        """A stream is done, or has failed: its state has told so, and it is released by that."""
        await trio.lowlevel.checkpoint()
        self._taken.discard(stream)

    def forget(self, is_current: Callable[[str, int], bool]) -> None:
        """Let go of what is known of streams that have been removed, or taken by others.

        Args:
            is_current: Whether a stream of an id still has an epoch.
        """
        for stream_id, stream in [*self.streams.items()]:
            if stream not in self._taken and not is_current(stream_id, stream.epoch or 0):
                stream.events.clear()
                del self.streams[stream_id]
                self._lost.discard(stream_id)

    # What streams tell.

    def changed(self, change: StreamChange) -> None:
        """Publish a change, and tell the fleet."""
        if self._is_late(change.stream_id):
            return
        self._listener.changed(change)
        assert self._report is not None
        state = ReportedState(
            change.status.value, change.status in ENDED, change.reason, change.code, round(change.time, 3),
            self._agent, change.epoch or 0,
        )  # fmt: skip
        entry = {**change.as_dict(), "agent": self._agent, "epoch": change.epoch}
        stream = self.streams.get(change.stream_id)
        version = None if stream is None else stream.version
        self._report(change.stream_id, state, json.dumps(entry, ensure_ascii=False), version)

    def seen(self, event: StreamAnalyticsEvent) -> None:
        """Publish an event."""
        if not self._is_late(event.stream_id):
            self._listener.seen(event)

    def _is_late(self, stream_id: str) -> bool:
        late = stream_id in self._lost or boot_time() >= self._until
        self.late += late
        return late


async def until_over(tasks: StreamTasks, over: trio.Event) -> None:
    """Let the work on streams go on, also while the service stops, until the fleet has handed it over.

    Resources: the nursery of that work. What has not ended by then is cancelled, and no worker is left.

    Cancellation: does not reach it; only `over` ends it.
    """
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            tasks.begin_in(nursery)
            await over.wait()
            tasks.begin_in(None)
            nursery.cancel_scope.cancel()
