"""Which agent takes which stream: each comes to the same plan from what it sees, and takes its part.

There is no leader. Two agents that see different things may both take a stream; the server lets one of them.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from zlib import crc32

#: Most streams that an agent takes between two beats; a plan is for so many of each agent.
CLAIMS: Final = 20
#: How much more than its share an agent may have before it hands over a stream.
TOO_MUCH: Final = 1.1
#: For how many seconds a free stream is left to the agent to which it is handed over.
OFFERED: Final = 0.5
#: For how many ticks an empty agent leaves a stream to the one that it is planned for; a full one leaves it
#: longer.
PATIENCE: Final = 1.2


@dataclass(frozen=True, slots=True)
class Seat:
    """An agent that gives signs of life.

    Attributes:
        name: Its name.
        room: Most streams it works on.
        streams: How many it works on.
        labels: What it can do.
        draining: Whether it takes no streams, and hands over those it has.
        full: Whether it takes no streams because of the load of its machine.
    """

    name: str
    room: int
    streams: int
    labels: frozenset[str] = frozenset()
    draining: bool = False
    full: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """A stream.

    Attributes:
        id: Its id.
        labels: An agent has to have all of them.
        since: Since when nobody works on it.
        offered: The agent to which it is handed over; empty for none.
    """

    id: str
    labels: frozenset[str] = frozenset()
    since: float = 0.0
    offered: str = ""


def plan(agents: Iterable[Seat], free: Iterable[Waiting]) -> Mapping[str, str]:
    """Return which agent takes which stream: each goes to the one that is the least full by then.

    It is for the first streams by id, so many that each agent has enough to do until its next beat. Those
    that no agent can take keep none of the others waiting.

    Args:
        agents: All that are alive.
        free: Streams that nobody works on.

    Returns:
        Names of agents by ids of streams.
    """
    planned: dict[str, str] = {}
    open_seats = [
        seat for seat in agents if not (seat.draining or seat.full) and seat.streams < seat.room
    ]
    more: Counter[str] = Counter()
    heaps: dict[frozenset[str], list[tuple[float, str, Seat]]] = {}

    def able(stream: Waiting) -> bool:
        if stream.labels not in heaps:
            heap = heaps[stream.labels] = [
                (seat.streams / seat.room, seat.name, seat)
                for seat in open_seats
                if stream.labels <= seat.labels
            ]
            heapq.heapify(heap)
        return bool(heaps[stream.labels])

    most = CLAIMS * len(open_seats)
    for stream in heapq.nsmallest(most, filter(able, free), key=lambda stream: stream.id):
        heap = heaps[stream.labels]
        while heap:
            fullness, _, seat = heap[0]
            now = _fullness(seat, more)
            if now >= 1:
                heapq.heappop(heap)
            elif now > fullness:  # it was given a stream with other labels
                heapq.heapreplace(heap, (now, seat.name, seat))
            else:
                planned[stream.id] = seat.name
                more[seat.name] += 1
                heapq.heapreplace(heap, (_fullness(seat, more), seat.name, seat))
                break
    return planned


def unreserved(agents: Iterable[Seat], free: Iterable[Waiting], now: float) -> list[Waiting]:
    """Return the free streams that are planned for: not those left to the agent they are handed over to."""
    ready = {seat.name for seat in agents if not seat.draining and seat.streams <= seat.room}
    return [
        stream for stream in free if stream.offered not in ready or now - stream.since > OFFERED
    ]


def mine(
    seat: Seat, free: Iterable[Waiting], planned: Mapping[str, str], now: float, patience: float
) -> list[Waiting]:
    """Return the free streams that an agent takes now, those that are handed over to it first.

    The last one may be a stream that the agent for which it is planned has not taken: that one may be dead,
    or see another fleet. It is not the same for all agents, since only one of them would get it.

    Args:
        seat: It.
        free: Streams that nobody works on.
        planned: What `plan` says of them.
        now: The time.
        patience: See `patience`.
    """
    if seat.draining:
        return []
    offered, taken, overdue = list[Waiting](), list[Waiting](), list[Waiting]()
    for stream in free:
        if stream.offered == seat.name:
            offered.append(stream)
        elif (name := planned.get(stream.id)) is not None:
            if name == seat.name:
                taken.append(stream)
            elif now - stream.since > patience and stream.labels <= seat.labels:
                overdue.append(stream)
    one = min(overdue, key=lambda stream: crc32(f"{seat.name} {stream.id}".encode()), default=None)
    return offered + taken + ([] if one is None else [one])


def patience(seat: Seat, tick: float, jitter: float) -> float:
    """Return for how many seconds an agent leaves a stream to the one that it is planned for.

    Args:
        seat: The agent.
        tick: Seconds between two beats.
        jitter: From 0 to 1, random.
    """
    return tick * PATIENCE * (1 + (seat.streams / max(1, seat.room) + jitter) / 2)


def why_not(stream: Waiting, agents: Iterable[Seat]) -> str | None:
    """Return why no agent can take a stream, or None if one can."""
    open_seats = [seat for seat in agents if not seat.draining]
    if not open_seats:
        return "no agent"
    able = [seat for seat in open_seats if stream.labels <= seat.labels]
    if not able:
        known = frozenset[str]().union(*(seat.labels for seat in open_seats))
        missing = sorted(stream.labels - known) or sorted(stream.labels)
        return f"no agent with {'label' if len(missing) == 1 else 'labels'} {', '.join(missing)}"
    if all(seat.full or seat.streams >= seat.room for seat in able):
        return "no room"
    return None


def hand_over(me: str, agents: Iterable[Seat], held: Sequence[Waiting]) -> tuple[str, str] | None:
    """Return a stream that this agent hands over next, and to whom; None if it keeps what it has.

    A draining agent hands over all. Another one does if it has over a tenth, and at least one stream, more
    than its share of the room, and the two are evener afterwards, so that a stream never comes straight
    back.

    Args:
        me: This agent's name.
        agents: All that are alive, this one among them.
        held: Streams that it works on and is not handing over.
    """
    seats = {seat.name: seat for seat in agents}
    mine = seats.get(me)
    if mine is None or not held:
        return None
    others = [
        seat
        for seat in seats.values()
        if seat.name != me and not (seat.draining or seat.full) and seat.streams < seat.room
    ]
    if not mine.draining:
        if not has_too_much(mine, share(seats.values())):
            return None
        others = [seat for seat in others if _evener(mine, seat)]
    streams = sorted(held, key=lambda stream: stream.id)
    for seat in sorted(others, key=lambda seat: (seat.streams / seat.room, seat.name)):
        for stream in streams:
            if stream.labels <= seat.labels:
                return stream.id, seat.name
    return None


def _evener(giver: Seat, taker: Seat) -> bool:
    """Return whether moving a stream lowers the sum of streams^2 / room, which is least if all are even."""
    return (2 * taker.streams + 1) * giver.room < (2 * giver.streams - 1) * taker.room


def has_too_much(seat: Seat, fair: float) -> bool:
    """Return whether an agent has more than its share, as `share` says, by a tenth and at least a stream."""
    return seat.streams >= max(fair * seat.room * TOO_MUCH, fair * seat.room + 1)


def share(agents: Iterable[Seat]) -> float:
    """Return how full each agent would be if all were equally full."""
    seats = [seat for seat in agents if not seat.draining]
    room = sum(seat.room for seat in seats)
    return min(1.0, sum(seat.streams for seat in seats) / room) if room else 1.0


def _fullness(seat: Seat, more: Mapping[str, int]) -> float:
    return (seat.streams + more.get(seat.name, 0)) / seat.room
