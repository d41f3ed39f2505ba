"""The body of a request as it arrives: of a known length, or in chunks (RFC 9112, sections 6 and 7)."""

from __future__ import annotations

import re
from typing import Final, Protocol

from lva.http.refusal import RefusedError

#: Most bytes of the line before a chunk, with its extensions, and of the fields after the last one.
_MOST_LINE: Final = 256
_MOST_TRAILERS: Final = 16_384
_chunk_line: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n").fullmatch
_trailers: Final = re.compile(
    rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n"
).fullmatch

#: Fields that say where a message ends or whom it is for: too late after its body (RFC 9110, section 6.5.1).
_misplaced: Final = re.compile(
    rb"^(?:content-length|transfer-encoding|host):", re.IGNORECASE | re.MULTILINE
).search
_lone_line_feed: Final = re.compile(rb"(?<!\r)\n").search


class RequestBody(Protocol):
    """A body, and how much of it is still to come.

    Attributes:
        complete: Whether all of it was taken.
    """

    complete: bool

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what of the data belongs to the body, and what is left for later.

        Raises:
            RefusedError: It is malformed (400).
        """


def body_of(length: int | None) -> RequestBody:
    """Return the body of a length, or of chunks if that is None."""
    return _Chunks() if length is None else _FixedLength(length)


class _FixedLength:
    __slots__ = ("_left", "complete")

    def __init__(self, length: int) -> None:
        self._left = length
        self.complete = not length

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        body, rest = data[: self._left], data[self._left :]
        self._left -= len(body)
        self.complete = not self._left
        return body, rest


class _Chunks:
    __slots__ = ("_ends", "_last", "_left", "complete")

    def __init__(self) -> None:
        self._left = 0  # of the chunk
        self._ends = False  # whether the end of its line is to come
        self._last = False  # whether only trailers are to come
        self.complete = False

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        found: list[bytes] = []
        at = 0
        while not self.complete:
            if self._left:
                piece = data[at : at + self._left]
                if not piece:
                    break
                found.append(piece)
                at += len(piece)
                self._left -= len(piece)
                self._ends = not self._left
                continue
            after = self._trailers(data, at) if self._last else self._between(data, at)
            if after == at:
                break
            at = after
        return b"".join(found), data[at:]

    def _between(self, data: bytes, at: int) -> int:
        """Read the end of a chunk or the line before one; return where that ends, else `at`."""
        if self._ends:
            if len(data) < at + 2:
                if data[at:] not in {b"", b"\r"}:
                    raise RefusedError(400, "A chunk of the body is longer than it says.")
                return at
            if data[at : at + 2] != b"\r\n":
                raise RefusedError(400, "A chunk of the body is longer than it says.")
            self._ends = False
            return at + 2
        end = data.find(b"\n", at, at + _MOST_LINE)
        if end < 0:
            if len(data) - at >= _MOST_LINE:
                raise RefusedError(400, "The line before a chunk of the body is too long.")
            return at
        line = _chunk_line(data, at, end + 1)
        if line is None:
            raise RefusedError(400, "The line before a chunk of the body is malformed.")
        self._left = int(line[1], 16)
        self._last = not self._left
        return end + 1

    def _trailers(self, data: bytes, at: int) -> int:
        """Pass over the fields after the last chunk; return where they end, `at` if that has not come."""
        none = data.startswith(b"\r\n", at)
        end = at + 2 if none else data.find(b"\r\n\r\n", at) + 4
        if not none and end < at + 4:
            if len(data) - at > _MOST_TRAILERS:
                raise RefusedError(431, "The fields after the request's body are too large.")
            if _lone_line_feed(data, at):
                raise RefusedError(400, "The fields after the request's body are malformed.")
            return at
        wrong = not _trailers(data, at, end) or _misplaced(data, at, end)
        if wrong or end - at > _MOST_TRAILERS:
            raise RefusedError(400, "The fields after the request's body are malformed.")
        self.complete = True
        return end
