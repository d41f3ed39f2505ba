"""One agent of a fleet.

No stream is worked on by two agents at once. That rests on three times, each measured on a clock of
the machine that no step of its date changes:

* A beat that is *sent* at a moment and succeeds lets an agent work for the time of a lease from then on;
  a little before its end its workers have ended, if need be by the kernel.
* Others count from when they *received* that beat, which is later. They take over no sooner than a whole
  time of a lease after, and the server compares what they have seen with what is there.
* Once the server has been started, and may have lost data, nobody claims a stream for the time of a lease.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import trio

from lva.boot_clock import boot_time
from lva.fleet.config import FleetConfig
from lva.fleet.decisions import why_not
from lva.fleet.rows import MAX_COUNT, AgentRow, ReportedState, StreamRow, count_of
from lva.fleet.server import FleetServer, FleetServerError, OldServerError, ScriptRefusedError
from lva.fleet.standing import Standing
from lva.fleet.view import View, printable, waiting
from lva.fleet.work import Holder, Work

#: Seconds, besides two ticks, for the end of an agent's part.
LEAVE: Final = 3.0


class OtherVersionError(Exception):
    """A stream has another version than was meant.

    Args:
        version: The one that it has.
    """

    def __init__(self, version: int) -> None:
        super().__init__(f"the stream has version {version} now")
        self.version: int = version


class GoneError(Exception):
    """There is no such stream any more."""


@dataclass(frozen=True, slots=True)
class Myself:
    """What an agent says of itself.

    Attributes:
        address: Where other agents reach it.
        labels: Returns what it can do, besides the labels of the configuration.
    """

    address: str
    labels: Callable[[], frozenset[str]] = frozenset


class Fleet:
    """An agent's part in its fleet, and what it knows of the others.

    Args:
        config: The operator's.
        myself: What the others get to know of this agent.
        holder: Who works on the streams that it takes.
        logger: Where it is told what happens.
        not_ready: Told why this agent is no part of the fleet, or None once it is.

    Attributes:
        view: What is known of the fleet.
    """

    def __init__(
        self,
        config: FleetConfig,
        myself: Myself,
        holder: Holder,
        logger: logging.Logger,
        not_ready: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        self.view: View = View(config.lease, config.tick)
        self._leaving = False
        self._config = config
        self._myself = myself
        self._logger = logger
        self._since = time.time()
        self._work = Work(config, self.view, holder, logger)
        self._standing = Standing(config, self._row, self.view, self._work, logger, not_ready)
        self._server = FleetServer(config, logger)
        self._reasons: dict[frozenset[str], str | None] = {}
        self._hurried = trio.Event()
        self._beaten = trio.Event()

    # The agent.

    @property
    def name(self) -> str:
        """This agent's."""
        return self._config.agent

    @property
    def tick(self) -> float:
        """Seconds between two beats."""
        return self._config.tick

    @property
    def trouble(self) -> str | None:
        """Why this agent is no part of its fleet now; None if it is."""
        return self._standing.trouble

    @property
    def draining(self) -> bool:
        """Whether this agent gives up its streams: it ends, or an operator has asked for it."""
        return self._leaving or self._standing.draining

    @property
    def held(self) -> Mapping[str, Any]:
        """The streams that this agent works on, by id."""
        return self._work.held

    @property
    def commands(self) -> int:
        """How many commands this agent has sent to the server."""
        return sum(server.commands for server in self._servers)

    async def run(self) -> None:
        """Take part in the fleet until cancelled.

        Resources: connections to the server, which are closed at the end, as far as there is time.

        Cancellation: hands over its streams to agents that have room, which takes two ticks and some seconds.

        Errors: that the server cannot be used ends nothing: the next beat tries again.
        """
        async with trio.open_nursery() as nursery:
            self._work.begin_in(nursery, self._standing.incarnation)
            nursery.start_soon(self._standing.watch, name="leases of the fleet")
            try:
                await self._beat_on()
            finally:
                with (
                    trio.CancelScope(shield=True),
                    trio.move_on_after(LEAVE + 2 * self._config.tick),
                ):
                    await self._leave()
                    for server in self._servers:
                        await server.close()

    @property
    def _servers(self) -> tuple[FleetServer, ...]:
        return self._standing.server, self._work.server, self._server

    async def _beat_on(self) -> None:
        while True:
            due = await self._standing.beat()
            if self._standing.trouble is None:
                due = min(due, await self._act())
            self._reasons.clear()
            self._beaten.set()
            self._beaten = trio.Event()
            with trio.move_on_after(max(0.0, due - boot_time())):
                await self._hurried.wait()
                self._hurried = trio.Event()

    async def _act(self) -> float:
        try:
            return await self._work.act(self._standing.server, settled=self._standing.settled)
        except FleetServerError as error:
            if isinstance(error, OldServerError):
                self._standing.server_is_new()
            return math.inf  # the next beat says why

    def _row(self) -> AgentRow:
        config = self._config
        load = round(os.getloadavg()[0] / (os.cpu_count() or 1), 1)
        return AgentRow(
            config.agent,
            self._standing.incarnation,
            self._myself.address,
            config.room,
            self._myself.labels() | {*config.labels},
            len(self._work.held),
            load,
            self.draining,
            config.max_load is not None and load >= config.max_load,
            self._since,
        )

    async def _leave(self) -> None:
        self._leaving = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._go_on_beating)
            others = [seat for seat in self.view.seats(boot_time()) if seat.name != self.name]
            await self._work.leave(others if self.trouble is None else [])
            nursery.cancel_scope.cancel()
        try:
            await self._standing.leave()
        except (FleetServerError, ScriptRefusedError) as error:
            self._logger.warning(
                "fleet %s: others will find out that this agent has left: %s",
                self._config.name,
                error,
            )

    async def _go_on_beating(self) -> None:
        while True:
            due = await self._standing.beat()
            await trio.sleep(max(0.0, due - boot_time()))

    def hurry(self) -> None:
        """Beat at once: something has changed."""
        self._hurried.set()

    async def until(self, condition: Callable[[], bool], patience: float) -> bool:
        """Wait until what is known of the fleet is as wanted, or the patience ends; return whether it is.

        Cancellation: ends the wait.
        """
        with trio.move_on_after(patience):
            while not condition():
                self.hurry()
                await self._beaten.wait()
        return condition()

    # Streams.

    def reason(self, row: StreamRow) -> str | None:
        """Return why nobody works on a stream that is to be worked on.

        None if somebody does, or will; also while this agent is no part of its fleet, and cannot know.
        """
        now = boot_time()
        if self.trouble is not None or not row.to_run:
            return None
        if row.lease and self.view.is_alive(row.lease.incarnation, now):
            return None
        if row.labels not in self._reasons:  # the same for all of these labels, until the next beat
            self._reasons[row.labels] = why_not(waiting(row), self.view.seats(now))
        return self._reasons[row.labels]

    def is_alive(self, agent: AgentRow) -> bool:
        """Return whether an agent has given a sign of life within the time of a lease."""
        return self.view.is_alive(agent.incarnation, boot_time())

    def report(
        self, stream_id: str, state: ReportedState, entry: str = "", version: int | None = None
    ) -> None:
        """Tell the fleet how a stream is that this agent works on; one that is over is released then.

        Args:
            stream_id: Its id.
            state, entry: How it is, and an entry of its log.
            version: Of the definition of which that is so; the one that is worked on if left out.
        """
        self._work.reports.add(stream_id, state, entry, version)

    async def put(self, row: StreamRow, expected: int) -> None:
        """Write a stream's definition.

        Cancellation: the server may have written it all the same.

        Args:
            row: It, with its version.
            expected: The version that is there; 0 for a new stream.

        Raises:
            OtherVersionError: There is another one.
            FleetServerError: The server cannot be used, or there is no higher version.
        """
        if row.version > MAX_COUNT:
            raise FleetServerError(f"stream {row.id} has the highest version that there is")
        try:
            await self._ask("put", row.id, expected, row.version, row.as_json())
        except ScriptRefusedError as error:
            version = count_of(error.more[0])
            if version is None:
                found = printable(error.more[0])
                what = f"{self._server.keys['versions']} has {found!r} for stream {row.id}"
                raise FleetServerError(f"{what}, which no agent has written") from None
            raise OtherVersionError(version) from None
        self.view.put(
            replace(row, lease=None, lease_value="") if expected == 0 else self._with_lease(row)
        )
        self.hurry()

    def _with_lease(self, row: StreamRow) -> StreamRow:
        known = self.view.rows.get(row.id)
        if known is None:
            return row
        return replace(
            known, version=row.version, definition=row.definition, labels=row.labels, state=None
        )

    async def want(self, stream_id: str, what: str, state: ReportedState, entry: str) -> None:
        """Say what is to become of a stream: ``run``, ``stop`` or ``remove``.

        Cancellation: the server may have taken it all the same.

        Args:
            stream_id: Its id.
            what: One of these.
            state, entry: Its state from now on, and an entry of its log, if nobody works on it.

        Raises:
            GoneError: There is none.
            FleetServerError: The server cannot be used.
        """
        row = self.view.rows.get(stream_id)
        epoch = 0 if row is None else row.epoch
        try:
            await self._ask("want", stream_id, what, state.as_json(), entry, epoch)
        except ScriptRefusedError:
            raise GoneError(stream_id) from None
        self.hurry()

    async def logs(self, stream_id: str) -> list[str]:
        """Return the entries of a stream's log, oldest first.

        Raises:
            FleetServerError: The server cannot be used.
        """
        key = f"{self._server.keys['']}:log:{stream_id}"
        found: list[str] = await self._server.read("LRANGE", key, 0, -1)
        return found

    async def drain(self, agent: str, *, on: bool) -> None:
        """Let an agent give up its streams and take none, or take some again.

        Cancellation: the server may have taken it all the same.

        Raises:
            FleetServerError: The server cannot be used.
        """
        await self._ask("drain", agent, "1" if on else "0")
        self.hurry()

    async def _ask(self, script: str, *arguments: str | int) -> list[Any]:
        for _ in range(2):
            with suppress(OldServerError):
                return await self._server.run(script, *arguments)
            self.hurry()
            await self._beaten.wait()
        raise FleetServerError("the server of the fleet was started again; try again")
