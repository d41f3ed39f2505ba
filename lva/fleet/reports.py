"""What an agent tells its fleet of the streams that it works on."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import MutableMapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

import trio

from lva.fleet.config import FleetConfig
from lva.fleet.rows import ReportedState, as_utf8
from lva.fleet.server import FleetServer
from lva.fleet.view import View

#: Most streams that are told of at once.
BATCH: Final = 100


@dataclass(slots=True)
class Held:
    """A stream that this agent works on.

    Attributes:
        epoch: Of its lease.
        version: Of the definition that is worked on.
        going: Whether it is being given up, or is over.
        lost: Whether another agent may have it: no report will release it.
    """

    epoch: int
    version: int
    going: bool = False
    lost: bool = False


@dataclass(frozen=True, slots=True)
class StateReport:
    """What is told of a version of a stream in a lease: its state, and an entry of its log as JSON."""

    stream_id: str
    epoch: int
    version: int
    state: ReportedState
    entry: str = ""


class Reports:
    """They are sent in order, and again as long as the server cannot be reached and the leases are held.

    Args:
        config: The operator's.
        server: A connection.
        held: The streams that are worked on; one that is over is released.
        view: What is known of the fleet, which gets to know it first.
    """

    def __init__(
        self,
        config: FleetConfig,
        server: FleetServer,
        held: MutableMapping[str, Held],
        view: View,
    ) -> None:
        self._config = config
        self._server = server
        self._held = held
        self._view = view
        self._waiting: deque[StateReport] = deque()
        self._added = trio.Event()
        self._rng = random.Random()  # noqa: S311 - jitter

    def add(
        self, stream_id: str, state: ReportedState, entry: str = "", version: int | None = None
    ) -> None:
        """Tell the fleet of a stream's state; one that is over is released then.

        A state of an earlier version than the fleet has by then is told of in the log alone.
        """
        if (held := self._held.get(stream_id)) is None:
            return
        held.going = (
            held.going or state.over
        )  # a definition that comes now begins in the next lease
        of = held.version if version is None else version
        self._waiting.append(StateReport(stream_id, held.epoch, of, state, as_utf8(entry)))
        self._added.set()

    async def run(self, incarnation: str) -> None:
        """Send what is added, as a process of an agent, until cancelled."""
        while True:
            await self._added.wait()
            self._added = trio.Event()
            while self._waiting:
                batch = [*islice(self._waiting, BATCH)]
                if await self._sent(incarnation, batch):
                    for _ in batch:
                        self._waiting.popleft()
                else:
                    await trio.sleep(self._config.tick * self._rng.uniform(1, 2))

    async def _sent(self, incarnation: str, batch: list[StateReport]) -> bool:
        arguments: list[str | int] = []
        for report in batch:
            if self._held_in(report) is not None:
                arguments += (
                    report.stream_id, report.epoch, report.version, int(report.state.over),
                    report.state.as_json(), report.entry,
                )  # fmt: skip
        if arguments and not await self._server.insist("report", incarnation, *arguments):
            return False
        for report in batch:
            if (held := self._held_in(report)) is None:
                continue
            row = self._view.rows.get(report.stream_id)
            if row is not None and row.version <= report.version:
                self._view.change(report.stream_id, state=report.state)
            if report.state.over:
                await self._server.insist("release", incarnation, report.stream_id, held.epoch)
                if self._held.get(report.stream_id) is held:
                    del self._held[report.stream_id]
                self._view.change(report.stream_id, lease=None, lease_value="")
        return True

    def _held_in(self, report: StateReport) -> Held | None:
        """Return what is held of a report's stream, if it is still the lease that the report is of."""
        held = self._held.get(report.stream_id)
        return held if held is not None and held.epoch == report.epoch else None
