"""The same bytes to our reader and to h11.

What ours takes, h11 reads alike; where ours is stricter, it says why.
"""

from __future__ import annotations

import random

import pytest

from tests.http_server.corpus import cases
from tests.http_server.readings import Reading, h11s, ours
from tests.process import moments

#: What is refused here and taken by h11: the beginning of what is said, and why that is right.
STRICTER = {
    "The request is malformed: Transfer-Encoding can't": "RFC 9112, 6.1: it may be smuggling",
    "The request is malformed: Content-Length can't": "the same, the other way round",
    "The request is malformed: Duplicate Content-Length": "two readers may differ: RFC 9110, 8.6",
    "The request is malformed: Invalid character in Content-Length": "a list of equal lengths; the same",
    "The request is malformed: Content-Length overflow": "no body is so long",
    "The Content-Length is malformed": "no body is so long",
    "The request is malformed: Unexpected whitespace after header value": "folded lines: RFC 9112, 5.2",
    "The request is malformed: Invalid header value char": "control characters: RFC 9110, 5.5",
    "The request is malformed: Missing expected CR": "RFC 9112, 2.2 has lines end with CR LF",
    "The request is malformed: Missing expected LF": "the same",
    "The request is malformed: Expected": "the same",
    "The request is malformed: Request has invalid `Transfer-Encoding`": "whitespace that only some strip",
    "The request is malformed: Invalid `Transfer-Encoding`": "an encoding twice",
    "The request is malformed: Invalid header token": "RFC 9110, 5.6.2",
    "The request is malformed: Invalid header field char": "a line feed that ends a line: RFC 9112, 2.2",
    "The request's Transfer-Encoding contradicts": "RFC 9112, 6.1: HTTP/1.0 has none",
    "Of Transfer-Encoding, only chunked": "RFC 9112, 6.1",
    "The request line is malformed": "RFC 9112, 2.2 and 3",
    "This is not a request of HTTP/1.1": "the same, seen before the end of the head",
    "Only HTTP/1.0 and HTTP/1.1": "RFC 9110, 15.6.6",
    "The line before a chunk of the body is": "RFC 9112, 7.1, and whitespace that only some strip",
    "A chunk of the body is longer": "RFC 9112, 7.1",
    "The fields after the request's body are": "RFC 9112, 7.1.2",
    "A request has one": "RFC 9112, 3.2",
    "The request's head is larger": "a limit",
    "The request line is longer": "a limit",
}


def told_apart(data: bytes) -> str | None:
    """Return what is wrong with how the bytes are read; None if nothing is."""
    here, there = ours(data), h11s(data)
    count = len(here.requests)
    if here.requests != there.requests[:count]:
        return f"read in another way: {data!r}: {here} {there}"
    if not here.refused and (len(there.requests) > count or there.refused):
        return f"taken here alone: {data!r}: {here} {there}"
    stricter = here.refused and (len(there.requests) > count or not there.refused)
    if stricter and not here.why.startswith(tuple(STRICTER)):
        return f"stricter without a reason: {data!r}: {here}"
    by_bytes = ours(data, 1)
    if by_bytes.requests != here.requests or by_bytes.refused != here.refused:
        return f"read in another way byte by byte: {data!r}: {here} {by_bytes}"
    return None


def test_what_is_taken_is_what_h11_takes() -> None:
    found = list(dict.fromkeys(cases()))
    assert len(found) >= 750
    assert not [wrong for data in found if (wrong := told_apart(data))]


def test_each_reason_is_one_of_a_case() -> None:
    """A reason that nothing needs would hide a new difference."""
    said = {ours(data).why for data in cases()}
    large = [
        b"GET /" + b"x" * 20_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 4000,
        b"GET / HTTP/1.1\r\n\nX",
    ]
    said |= {ours(data).why for data in large}
    assert not [why for why in STRICTER if not any(it.startswith(why) for it in said)]


PIECES = [
    b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"0\r\n\r\n", b"3\r\nabc\r\n", b"\x00", b"\x0b",
    b"\xa0", b",", b";", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Host: b\r\n", b"Connection: close\r\n", b"X: y\r\n", b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1", b"HTTP/1.0", b"chunked", b"0", b"3", b"+",
    b"-", b"x",
]  # fmt: skip


def drawn(rng: random.Random, found: list[bytes]) -> bytes:
    """Return a request that was changed at random places, or two in a row."""
    data = bytearray(rng.choice(found))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, kind = rng.randrange(len(data) + 1), rng.random()
        if kind < 0.5:
            data[at:at] = rng.choice(PIECES)
        elif kind < 0.7:
            del data[at : at + rng.choice((1, 1, 2, 8))]
        elif kind < 0.85:
            data[at : at + 1] = bytes([rng.randrange(256)])
        else:
            data += rng.choice(found)
    return bytes(data)


@pytest.mark.parametrize(
    "count", [2_000, pytest.param(1_000_000 if moments.LONG else 50_000, marks=pytest.mark.soak)]
)
def test_what_is_drawn_is_read_alike(count: int) -> None:
    print(f"LVA_STORM_SEED={moments.SEED}")
    rng = random.Random(f"{moments.SEED}/{count}")
    found = list(dict.fromkeys(cases()))
    wrong: list[str] = []
    for _ in range(count):
        told = told_apart(drawn(rng, found))
        if told:
            wrong.append(told)
    assert not wrong, "\n".join(wrong[:5])


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3])
def test_readings_are_no_empty_comparison(data: bytes) -> None:
    reading: Reading = ours(data)
    assert len(reading.requests) == len(h11s(data).requests) == data.count(b"GET")
