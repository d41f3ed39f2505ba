"""How a parser reads bytes: as requests that it takes, up to what it refuses or does not know the end of."""

from __future__ import annotations

from dataclasses import dataclass, field

import h11

from lva.http.body import body_of
from lva.http.head import END, read_head, unfinished
from lva.http.refusal import RefusedError


@dataclass
class Reading:
    """What a parser made of bytes.

    Attributes:
        requests: Method, target, headers and body of each.
        refused: Whether the bytes after these are refused; else they are the beginning of something.
        why: What the parser says.
    """

    requests: list[tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...], bytes]] = field(
        default_factory=list
    )
    refused: bool = False
    why: str = ""


def ours(data: bytes, step: int = 1 << 30) -> Reading:
    """Read as `lva.http` does, the bodies in pieces of `step` bytes."""
    reading = Reading()
    try:
        while data:
            end = data.find(END) + len(END)
            if end < len(END):
                unfinished(data)
                break
            head = read_head(data[:end])
            body = body_of(head.length)
            taken, rest, data = b"", b"", data[end:]
            while True:
                piece, rest = body.take(rest)
                taken += piece
                if body.complete or not data:
                    break
                rest, data = rest + data[:step], data[step:]
            data = rest + data
            if not body.complete:
                break
            headers = tuple(
                (name, b"chunked") if name == b"transfer-encoding" else (name, value)
                for name, value in head.headers
            )  # as h11 has it
            reading.requests.append((head.method.encode(), head.target, headers, taken))
            if not head.keep_alive or head.method == "CONNECT":
                break
    except RefusedError as refused:
        reading.refused, reading.why = True, refused.detail
    return reading


def h11s(data: bytes) -> Reading:
    """Read as h11 does."""
    reading = Reading()
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=16_384)
    try:
        connection.receive_data(data)
        head, body = None, b""
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                head, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                reading.requests.append((head.method, head.target, tuple(head.headers), body))
                if head.method == b"CONNECT":
                    break
                connection.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE:
                    break
                connection.start_next_cycle()
            else:
                break
    except h11.RemoteProtocolError as error:
        reading.refused, reading.why = True, str(error)
    return reading
