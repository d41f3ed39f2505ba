"""What is logged of holds, how often, and what is kept."""

from __future__ import annotations

import logging

import pytest

from lva.host.holds import LOG_INTERVAL, Culprit, Reporter
from lva.host.loop_use import LoopUses
from lva.host.stacks import Line

STACK = [Line("/lib/json.py", 1, "dumps", None), Line("/plugins/a.py", 3, "work", "a")]
CULPRIT = Culprit("a", STACK)


@pytest.fixture
def uses() -> LoopUses:
    return LoopUses()


def test_a_hold_is_logged_with_its_stack_and_again_when_it_ends(uses, caplog):
    hold = Reporter(uses).report(CULPRIT, 100.0, 100.12)
    hold.go_on(100.5)
    hold.end(101.0)
    first, second = caplog.records
    assert (first.name, first.levelno) == ("lva.plugin.a", logging.WARNING)
    assert first.message == ("holds the event loop, for 0.12 s so far, at /plugins/a.py:3 in work")
    assert first.stack_info.splitlines()[-1] == '  File "/lib/json.py", line 1, in dumps'
    assert second.message == "held the event loop for 1.00 s in all, at /plugins/a.py:3 in work"
    assert second.stack_info is None
    kept = uses.of("a").last_hold
    assert uses.of("a").holds == 1
    assert kept.seconds == pytest.approx(1.0)
    assert kept.where == "/plugins/a.py:3 in work"
    assert kept.stack == ["/plugins/a.py:3 in work", "/lib/json.py:1 in dumps"]


def test_the_same_line_is_logged_once_in_a_while_and_counted_always(uses, caplog):
    reporter = Reporter(uses)
    for number in range(5):
        reporter.report(CULPRIT, 100.0 + number, 100.5 + number).end(100.6 + number)
    assert len(caplog.records) == 2
    later = 100.5 + LOG_INTERVAL
    reporter.report(CULPRIT, later, later + 0.5)
    assert caplog.records[-1].message.endswith("; 4 more times since that was last reported")
    assert uses.of("a").holds == 6


def test_another_line_is_logged_at_once(uses, caplog):
    reporter = Reporter(uses)
    reporter.report(CULPRIT, 100.0, 100.5)
    reporter.report(Culprit("a", [Line("/plugins/a.py", 9, "work", "a")]), 101.0, 101.5)
    assert [record.message[-24:] for record in caplog.records] == [
        ", at /plugins/a.py:3 in work"[-24:],
        ", at /plugins/a.py:9 in work"[-24:],
    ]


def test_what_is_remembered_for_that_is_bounded(uses, caplog):
    reporter = Reporter(uses)
    for number in range(3000):
        reporter.report(Culprit("a", [Line("/plugins/a.py", number, "f", "a")]), 1.0, 2.0)
    assert len(reporter._quiet) <= 1000


def test_a_hold_by_the_service_is_logged_and_nobody_s(uses, caplog):
    Reporter(uses).report(Culprit(None, STACK[:1]), 100.0, 100.5).end(101.0)
    first, second = caplog.records
    assert first.name == "lva.host"
    assert first.message.startswith("the service itself holds the event loop, for 0.50 s so far")
    assert second.message.startswith("the service itself held the event loop for 1.00 s in all")
    assert not uses._uses


def test_nothing_is_made_when_warnings_are_off(uses, caplog):
    with caplog.at_level(logging.ERROR, "lva.plugin.a"):
        Reporter(uses).report(CULPRIT, 100.0, 100.5)
    assert not caplog.records
    assert uses.of("a").holds == 1
