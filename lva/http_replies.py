"""What the reply of an HTTP receiver says of the points that it was sent; for plugins that send them.

A receiver that refuses points is one thing; a wrong address, a missing key or a proxy's page is another, and
then the points are to be kept::

    if not reply.is_success or is_page(reply.text):
        raise refusal(reply.status_code, reply.headers, reply.text, receiver=self.url)

Nothing here depends on an HTTP client, but for `beginning`, which is for httpx.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from email.utils import mktime_tz, parsedate_tz
from typing import TYPE_CHECKING, Final

import trio

from lva.contract import PermanentDeliveryError, RetryLaterError

if TYPE_CHECKING:
    import httpx

__all__ = [
    "beginning",
    "is_page",
    "not_about_points",
    "one_line",
    "refusal",
    "retry_after",
    "root_of",
]

#: Longest time, in seconds, that a receiver's Retry-After is heeded, unless another is given.
LONGEST_PAUSE: Final = 300.0
#: Statuses, besides 5xx, after which the same points may well be taken later.
_LATER: Final = frozenset({408, 425, 429})
#: The only statuses that may be about the points: they are malformed, there already, too large, unacceptable.
_OF_POINTS: Final = frozenset({400, 409, 413, 422})
#: What else statuses tell of: keys, proxies and addresses.
_CHECK: Final = {
    401: "check the credentials",
    403: "check the credentials, and what they allow",
    404: "check url",
    405: "check url",
    407: "the proxy wants credentials",
}
_PAGE: Final = re.compile(
    r"\A(?>\s|\ufeff|<\?xml[^>]*>|<!--(?:(?!-->).)*-->)*+<(?:!doctype\s+html|html)\b",
    re.IGNORECASE | re.DOTALL,
)
#: What a page is called.
_PAGE_TYPES: Final = ("text/html", "application/xhtml+xml")
#: How messages name one.
_A_PAGE: Final = " (a page, which no receiver of points sends; check url)"
#: What servers say, in clear text, to a request that is not in TLS as they want it.
_WANTS_TLS: Final = re.compile(
    r"HTTP request to an HTTPS|HTTP request was sent to HTTPS|speaking plain HTTP|requires TLS",
    re.IGNORECASE,
)
#: How much of a text is searched: its beginning.
_SEARCHED: Final = 4096


def refusal(
    status: int,
    headers: Mapping[str, str],
    text: str = "",
    *,
    receiver: str = "the receiver",
) -> RetryLaterError | PermanentDeliveryError:
    """Return the error that `handleEvent` or `flushPointToMonitoring` is to raise for a reply.

    Args:
        status: The reply's status; one of success only if the text is a page.
        headers: Its headers, found whatever their case.
        text: Its body, or the beginning of it.
        receiver: What the message calls the receiver; without secrets.

    Returns:
        `RetryLaterError` if the reply says nothing of the points, which are then sent again;
        `PermanentDeliveryError` if the receiver refuses them.
    """
    why = f"{receiver} responded with {status} {one_line(text)}".rstrip()
    remark = not_about_points(status, headers, text)
    if remark is None:
        return PermanentDeliveryError(why)
    return RetryLaterError(f"{why}{remark}", after=retry_after(headers))


def not_about_points(status: int, headers: Mapping[str, str], text: str = "") -> str | None:
    """Return a remark if a reply says nothing of the points; None if it refuses them.

    Only 400, 409, 413 and 422 may refuse points; all other statuses tell of keys, addresses, proxies, or of a
    server that is busy. Not about the points either are a page (HTML), but for 413, and what servers say to a
    request in clear text at a port for TLS.

    Args:
        status: The reply's status; one of success only if the text is a page.
        headers: Its headers, found whatever their case.
        text: Its body, or the beginning of it.

    Returns:
        What to check, in brackets; empty if there is nothing to check.
    """
    if status in _LATER or status >= 500:
        return ""
    if status in _CHECK:
        return f" ({_CHECK[status]})"
    if status < 300:
        return _A_PAGE
    if status < 400:
        return " (a redirect; check url)"
    if status not in _OF_POINTS:
        return " (check url, and what the receiver serves there)"
    if _WANTS_TLS.search(text[:_SEARCHED]) and not text.lstrip().startswith("{"):
        return " (it wants TLS; write https in url)"
    if status != 413 and (headers.get("Content-Type", "").startswith(_PAGE_TYPES) or is_page(text)):
        return _A_PAGE
    return None


def is_page(text: str) -> bool:
    """Return whether a reply's body is a page (HTML): a server of something else may call that success.

    Args:
        text: The body, or the beginning of it.
    """
    return _PAGE.match(text[:_SEARCHED]) is not None


def retry_after(headers: Mapping[str, str], most: float = LONGEST_PAUSE) -> float | None:
    """Return how many seconds a reply's Retry-After asks for, 0 to `most`; None without a readable one.

    Args:
        headers: The reply's headers, found whatever their case.
        most: The longest time, in seconds, that is heeded.
    """
    value = headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return min(float(value), most)
    try:
        date = parsedate_tz(value)
        return None if date is None else min(max(0.0, mktime_tz(date) - time.time()), most)
    except (ValueError, OverflowError):
        return None


def one_line(text: str, most: int = 200) -> str:
    """Return as much of a receiver's text as fits on a line, printable."""
    start = text[: 20 * most]
    return " ".join("".join(c if c.isprintable() else " " for c in start).split())[:most]


def root_of(error: BaseException) -> BaseException:
    """Return the first error in the chain that says something: those of TLS come in empty wrappers."""
    while not str(error) and (cause := error.__cause__ or error.__context__):
        error = cause
    return error


async def beginning(reply: httpx.Response, most: int, seconds: float = math.inf) -> bytes:
    """Read the first bytes of a streamed reply of httpx, on Trio, and close it.

    The body is as it came: ask for no encoding with ``Accept-Encoding: identity``. Cancelled, the reply is
    closed too.

    Args:
        reply: From ``client.send(request, stream=True)``.
        most: Most bytes that are returned; what follows is not waited for.
        seconds: For how long to read; what has come by then is returned.

    Raises:
        httpx.RequestError: The connection broke.
    """
    if reply.is_stream_consumed:  # it came as a whole, as from a test's transport
        return reply.content[:most]
    body = b""
    try:
        with trio.move_on_after(seconds) as reading:
            async for chunk in reply.aiter_raw():
                body += chunk
                if len(body) >= most:
                    reading.cancel()  # unlike `break`, this ends the iterators below it too
    finally:
        await reply.aclose()
    return body[:most]
