"""What a reply says of points: whose fault a refusal is."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from lva import PermanentDeliveryError, RetryLaterError
from lva.http_replies import (
    beginning,
    not_about_points,
    one_line,
    refusal,
    retry_after,
    root_of,
)

#: What servers really say to HTTP at a port for TLS, or in place of the receiver.
ELSEWHERE = {
    "Go": "Client sent an HTTP request to an HTTPS server.\n",
    "nginx": "<html>\r\n<head><title>400 The plain HTTP request was sent to HTTPS port</title></head>",
    "Apache": "Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />",
    "Tomcat": "Bad Request\nThis combination of host and port requires TLS.\r\n",
    "HAProxy": "<html><body><h1>400 Bad request</h1>\nYour browser sent an invalid request.\n</body></html>",
    "a page": "\n <!DOCTYPE HTML PUBLIC '-//W3C//DTD HTML 4.01//EN'>",
    "a page behind other things": "\ufeff<?xml version='1.0'?>\n<!-- a\n-b -->\n<!--> --><HTML lang=en>",
}


@pytest.mark.parametrize("server", ELSEWHERE)
def test_what_does_not_come_from_the_receiver_is_not_about_points(server: str) -> None:
    """Kind: a reply of somebody else, with a status that a receiver refuses points with."""
    error = refusal(400, httpx.Headers(), ELSEWHERE[server], receiver="http://there")
    assert isinstance(error, RetryLaterError)
    assert str(error).startswith("http://there responded with 400 ")
    assert "url" in str(error)


@pytest.mark.parametrize(
    ("status", "headers", "text", "kept"),
    [
        (400, {}, '{"error": "no: Client sent an HTTP request to an HTTPS server"}', False),
        (400, {}, "unable to parse 'x'", False),
        (400, {"Content-Type": "text/html; charset=utf-8"}, "", True),
        (413, {"Content-Type": "text/html"}, "<html>413 Request Entity Too Large", False),
        (422, {}, "", False), (409, {}, "", False), (200, {}, "<html>", True), (402, {}, "", True),
        (406, {}, "", True), (410, {}, "", True), (411, {}, "", True), (415, {}, "", True),
        (421, {}, "", True), (426, {}, "", True), (431, {}, "", True), (497, {}, "", True),
        (301, {}, "", True), (401, {}, "", True), (403, {}, "", True), (404, {}, "", True),
        (405, {}, "", True), (407, {}, "", True), (408, {}, "", True), (425, {}, "", True),
        (429, {}, "", True), (500, {}, "", True), (503, {}, "", True), (599, {}, "", True),
    ],
)  # fmt: skip
def test_whose_fault_a_status_is(
    status: int, headers: dict[str, str], text: str, kept: bool
) -> None:
    assert (not_about_points(status, httpx.Headers(headers), text) is not None) is kept
    kind = RetryLaterError if kept else PermanentDeliveryError
    assert type(refusal(status, httpx.Headers(headers), text)) is kind


def test_a_pause_is_passed_on() -> None:
    error = refusal(429, httpx.Headers({"retry-after": "7"}))
    assert isinstance(error, RetryLaterError)
    assert error.after == 7


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0), ("7", 7), ("300", 300), ("301", 300), ("9" * 5000, 300),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0), ("Fri, 31 Dec 2100 23:59:59 GMT", 300),
        ("", None), ("soon", None), ("-1", None), ("1.5", None), ("١", None), ("nan", None),
        ("Sun, 99 Nov 99999 08:49:37 GMT", None),
    ],
)  # fmt: skip
def test_a_pause_is_bounded_and_rubbish_is_none(value: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": value}, 300) == seconds


@pytest.mark.parametrize("form", ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%c"])
def test_every_form_of_an_http_date_is_in_utc(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        date = (datetime.now(UTC) + timedelta(seconds=100)).strftime(form)
        assert 98 < (retry_after({"Retry-After": date}, 300) or 0) <= 100
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text())
@example("Mon, 1 Jan 1 00:00:00 +9999999999")
def test_whatever_is_asked_for_the_pause_is_bounded(value: str) -> None:
    seconds = retry_after({"Retry-After": value}, 300)
    assert seconds is None or 0 <= seconds <= 300


def test_texts_are_cut_to_one_line() -> None:
    assert one_line("a\n\tb\x00c " * 1000, 20) == "a b c a b c a b c a "
    assert one_line("") == ""


def test_the_error_that_says_something_is_found() -> None:
    error = httpx.ConnectError("")
    error.__cause__ = OSError("why")
    assert str(root_of(error)) == "why"


async def test_only_the_beginning_of_a_body_is_read(autojump_clock: trio.abc.Clock) -> None:
    """Kind: a reply without an end, in bytes or in time."""

    class Endless(httpx.AsyncByteStream):
        closed = 0

        async def __aiter__(self):  # type: ignore[no-untyped-def]
            while True:
                await trio.sleep(1)
                yield b"x" * 10

        async def aclose(self) -> None:
            self.closed += 1

    body = Endless()
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=body))
    async with httpx.AsyncClient(transport=transport) as client:
        for most, seconds, got in ((25, 1000, 25), (10_000, 3.5, 30)):
            request = client.build_request("GET", "http://there/")
            reply = await client.send(request, stream=True)
            assert len(await beginning(reply, most, seconds)) == got
            assert reply.is_closed
        assert body.closed == 2
