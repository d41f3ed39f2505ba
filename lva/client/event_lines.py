"""Server-sent events, put together from their lines."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

#: An event's name, and what it holds.
Event: TypeAlias = tuple[str, dict[str, Any]]


class EventLines:
    """Takes the lines of one response, one after the other."""

    def __init__(self) -> None:
        self._name, self._data = "message", ""

    def take(self, line: str) -> Event | None:
        """Return the event that a line ends, if it ends one."""
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "event":
            self._name = value
        elif key == "data":
            self._data += value
        elif not line:
            name, data = self._name, self._data
            self._name, self._data = "message", ""
            if data:
                return name, json.loads(data)
        return None
