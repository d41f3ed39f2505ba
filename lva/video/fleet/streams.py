"""The streams of a fleet: any agent tells of all of them and takes changes; each works on some.

Cancellation ends a wait for a change of a stream; the change may be made all the same.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import trio

from lva.boot_clock import boot_time
from lva.contract import RequestProblem
from lva.fleet.config import FleetConfig
from lva.fleet.fleet import Fleet, GoneError, Myself, OtherVersionError
from lva.fleet.rows import AgentRow, ReportedState, StreamRow
from lva.fleet.server import FleetServerError
from lva.video.callbacks import WITH_SECRETS
from lva.video.codes import ENDED
from lva.video.definition import StreamDefinition
from lva.video.fleet.definitions import MOST_SHOWN, Definitions
from lva.video.fleet.holder import FleetHolder, until_over
from lva.video.registry.admission import Admission
from lva.video.registry.elsewhere import (
    Elsewhere,
    ToldState,
    fleet_part,
    last_known_of,
    standing_of,
)
from lva.video.registry.revision import other_version, revised
from lva.video.registry.store import StoreError
from lva.video.registry.streams import the_only, unavailable, unknown
from lva.video.source import no_source
from lva.video.supervision.stream import Stream, StreamServices

#: How a label begins that says which analytics plugin an agent has.
ANALYTICS: Final = "analytics."
#: Seconds that a change is waited for at the agent that works on the stream.
PATIENCE: Final = 3.0


@dataclass(frozen=True, slots=True)
class FleetPart:
    """What an agent is given for its part in a fleet.

    Attributes:
        config: The operator's.
        address: Where other agents reach this one.
        analytics: Returns the names of the analytics plugins that are active here.
    """

    config: FleetConfig
    address: str
    analytics: Any


class FleetStreams:
    """As `lva.video.registry.streams.Streams`, of a fleet.

    Args:
        part: This agent's.
        admission: Says which definitions are allowed.
        services: What streams use of the plugin that has them.
        most: Most streams of the fleet.

    Attributes:
        fleet: What is known of it.
        config: The operator's.
        holder: Who works on the streams of this agent.
    """

    def __init__(
        self, part: FleetPart, admission: Admission, services: StreamServices, most: int
    ) -> None:
        assert services.forks is not None
        self._admission = admission
        self._definitions = Definitions()
        self._most = most
        self.config: FleetConfig = part.config
        agent = part.config.agent
        self.holder: FleetHolder = FleetHolder(agent, admission, services.listener, services.forks)
        self.fleet: Fleet = Fleet(
            part.config,
            Myself(part.address, lambda: frozenset(ANALYTICS + name for name in part.analytics())),
            self.holder,
            services.logger,
            services.not_ready,
        )
        self.holder.begin(replace(services, listener=self.holder), self.fleet.report)

    async def run(self) -> None:
        """Take part in the fleet until cancelled.

        Cancellation: hands the streams over to other agents; then no worker is left, as after an error.
        """
        over = trio.Event()
        async with trio.open_nursery() as nursery:
            assert self.holder.tasks is not None
            nursery.start_soon(until_over, self.holder.tasks, over, name="streams of the fleet")
            nursery.start_soon(self._forget, name="streams of other agents")
            try:
                await self.fleet.run()
            finally:
                over.set()

    async def _forget(self) -> None:
        while True:
            await trio.sleep(1)
            self.holder.forget(
                lambda stream_id, epoch: (
                    (row := self.fleet.view.rows.get(stream_id)) is not None and row.epoch <= epoch
                )
            )

    # What is told of streams.

    def here(self) -> list[Stream]:
        """Return the streams that this agent works on, or has worked on last, oldest first."""
        return sorted(self.holder.streams.values(), key=lambda stream: stream.created)

    def shown(self) -> list[Stream | Elsewhere]:
        """Return the streams of the fleet that the console shows: the oldest `MOST_SHOWN`."""
        rows = sorted(self.fleet.view.rows.values(), key=lambda row: (row.created, row.id))
        return [self._one(row) for row in rows[:MOST_SHOWN]]

    def search(self, status: str | None, name: str | None, analytics: str | None) -> list[str]:
        """Return the ids of the streams that are in a state, have a name and use a plugin, oldest first.

        Definitions are not looked at as a whole: there may be many.
        """
        label = None if analytics is None else ANALYTICS + analytics
        found = [
            (row.created, row.id)
            for row in self.fleet.view.rows.values()
            if (name is None or row.definition.get("name") == name)
            and (label is None or label in row.labels)
            and (status is None or self._standing(row).status.value == status)
        ]
        return [stream_id for _, stream_id in sorted(found)]

    def check_known(self) -> None:
        """Refuse to tell of streams as long as the fleet has not been reached.

        Raises:
            RequestProblem: It has not.
        """
        if self.fleet.trouble is not None and not self.fleet.view.rows:
            raise unavailable(self.fleet.trouble)

    def get(self, key: str) -> Stream | Elsewhere:
        """Return the stream of an id, or else the one of a name.

        Raises:
            RequestProblem: There is none, or several have this name.
        """
        return self._one(self._row(key))

    def _row(self, key: str) -> StreamRow:
        rows = self.fleet.view.rows
        if key not in rows:
            named = [row.id for row in rows.values() if row.definition.get("name") == key]
            if not named:
                self.check_known()
            key = the_only(named, key)
        return rows[key]

    def _one(self, row: StreamRow) -> Stream | Elsewhere:
        stream = self.holder.streams.get(row.id)
        if stream is not None and row.id in self.fleet.held:
            return stream
        definition = self._definitions.of(row)
        source = no_source(definition.source)  # it is shown, and opened elsewhere
        agent, waiting = self._agent_of(row), self.fleet.reason(row)
        alive = agent is not None and self.fleet.is_alive(agent)
        return Elsewhere(row, definition, source, self._standing(row), agent, alive, waiting)

    def _standing(self, row: StreamRow) -> ToldState:
        stream = self.holder.streams.get(row.id)
        if stream is not None and row.id in self.fleet.held:
            return ToldState(stream.state, "")
        if self.fleet.trouble is not None:
            return last_known_of(row)
        lease = row.lease
        held = lease is not None and self.fleet.view.is_alive(lease.incarnation, boot_time())
        return standing_of(row, self._agent_of(row), self.fleet.reason(row), held=held)

    def last_here(self, stream_id: str) -> Stream | None:
        """Return a stream that nobody works on if this agent was the last to do so."""
        stream = self.holder.streams.get(stream_id)
        row = self.fleet.view.rows.get(stream_id)
        return stream if stream is not None and row is not None and row.lease is None else None

    def _agent_of(self, row: StreamRow) -> AgentRow | None:
        if row.lease is not None:
            return self.fleet.view.holder_of(row)
        return None if row.state is None else self.fleet.view.agents.get(row.state.agent)

    def status(self, stream: Stream | Elsewhere) -> dict[str, Any]:
        """Return what `/streams/ID` shows."""
        if isinstance(stream, Elsewhere):
            return stream.status()
        row = self.fleet.view.rows.get(stream.id)
        found = stream.status()
        if row is not None:
            agent = self.fleet.view.agents.get(self.fleet.name)
            found["fleet"] = fleet_part(row, agent, None, reachable=True)
        return found

    async def logs(self, stream: Stream | Elsewhere) -> list[dict[str, Any]]:
        """Return a stream's changes, newest first.

        Raises:
            StoreError: The server of the fleet cannot be used.
        """
        try:
            entries = await self.fleet.logs(stream.id)
        except FleetServerError as error:
            raise StoreError(str(error)) from error
        return [entry for text in reversed(entries) if (entry := _entry(text)) is not None]

    # Changes.

    async def create(self, body: Any) -> Stream | Elsewhere:
        """Make a stream; once this returns, it is kept, and an agent that has room takes it.

        Raises:
            RequestProblem: The definition is wrong, or there are too many streams.
            StoreError: It cannot be kept.
        """
        definition, _ = await self._admission.admit(body)
        self.check_joined()
        if len(self.fleet.view.rows) >= self._most:
            what = f"there are {self._most} streams, the most allowed (max_streams)"
            raise RequestProblem(409, what, "too_many_streams")
        row = row_of(str(uuid.uuid4()), 1, definition, time.time())
        await self.put(row, 0)
        await self.fleet.until(lambda: self._is_held(row.id), PATIENCE / 3)
        return self.get(row.id)

    def check_joined(self) -> None:
        """Refuse changes as long as this agent is no part of the fleet.

        Raises:
            RequestProblem: It is not.
        """
        if self.fleet.trouble is not None:
            raise unavailable(self.fleet.trouble)

    async def replace(
        self, key: str, body: Any, versions: Container[int] | None = None
    ) -> Stream | Elsewhere:
        """Give a stream another definition, of the next version; it begins anew if it is not stopped.

        Args:
            key: Its id or name.
            body, versions: As `lva.video.registry.revision.revised` takes them.

        Raises:
            RequestProblem, StoreError: As `create`; and it has another version, 412 or 409.
        """
        row = self._row(key)
        stream = self._one(row)
        present = stream.definition, stream.source
        definition, _ = await revised(self._admission, body, row.version, present, versions)
        await self.put(row_of(row.id, row.version + 1, definition, row.created), row.version)
        await self.fleet.until(lambda: self._has_version(row.id, row.version + 1), PATIENCE / 3)
        return self.get(row.id)

    async def put(self, row: StreamRow, expected: int) -> None:
        """Write a row; see `Fleet.put`.

        Raises:
            RequestProblem: There is another version.
            StoreError: The server of the fleet cannot be used.
        """
        try:
            await self.fleet.put(row, expected)
        except OtherVersionError as error:
            raise other_version(409, error.version) from None
        except FleetServerError as error:
            raise StoreError(str(error)) from error

    async def stop(self, key: str) -> Stream | Elsewhere:
        """Stop a stream; once this returns, its worker has ended, unless its agent gives no sign of life.

        Raises:
            RequestProblem: There is none of this id or name, or it is not worked on.
            StoreError: The server of the fleet cannot be used.
        """
        stream = self.get(key)
        if (status := stream.state) in ENDED:
            what = f"the stream is {status.value}; only one that is worked on can be stopped"
            raise RequestProblem(409, what, "stream_not_in_progress", stream_status=status.value)
        await self.want(stream.id, "stop", "stopped by a user")
        await self.fleet.until(lambda: self.get(stream.id).state in ENDED, PATIENCE)
        return self.get(stream.id)

    async def resume(self, key: str) -> Stream | Elsewhere:
        """Resume a stream that is stopped, done or has failed.

        Raises:
            RequestProblem: There is none of this id or name, or it is worked on.
            StoreError: The server of the fleet cannot be used.
        """
        stream = self.get(key)
        if stream.state not in ENDED:
            what = f"the stream is {stream.state.value}, not stopped"
            raise RequestProblem(409, what, "stream_not_stopped", stream_status=stream.state.value)
        await self._admission.admit(stream.definition)
        await self.want(stream.id, "run", "resumed by a user")
        await self.fleet.until(lambda: self._is_held(stream.id), PATIENCE / 3)
        return self.get(stream.id)

    async def remove(self, key: str) -> None:
        """Stop a stream and forget it.

        Raises:
            RequestProblem: There is none of this id or name, or its worker has not ended yet.
            StoreError: The server of the fleet cannot be used.
        """
        stream = self.get(key)
        await self.want(stream.id, "remove", "removed by a user")
        gone = await self.fleet.until(
            lambda: stream.id not in self.fleet.view.rows, PATIENCE + self.config.lease
        )
        if not gone:
            what = "the agent that works on it does not respond; it is removed as soon as that is possible"
            raise RequestProblem(503, what, "not_removed_yet", {"Retry-After": "5"})

    async def want(self, stream_id: str, what: str, why: str) -> None:
        """Say what is to become of a stream; see `Fleet.want`.

        Raises:
            RequestProblem: There is none, or this agent is no part of the fleet.
            StoreError: The server of the fleet cannot be used.
        """
        self.check_joined()
        now = round(time.time(), 3)
        state = ReportedState("stop", True, why, None, now, self.fleet.name)
        entry = {"time": now, "status": "stop", "before": None, "code": None, "reason": why}
        try:
            await self.fleet.want(stream_id, what, state, json.dumps(entry))
        except GoneError:
            raise unknown(stream_id) from None
        except FleetServerError as error:
            raise StoreError(str(error)) from error

    def _is_held(self, stream_id: str) -> bool:
        row = self.fleet.view.rows.get(stream_id)
        return row is not None and row.lease is not None

    def _has_version(self, stream_id: str, version: int) -> bool:
        stream = self.holder.streams.get(stream_id)
        return stream_id not in self.fleet.held or (
            stream is not None and stream.version >= version
        )


def row_of(stream_id: str, version: int, definition: StreamDefinition, created: float) -> StreamRow:
    labels = {*definition.labels, *(ANALYTICS + name for name in definition.analytics_names)}
    document = definition.model_dump(mode="json", context=WITH_SECRETS)
    return StreamRow(stream_id, version, document, round(created, 3), frozenset(labels))


def _entry(text: str) -> dict[str, Any] | None:
    """Return an entry of a log, if it is one."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    wanted = {"time", "status", "before", "code", "reason"}
    return found if isinstance(found, dict) and wanted <= found.keys() else None


def sorted_agents(agents: Iterable[AgentRow]) -> list[AgentRow]:
    """Return agents by name."""
    return sorted(agents, key=lambda agent: agent.name)
