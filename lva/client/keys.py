"""Keys as they are pressed, without waiting for the end of a line."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from typing import Final

import trio

_NAMES: Final = {
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[H": "home",
    b"\x1b[F": "end",
    b"\x1b[1~": "home",
    b"\x1b[4~": "end",
}
_KEY: Final = re.compile(rb"\x1b(?:\[[0-9;]*[~A-Za-z]|O[A-Z])?|[^\x1b]", re.DOTALL)


@contextlib.contextmanager
def unbuffered() -> Iterator[None]:
    """Have the terminal hand over keys one by one, unseen, while inside; without one, do nothing."""
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


async def pressed() -> AsyncIterator[str]:
    """Go through the keys: letters as they are, others by their names. Ends with the input."""
    if not sys.stdin.isatty():
        return
    descriptor = sys.stdin.fileno()
    while True:
        await trio.lowlevel.wait_readable(descriptor)
        data = os.read(descriptor, 256)
        if not data:
            return
        for key in _KEY.findall(data):
            yield _NAMES.get(key, key.decode(errors="replace"))
