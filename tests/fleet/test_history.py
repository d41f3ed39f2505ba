"""The checker finds a fault of each kind, and none where there is none."""

from __future__ import annotations

import pytest

from tests.fleet.history import History, Seen, Spell

GOOD = [Spell("a", "one", 1, 0.0, 10.0), Spell("a", "two", 2, 12.0, 20.0)]


def faults(spells: list[Spell], events: list[Seen]) -> list[str]:
    return History(spells, events).faults(["a"], 3.0, [(0.0, 20.0)])


def test_a_good_history_has_no_fault() -> None:
    assert faults(GOOD, [Seen("a", 1, 1.0), Seen("a", 1, 2.0), Seen("a", 2, 13.0)]) == []


@pytest.mark.parametrize(
    ("spells", "events", "fault"),
    [
        ([GOOD[0], Spell("a", "two", 2, 9.9, 20.0)], [], "one works until 10.000, and two from 9.900 on"),
        ([GOOD[0], Spell("a", "one", 2, 9.9, 20.0)], [], "one works until 10.000, and one from 9.900 on"),
        ([Spell("a", "one", 1, 0.0, 30.0), Spell("a", "two", 2, 9.9, 20.0)], [], "two from 9.900 on"),
        ([GOOD[0], Spell("a", "two", 2, 13.1, 20.0)], [], "no worker from 10.000 to 13.100"),
        ([Spell("a", "two", 2, 3.1, 20.0)], [], "no worker from 0.000 to 3.100"),
        ([GOOD[0]], [], "no worker from 10.000 to 20.000"),
        ([], [], "no worker from 0.000 to 20.000"),
        ([GOOD[0], Spell("a", "two", 1, 12.0, 20.0)], [], "epoch 1 of two follows 1 of one"),
        ([Spell("a", "one", 3, 0.0, 10.0), GOOD[1]], [], "epoch 2 of two follows 3 of one"),
        (GOOD, [Seen("a", 2, 12.5), Seen("a", 1, 12.6)], "an event of epoch 1 follows one of 2"),
    ],
)  # fmt: skip
def test_each_kind_of_fault_is_found(spells: list[Spell], events: list[Seen], fault: str) -> None:
    found = faults(spells, events)
    assert any(fault in each for each in found), found


def test_an_agent_that_dies_as_soon_as_it_has_a_stream_is_waited_for_again() -> None:
    history = History([GOOD[0], Spell("a", "three", 3, 15.0, 20.0)], [])
    assert history.faults(["a"], 3.0, [(0.0, 20.0)], [12.5]) == []
    assert len(history.faults(["a"], 3.0, [(0.0, 20.0)], [11.5, 16.0])) == 1
