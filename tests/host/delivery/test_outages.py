"""Which errors of plugins are part of an outage."""

from __future__ import annotations

import socket
import ssl

import aiohttp
import httpx
import pytest

from lva import PartialDeliveryError, PermanentDeliveryError, RetryLaterError
from lva.host.delivery.outages import is_expected

REQUEST = httpx.Request("POST", "http://collector/")


class OwnError(RetryLaterError):
    """As plugins derive them."""


@pytest.mark.parametrize(
    "error",
    [
        RetryLaterError("busy"),
        PermanentDeliveryError("wrong"),
        PartialDeliveryError("some"),
        OwnError(),
        ConnectionRefusedError(),
        TimeoutError(),
        socket.gaierror(),
        ssl.SSLCertVerificationError(),
        httpx.HTTPStatusError("500", request=REQUEST, response=httpx.Response(500)),
        httpx.ConnectError("refused"),
        aiohttp.ServerDisconnectedError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_outage_explains_itself(error: BaseException) -> None:
    assert is_expected(error)


@pytest.mark.parametrize(
    "error",
    [
        None,
        ValueError(),
        OSError("disk"),
        FileNotFoundError(),
        ExceptionGroup("", [TimeoutError()]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_anything_else_does_not(error: BaseException | None) -> None:
    assert not is_expected(error)


@pytest.mark.parametrize(
    ("cause", "expected"), [(RetryLaterError("busy"), True), (KeyError("bug"), False)]
)
def test_what_failed_partly_is_what_its_cause_is(cause: Exception, expected: bool) -> None:
    error = PartialDeliveryError("some")
    error.__cause__ = cause
    assert is_expected(error) is expected
