"""Points that are given up, written down for whoever wants to know which."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from lva.events.streams import StreamAnalyticsEvent
from lva.host.delivery.losses import CUT, UNWRITTEN
from lva.host.process.threads import in_thread
from lva.logs.loggers import brief
from lva.logs.recurring import Recurring

#: Two files share the bytes: the one that is written, and the one before it.
_FILES: Final = 2


class DeadLetters:
    """A file of JSON lines, one for each point, with the reason; bounded, private.

    Args:
        path: The file; the one before it has ``.1`` at its end.
        max_bytes: Most bytes of both together. What is older goes.
        logger: Told why letters cannot be written.
    """

    def __init__(self, path: Path, max_bytes: int, logger: logging.Logger) -> None:
        self._path = path
        self._max_bytes = max_bytes // _FILES
        self._logger = logger
        self._limiter = trio.CapacityLimiter(1)
        self._failures = Recurring(trio.current_time)

    async def write(self, given_up: Sequence[tuple[str, Sequence[Any]]]) -> Counter[str]:
        """Append points under their reasons.

        Cancellation: does not end what is being written; the thread is waited for.

        Errors: are logged: there is nowhere else to go.

        Returns:
            How many letters were lost: `CUT` to make room for newer ones, or `UNWRITTEN`.
        """
        lost: Counter[str] = Counter()
        lines: list[bytes] = []
        left = sum(len(points) for _, points in given_up)
        try:
            lines = await in_thread(partial(self._lines, given_up), self._limiter)
            if len(lines) < left:
                lost[UNWRITTEN] += left - len(lines)
                self._log_failure("some are larger than dead_letters_bytes allows")
            left = len(lines)
            await in_thread(partial(self._append, lines, lost), self._limiter)
        except Exception as error:  # noqa: BLE001 - logged; what is given up must not stop the rest
            lost[UNWRITTEN] += len(lines) or left
            self._log_failure(brief(error))
        return lost

    def _lines(self, given_up: Iterable[tuple[str, Sequence[Any]]]) -> list[bytes]:
        """Return the lines that are not too large for the file; in a thread, as they may have pictures."""
        at, most = round(time.time(), 3), self._max_bytes
        every = (_line(reason, at, point, most) for reason, points in given_up for point in points)
        return [line for line in every if len(line) <= most]

    def _append(self, lines: list[bytes], lost: Counter[str]) -> None:
        """Move lines to the file, and to a new one when it is full."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A link may lead anywhere, and a pipe without a reader would be waited for.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        while lines:
            descriptor = os.open(self._path, flags, 0o600)
            with open(descriptor, "ab", buffering=0) as file:  # noqa: PTH123 - a descriptor
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise OSError(errno.EINVAL, "it is no file", str(self._path))
                size = file.tell()
                count = _how_many(lines, self._max_bytes - size)
                data = b"".join(lines[:count])
                if file.write(data) < len(data):
                    file.truncate(size)  # half a line would spoil the next
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            del lines[:count]
            if lines:
                before = Path(f"{self._path}.1")
                if before.exists():
                    lost[CUT] += before.read_bytes().count(b"\n")
                self._path.replace(before)

    def _log_failure(self, why: str) -> None:
        """Log why letters could not be written, now and then; how many it were is told with the losses."""
        if self._failures.again():
            self._logger.error("dead letters cannot be written: %s", why)


def _line(reason: str, at: float, point: Any, most: int) -> bytes:
    """Return a point as a line of the file; an event without its picture, if it is too large with it."""
    line = f"{json.dumps({'reason': reason, 'at': at, **point.as_dict()})}\n".encode()
    if len(line) > most and isinstance(point, StreamAnalyticsEvent) and point.image:
        return _line(reason, at, point.without_picture(), most)
    return line


def _how_many(lines: Iterable[bytes], room: int) -> int:
    """Return how many of the first lines fit into so many bytes."""
    count = 0
    for line in lines:
        room -= len(line)
        if room < 0:
            break
        count += 1
    return count
