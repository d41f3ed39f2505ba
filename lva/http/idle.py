"""Connections without a request: each is closed after a while, or sooner where others need the room."""

from __future__ import annotations

from typing import Protocol

import trio


class Idler(Protocol):
    """A connection that can be idle."""

    def hurry(self) -> None:
        """Close the connection now, if it is idle."""


class IdleConnections:
    """The connections without a request, those that have been so for longest first.

    Attributes:
        open: Whether connections go on after a response; not any more once the server stops.
    """

    def __init__(self) -> None:
        self.open: bool = True
        self._since: dict[Idler, float] = {}

    def add(self, connection: Idler, since: float) -> bool:
        """Note that a connection is idle; return whether it may stay so."""
        self._since.pop(connection, None)
        self._since[connection] = since
        return self.open

    def remove(self, connection: Idler) -> None:
        """Note that it is not, or that it is closed."""
        self._since.pop(connection, None)

    def close_those(self, least: float) -> None:
        """Close those that have been idle for at least so many seconds."""
        now = trio.current_time()
        for connection in [it for it, since in self._since.items() if now - since >= least]:
            connection.hurry()

    def close(self) -> None:
        """Close all, and each as soon as it becomes idle."""
        self.open = False
        self.close_those(0)

    async def close_after(self, limit: float) -> None:
        """Close those that have been idle for so many seconds, until cancelled."""
        while True:
            now = trio.current_time()
            while self._since and (oldest := next(iter(self._since.items())))[1] + limit <= now:
                self.remove(oldest[0])
                oldest[0].hurry()
            await trio.sleep_until(next(iter(self._since.values()), now) + limit)
