"""What is logged of blocks, how often, and what is kept."""

from __future__ import annotations

import logging

import pytest

from lva.host.watch import reports
from lva.host.watch.reports import UNSEEN, Culprit, OpenBlock, Reporter
from lva.host.watch.stacks import Line
from lva.host.watch.uses import LoopUses
from lva.logs.recurring import INTERVAL

STACK = [
    Line("/lib/json.py", 1, "dumps", None),
    Line("/plugins/a.py", 3, "work", "a"),
    Line("/plugins/a.py", 9, "start", "a"),
]
CULPRIT = Culprit("a", STACK)


@pytest.fixture
def uses() -> LoopUses:
    return LoopUses()


@pytest.fixture
def reporter(uses) -> Reporter:
    return Reporter(uses)


def test_a_block_is_logged_once_with_its_stack(uses, reporter, caplog):
    reporter.report(CULPRIT, 100.0, 0.12)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("lva.plugin.a", logging.WARNING)
    assert record.message == "blocked the event loop for 0.12 s at /plugins/a.py:3 in work"
    assert record.stack_info.splitlines()[-1] == '  File "/lib/json.py", line 1, in dumps'
    kept = uses.of("a").last_block
    assert uses.of("a").blocks == 1
    assert (kept.seconds, kept.where, kept.of, kept.over) == (
        0.12, "/plugins/a.py:3 in work", "service", True,
    )  # fmt: skip
    assert kept.stack == [
        "/plugins/a.py:9 in start", "/plugins/a.py:3 in work", "/lib/json.py:1 in dumps",
    ]  # fmt: skip


def test_a_long_one_is_logged_while_it_goes_on_and_at_its_end(uses, reporter, caplog):
    block = OpenBlock(reporter, CULPRIT, "plugin", 100.0)
    block.go_on(0.9)
    assert not caplog.records
    assert uses.longest_open("a").seconds == 0.9
    block.go_on(1.1)
    block.go_on(2.0)
    block.end(3.0)
    first, second = caplog.records
    assert first.message == (
        "has blocked its own event loop for 1.10 s so far at /plugins/a.py:3 in work"
    )
    assert first.stack_info is not None
    assert (
        second.message == "blocked its own event loop for 3.00 s in all at /plugins/a.py:3 in work"
    )
    assert second.stack_info is None
    assert uses.of("a").blocks == 1
    assert uses.of("a").last_block.seconds == 3.0
    assert uses.longest_open("a") is None


def test_the_same_line_is_logged_once_in_a_while_and_counted_always(
    uses, reporter, caplog, monkeypatch
):
    now = 100.0
    monkeypatch.setattr(reports.time, "perf_counter", lambda: now)
    for _ in range(5):
        reporter.report(CULPRIT, now, 0.5)
    assert len(caplog.records) == 1
    reporter.report(Culprit("a", [Line("/plugins/a.py", 7, "work", "a")]), now, 0.5)
    assert caplog.messages[1:] == ["blocked the event loop for 0.50 s at /plugins/a.py:7 in work"]
    now += INTERVAL
    reporter.report(CULPRIT, now, 0.5)
    assert caplog.messages[-1].endswith("; 4 more times since that was last reported")
    assert uses.of("a").blocks == 7


def test_what_is_remembered_for_that_is_bounded(reporter):
    for number in range(1100):
        reporter.report(Culprit("a", [Line("/plugins/a.py", number, "f", "a")]), 1.0, 1.0)
    assert len(reporter._places) <= 1000


def test_what_is_no_plugin_s_is_logged_and_nobody_s(uses, reporter, caplog):
    reporter.report(Culprit(None, STACK), 100.0, 0.5)
    reporter.report_collection(0.3)
    reporter.report_unknown(0.4, "because")
    assert {record.name for record in caplog.records} == {"lva.host"}
    assert [record.message for record in caplog.records] == [
        "the service itself blocked the event loop for 0.50 s at /lib/json.py:1 in dumps",
        "a garbage collection blocked the event loop for 0.30 s",
        "the event loop was blocked for 0.40 s; it is not known by what: because",
    ]
    assert not uses._uses


def test_a_line_that_nobody_saw_is_said_to_be_unknown(uses, reporter, caplog):
    reporter.report(Culprit("a", []), 100.0, 0.5)
    reporter.report_thread(Culprit("a", []), 100.0, 0.5)
    assert uses.of("a").last_block.where == UNSEEN
    assert [record.message for record in caplog.records] == [
        f"blocked the event loop for 0.50 s at {UNSEEN}"
    ]
    assert uses.of("a").blocks == 2


def test_nothing_is_made_when_warnings_are_off(uses, reporter, caplog):
    with caplog.at_level(logging.ERROR, "lva.plugin.a"):
        reporter.report(CULPRIT, 100.0, 0.5)
    assert not caplog.records
    assert uses.of("a").blocks == 1
