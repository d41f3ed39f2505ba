"""What is said and counted of errors in the server's work for connections."""

from __future__ import annotations

import pytest
import trio

from lva import MonitoringPoint
from lva.server.connection_errors import ConnectionErrors


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_each_kind_is_logged_once_with_its_traceback_and_every_error_is_a_point(
    caplog: pytest.LogCaptureFixture,
) -> None:
    points: list[MonitoringPoint] = []
    errors = ConnectionErrors(points.extend)
    for _ in range(3):
        errors.contain(ExceptionGroup("", [ExceptionGroup("", [raised(KeyError(1)), OSError()])]))
    errors.contain(raised(ValueError("x")))
    assert [record.exc_info is not None for record in caplog.records] == [True, True]
    assert "KeyError: 1" in caplog.messages[0]
    assert [(p.series, p.tags["error_code"], p.fields["count"]) for p in points] == [
        ("connection_errors", "connection_failed", 1)
    ] * 4


def test_clients_cannot_make_the_log_know_ever_more_kinds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors = ConnectionErrors(lambda _points: None)
    for number in range(500):
        errors.contain(type(f"Kind{number}", (Exception,), {})())
    assert len(errors._kinds) <= 101


async def test_a_cancellation_is_no_error_and_goes_on() -> None:
    points: list[MonitoringPoint] = []
    errors = ConnectionErrors(points.extend)
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            errors.contain(BaseExceptionGroup("", [cancelled, OSError("lost")]))
    assert scope.cancelled_caught
    assert len(points) == 1
