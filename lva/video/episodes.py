"""The start and the end of something that is seen in some frames and not in others."""

from __future__ import annotations

from typing import Final, Literal

#: Frames' times are sums of fractions: two that are 0.2 s apart may be a little less.
_ROUNDING: Final = 1e-6


class Episode:
    """Finds starts and ends by the frames' times, so that the rate of frames does not matter.

    Args:
        start_seconds: For how long it must be seen until it starts; 0 for at once. Where frames are further
            apart than that, it takes two of them.
        end_seconds: For how long it must not be seen until it ends.
        cooldown_seconds: For how long after its end it does not start again.
    """

    def __init__(
        self, start_seconds: float = 0.0, end_seconds: float = 0.0, cooldown_seconds: float = 0.0
    ) -> None:
        self._start_seconds = start_seconds
        self._end_seconds = end_seconds
        self._cooldown_seconds = cooldown_seconds
        self._candidate: float | None = None
        self._cold_until: float | None = None
        self._began = 0.0
        self._last = 0.0
        #: Whether it has started and not ended.
        self.running: bool = False
        #: Seconds from when it was first seen until it was last seen, of the present or last episode.
        self.seconds: float = 0.0

    def update(self, seen: bool | None, pts: float) -> Literal["start", "end"] | None:
        """Note a frame; return whether it starts or ends with this frame.

        Args:
            seen: Whether it is there; None if that cannot be said, which leaves things as they are.
            pts: The frame's time in seconds. A smaller one than before, as after a new connection, ends what
                has begun.
        """
        if self.running:
            if pts < self._last:
                return self._end(pts)
            if seen or seen is None:
                self._last = pts
                self.seconds = pts - self._began
            elif pts - self._last >= self._end_seconds - _ROUNDING:
                return self._end(pts)
            return None
        if self._candidate is not None and pts < self._candidate:
            self._candidate = self._cold_until = None
        if seen is False:
            self._candidate = None
        elif seen:
            return self._seen(pts)
        return None

    def _seen(self, pts: float) -> Literal["start"] | None:
        if self._candidate is None:
            self._candidate = pts
        cold = self._cold_until is not None and pts < self._cold_until
        if cold or pts - self._candidate < self._start_seconds - _ROUNDING:
            return None
        self.running, self._began, self._last = True, self._candidate, pts
        self.seconds = pts - self._began
        return "start"

    def _end(self, pts: float) -> Literal["end"]:
        self.running, self._candidate = False, None
        self._cold_until = pts + self._cooldown_seconds if self._cooldown_seconds else None
        return "end"
