"""Agents of a fleet in this process: their holders start nothing, and note what they would."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from lva.boot_clock import boot_time
from lva.fleet.config import FleetConfig
from lva.fleet.fleet import Fleet, Myself
from lva.fleet.rows import ReportedState, StreamRow
from tests.fleet.history import History, Spell

LEASE = 1.2


@dataclass
class Notes:
    """A holder that notes when work on a stream would begin and end."""

    agent: str
    history: History
    running: dict[str, tuple[int, float]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    until: float = 0.0
    fleet: Fleet | None = None

    async def renewed(self, until: float) -> None:
        self.until = until

    def take(self, row: StreamRow, epoch: int) -> None:
        assert row.id not in self.running
        self.running[row.id] = epoch, boot_time()
        self.versions[row.id] = row.version

    async def change(self, row: StreamRow) -> None:
        await trio.lowlevel.checkpoint()
        self.versions[row.id] = row.version

    async def stop(self, stream_id: str, why: str) -> None:
        epoch, _ = self.running[stream_id]
        await self.let_go(stream_id, why)
        assert self.fleet is not None
        self.fleet.report(stream_id, ReportedState("stop", True, why, None, 1.0, self.agent, epoch))

    def lose(self, stream_id: str) -> None:
        self.lost.append(stream_id)

    async def let_go(self, stream_id: str, why: str) -> None:
        await trio.lowlevel.checkpoint()
        if stream_id in self.running:
            self.reasons.append(why)
            self.end(stream_id)

    def end(self, stream_id: str) -> None:
        epoch, begun = self.running.pop(stream_id)
        self.history.spells.append(Spell(stream_id, self.agent, epoch, begun, boot_time()))


@dataclass
class Agent:
    """One of them."""

    fleet: Fleet
    notes: Notes
    troubles: list[str | None]

    @property
    def streams(self) -> set[str]:
        return set(self.notes.running)


def config(url: str, name: str, **more: Any) -> FleetConfig:
    """Return a configuration with a lease shorter than users may have."""
    wanted = {"name": "test", "agent": name, **more}
    lease = wanted.pop("lease", LEASE)
    return FleetConfig(url=url, **wanted).model_copy(update={"lease": lease})


@asynccontextmanager
async def agent(url: str, name: str, history: History, **more: Any) -> AsyncIterator[Agent]:
    """An agent that takes part until the block ends, and then leaves."""
    notes = Notes(name, history)
    troubles: list[str | None] = []
    fleet = Fleet(
        config(url, name, **more), Myself(f"http://{name}:5200"), notes,
        logging.getLogger("lva.fleet"), troubles.append,
    )  # fmt: skip
    notes.fleet = fleet
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.run)
        yield Agent(fleet, notes, troubles)
        nursery.cancel_scope.cancel()


def will_die(agent: Agent) -> None:
    """Let an agent end without giving its streams up, as one that is killed."""
    agent.fleet._leave = trio.lowlevel.checkpoint  # it does not get to that


def row(stream_id: str, version: int = 1, *labels: str) -> StreamRow:
    """Return a stream as users make it."""
    return StreamRow(stream_id, version, {"source": "test:"}, 1_800_000_000.0, frozenset(labels))


async def until(condition: Any, patience: float = 30.0) -> None:
    """Wait until something is so."""
    with trio.fail_after(patience):
        while not condition():
            await trio.sleep(0.01)


async def shared(*agents: Agent) -> None:
    """Wait until each has as many streams as the others, hands none over, and knows that of the others."""
    await until(
        lambda: (
            len({len(each.streams) for each in agents}) == 1
            and not any(held.going for each in agents for held in each.fleet.held.values())
            and not any(row.offered for each in agents for row in each.fleet.view.rows.values())
            and all(row.lease for each in agents for row in each.fleet.view.rows.values())
            and {*agents[0].fleet.view.rows} == set().union(*(each.streams for each in agents))
        )
    )
