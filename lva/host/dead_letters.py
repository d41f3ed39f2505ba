"""Points that are given up, written down for whoever wants to know which."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from lva.logs import brief

#: Two files share the bytes: the one that is written, and the one before it.
_FILES: Final = 2


class DeadLetters:
    """A file of JSON lines, one for each point, with the reason; bounded, private.

    Args:
        path: The file; the one before it has ``.1`` at its end.
        max_bytes: Most bytes of both together. What is older goes.
        logger: Told of what cannot be written.
    """

    def __init__(self, path: Path, max_bytes: int, logger: logging.Logger) -> None:
        self._path = path
        self._max_bytes = max_bytes // _FILES
        self._logger = logger
        self._limiter = trio.CapacityLimiter(1)

    async def write(self, given_up: Iterable[tuple[str, Sequence[Any]]]) -> None:
        """Append points under their reasons. A failure is logged: there is nowhere else to go."""
        lines = [
            json.dumps(
                {
                    "reason": reason,
                    "at": round(time.time(), 3),
                    "series": point.series,
                    "time": point.time,
                    "tags": point.tags,
                    "fields": point.fields,
                }
            )
            for reason, points in given_up
            for point in points
        ]
        try:
            await trio.to_thread.run_sync(partial(self._append, lines), limiter=self._limiter)
        except OSError as error:
            self._logger.error("%d dead letters could not be written: %s", len(lines), brief(error))

    def _append(self, lines: Sequence[str]) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = "".join(f"{line}\n" for line in lines).encode()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with open(descriptor, "ab") as file:  # noqa: PTH123 - a descriptor
            if file.tell() and file.tell() + len(data) > self._max_bytes:
                self._path.replace(f"{self._path}.1")
                self._append(lines)
                return
            file.write(data[: self._max_bytes])
