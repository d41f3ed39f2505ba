"""The newest records of each plugin: whose they are, how many, and nothing secret in them."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from lva.logs.loggers import current_plugin, plugin_logger
from lva.logs.tail import CHARACTERS, RECORDS, LogTail


@pytest.fixture
def tail() -> Iterator[LogTail]:
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.INFO)
    tail = LogTail()
    with tail.installed():
        yield tail
    root.setLevel(level)


def messages(tail: LogTail, plugin: str) -> list[str]:
    return [record["message"] for record in tail.records(plugin)]


def test_records_are_kept_by_plugin(tail: LogTail) -> None:
    plugin_logger("cam").info("sees %s", "a door")
    plugin_logger("cam").debug("below the level")
    plugin_logger("sink").warning("full")
    logging.getLogger("lva.service").error("nobody's")
    assert messages(tail, "cam") == ["sees a door"]
    assert messages(tail, "sink") == ["full"]
    assert (tail.count("cam"), tail.count("sink"), tail.count("other")) == (1, 1, 0)
    assert tail.records("other") == []


def test_what_a_library_logs_for_a_plugin_is_the_plugins(tail: LogTail) -> None:
    token = current_plugin.set("cam")
    try:
        logging.getLogger("somelib.pool").warning("slow")
    finally:
        current_plugin.reset(token)
    (record,) = tail.records("cam")
    assert (record["logger"], record["level"], record["message"]) == (
        "somelib.pool",
        "WARNING",
        "slow",
    )


def test_only_the_newest_are_kept_but_all_are_counted(tail: LogTail) -> None:
    for number in range(RECORDS + 50):
        plugin_logger("chatty").info("%d", number)
    assert messages(tail, "chatty") == [str(number) for number in range(50, RECORDS + 50)]
    assert tail.count("chatty") == RECORDS + 50


def test_long_records_drive_out_more_of_the_others(tail: LogTail) -> None:
    for _ in range(100):
        plugin_logger("verbose").info("x" * 50_000)
    kept = tail.records("verbose")
    assert 0 < sum(len(record["message"]) for record in kept) <= CHARACTERS
    assert all(record["message"].endswith("…") for record in kept)


def test_the_newest_traceback_outlives_the_records_after_it(tail: LogTail) -> None:
    try:
        raise OSError("camera gone")
    except OSError:
        plugin_logger("cam").exception("crashed")
    for number in range(RECORDS):
        plugin_logger("cam").info("%d", number)
    failure = tail.failure("cam")
    assert failure is not None
    assert failure["message"] == "crashed"
    assert failure["traceback"] is not None
    assert failure["traceback"].endswith("OSError: camera gone")
    assert "test_tail.py" in failure["traceback"]
    assert tail.failure("other") is None


def test_a_long_traceback_keeps_its_end(tail: LogTail) -> None:
    try:
        raise OSError("y" * 100_000 + " the end")
    except OSError:
        plugin_logger("cam").exception("crashed")
    failure = tail.failure("cam")
    assert failure is not None
    assert failure["traceback"] is not None
    assert len(failure["traceback"]) < 20_000
    assert failure["traceback"].endswith("the end")


def test_after_its_time_it_gets_nothing(tail: LogTail) -> None:
    other = LogTail()
    with other.installed():
        plugin_logger("cam").info("in")
    plugin_logger("cam").info("out")
    assert messages(other, "cam") == ["in"]
