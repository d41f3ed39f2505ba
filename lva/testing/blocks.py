"""How long single steps of a plugin block an event loop, in real time, and which line does."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Final, Self

import trio

from lva.stacks import frames_of_threads
from lva.testing.places import Place, frame_place
from lva.testing.report import Breach

#: How long, in seconds, one step of a plugin may block the event loop.
BLOCK_LIMIT: Final = 0.05
#: The file in which Linux tells how long a thread has waited for a processor.
SCHEDULE: Final = "schedstat"
_HINT: Final = "await instead; what can only block goes into a thread: trio.to_thread.run_sync()"
_ASYNCIO_HINT: Final = "await instead; what can only block goes into asyncio.to_thread()"


@dataclass(slots=True)
class BlockingCode:
    """A step that took too long.

    Attributes:
        seconds: For how long it blocked the loop; what it waited for a processor is not counted.
        place: The plugin's line that was running.
        own_loop: Whether the loop was the plugin's own, on asyncio.
    """

    seconds: float
    place: Place | None
    own_loop: bool = False

    def problem(self, limit: float) -> Breach:
        """Return the block as a problem."""
        whose = "its own event loop" if self.own_loop else "the event loop of the whole service"
        return Breach(
            "loop",
            f"one step blocked {whose} for {self.seconds * 1000:.0f} ms; at most {limit * 1000:.0f} ms"
            " are allowed",
            self.place,
            _ASYNCIO_HINT if self.own_loop else _HINT,
        )


@dataclass(slots=True)
class _RunningStep:
    began: float
    waited: float
    place: Place | None = None


class BlockWatch(trio.abc.Instrument):
    """Watches how long steps take.

    Args:
        root: What the names of the plugin's files begin with.
        limit: How long a step may take, in seconds.

    Use as a context manager. Steps of Trio tasks are seen where it is an instrument of the run.

    Resources: a thread that watches, and the descriptors that it reads, until the end of the block.

    Attributes:
        blocks: What took longer, oldest first.
    """

    def __init__(self, root: str, limit: float = BLOCK_LIMIT) -> None:
        self._root = root
        self._limit = limit
        self._steps: dict[int, _RunningStep] = {}
        self._over = threading.Event()
        self._local = threading.local()
        self._opened: list[int] = []
        self.blocks: list[BlockingCode] = []

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, name="lva-testing", daemon=True)
        self._thread.start()
        self._schedule()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for descriptor in self._opened:
            os.close(descriptor)

    def confirmed(self) -> list[Breach]:
        """Return the blocks that happened more than once at the same line: once may be an import."""
        times = Counter((block.place, block.own_loop) for block in self.blocks)
        worst: dict[tuple[Place | None, bool], BlockingCode] = {}
        for block in self.blocks:
            key = (block.place, block.own_loop)
            if times[key] > 1 and (key not in worst or block.seconds > worst[key].seconds):
                worst[key] = block
        return [block.problem(self._limit) for block in worst.values()]

    def all(self) -> list[Breach]:
        """Return every block."""
        return [block.problem(self._limit) for block in self.blocks]

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Begin to measure. Whose step it is will be seen from the lines that run in it."""
        self.begin()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Measure the step."""
        self.end()

    def begin(self) -> None:
        """Begin to measure a step of this thread."""
        self._steps[threading.get_ident()] = _RunningStep(time.perf_counter(), self._waited())

    def end(self, own_loop: bool = False) -> None:
        """Measure this thread's step."""
        step = self._steps.pop(threading.get_ident(), None)
        if step is None or (wall := time.perf_counter() - step.began) < self._limit:
            return
        blocked = wall - (self._waited() - step.waited)
        if blocked >= self._limit and step.place is not None:
            self.blocks.append(BlockingCode(blocked, step.place, own_loop))

    def forget(self) -> None:
        """Forget this thread's step, of which nobody will tell the end: the watch is taken off the run."""
        self._steps.pop(threading.get_ident(), None)

    def _watch(self) -> None:
        """Look at steps that take long: which line of the plugin is it?"""
        while not self._over.wait(self._limit / 4):
            now = time.perf_counter()
            for thread, step in list(self._steps.items()):
                if step.place is None and now - step.began > self._limit / 2:
                    frame = frames_of_threads().get(thread)
                    step.place = frame_place(frame, self._root)

    def _schedule(self) -> int:
        """Return where the kernel tells how long this thread has waited for a processor."""
        descriptor: int | None = getattr(self._local, "descriptor", None)
        if descriptor is None:
            path = f"/proc/self/task/{threading.get_native_id()}/{SCHEDULE}"
            try:
                descriptor = os.open(path, os.O_RDONLY)
                self._opened.append(descriptor)
            except OSError:  # no Linux, or a kernel without it: then all time counts
                descriptor = -1
            self._local.descriptor = descriptor
        return descriptor

    def _waited(self) -> float:
        descriptor = self._schedule()
        if descriptor < 0:
            return 0.0
        return int(os.pread(descriptor, 100, 0).split()[1]) / 1e9
