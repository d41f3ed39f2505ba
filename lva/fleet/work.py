"""The streams that an agent holds: taken when they are free, reported on, handed over, given up."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final, Protocol

import trio

from lva.boot_clock import boot_time
from lva.fleet.config import FleetConfig
from lva.fleet.decisions import CLAIMS, Seat, hand_over, mine, patience, plan, unreserved
from lva.fleet.reports import Held, Reports
from lva.fleet.rows import Lease, StreamRow
from lva.fleet.server import FleetServer
from lva.fleet.view import View, gone, printable, waiting

#: Streams that are written again, or freed, at once.
BATCH: Final = 100
#: Streams that are handed over at once when an agent drains.
AT_ONCE: Final = 8
#: Seconds between two looks of an agent to which a stream is handed over, and for how long it looks so often.
EAGER: Final = 0.05
EAGERLY: Final = 4.0


class Holder(Protocol):
    """Who works on the streams that an agent holds."""

    async def renewed(self, until: float) -> None:
        """All leases are good until a time of `boot_time`; then, at the latest, all workers have ended."""

    def take(self, row: StreamRow, epoch: int) -> None:
        """Begin to work on a stream."""

    async def change(self, row: StreamRow) -> None:
        """Go on with another definition."""

    async def stop(self, stream_id: str, why: str) -> None:
        """End the work on a stream that is to be stopped or removed, and report that it is over."""

    async def let_go(self, stream_id: str, why: str) -> None:
        """End the work on a stream; once this returns, its worker has ended."""

    def lose(self, stream_id: str) -> None:
        """Tell nothing more of a stream: another agent may have it already."""


class Work:
    """It decides by `lva.fleet.decisions`, and has its `Holder` carry it out.

    Args:
        config: The operator's.
        view: What is known of the fleet.
        holder: Who works on streams.
        logger: Where it is told what happens.

    Attributes:
        held: Streams by id.
        eager: Whether a stream is being handed over to this agent.
        server: The connection that is used beside the one of beats.
        reports: What is told of the streams.
    """

    def __init__(
        self, config: FleetConfig, view: View, holder: Holder, logger: logging.Logger
    ) -> None:
        self.held: dict[str, Held] = {}
        self.eager: bool = False
        self._config = config
        self._view = view
        self._holder = holder
        self._logger = logger
        self._incarnation = ""
        self.server: FleetServer = FleetServer(config, logger)
        self.reports: Reports = Reports(config, self.server, self.held, view)
        self._offered_since: dict[str, float] = {}
        self._able_since = -math.inf
        self._ended: list[str | int] = []
        self._releasing = trio.Lock()
        self._rng = random.Random()  # noqa: S311 - jitter
        self._nursery: trio.Nursery | None = None

    def begin_in(self, nursery: trio.Nursery, incarnation: str) -> None:
        """Begin, as a process of an agent; reports, and what ends work on streams, end with the nursery."""
        self._nursery, self._incarnation = nursery, incarnation
        nursery.start_soon(self.reports.run, incarnation, name="reports to the fleet")

    # What its standing needs of it.

    def leases(self) -> Mapping[str, int]:
        """Return the epochs of the leases to be renewed, by ids of streams."""
        return {stream_id: held.epoch for stream_id, held in self.held.items()}

    async def renewed(self, until: float) -> None:
        """The leases are good until then."""
        await self._holder.renewed(until)

    def lost(self, stream_ids: Iterable[str]) -> None:
        """End the work on streams that another agent has taken, or that have been removed."""
        assert self._nursery is not None
        for stream_id in stream_ids:
            self._holder.lose(stream_id)
            held = self.held.get(stream_id)
            if held is not None and not held.lost:
                held.going = held.lost = True
                why = "its lease is gone: another agent has it, or it was removed"
                # Should nobody have it, others get to know that it is free.
                self._nursery.start_soon(self._release, stream_id, held, why)

    async def give_up(self, why: str) -> None:
        """End the work on all streams, since the leases may not be good for much longer; or go on alone.

        Cancellation: ends the wait. A stream whose work has not ended stays held; the kernel ends its worker
        before the lease is over.
        """
        if self._config.when_away == "go_on":
            self._logger.warning("fleet: %d streams go on without leases: %s", len(self.held), why)
            await self._holder.renewed(math.inf)
            return
        async with trio.open_nursery() as nursery:
            for stream_id, held in [*self.held.items()]:
                what = f"its lease cannot be renewed: {why}"
                nursery.start_soon(self._drop, stream_id, held, what)

    async def _drop(self, stream_id: str, held: Held, why: str) -> None:
        held.going = True
        await self._holder.let_go(stream_id, why)
        if self.held.get(stream_id) is held:
            del self.held[stream_id]

    async def restore(self, server: FleetServer) -> None:
        """Write all that is known to a server that may have lost it."""
        rows = [*self._view.rows.values()]
        lost = 0
        for start in range(0, len(rows), BATCH):
            arguments: list[str | int] = []
            for row in rows[start : start + BATCH]:
                held = self.held.get(row.id)
                arguments += (
                    row.id, row.version, row.as_json(), "" if row.wanted == "run" else row.wanted,
                    "" if row.state is None else row.state.as_json(),
                    max(row.epoch, held.epoch if held else 0), int(held is not None),
                )  # fmt: skip
            lost += int((await server.run("restore", self._incarnation, *arguments))[0])
        if lost:
            self._logger.error(
                "fleet %s: the server had lost streams; this agent has written %d of them again",
                self._config.name, lost,
            )  # fmt: skip

    # What is done between two beats.

    async def act(self, server: FleetServer, *, settled: bool) -> float:
        """Do what is due; return when more will be, if no beat brings it before.

        Cancellation: what was claimed meanwhile is free once this agent has left.

        Raises:
            FleetServerError: The server cannot be used.
        """
        now = boot_time()
        for stream_id, held in [*self.held.items()]:
            if not held.going:
                await self._follow(stream_id, held)
        seats = self._view.seats(now)
        if settled:  # until then, not all leases may be known
            await self._free_dead(server, now)
            await self._take_free(server, seats, now)
            self._hand_over(seats)
        else:
            self._able_since = now
        return min(self._view.next_end(now) or math.inf, now + EAGER if self.eager else math.inf)

    async def _follow(self, stream_id: str, held: Held) -> None:
        """Do with a stream what its users have asked for."""
        row = self._view.rows.get(stream_id)
        if row is None:
            return  # its lease is gone too, and the next beat tells so
        assert self._nursery is not None
        if row.wanted != "run":
            held.going = True
            self._nursery.start_soon(self._end, stream_id, row.wanted)
        elif row.version > held.version:
            held.version = row.version
            self._nursery.start_soon(self._holder.change, row)

    async def _end(self, stream_id: str, wanted: str) -> None:
        """End the work on a stream that is to be stopped or removed; the report of that releases it."""
        await self._holder.stop(
            stream_id, "stopped by a user" if wanted == "stop" else "removed by a user"
        )

    async def _free_dead(self, server: FleetServer, now: float) -> None:
        """Free the streams of dead agents for all: those that have joined lately cannot know it yet."""
        for incarnation, rows in self._view.dead(now).items():
            for start in range(0, len(rows), BATCH):
                leases = [
                    part
                    for row in rows[start : start + BATCH]
                    if row.lease is not None
                    for part in (row.id, row.lease.epoch)
                ]
                beat = self._view.beat_of(incarnation)
                reply = await server.attempt("reap", incarnation, beat, *leases)
                for stream_id in [] if reply is None else reply[0]:
                    self._view.change(stream_id, lease=None, lease_value="")

        for agent in gone(self._view, now):
            beat = self._view.beat_of(agent.incarnation)
            await server.attempt("leave", agent.incarnation, agent.name, beat)

    async def _take_free(self, server: FleetServer, seats: list[Seat], now: float) -> None:
        me = next((seat for seat in seats if seat.name == self._config.agent), None)
        if me is None:
            return
        left = self._view.left(self._incarnation, self.held)
        for row in left:
            if me.draining or not row.to_run:
                await server.attempt("release", self._incarnation, row.id, row.epoch)
        removable = self._view.removable()
        for row in self._rng.sample(removable, min(CLAIMS, len(removable))):
            await server.attempt(
                "remove", row.id, row.lease_value, self._beat_of(row), self._incarnation
            )
        room = me.room - len(self.held)
        if room > 0 and not me.draining:
            rows = [row for row in left if row.to_run] + self._mine(seats, me, now)
            if rows:
                await self._claim(server, rows[: min(CLAIMS, room)])

    def _mine(self, seats: list[Seat], me: Seat, now: float) -> list[StreamRow]:
        """Return the free streams that this agent takes now."""
        free = self._view.free()
        if not free:
            return []
        planned = plan(seats, unreserved(seats, free, now))
        patient = patience(me, self._config.tick, self._rng.random())
        if now - self._able_since < patient:  # until then the others have had no chance
            patient = math.inf
        return [self._view.rows[each.id] for each in mine(me, free, planned, now, patient)]

    async def _claim(self, server: FleetServer, rows: list[StreamRow]) -> None:
        """Take streams, in one command: the server may be far away."""
        leases = [
            text
            for row in rows
            for text in (row.id, row.lease_value, self._beat_of(row), row.epoch)
        ]
        replies = await server.attempt("claim", self._incarnation, *leases)
        for row, reply in zip(rows, replies or (), strict=False):
            if reply.isdecimal():
                lease = Lease(self._incarnation, int(reply))
                self._view.put(
                    replace(row, lease=lease, lease_value=str(lease), epoch=lease.epoch, offered="")
                )
                self.held[row.id] = Held(lease.epoch, row.version)
                self._holder.take(row, lease.epoch)
            elif reply.startswith("broken "):
                why = printable(reply.removeprefix("broken "))
                self._view.set_aside(row, why)
                self._logger.error("stream %s is not worked on: %s", row.id, why)

    def _beat_of(self, row: StreamRow) -> str:
        return "" if row.lease is None else self._view.beat_of(row.lease.incarnation)

    def _hand_over(self, seats: list[Seat]) -> None:
        me = self._config.agent
        offered = self._view.offered_to(me) - self.held.keys()
        now = boot_time()
        self._offered_since = {each: self._offered_since.get(each, now) for each in offered}
        self.eager = any(now - since < EAGERLY for since in self._offered_since.values())
        going = sum(held.going for held in self.held.values())
        draining = any(seat.name == me and seat.draining for seat in seats)
        to: dict[str, str] = {}
        for _ in range((AT_ONCE if draining else 1) - going):
            kept = [
                waiting(row)
                for stream_id, held in self.held.items()
                if not held.going and (row := self._view.rows.get(stream_id)) is not None
            ]
            found = hand_over(me, seats, kept)
            if found is None:
                break
            stream_id, to[stream_id] = found
            self.held[stream_id].going = True
            seats = [_moved(seat, me, to[stream_id]) for seat in seats]
        if to:
            assert self._nursery is not None
            self._nursery.start_soon(self.hand_over, to)

    async def hand_over(self, to: Mapping[str, str]) -> None:
        """Let other agents make ready, end the work on streams, and release them.

        Cancellation: streams that are not released are free once this agent has left.

        Args:
            to: Names of the agents, by ids of streams that are held.
        """
        going = {stream_id: self.held[stream_id] for stream_id in to}
        offers: list[str | int] = []
        for stream_id, held in going.items():
            held.going = True
            offers += stream_id, held.epoch, to[stream_id]
        if not await self.server.insist("offer", self._incarnation, *offers):
            for held in going.values():
                held.going = held.lost
            return
        for stream_id, name in to.items():
            self._view.change(stream_id, offered=name)
        await trio.sleep(self._config.tick * 1.1)  # they beat within that time, and then look often
        async with trio.open_nursery() as nursery:
            for stream_id, held in going.items():
                why = f"agent {to[stream_id]} goes on with it"
                nursery.start_soon(self._release, stream_id, held, why)

    async def leave(self, seats: list[Seat]) -> None:
        """Hand over all streams to agents that have room, and release the others.

        Cancellation: as that of `hand_over`.
        """
        to: dict[str, str] = {}
        async with trio.open_nursery() as nursery:
            for stream_id, held in [*self.held.items()]:
                row = self._view.rows.get(stream_id)
                name = None if row is None else plan(seats, [waiting(row)]).get(stream_id)
                if name is not None:
                    seats = [_moved(seat, self._config.agent, name) for seat in seats]
                    to[stream_id] = name
                else:
                    why = "the service is being stopped"
                    nursery.start_soon(self._release, stream_id, held, why)
            if to:
                nursery.start_soon(self.hand_over, to)

    async def _release(self, stream_id: str, held: Held, why: str) -> None:
        """End the work on a stream, and release it, those that have ended meanwhile with it."""
        held.going = True
        await self._holder.let_go(stream_id, why)
        self._ended += stream_id, held.epoch
        # Who comes first does it for those who wait: the server may be far away.
        async with self._releasing:
            ended, self._ended = self._ended, []
            if ended:
                await self.server.insist("release", self._incarnation, *ended)
        if self.held.get(stream_id) is held:
            del self.held[stream_id]


def _moved(seat: Seat, before: str, after: str) -> Seat:
    change = (seat.name == after) - (seat.name == before)
    return replace(seat, streams=seat.streams + change)
