"""What requests make handlers raise cannot fill the log: one of a kind whole, then their number."""

from __future__ import annotations

import pytest

from lva.web.handling.failures import HandlerFailures


def test_the_first_is_whole_then_they_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    failures = HandlerFailures(lambda: now)
    for _ in range(1000):
        failures.log("cam", "the handler of GET /a", ValueError("no"))
    failures.log("cam", "the handler of GET /b", ValueError("no"))
    failures.log("cam", "the handler of GET /a", KeyError("no"))
    now = 10.0
    failures.log("cam", "the handler of GET /a", ValueError("again"))
    assert [(record.getMessage(), bool(record.exc_info)) for record in caplog.records] == [
        ("the handler of GET /a raised ValueError: no", True),
        ("the handler of GET /b raised ValueError: no", True),
        ("the handler of GET /a raised KeyError: 'no'", True),
        ("the handler of GET /a raised ValueError: again (failure 1001; 1000 since the last line)", False),
    ]  # fmt: skip


def test_kinds_without_end_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    failures = HandlerFailures()
    for number in range(2000):
        failures.log("cam", f"the handler of GET /{number}", ValueError("no"))
    assert len(caplog.records) == 501
