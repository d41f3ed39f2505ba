"""What each plugin uses of the event loop, and what it blocked, kept by the plugin's name over restarts."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

#: For how long, in seconds, shares are taken over.
SPAN: Final = 60.0
#: What is noted within this time, in seconds, is kept together.
_GRAIN: Final = 1.0

#: What was blocked: the service's event loop, the plugin's own, or a worker thread that serves a request.
Blocked = Literal["service", "plugin", "thread"]
WHAT: Final[dict[Blocked, str]] = {
    "service": "the event loop",
    "plugin": "its own event loop",
    "thread": "a worker thread of a request",
}


@dataclass(slots=True)
class Block:
    """Code of a plugin that blocked something for longer than the limit.

    Attributes:
        at: When it began, in Unix seconds.
        seconds: For how long; so far, if it goes on.
        where: The line, ``file:line in function``: the plugin's own one if there is one.
        stack: All lines up to the event loop's, the innermost last.
        of: What was blocked.
        over: Whether it has ended.
    """

    at: float
    seconds: float
    where: str
    stack: Sequence[str]
    of: Blocked = "service"
    over: bool = True

    def __str__(self) -> str:
        return f"{WHAT[self.of]} for {self.seconds:.2f} s at {self.where}"


@dataclass(frozen=True, slots=True)
class Blocks:
    """What one plugin blocked; replaced as a whole, so that what is read of it belongs together.

    Attributes:
        blocks: How often.
        last_block: The newest.
        open: Those that go on.
    """

    blocks: int = 0
    last_block: Block | None = None
    open: list[Block] = field(default_factory=list)


@dataclass(slots=True)
class _Slice:
    """What was noted in about a second."""

    until: float
    measured: float = 0.0
    used: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    blocked: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


class LoopUses:
    """The use of the event loop by all plugins. Any thread may call.

    The share of the time is put together from two sources. Blocks of the service's event loop are all seen,
    and count in full. Of everything shorter, samples are taken: windows in which everything is timed.

    Args:
        clock: Tells the time, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._lock = threading.Lock()
        self._uses: dict[str, Blocks] = {}
        self._slices: deque[_Slice] = deque()
        self._shares: tuple[float, Mapping[str, float]] | None = None
        #: Readings of the processor times of plugins' own threads: the clock, the time, and what it showed.
        self._processor: dict[str, deque[tuple[int, float, float]]] = {}

    def of(self, plugin: str) -> Blocks:
        """Return what one plugin blocked."""
        return self._uses.setdefault(plugin, Blocks())

    def longest_open(self, plugin: str) -> Block | None:
        """Return the longest of the blocks of a plugin that go on; None if none does."""
        return max(list(self.of(plugin).open), key=lambda block: block.seconds, default=None)

    def note_window(self, seconds: float, used: Mapping[str, float]) -> None:
        """Note for how long all was timed, blocks left out, and how long what plugins did took."""
        with self._lock:
            current = self._current()
            current.measured += seconds
            for plugin, taken in used.items():
                current.used[plugin] += taken

    def note_block(self, plugin: str, block: Block) -> None:
        """Note what a plugin has blocked, or blocks and goes on to."""
        with self._lock:
            use = self.of(plugin)
            if not block.over:
                use.open.append(block)
            self._uses[plugin] = Blocks(use.blocks + 1, block, use.open)
            self._count(plugin, block, block.seconds)

    def prolong(self, plugin: str, block: Block, seconds: float, over: bool = False) -> None:
        """Note for how long a block that went on has lasted by now, and whether that is all."""
        with self._lock:
            more, block.seconds = seconds - block.seconds, seconds
            self._count(plugin, block, more)
            if over and not block.over:
                block.over = True
                self.of(plugin).open.remove(block)

    def _count(self, plugin: str, block: Block, seconds: float) -> None:
        if block.of == "service":
            self._current().blocked[plugin] += seconds

    def _current(self) -> _Slice:
        now = self._clock()
        if not self._slices or self._slices[-1].until <= now:
            self._slices.append(_Slice(now + _GRAIN))
        while self._slices[0].until < now - SPAN:
            self._slices.popleft()
        return self._slices[-1]

    def note_processor(self, used: Mapping[str, tuple[int, float]]) -> None:
        """Note what the plugins' own threads have used of a processor.

        Args:
            used: By plugin, the clock of its thread, and what it shows, in seconds. Another clock is another
                thread's. What is not in it has no thread any more.
        """
        with self._lock:
            now = self._clock()
            for gone in self._processor.keys() - used.keys():
                del self._processor[gone]
            for plugin, (clock, seconds) in used.items():
                readings = self._processor.setdefault(plugin, deque(maxlen=int(SPAN) + 1))
                if readings and readings[-1][0] != clock:
                    readings.clear()
                readings.append((clock, now, seconds))

    def share(self, plugin: str) -> float:
        """Return the plugin's part of the event loop's time over the last minute, from 0 to 1."""
        with self._lock:
            now = self._clock()
            if self._shares is None or self._shares[0] + _GRAIN <= now:
                self._shares = (now, self._reckon(now))
            return self._shares[1].get(plugin, 0.0)

    def processor_share(self, plugin: str) -> float | None:
        """Return the processor time of the plugin's own thread per second over the last minute.

        None if it has no thread of its own, or has it only just.
        """
        with self._lock:
            readings = self._processor.get(plugin)
            if readings is None or len(readings) < 2:
                return None
            (_, begun, before), (_, ended, after) = readings[0], readings[-1]
        return (after - before) / max(1e-9, ended - begun)

    def _reckon(self, now: float) -> Mapping[str, float]:
        self._current()  # which forgets what is too old
        whole = _Slice(now)
        for item in self._slices:
            whole.measured += item.measured
            for plugin, seconds in item.used.items():
                whole.used[plugin] += seconds
            for plugin, seconds in item.blocked.items():
                whole.blocked[plugin] += seconds
        span = max(1e-9, min(SPAN, now - self._begun))
        free = max(0.0, 1 - sum(whole.blocked.values()) / span) / max(1e-9, whole.measured)
        return {
            plugin: min(1.0, whole.blocked[plugin] / span + whole.used[plugin] * free)
            for plugin in {*whole.used, *whole.blocked}
        }
