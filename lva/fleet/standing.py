"""An agent's standing in its fleet: it joins, and beats; each beat renews all its leases.

So it knows until when they are good.
"""

from __future__ import annotations

import logging
import math
import random
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

import trio

from lva.boot_clock import boot_time
from lva.fleet.config import SOFT, FleetConfig, hard_end
from lva.fleet.rows import AgentRow
from lva.fleet.server import (
    FORMAT,
    FleetServer,
    FleetServerError,
    OldServerError,
    ScriptRefusedError,
)
from lva.fleet.view import View

#: Most rows of a beat's reply.
PAGE: Final = 500


class Duties(Protocol):
    """What an agent has to do, as its standing knows of it."""

    def leases(self) -> Mapping[str, int]:
        """Return the epochs of the leases to be renewed, by ids of streams."""

    async def renewed(self, until: float) -> None:
        """The leases are good until then."""

    def lost(self, stream_ids: Iterable[str]) -> None:
        """These leases are another's."""

    async def give_up(self, why: str) -> None:
        """None of the leases may be good for much longer."""

    async def restore(self, server: FleetServer) -> None:
        """Write again what the server may have lost."""


class Standing:
    """It beats, as long as it is part of the fleet.

    Args:
        config: The operator's.
        row: Returns how this agent is now.
        view: Gets what beats reply.
        duties: What it has to do.
        logger: Where it is told what happens.
        not_ready: Told why this agent is no part of its fleet, or None once it is.

    Attributes:
        server: The connection that beats use.
        incarnation: Of this process, as leases name it.
        trouble: Why this agent is no part of its fleet now; None if it is.
        joined: Whether it was let in, and has not been replaced.
        settled: Whether streams may be claimed.
        draining: Whether an operator has asked this agent to give up its streams.
    """

    def __init__(
        self,
        config: FleetConfig,
        row: Callable[[], AgentRow],
        view: View,
        duties: Duties,
        logger: logging.Logger,
        not_ready: Callable[[str | None], None],
    ) -> None:
        self.server: FleetServer = FleetServer(config, logger)
        self.incarnation: str = uuid.uuid4().hex
        self.trouble: str | None = "the server of the fleet has not been reached yet"
        self.settled: bool = False
        self.draining: bool = False
        self._config = config
        self._get_row = row
        self._view = view
        self._duties = duties
        self._logger = logger
        self._not_ready = not_ready
        self._row = ""
        self.joined: bool = False
        self._sent = -math.inf
        self._given_up = True
        self._giving_up = trio.Lock()
        self._afresh = False
        self._overdue: Callable[[], Any] | None = None
        self._opened = -math.inf
        self._rng = random.Random()  # noqa: S311 - jitter

    # Beats

    async def beat(self) -> float:
        """Beat once, and do first what has to be done for that; return when the next beat is due.

        Trouble is noted, and logged when it begins and ends.

        Cancellation: the beat may have been taken; its leases are not counted on.
        """
        begun = boot_time()
        if self._overdue is not None and not await self._attempt(self._overdue):
            return self._later(begun)
        try:
            more = await self._beat()
        except OldServerError:
            self.server_is_new()
            return begun if await self._attempt(self._open) else self._later(begun)
        except ScriptRefusedError as error:
            self.joined = False
            if error.why == "replaced":
                self._overdue = self._come_back
                return begun if await self._attempt(self._come_back) else self._later(begun)
            self._note(f"{self._config.url} refuses a beat: {error.why}")
            return self._later(begun)
        except FleetServerError as error:
            self._note(str(error))
            return self._later(begun)
        return begun if more else begun + self._config.tick

    def _later(self, begun: float) -> float:
        return begun + self._config.tick * self._rng.uniform(0.5, 1.5)

    def server_is_new(self) -> None:
        """Open the server before the next beat: it was started again, as who uses its connection found."""
        self._overdue = self._open

    async def _attempt(self, work: Callable[[], Any]) -> bool:
        """Do what no beat may come before; return whether it was done. Else it is done again."""
        try:
            await work()
        except ScriptRefusedError as error:
            self._note(f"{self._config.url} refuses this agent: {error.why}")
        except FleetServerError as error:
            if isinstance(error, OldServerError):
                self.server_is_new()
            self._note(str(error))
        else:
            return True
        return False

    async def _beat(self) -> bool:
        """Beat once; return whether there is more to be told."""
        await self._give_up_if_over()
        row = self._get_row().as_json()
        leases = [str(part) for lease in self._duties.leases().items() for part in lease]
        view, sent = self._view, boot_time()
        reply = await self.server.run(
            "beat", self.incarnation, self._config.agent, "" if row == self._row else row,
            view.revision, PAGE, view.agents_revision, *leases,
        )  # fmt: skip
        self._row, self._sent, self._given_up = row, sent, False
        again, lost, rows, beats, agents_revision, agents, settled, drain, trouble = reply
        self._duties.lost(lost)
        await self._duties.renewed(sent + hard_end(self._config.lease))
        if again or self._afresh:
            view.forget_streams()
            self._afresh = False
        for stream_id in view.take_streams(rows):
            self._logger.error(
                "stream %s is not worked on, its row cannot be read: %s",
                stream_id,
                view.broken[stream_id],
            )
        if agents_revision != view.agents_revision:
            view.take_agents(agents, agents_revision)
        view.take_beats(beats, boot_time())
        self.settled, self.draining = settled == "1", drain == "1"
        if not self.settled:
            await self._settle()
        self._note(
            f"{self._config.url} has what no agent has written: {trouble}" if trouble else None
        )
        return len(rows) == PAGE

    async def _settle(self) -> None:
        """Let streams be claimed, once no agent can still work on one whose lease the server has lost."""
        if boot_time() - self._opened >= self._config.lease:
            await self.server.run("settle")

    async def _open(self) -> None:
        """Use a server that has been started: it may have other data than before."""
        try:
            await self.server.run("open", FORMAT)
        except ScriptRefusedError as error:
            what = f"{self._config.url} has a fleet {self._config.name!r} of another version of LVA"
            raise FleetServerError(f"{what} ({error.more[0][:20]}); use another name") from None
        self._opened, self.settled = boot_time(), False
        self._view.begin_anew(self._opened)
        self._overdue = self._come_back
        await self._come_back()

    async def _come_back(self) -> None:
        """Join a fleet whose server may have lost this agent, and all that it knows."""
        await self._join()
        if (policy := await self.server.evicts()) is not None:
            self._logger.warning(
                "fleet %s: %s deletes streams when its memory is full (maxmemory-policy %s); set noeviction",
                self._config.name, self._config.url, policy,
            )  # fmt: skip
        await self._duties.restore(self.server)
        self._view.revision, self._view.agents_revision = 0, ""
        self._afresh, self._overdue = True, None

    async def _join(self) -> None:
        """Become a part of the fleet, unless another agent of this name may be alive."""
        name, row = self._config.agent, self._get_row().as_json()
        other, beat = "", ""
        while True:
            try:
                await self.server.run("join", self.incarnation, name, row, other, beat)
            except ScriptRefusedError as error:
                if error.why != "taken":
                    raise
                now_other, now_beat = error.more
                self._view.note_beat(now_other, now_beat, boot_time())
                if (now_other, now_beat) == (other, beat) or self._view.is_alive(
                    now_other, boot_time()
                ):
                    raise FleetServerError(
                        f"an agent named {name!r} is in the fleet {self._config.name!r} already; this"
                        f" one joins once that one has been silent for {self._config.lease:g} s"
                    ) from None
                other, beat = now_other, now_beat
            else:
                break
        if other:
            self._view.buried.add(other)
        self.joined, self._row = True, row
        if self._opened == -math.inf:
            self._opened = boot_time()

    # What follows when there are none

    async def watch(self) -> None:
        """Have all streams given up in time when no beat succeeds, until cancelled."""
        while True:
            await self._give_up_if_over()
            left = self._sent + self._config.lease * SOFT - boot_time()
            await trio.sleep(min(self._config.tick, left if left > 0 else math.inf))

    async def _give_up_if_over(self) -> None:
        """Have all streams given up if their leases are nearly over: a beat must not revive what ends."""
        async with self._giving_up:
            over = boot_time() >= self._sent + self._config.lease * SOFT
            if over and not self._given_up:
                self._given_up = True
                why = self.trouble or "no beat has succeeded"
                self._note(why)
                await self._duties.give_up(why)

    async def leave(self) -> None:
        """End this agent's part in the fleet; others need not wait for its end."""
        if self.joined:
            await self.server.run("leave", self.incarnation, self._config.agent, "")

    def _note(self, trouble: str | None) -> None:
        before, self.trouble = self.trouble, trouble
        if trouble == before:
            return
        self._not_ready(None if trouble is None else f"fleet: {trouble}")
        if trouble is None:
            self._logger.info(
                "fleet %s: agent %s takes part", self._config.name, self._config.agent
            )
        else:
            self._logger.error("fleet %s: %s", self._config.name, trouble)
