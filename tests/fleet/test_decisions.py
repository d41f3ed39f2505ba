"""Who takes which stream: what holds for every fleet."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lva.fleet.decisions import (
    CLAIMS,
    TOO_MUCH,
    Seat,
    Waiting,
    hand_over,
    mine,
    patience,
    plan,
    unreserved,
    why_not,
)
from tests.support import examples

LABELS = st.frozensets(st.sampled_from(["gpu", "hall", "night"]), max_size=2)
SEATS = st.lists(
    st.builds(
        Seat,
        st.sampled_from([f"agent{number}" for number in range(8)]),
        st.integers(0, 9),
        st.integers(0, 9),
        LABELS,
        st.booleans(),
    ),
    unique_by=lambda seat: seat.name,
    max_size=8,
)
STREAMS = st.lists(
    st.builds(Waiting, st.sampled_from([f"s{number}" for number in range(30)]), LABELS),
    unique_by=lambda stream: stream.id,
    max_size=30,
)


def after(seats: list[Seat], planned: dict[str, str]) -> list[Seat]:
    more = Counter(planned.values())
    return [replace(seat, streams=seat.streams + more[seat.name]) for seat in seats]


@given(seats=SEATS, free=STREAMS, rng=st.randoms())
@examples(20)
def test_every_agent_comes_to_the_same_plan_which_keeps_room_and_labels(seats, free, rng) -> None:
    planned = dict(plan(seats, free))
    by_name = {seat.name: seat for seat in seats}
    labels = {stream.id: stream.labels for stream in free}
    for stream, name in planned.items():
        assert labels[stream] <= by_name[name].labels
        assert not by_name[name].draining
    full = after(seats, planned)
    assert all(seat.streams <= seat.room for seat in full if seat.name in planned.values())
    # What is left out could be taken by nobody, and what is not left out by somebody.
    assert all((why_not(stream, full) is None) <= (stream.id in planned) for stream in free)
    assert all(why_not(stream, seats) is None for stream in free if stream.id in planned)
    rng.shuffle(seats)
    rng.shuffle(free)
    assert plan(seats, free) == planned


@given(seats=SEATS, free=STREAMS)
@examples(20)
def test_a_plan_fills_the_emptiest_first(seats, free) -> None:
    """The last stream given to an agent makes it no fuller than any other one that could have taken it."""
    planned = dict(plan(seats, free))
    full = {seat.name: seat for seat in after(seats, planned)}
    last = {}
    for stream in sorted(free, key=lambda stream: stream.id):
        if (name := planned.get(stream.id)) is not None:
            last[name] = stream
    for name, stream in last.items():
        mine = full[name]
        for other in full.values():
            if not other.draining and other.room and stream.labels <= other.labels:
                assert (mine.streams - 1) / mine.room <= other.streams / other.room


def test_a_plan_is_for_the_first_streams_that_agents_can_take() -> None:
    """The kind is streams that keep others waiting: those that nobody can take, and too many."""
    nobody = [Waiting(f"a{number:04}", frozenset({"gpu"})) for number in range(CLAIMS * 3)]
    free = [Waiting(f"b{number:04}") for number in range(CLAIMS * 3)]
    planned = plan([Seat("one", 10_000, 0), Seat("two", 5, 5)], [*nobody, *free][::-1])
    assert [*planned] == [stream.id for stream in free[:CLAIMS]]


def test_an_agent_takes_what_is_offered_then_its_part_and_at_last_one_that_another_has_not_taken():
    seats = [Seat("one", 5, 0), Seat("two", 5, 0)]
    free = [Waiting("a"), Waiting("b"), Waiting("c", since=9.9), Waiting("d", since=9.9)]
    given = Waiting("e", since=9.9, offered="two")
    planned = plan(seats, unreserved(seats, [*free, given], now=10.0))
    assert planned == {"a": "one", "b": "two", "c": "one", "d": "two"}
    taken = mine(seats[1], [*free, given], planned, 10.0, patience(seats[1], 0.5, 1.0))
    assert [stream.id for stream in taken] == ["e", "b", "d", "a"]
    late = unreserved(seats, [given], now=11.0)
    assert mine(seats[0], late, plan(seats, late), 11.0, 0.0) == [given]
    gone = unreserved(seats[:1], [given], now=10.0)
    assert mine(seats[0], gone, plan(seats[:1], gone), 10.0, 1.0) == [given]
    assert mine(Seat("two", 5, 0, draining=True), [given], {}, 10.0, 0.0) == []


@pytest.mark.parametrize(
    ("seats", "reason"),
    [
        ([], "no agent"),
        ([Seat("one", 5, 0, frozenset({"gpu", "hall"}), True)], "no agent"),
        ([Seat("one", 5, 0)], "no agent with labels gpu, hall"),
        ([Seat("one", 5, 0, frozenset({"gpu"}))], "no agent with label hall"),
        (
            [Seat("one", 5, 0, frozenset({"gpu"})), Seat("two", 5, 0, frozenset({"hall"}))],
            "no agent with labels gpu, hall",
        ),
        ([Seat("one", 5, 5, frozenset({"gpu", "hall"})), Seat("two", 5, 0)], "no room"),
        ([Seat("one", 0, 0, frozenset({"gpu", "hall"}))], "no room"),
        ([Seat("one", 5, 4, frozenset({"gpu", "hall"}))], None),
    ],
)
def test_why_a_stream_lies_free_is_told(seats, reason) -> None:
    assert why_not(Waiting("s", frozenset({"gpu", "hall"})), seats) == reason


def settled(seats: list[Seat], labels: frozenset[str] = frozenset()) -> list[Seat]:
    """Let all agents hand over what they would, one after the other, until none does."""
    held = {seat.name: {f"{seat.name} {n}" for n in range(seat.streams)} for seat in seats}
    by_name = {seat.name: seat for seat in seats}
    for _ in range(1000):
        moved = False
        for name in by_name:
            found = hand_over(name, by_name.values(), [Waiting(s, labels) for s in held[name]])
            if found is not None:
                stream, to = found
                held[name].remove(stream)
                held[to].add(stream)
                for each in (name, to):
                    by_name[each] = replace(by_name[each], streams=len(held[each]))
                moved = True
        if not moved:
            return [*by_name.values()]
    raise AssertionError(f"streams never come to rest: {seats}")


FULL = st.lists(
    st.tuples(st.integers(1, 40), st.floats(0, 1)), min_size=1, max_size=6
)  # room, and how much of it is taken


@given(found=FULL, draining=st.integers(0, 5))
@examples(20)
def test_streams_come_to_rest_and_a_draining_agent_becomes_empty(found, draining) -> None:
    """The kind is two agents that give a stream to and fro."""
    seats = [
        Seat(f"agent{number}", room, int(room * part), draining=number == draining)
        for number, (room, part) in enumerate(found)
    ]
    rest = settled(seats)
    assert sum(seat.streams for seat in rest) == sum(seat.streams for seat in seats)
    assert all(seat.streams <= seat.room for seat in rest)
    if any(seat.draining and seat.streams for seat in rest):
        assert all(seat.streams == seat.room for seat in rest if not seat.draining)


@given(streams=st.lists(st.integers(0, 60), min_size=2, max_size=6))
@examples(20)
def test_agents_of_the_same_room_become_equally_full(streams) -> None:
    rest = settled([Seat(f"agent{n}", 60, count) for n, count in enumerate(streams)])
    fair = sum(streams) / len(streams)
    assert all(seat.streams < max(TOO_MUCH * fair, fair + 1) for seat in rest)


@given(found=FULL)
@examples(20)
def test_no_agent_stays_more_than_a_fifth_above_its_share_of_the_room(found) -> None:
    seats = [Seat(f"agent{n}", room, int(room * part)) for n, (room, part) in enumerate(found)]
    fair = sum(seat.streams for seat in seats) / sum(seat.room for seat in seats)
    for seat in settled(seats):
        assert seat.streams <= max(1.2 * fair * seat.room, fair * seat.room + 1)


@pytest.mark.parametrize(
    ("seats", "labels", "wanted"),
    [
        ([("one", 50, 2), ("two", 50, 0), ("three", 50, 0)], "", [0, 1, 1]),  # less than one each
        ([("one", 50, 20), ("two", 50, 0), ("plain", 500, 0)], "gpu", [0, 10, 10]),
        ([("one", 55, 10), ("two", 9, 0), ("three", 9, 0), ("four", 9, 0)], "", [1, 1, 1, 7]),
    ],
)
def test_streams_spread_whatever_their_number_their_labels_and_the_rooms(
    seats, labels, wanted
) -> None:
    """The kind is agents that have nothing to do, though another one has too much."""
    asked = frozenset({labels} - {""})
    made = [
        Seat(name, room, streams, asked if name != "plain" else frozenset())
        for name, room, streams in seats
    ]
    assert sorted(seat.streams for seat in settled(made, asked)) == wanted


def test_an_agent_that_is_unknown_or_has_nothing_hands_nothing_over() -> None:
    assert hand_over("one", [Seat("two", 5, 0)], [Waiting("s")]) is None
    assert hand_over("one", [Seat("one", 5, 5), Seat("two", 5, 0)], []) is None


def test_a_machine_that_is_busy_takes_no_more_and_keeps_what_it_has() -> None:
    busy, idle = Seat("one", 50, 4, full=True), Seat("two", 50, 30)
    assert plan([busy, idle], [Waiting("s")]) == {"s": "two"}
    assert plan([busy], [Waiting("s")]) == {}
    assert why_not(Waiting("s"), [busy]) == "no room"
    assert hand_over("two", [busy, idle], [Waiting("s")]) is None
    assert hand_over("one", [busy, idle], [Waiting("s")]) is None
