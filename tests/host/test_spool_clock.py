"""A wall clock that is set makes no stored point older or younger than it is, in a run or across restarts."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import trio

from lva.host.delivery.machine_clock import MachineClock
from lva.host.delivery.queue import Bounds
from lva.host.delivery.spool import SpooledMailbox
from lva.host.delivery.spool_file import Row, SpoolFile
from tests.support import numbered

IN_2000 = 946_684_800.0
NOW = 1_790_000_000.0
YEAR = 365 * 86_400.0


class Machine(MachineClock):
    """A machine whose clocks a test moves."""

    def __init__(self, wall: float, boot: str = "first", up: float = 5.0) -> None:
        self.boot = boot
        self.at = wall
        self.up = up

    def wall(self) -> float:
        return self.at

    def since_boot(self) -> float:
        return self.up

    def wait(self, seconds: float) -> None:
        self.at += seconds
        self.up += seconds

    def restart(self, wall: float) -> None:
        """Switch it off and on; then its clock says this."""
        self.boot += "+"
        self.at, self.up = wall, 5.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "p.P.sqlite3"


def store(path: Path, machine: Machine, number: int = 1) -> None:
    """Run the service for as long as it takes to store a point that comes now."""
    file = SpoolFile(path, machine)
    file.commit([Row(number, machine.wall(), numbered(1, number))], [])
    file.close()


def ages(path: Path, machine: Machine) -> list[float]:
    """Open the spool again; return how old its points are held to be."""
    file = SpoolFile(path, machine)
    try:
        return [machine.wall() - since for _, since, *_ in file.index]
    finally:
        file.close()


def test_what_came_before_the_clock_was_set_is_as_old_as_it_is(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(IN_2000)
    store(path, machine)
    machine.wait(60)
    machine.at = NOW  # NTP
    assert ages(path, machine) == [pytest.approx(60)]
    assert (
        "the clock was set forward by 9761 days; the age of the points in 1 segment is unchanged"
        in caplog.text
    )
    caplog.clear()
    machine.wait(60)
    assert ages(path, machine) == [pytest.approx(120)]
    assert not caplog.text, "once"


def test_a_commit_that_fails_does_not_lose_the_jump(path: Path) -> None:
    machine = Machine(IN_2000)
    file = SpoolFile(path, machine)
    file.commit([Row(1, machine.wall(), numbered(1))], [])
    machine.at = NOW
    wrong: Any = (Row(2, object(), numbered(1)),)  # type: ignore[arg-type]
    with pytest.raises(sqlite3.Error):
        file.commit(wrong, [])
    file.commit([], [])
    file.close()
    assert ages(path, machine) == [pytest.approx(0)]


def test_another_boot_counts_from_now_what_no_clock_knew(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(IN_2000)
    store(path, machine)
    machine.restart(NOW)
    assert ages(path, machine) == [0]
    assert "1 segment from before the clock was set; the age of their points counts" in caplog.text


def test_points_of_a_boot_with_a_right_clock_stay_as_old_as_they_are(path: Path) -> None:
    machine = Machine(NOW)
    store(path, machine)
    machine.restart(IN_2000)  # until NTP has set it
    store(path, machine, 2)
    machine.wait(30)
    machine.at = NOW + 3600
    assert ages(path, machine) == [pytest.approx(3600), pytest.approx(30)]


def test_time_that_the_service_is_down_counts(path: Path) -> None:
    machine = Machine(NOW)
    store(path, machine)
    machine.wait(8 * 86_400)
    assert ages(path, machine) == [pytest.approx(8 * 86_400)]
    machine.restart(machine.at + 86_400)
    assert ages(path, machine) == [pytest.approx(9 * 86_400)]


def test_a_file_of_before_has_no_clock_and_gets_one(path: Path) -> None:
    machine = Machine(NOW)
    store(path, machine)
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE clock")
    connection.close()
    machine.wait(5)
    assert ages(path, machine) == [pytest.approx(5)]


def test_a_machine_that_does_not_know_its_boot_goes_by_the_wall_clock(path: Path) -> None:
    machine = Machine(NOW, boot="")
    store(path, machine)
    machine.wait(7)
    assert ages(path, machine) == [pytest.approx(7)]


@pytest.mark.parametrize("restarted", [False, True], ids=["same boot", "after a boot"])
@pytest.mark.parametrize("step", [3600, -3600, 20 * YEAR, -20 * YEAR])
def test_steps_of_the_clock_while_points_are_stored_and_before_the_next_run(
    path: Path, step: float, restarted: bool
) -> None:
    """Kind: a clock that is set either way, by little or by much, and one that is set right again."""
    machine = Machine(NOW)
    file = SpoolFile(path, machine)
    file.commit([Row(1, machine.wall(), numbered(1))], [])
    machine.wait(10)
    machine.at += step
    file.commit([Row(2, machine.wall(), numbered(1))], [])
    machine.wait(10)
    machine.at -= step
    file.commit([Row(3, machine.wall(), numbered(1))], [])
    file.close()
    machine.wait(10)
    if restarted:
        machine.restart(machine.at)
    assert ages(path, machine) == [pytest.approx(age) for age in (30, 20, 10)]


@pytest.mark.parametrize("step", [3600, -3600, 20 * YEAR, -20 * YEAR])
async def test_a_step_between_two_runs_neither_ages_points_nor_makes_them_younger(
    path: Path, step: float, autojump_clock: Any
) -> None:
    machine = Machine(NOW)
    store(path, machine)
    machine.wait(60)
    machine.at += step
    box = SpooledMailbox(
        SpoolFile(path, machine), Bounds(10), 1 << 20, logging.getLogger("lva.plugin.p")
    )
    try:
        (segment,) = box._backlog.segments
        assert trio.current_time() - segment.since == pytest.approx(60, abs=1)
        machine.at -= step  # and again while it runs: there the monotonic clock counts
        await trio.sleep(60)
        assert trio.current_time() - segment.since == pytest.approx(120, abs=1)
    finally:
        box._writer.file.close()


def test_the_real_clocks_are_there() -> None:
    clock = MachineClock()
    assert clock.boot
    assert clock.offset() == pytest.approx(MachineClock().offset(), abs=1)
