"""Which decoded frames are looked at: all, some a second, every Nth, or key frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Selection:
    """Chooses frames; by their presentation time where a rate is asked for, not by counting them.

    Frames of a camera that gives fewer than it says, or exactly the wanted number, all pass.

    Args:
        rate: What the stream asks for: ``{"unit": "fps", "value": 5}``, ``{"unit": "frame", "value": 10}``
            (every tenth), ``{"unit": "key"}``, or nothing for all.
    """

    def __init__(self, rate: Mapping[str, Any] | None) -> None:
        rate = rate or {}
        self._unit = rate.get("unit")
        self._value = float(rate.get("value", 1))
        self._next: float | None = None
        self._count = 0

    def skips(self, pts: float, key: bool) -> str | None:
        """Return why a frame is not looked at, ``rate`` or ``not_key``; None if it is."""
        if self._unit == "key":
            return None if key else "not_key"
        if self._unit == "frame":
            self._count += 1
            return None if (self._count - 1) % int(self._value) == 0 else "rate"
        if self._unit != "fps":
            return None
        interval = 1 / self._value
        due = self._next
        # Times that jitter, and a camera just as fast as the rate, must not cost every second frame.
        if due is not None and due - interval * 2 < pts < due - interval * 0.5:
            return "rate"
        in_step = due is not None and abs(pts - due) <= interval
        self._next = (due if in_step and due is not None else pts) + interval
        return None
