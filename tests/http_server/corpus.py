# ruff: noqa: E501 - tables
"""Requests by hand, right and wrong ones and those that servers have understood in two ways."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

HOST = b"Host: a\r\n"
#: Bodies in chunks, most of them wrong.
CHUNKED = [
    b"0\r\n\r\n",
    b"3\r\nabc\r\n0\r\n\r\n",
    b"003\r\nabc\r\n000\r\n\r\n",
    b"A\r\n0123456789\r\n0\r\n\r\n",
    b"a\r\n0123456789\r\n0\r\n\r\n",
    b"3;name=value\r\nabc\r\n0\r\n\r\n",
    b'3;name="a;b"\r\nabc\r\n0;last\r\n\r\n',
    b"3;\r\nabc\r\n0\r\n\r\n",
    b"3 ;a\r\nabc\r\n0\r\n\r\n",
    b"3 \r\nabc\r\n0\r\n\r\n",
    b"3\t\r\nabc\r\n0\r\n\r\n",
    b" 3\r\nabc\r\n0\r\n\r\n",
    b"+3\r\nabc\r\n0\r\n\r\n",
    b"-3\r\nabc\r\n0\r\n\r\n",
    b"0x3\r\nabc\r\n0\r\n\r\n",
    b"3_0\r\nabc\r\n0\r\n\r\n",
    b"3\nabc\n0\n\n",
    b"3\r\nabc\n0\r\n\r\n",
    b"3\nabc\r\n0\r\n\r\n",
    b"3\r\nabc\r\n0\n\r\n",
    b"3\r\nabcd\r\n0\r\n\r\n",
    b"3\r\nab\r\n0\r\n\r\n",
    b"3\r\nabc0\r\n\r\n",
    b"3\rabc\r\n0\r\n\r\n",
    b"3;a\x00b\r\nabc\r\n0\r\n\r\n",
    b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    b"\r\n3\r\nabc\r\n0\r\n\r\n",
    b"g\r\nabc\r\n0\r\n\r\n",
    b"\xef\xbc\x93\r\nabc\r\n0\r\n\r\n",
    b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    b"3" + b";" + b"x" * 300 + b"\r\nabc\r\n0\r\n\r\n",
    b"3\r\nabc\r\n0\r\nX: y\r\n\r\n",
    b"3\r\nabc\r\n0\r\nX: y\r\nZ: w\r\n\r\n",
    b"3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n",
    b"3\r\nabc\r\n0\r\nX : y\r\n\r\n",
    b"3\r\nabc\r\n0\r\nX: y\r\n z\r\n\r\n",
    b"3\r\nabc\r\n0\r\nX: y\n\r\n",
    b"3\r\nabc\r\n0\r\nX: \x00\r\n\r\n",
    b"3\r\nabc\r\n0\r\nno colon\r\n\r\n",
    b"3\r\nabc\r\n0\r\n: y\r\n\r\n",
    b"3\r\nabc\r\n0\r\n\n",
    b"3\r\nabc\r\n0\r\n",
    b"3\r\nab",
    b"3\r\n",
    b"3",
    b"",
]
#: Values of Content-Length, with three bytes behind the head.
LENGTHS = [
    b"3", b"03", b"0", b"+3", b"-3", b"3 ", b" 3", b"\t3\t", b"3,3", b"3, 3", b"3;", b"3.0", b"0x3", b"3e0", b"", b" ",
    b"three", b"3 3", b"3\x0b", b"\x0c3", b"3\x00", b"\xb2", b"9" * 18, b"9" * 19, b"9" * 20, b"9" * 40, b"3_", b'"3"', b"2",
]  # fmt: skip
#: Values of Transfer-Encoding.
ENCODINGS = [
    b"chunked", b"Chunked", b"CHUNKED", b" chunked ", b"\tchunked", b"chunked\t", b"chunked,", b",chunked", b"chunked, chunked",
    b"gzip, chunked", b"chunked, gzip", b"identity", b"identity, chunked", b"xchunked", b"chunkedx", b"chunked;q=1", b"chunked ;", b"",
    b"\x0bchunked", b"chunked\x0b", b"chunked\x00", b'"chunked"', b"'chunked'", b"chu\tnked", b"chunked\xa0", b"deflate", b"trailers",
]  # fmt: skip
METHODS = [
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT", b"get", b"Get", b"BREW", b"M-SEARCH",
    b"PRI", b"SOURCE", b"G,ET", b"G(ET", b"G ET", b"G\tET", b"G\x00T", b"\xc7ET", b"", b"'GET'", b"G!E#T", b'"GET"', b"GET:", b"G/E",
]  # fmt: skip
TARGETS = [
    b"/", b"/a/b?c=d", b"/%00", b"/%zz", b"/a%20b", b"*", b"//", b"//a", b"/..", b"/a/../b", b"a", b"a:80", b"http://a/", b"HTTP://a/b?c",
    b"https://b/", b"http://", b"http:a", b"ftp://x/", b"/a#b", b"/a b", b"/a\tb", b"/\x00", b"/\x01", b"/\x7f", b"/\x80", b"/\xc3\xa9", b"",
    b"?", b"?a", b"/\\", b"/|", b"/<>", b'/"', b"/^`{}", b"/a;b", b"/:80", b"[::1]:80", b"/[", b"@", b"user@host",
]  # fmt: skip
VERSIONS = [
    b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.2", b"HTTP/1.10", b"HTTP/11", b"HTTP/1", b"HTTP/1.", b"HTTP/.1", b"HTTP/ 1.1",
    b"http/1.1", b"HTTP/1.1 ", b"HTTP/1.1\t", b"HTTP/1.1x", b"HTP/1.1", b"RTSP/1.0", b"ICE/1.0", b"", b"HTTP", b"HTTP/3.0", b"HTTP/+1.1",
]  # fmt: skip
#: Lines in the midst of a head.
LINES = [
    b"X: y", b"X:y", b"X:", b"X: ", b"X:\ty\t", b"X: y z", b"X: \xe9", b"X: \xff", b"x_y: z", b"X.Y: z", b"X-1: z", b"1: z", b"X!#$%&'*+.^_`|~: z",
    b"X : y", b"X\t: y", b" X: y", b"\tX: y", b": y", b"X", b"X y", b"X;: y", b"X,: y", b"X(: y", b"X@: y", b"X\x00: y", b"X\x01: y", b"X\x7f: y",
    b"X\xe9: y", b"X: \x00", b"X: a\x00b", b"X: a\x01b", b"X: a\x1fb", b"X: a\x7fb", b"X: a\rb", b"X: a\nb", b"X: a\r b", b"X: a\n b", b"X: a\r\n b",
    b"X: a\r\n\tb", b"X: a\r\n ", b"\rX: y", b"X: y\r", b"X\r: y", b"X: a\r\r", b"X: a\x0bb", b"X: a\x0cb", b"X: a\x85b", b"X:: y", b"X: y: z",
    b"Host: b", b"host: a", b"HOST: a", b"Host : a", b"Host:", b"Content-Length : 3", b"Content-Length\t: 3", b" Content-Length: 3",
    b"Content-Length:\r\n 3", b"Content_Length: 3", b"Content-Length\x00: 3", b"Transfer-Encoding : chunked", b"Transfer_Encoding: chunked",
    b"Transfer-Encoding:\r\n chunked", b"X: y\r\nTransfer-Encoding: chunked", b"X: \nTransfer-Encoding: chunked", b"X: \rTransfer-Encoding: chunked",
    b"Connection: close", b"Connection: keep-alive", b"Connection: Close, X", b"Connection: upgrade", b"Upgrade: foo", b"Expect: 100-continue",
    b"Expect: 200-ok", b"Trailer: X", b"TE: trailers", b"Content-Length: 0", b"Content-Length: 0\r\nContent-Length: 0",
]  # fmt: skip


def head(
    *lines: bytes, method: bytes = b"POST", target: bytes = b"/", version: bytes = b"HTTP/1.1"
) -> bytes:
    """Return a head with these lines after that of the Host."""
    first = method + b" " + target + b" " + version + b"\r\n"
    return first + HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def cases() -> Iterator[bytes]:
    """Yield all requests."""
    for body in CHUNKED:
        yield head(b"Transfer-Encoding: chunked") + body
        yield head(b"Content-Length: 3", b"Transfer-Encoding: chunked") + body
        yield head(b"Transfer-Encoding: chunked", b"Content-Length: 3") + body
    for value in LENGTHS:
        yield head(b"Content-Length:" + value) + b"abc"
        yield head(b"Content-Length: 3", b"Content-Length:" + value) + b"abc"
        yield head(b"content-length:" + value, method=b"GET") + b"abc"
    for value, version in product(ENCODINGS, (b"HTTP/1.1", b"HTTP/1.0")):
        yield head(b"Transfer-Encoding:" + value, version=version) + CHUNKED[1]
        yield (
            head(b"Transfer-Encoding: chunked", b"Transfer-Encoding:" + value, version=version)
            + CHUNKED[1]
        )
    for method, version in product(METHODS, (b"HTTP/1.1", b"HTTP/1.0")):
        yield head(method=method, version=version)
    for target in TARGETS:
        yield head(method=b"GET", target=target)
        yield head(method=b"CONNECT", target=target)
    for version in VERSIONS:
        yield head(method=b"GET", version=version)
        yield b"GET / " + version + b"\r\n\r\n"
    for line in LINES:
        yield head(line, method=b"GET")
        yield head(b"Content-Length: 3", line) + b"abc"
        yield b"GET / HTTP/1.1\r\n" + line + b"\r\n" + HOST + b"\r\n"
    for end in (b"\n", b"\r", b"\r\r\n", b"\n\r"):
        yield b"GET / HTTP/1.1" + end + HOST + b"\r\n"
        yield b"GET / HTTP/1.1\r\nHost: a" + end + b"X: y\r\n\r\n"
        yield b"GET / HTTP/1.1\r\nHost: a\r\n" + end
    for space in (b"\t", b"  ", b" \t", b"\x0b", b"\x0c", b"\xa0", b""):
        yield b"GET" + space + b"/ HTTP/1.1\r\n" + HOST + b"\r\n"
        yield b"GET /" + space + b"HTTP/1.1\r\n" + HOST + b"\r\n"
    for before in (b"\r\n", b"\n", b"\r\n\r\n", b" ", b"\x00", b"\xef\xbb\xbf"):
        yield before + b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
    yield b"GET / HTTP/1.1\r\n\r\n"
    yield b"GET / HTTP/1.0\r\n\r\n"
    yield b"GET /\r\n\r\n"
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield b""
