"""What one agent knows of its fleet: streams, agents, and since when each has given no sign of life.

Times are those of `lva.boot_clock` on this machine; no clock of another machine is relied on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from lva.boot_clock import boot_time
from lva.fleet.decisions import Seat, Waiting
from lva.fleet.rows import AgentRow, BrokenRowError, StreamRow

#: For how many leases an agent that is dead is still shown.
SHOWN: Final = 60.0
#: How many ticks an agent may be late and still be given streams.
LATE: Final = 3.0


@dataclass(slots=True)
class Beat:
    """The last beat of an agent that was seen.

    Attributes:
        value: It; empty if it has none.
        since: When it was first seen.
    """

    value: str
    since: float


@dataclass(slots=True)
class View:
    """It grows by the replies to an agent's beats.

    Attributes:
        lease: The time of a lease, in seconds.
        tick: Seconds between two beats of an agent.
        clock: Which time it is.
        rows: Streams by id.
        agents: Agents by name.
        broken: Why a stream is not worked on, as its row cannot be read, by id.
        broken_agents: Why an agent's row cannot be read, by name.
        revision: The last change of streams that was seen.
        agents_revision: The last change of agents.
        buried: Incarnations that are known to be dead: another one has their name now.
    """

    lease: float
    tick: float
    clock: Callable[[], float] = boot_time
    rows: dict[str, StreamRow] = field(default_factory=dict)
    agents: dict[str, AgentRow] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    broken_agents: dict[str, str] = field(default_factory=dict)
    revision: int = 0
    agents_revision: str = ""
    buried: set[str] = field(default_factory=set)
    _beats: dict[str, Beat] = field(default_factory=dict)
    _held_by: dict[str, set[str]] = field(default_factory=dict)
    _offered_to: dict[str, set[str]] = field(default_factory=dict)
    _waiting: dict[str, Waiting] = field(default_factory=dict)
    _looked: float = 0.0

    def forget_streams(self) -> None:
        """Begin again with the streams: some that have been removed may not be told any more."""
        for stream_id in [*self.rows]:
            self._remove(stream_id)
        self.revision = 0

    def take_streams(self, found: Iterable[Sequence[str]]) -> list[str]:
        """Take rows of streams, as `beat.lua` returns them; return the ids of those that cannot be read."""
        wrong: list[str] = []
        for stream_id, revision, *values in found:
            self.revision = max(self.revision, math.ceil(float(revision)))
            known = self._remove(stream_id)
            self.broken.pop(printable(stream_id), None)
            if not values[0]:
                continue  # removed
            try:
                row = StreamRow.read([stream_id, *values])
            except BrokenRowError as error:
                self.broken[printable(stream_id)] = str(error)
                wrong.append(printable(stream_id))
            else:  # an epoch that was given is never given again, also if the server has lost it
                given = (known and known.epoch) or 0, (row.lease and row.lease.epoch) or 0
                self._add(replace(row, epoch=max(row.epoch, *given)))
        return wrong

    def put(self, row: StreamRow) -> None:
        """Know of a stream what is about to be told."""
        self._remove(row.id)
        self._add(row)

    def change(self, stream_id: str, **members: Any) -> None:
        """Know of a stream what this agent has just told, if it is there."""
        if (row := self.rows.get(stream_id)) is not None:
            self.put(replace(row, **members))

    def set_aside(self, row: StreamRow, why: str) -> None:
        """Do not take a stream as free until it is told of again: what is kept of it cannot be used."""
        self.broken[row.id] = why
        self._waiting.pop(row.id, None)

    def _add(self, row: StreamRow) -> None:
        self.rows[row.id] = row
        self._held_by.setdefault(_holder(row), set()).add(row.id)
        if row.offered:
            self._offered_to.setdefault(row.offered, set()).add(row.id)
        if row.lease is None and row.to_run:
            self._waiting[row.id] = waiting(row, self.clock())

    def _remove(self, stream_id: str) -> StreamRow | None:
        row = self.rows.pop(stream_id, None)
        if row is None:
            return None
        held = self._held_by[_holder(row)]
        held.discard(stream_id)
        if not held:
            del self._held_by[_holder(row)]
        self._waiting.pop(stream_id, None)
        if row.offered:
            offered = self._offered_to[row.offered]
            offered.discard(stream_id)
            if not offered:
                del self._offered_to[row.offered]
        return row

    def take_agents(self, found: Sequence[str], revision: str) -> None:
        """Take all rows of agents."""
        self.agents_revision = revision
        self.agents.clear()
        self.broken_agents.clear()
        for name, text in zip(found[::2], found[1::2], strict=True):
            try:
                self.agents[name] = AgentRow.read(name, text)
            except BrokenRowError as error:
                self.broken_agents[printable(name)] = str(error)

    def take_beats(self, found: Sequence[str], received: float) -> None:
        """Take all beats, and note since when each has been what it is.

        While this agent has had no server, others may have had none either: that is no silence. A server that
        is slow is there: no command may take so long.
        """
        if received - self._looked > self.lease / 2:
            for beat in self._beats.values():
                beat.since = min(received, beat.since + received - self._looked)
        self._looked = received
        values = dict(zip(found[::2], found[1::2], strict=True))
        wanted = {*values, *self._held_by, *(agent.incarnation for agent in self.agents.values())}
        for incarnation in wanted - {""}:
            self.note_beat(incarnation, values.get(incarnation, ""), received)
        for gone in self._beats.keys() - wanted:
            del self._beats[gone]

    def note_beat(self, incarnation: str, value: str, received: float) -> None:
        """Note a beat."""
        known = self._beats.get(incarnation)
        if known is None or known.value != value:
            self._beats[incarnation] = Beat(value, received)

    def begin_anew(self, received: float) -> None:
        """Count from now on for how long agents have given no sign of life: the server was started again."""
        for beat in self._beats.values():
            beat.since = received

    def beat_of(self, incarnation: str) -> str:
        """Return the last beat of an agent that was seen; empty for none."""
        return beat.value if (beat := self._beats.get(incarnation)) is not None else ""

    def silent_since(self, incarnation: str) -> float | None:
        """Return since when the beat of an agent is what it is; None if none was seen."""
        return beat.since if (beat := self._beats.get(incarnation)) is not None else None

    def is_alive(self, incarnation: str, now: float) -> bool:
        """Return whether an agent may still work on streams: it has beaten within the time of a lease."""
        since = self.silent_since(incarnation)
        return since is not None and now - since < self.lease

    def next_end(self, now: float) -> float | None:
        """Return when the next agent that holds streams will count as dead, if its beat stays what it is."""
        ends = [
            since + self.lease
            for incarnation in self._held_by
            if incarnation and (since := self.silent_since(incarnation)) is not None
        ]
        return min((end for end in ends if end > now), default=None)

    def free(self) -> list[Waiting]:
        """Return the streams that are to be worked on, and that have no lease."""
        return [*self._waiting.values()]

    def removable(self) -> list[StreamRow]:
        """Return the streams that are to be removed, and that have no lease."""
        ids = self._held_by.get("", ())
        return [row for stream_id in ids if (row := self.rows[stream_id]).wanted == "remove"]

    def dead(self, now: float) -> dict[str, list[StreamRow]]:
        """Return the streams whose leases belong to agents that are dead, by incarnation."""
        return {
            incarnation: [self.rows[stream_id] for stream_id in ids]
            for incarnation, ids in self._held_by.items()
            if incarnation in self.buried
            or ((since := self.silent_since(incarnation)) is not None and now - since >= self.lease)
        }

    def left(self, me: str, held: Container[str]) -> list[StreamRow]:
        """Return the streams that an agent has leases of and does not work on: nobody else can take them.

        Args:
            me: Its incarnation.
            held: Streams that it works on.
        """
        return [self.rows[each] for each in self._held_by.get(me, ()) if each not in held]

    def offered_to(self, name: str) -> set[str]:
        """Return the ids of the streams that are being handed over to an agent."""
        return self._offered_to.get(name, set())

    def seats(self, now: float) -> list[Seat]:
        """Return the agents that beat, as decisions are made of them.

        Each counts with the streams that it works on once all that are being handed over have been. One that
        is late may be dead: it keeps its streams, and is given none.
        """
        more = self._to_come()
        return [
            Seat(
                agent.name,
                agent.room,
                self._count(agent, more),
                agent.labels,
                agent.draining,
                agent.full,
            )
            for agent in self.agents.values()
            if (since := self.silent_since(agent.incarnation)) is not None
            and now - since < LATE * self.tick
        ]

    def count_of(self, agent: AgentRow) -> int:
        """Return how many streams an agent works on once all that are being handed over have been."""
        return self._count(agent, self._to_come())

    def _count(self, agent: AgentRow, more: Counter[str]) -> int:
        held = len(self._held_by.get(agent.incarnation, ()))
        return held + more[f"to {agent.name}"] - more[f"from {agent.incarnation}"]

    def _to_come(self) -> Counter[str]:
        """Return how many streams are being handed over to and from each agent."""
        more: Counter[str] = Counter()
        for name, ids in self._offered_to.items():
            more[f"to {name}"] = len(ids)
            more.update(f"from {_holder(self.rows[stream_id])}" for stream_id in ids)
        return more

    def holder_of(self, row: StreamRow) -> AgentRow | None:
        """Return the agent that works on a stream, if it is known."""
        if row.lease is None:
            return None
        for agent in self.agents.values():
            if agent.incarnation == row.lease.incarnation:
                return agent
        return None


def printable(text: str) -> str:
    """Return what another program has written in a form that can be shown."""
    return text.encode("utf-8", "backslashreplace").decode()[:200]


def gone(view: View, now: float) -> list[AgentRow]:
    """Return the agents that have given no sign of life for so long that they are not shown any more."""
    return [
        agent
        for agent in view.agents.values()
        if (since := view.silent_since(agent.incarnation)) is not None
        and now - since >= view.lease * SHOWN
    ]


def waiting(row: StreamRow, since: float = 0.0) -> Waiting:
    """Return a stream as decisions are made of it, free since some time."""
    return Waiting(row.id, row.labels, since, row.offered)


def _holder(row: StreamRow) -> str:
    return "" if row.lease is None else row.lease.incarnation
