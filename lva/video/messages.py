"""Messages between the service and a worker: JSON, and bytes that may go with it, over a socket pair.

A message begins with two unsigned 32-bit numbers in network order, the lengths of the JSON and of the bytes;
then come both.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any, Final

#: Largest JSON text, and largest piece of bytes (a JPEG), that either side takes.
MAX_TEXT: Final = 1024 * 1024
MAX_BYTES: Final = 16 * 1024 * 1024
HEAD: Final = struct.Struct("!II")


class MessageTooLargeError(ValueError):
    """A message is too large to be sent.

    Args:
        size: Bytes of its JSON.
        data: Bytes that go with it.
    """

    def __init__(self, size: int, data: int) -> None:
        super().__init__(f"too large: {size} bytes of JSON and {data} bytes of data")
        self.size: int = size


class MessageError(Exception):
    """What came is no message; nothing after it can be read."""


def encode(message: dict[str, Any], data: bytes = b"") -> bytes:
    """Return a message as it is sent.

    Raises:
        MessageTooLargeError: It is too large.
        ValueError: It holds what JSON or UTF-8 cannot say.
        TypeError: It holds what JSON cannot say.
    """
    text = json.dumps(message, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()
    if len(text) > MAX_TEXT or len(data) > MAX_BYTES:
        raise MessageTooLargeError(len(text), len(data))
    return HEAD.pack(len(text), len(data)) + text + data


def lengths(head: bytes) -> tuple[int, int]:
    """Return the lengths that a head announces.

    Raises:
        MessageError: They are beyond the limits.
    """
    text, data = HEAD.unpack(head)
    if text > MAX_TEXT or data > MAX_BYTES:
        raise MessageError(f"a message of {text} and {data} bytes")
    return text, data


def decode(text: bytes) -> dict[str, Any]:
    """Return the JSON of a message.

    Raises:
        MessageError: It is none.
    """
    try:
        message = json.loads(text)
    except ValueError as error:
        raise MessageError(str(error)) from error
    if not isinstance(message, dict):
        raise MessageError("a message that is no object")
    return message


def receive(connection: socket.socket) -> tuple[dict[str, Any], bytes] | None:
    """Wait for the next message, on the worker's blocking socket; None once the service has gone."""
    head = _exactly(connection, HEAD.size)
    if head is None:
        return None
    text, data = lengths(head)
    body = _exactly(connection, text + data)
    return None if body is None else (decode(body[:text]), body[text:])


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    pieces = bytearray()
    while len(pieces) < count:
        try:
            piece = connection.recv(count - len(pieces))
        except OSError:
            return None
        if not piece:
            return None
        pieces += piece
    return bytes(pieces)
