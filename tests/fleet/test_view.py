"""What an agent knows of its fleet: who is alive, who is late, and which streams are free."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lva.fleet.decisions import Seat
from lva.fleet.rows import AgentRow, Lease
from lva.fleet.view import View
from tests.fleet.agents import row

LEASE, TICK = 10.0, 0.5


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def view(clock: Clock, *names: str) -> View:
    made = View(LEASE, TICK, clock)
    rows = [AgentRow(name, f"i{name}", "http://a:1", 5, frozenset()) for name in names]
    made.take_agents(
        [part for row in rows for part in (row.name, f"i{row.name} {row.as_json()}")], "1"
    )
    return made


def beat(view: View, clock: Clock, seconds: float, **beats: int) -> None:
    """Let time go on, with a beat at each tick; the named agents have the beats that are given."""
    for _ in range(round(seconds / TICK)):
        clock.now += TICK
        view.take_beats(
            [part for name, n in beats.items() for part in (f"i{name}", str(n))], clock.now
        )


def held(stream_id: str, name: str, offered: str = ""):
    lease = Lease(f"i{name}", 1)
    return replace(row(stream_id), lease=lease, lease_value=str(lease), offered=offered)


def test_an_agent_that_is_late_is_given_nothing_and_keeps_its_streams_until_its_lease_is_over():
    clock = Clock()
    known = view(clock, "one", "two")
    known.put(held("s", "two"))
    beat(known, clock, TICK, one=1, two=1)
    assert known.seats(clock.now) == [Seat("one", 5, 0), Seat("two", 5, 1)]
    beat(known, clock, 2.0, one=1, two=1)
    assert known.seats(clock.now) == []
    assert known.is_alive("itwo", clock.now)
    assert known.dead(clock.now) == {}
    beat(known, clock, LEASE - 2.0, one=2, two=1)
    assert known.dead(clock.now) == {"itwo": [held("s", "two")]}


def test_the_time_in_which_an_agent_has_not_looked_is_no_silence_of_others():
    """The kind is a server that was away: who comes back first must not take what all others have."""
    clock = Clock()
    known = view(clock, "one", "two")
    known.put(held("s", "two"))
    beat(known, clock, TICK, one=1, two=1)
    clock.now += 3 * LEASE
    beat(known, clock, TICK, one=2, two=1)
    assert known.dead(clock.now) == {}
    assert [seat.name for seat in known.seats(clock.now)] == ["one", "two"]
    beat(known, clock, LEASE, one=2, two=1)
    assert [*known.dead(clock.now)] == ["itwo"]


def test_who_looks_seldom_finds_out_all_the_same():
    """The kind is a server that is so slow that each look comes late: the dead must not live for ever."""
    clock = Clock()
    known = view(clock, "one", "two")
    known.put(held("s", "two"))
    beat(known, clock, TICK, one=1, two=1)
    for number in range(2, 6):
        clock.now += LEASE / 4 + TICK
        beat(known, clock, TICK, one=number, two=1)
    assert [*known.dead(clock.now)] == ["itwo"]


def test_streams_that_are_being_handed_over_count_for_the_one_that_gets_them():
    clock = Clock()
    known = view(clock, "one", "two")
    for each in (held("a", "one", "two"), held("b", "one"), replace(row("c"), offered="two")):
        known.put(each)
    beat(known, clock, TICK, one=1, two=1)
    assert {seat.name: seat.streams for seat in known.seats(clock.now)} == {"one": 1, "two": 2}
    known.put(held("a", "two"))
    known.put(held("c", "two"))
    assert {seat.name: seat.streams for seat in known.seats(clock.now)} == {"one": 1, "two": 2}
    assert known.offered_to("two") == set()


def test_free_are_streams_to_be_worked_on_and_removable_those_to_be_removed():
    clock = Clock()
    known = view(clock, "one")
    stopped, removed = replace(row("b"), wanted="stop"), replace(row("c"), wanted="remove")
    for each in (row("a"), stopped, removed, held("d", "one")):
        known.put(each)
    beat(known, clock, TICK, one=1)
    assert [(stream.id, stream.since) for stream in known.free()] == [("a", 100.0)]
    assert known.removable() == [removed]
    assert [row.id for row in known.left("ione", {})] == ["d"]
    assert known.left("ione", {"d"}) == []
    known.put(replace(row("a"), wanted="stop"))
    assert known.free() == []


def test_the_one_that_has_the_name_of_a_dead_agent_need_not_wait_once_more():
    clock = Clock()
    known = view(clock, "one")
    known.put(held("s", "before"))
    beat(known, clock, TICK, one=1)
    assert known.dead(clock.now) == {}
    known.buried.add("ibefore")
    assert [*known.dead(clock.now)] == ["ibefore"]


def test_an_agent_and_a_stream_of_one_name_are_told_apart_when_they_cannot_be_read():
    known = view(Clock(), "one")
    known.take_agents(["s", "i {"], "2")
    known.take_streams([["s", "1", *["{"] * 6]])
    assert {*known.broken} == {*known.broken_agents} == {"s"}
    known.take_streams([["s", "2", row("s").as_json(), "", "", "", "", ""]])
    assert (known.broken, {*known.broken_agents}) == ({}, {"s"})
    known.take_streams([["s", "3", *["{"] * 6]])
    known.take_agents([], "3")
    assert ({*known.broken}, known.broken_agents) == ({"s"}, {})
