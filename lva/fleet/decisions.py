"""Which agent takes which stream: each comes to the same plan from what it sees, and takes its part.

There is no leader. Two agents that see different things may both take a stream; the server lets one of them.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

#: Most streams that are planned for at once; the others wait for the next plan.
MOST: Final = 200
#: How much more than its share an agent may have before it hands over a stream.
TOO_MUCH: Final = 1.1


@dataclass(frozen=True, slots=True)
class Seat:
    """An agent that gives signs of life.

    Attributes:
        name: Its name.
        room: Most streams it works on.
        streams: How many it works on.
        labels: What it can do.
        draining: Whether it takes no streams, and hands over those it has.
    """

    name: str
    room: int
    streams: int
    labels: frozenset[str] = frozenset()
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """A stream.

    Attributes:
        id: Its id.
        labels: An agent has to have all of them.
    """

    id: str
    labels: frozenset[str] = frozenset()


def plan(agents: Iterable[Seat], free: Sequence[Waiting], most: int = MOST) -> Mapping[str, str]:
    """Return which agent takes which stream: each goes to the one that is the least full by then.

    Args:
        agents: All that are alive.
        free: Streams that nobody works on.
        most: How many of them are planned for, in order of their ids.

    Returns:
        Names of agents by ids of streams; a stream that no agent can take is left out.
    """
    planned: dict[str, str] = {}
    open_seats = [seat for seat in agents if not seat.draining and seat.room > 0]
    more: Counter[str] = Counter()
    heaps: dict[frozenset[str], list[tuple[float, str, Seat]]] = {}
    for stream in heapq.nsmallest(most, free, key=lambda stream: stream.id):
        heap = heaps.get(stream.labels)
        if heap is None:
            heap = heaps[stream.labels] = [
                (_fullness(seat, more), seat.name, seat)
                for seat in open_seats
                if stream.labels <= seat.labels
            ]
            heapq.heapify(heap)
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
    if all(seat.streams >= seat.room for seat in able):
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
        if seat.name != me and not seat.draining and seat.streams < seat.room
    ]
    if not mine.draining:
        fair = _fair(seats.values())
        if mine.streams < max(fair * mine.room * TOO_MUCH, fair * mine.room + 1):
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


def _fair(agents: Iterable[Seat]) -> float:
    """Return how full each agent would be if all were equally full."""
    seats = [seat for seat in agents if not seat.draining]
    room = sum(seat.room for seat in seats)
    return min(1.0, sum(seat.streams for seat in seats) / room) if room else 1.0


def _fullness(seat: Seat, more: Mapping[str, int]) -> float:
    return (seat.streams + more.get(seat.name, 0)) / seat.room
