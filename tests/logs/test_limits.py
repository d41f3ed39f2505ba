"""No plugin can fill a disk with its log: the first records of each window whole, then their number."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from lva.logs import loggers as logs
from lva.logs.limits import MOST_CHARACTERS, MOST_RECORDS, WINDOW, LogLimits, Suppressed
from lva.logs.loggers import current_plugin, own_logger, plugin_logger
from tests.log_lines import Lines, kept_lines


class Clock:
    """A clock that is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines(clock: Clock) -> Iterator[Lines]:
    with kept_lines() as kept:
        output = logs.set_up("INFO", "json", kept)
        output._limits = LogLimits(clock)
        yield kept


def test_the_first_are_whole_then_they_are_counted(lines: Lines, clock: Clock) -> None:
    for number in range(MOST_RECORDS + 1234):
        own_logger("cam").info("%d", number)
    assert lines.messages == [str(number) for number in range(MOST_RECORDS)]
    output = logs.output()
    assert output is not None
    assert output.report_suppressed() == WINDOW
    clock.now = WINDOW
    assert output.report_suppressed() is None
    last = lines.records[-1]
    assert (last["plugin"], last["level"]) == ("cam", "WARNING")
    assert last["message"] == "1,234 more log records suppressed: too many in 10 s"
    own_logger("cam").info("again")
    assert lines.messages[-1] == "again"


def test_long_records_count_by_their_length(lines: Lines) -> None:
    for _ in range(MOST_RECORDS):
        own_logger("cam").info("x" * 10_000)
    assert MOST_CHARACTERS <= sum(map(len, lines.lines)) < MOST_CHARACTERS + 20_000


def test_a_flood_hides_neither_errors_nor_others_nor_the_service(lines: Lines) -> None:
    for _ in range(2 * MOST_RECORDS):
        own_logger("cam").info("flood")
        logging.getLogger("cam.files").debug("no")
    lines.lines.clear()
    own_logger("cam").info("no")
    own_logger("cam").error("an error")
    own_logger("other").info("another plugin")
    plugin_logger("cam").info("the service")
    assert lines.messages == ["an error", "another plugin", "the service"]


def test_what_libraries_log_for_a_plugin_counts_as_the_plugins(lines: Lines) -> None:
    token = current_plugin.set("cam")
    for number in range(2 * MOST_RECORDS):
        logging.getLogger(f"library.{number}").info("flood")
    current_plugin.reset(token)
    assert len(lines.lines) == MOST_RECORDS


def test_names_without_end_share_an_allowance(clock: Clock) -> None:
    limits = LogLimits(clock)
    admitted = sum(limits.admits(f"name-{number}", severe=False) for number in range(5000))
    assert admitted == 1000 + MOST_RECORDS
    assert sum(count for *_, count in limits.over(float("inf"))) == 5000 - admitted


def test_a_window_that_nothing_exceeds_is_over_in_silence(clock: Clock) -> None:
    limits = LogLimits(clock)
    for second in range(100):
        clock.now = float(second)
        assert all(limits.admits("cam", severe=True) for _ in range(MOST_RECORDS // 10))
    assert limits.due is None
    assert list(limits.over()) == []
    while limits.admits("cam", severe=True):
        pass
    assert list(limits.over(float("inf"))) == [Suppressed("cam", True, 1)]
