"""Virtual time for a host and its plugins, on Trio and on asyncio.

Time moves when nothing else can happen: when all Trio tasks wait, every asyncio loop waits, and what a plugin
has going outside of both (a socket, a worker thread) has had a moment of real time to come to something.
"""

from __future__ import annotations

import asyncio
import fcntl
import math
import selectors
import termios
import threading
import time
from pathlib import Path
from types import CodeType
from typing import Any, Final

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lva.host.life.leaks import all_tasks
from lva.host.process.threads import AbandonableThread
from lva.logs.loggers import current_plugin
from lva.stacks import frames_of_coroutine, frames_of_threads
from lva.testing.world import World

#: How long, in real seconds, a socket that a plugin waits for may take before time goes on.
SOCKET_PATIENCE: Final = 0.05
#: The same for worker threads and subprocesses.
THREAD_PATIENCE: Final = 0.15
#: How long, in real seconds and in all, time waits beyond that for threads that work, as Linux tells, and so
#: are no ones that sleep.
WORK_PATIENCE: Final = 10.0
#: The same for an asyncio loop that does not come to rest.
LOOP_PATIENCE: Final = 1.0
#: How much slower than real time virtual time passes while a real server owes an answer.
OWED_PACE: Final = 4.0
#: How many steps a cancelled task may take in a row before time goes on without it.
_MOST_STEPS: Final = 500
#: How far, in seconds, time then goes on at least.
_LEAST_JUMP: Final = 1.0
#: How long, in real seconds, one look at what goes on outside of the loops lasts.
_LOOK: Final = 0.001


class VirtualTime(trio.abc.Instrument):
    """Moves the clock of a Trio run.

    Args:
        clock: The run's clock. Its own jumping is turned off while `run` runs.
        world: What the plugin talks to, if that is the kit's: it knows whom it will answer.
    """

    def __init__(self, clock: MockClock, world: World | None = None) -> None:
        self._clock = clock
        self._world = world or World()
        self._loops: list[VirtualLoop] = []
        self._rested = threading.Event()
        self._task: trio.lowlevel.Task | None = None
        self._steps = 0
        self._cancelled_steps = 0
        self._worked = 0.0

    def now(self) -> float:
        """Return the time. Any thread may call."""
        return self._clock.current_time()

    def watch(self, loop: VirtualLoop) -> None:
        """Wait for this loop, too, before time goes on."""
        self._loops.append(loop)

    def rested(self) -> None:
        """Take note that a loop has come to rest. Any thread may call."""
        self._rested.set()

    # Trio's instrument

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count the steps since time last moved."""
        if task is not self._task:
            self._steps += 1

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Let time go on when a cancelled task does nothing but take steps."""
        status = getattr(task, "_cancel_status", None)
        if status is None or not getattr(status, "effectively_cancelled", False):
            return
        self._cancelled_steps += 1
        if self._cancelled_steps >= _MOST_STEPS:
            self._jump(math.inf, _LEAST_JUMP)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Move the clock.

        Cancellation: ends it; the clock is then as it was before.
        """
        threshold = self._clock.autojump_threshold
        self._clock.autojump_threshold = math.inf
        self._task = trio.lowlevel.current_task()
        trio.lowlevel.add_instrument(self)
        try:
            task_status.started()
            while True:
                await self._all_at_rest()
                if not self._jump(self._due()):
                    await self._until_something_happens()
        finally:
            trio.lowlevel.remove_instrument(self)
            self._clock.autojump_threshold = threshold

    def _due(self) -> float:
        return min((loop.due for loop in self._loops), default=math.inf)

    def _jump(self, due: float, least: float = 0.0, most: float = math.inf) -> bool:
        """Move to the next thing that is due, or as far as is allowed; return whether there is one."""
        self._cancelled_steps = 0
        now = self.now()
        statistics = trio.lowlevel.current_statistics()
        seconds = min(statistics.seconds_to_next_deadline, due - now, most)
        if math.isinf(seconds):
            return False
        self._clock.jump(max(least, seconds))
        for loop in self._loops:
            loop.wake_if_due()
        return True

    async def _until_something_happens(self) -> None:
        """Nothing is due: wait, in real time, for a socket or a thread."""
        seen = self._activity()
        while self._activity() == seen and math.isinf(self._due()):
            await wait_all_tasks_blocked(_LOOK)

    def _activity(self) -> tuple[int, int, int]:
        """Return what changes whenever anything happens."""
        return (
            self._steps,
            sum(loop.turns + loop.wakeups for loop in self._loops),
            sum(loop.busy for loop in self._loops),
        )

    async def _all_at_rest(self) -> None:
        """Return once nothing can happen without time moving on."""
        limit = time.monotonic() + SOCKET_PATIENCE
        while True:
            await wait_all_tasks_blocked()
            if not await self._loops_at_rest():
                continue
            # What a loop has sent to Trio before it came to rest arrives only now.
            seen = self._activity()
            await wait_all_tasks_blocked()
            if self._activity() != seen or not await self._outside_at_rest():
                continue
            if self._on_its_way() and time.monotonic() < limit:
                await wait_all_tasks_blocked(_LOOK)
                continue
            self._cancelled_steps = 0
            return

    async def _loops_at_rest(self) -> bool:
        """Wait for the asyncio loops; return whether they rest, or have been waited for long enough."""
        limit = time.monotonic() + LOOP_PATIENCE
        steps = self._steps
        while any(loop.busy for loop in self._loops):
            if time.monotonic() > limit:
                return True  # something holds it
            self._rested.wait(_LOOK)
            self._rested.clear()
            await trio.lowlevel.checkpoint()
            if self._steps != steps:
                return False
        return True

    async def _outside_at_rest(self) -> bool:
        """Give sockets and threads of plugins a moment; return whether nothing happened meanwhile."""
        began, seen = time.monotonic(), self._activity()
        while self._world.owes:
            looked = time.monotonic()
            await wait_all_tasks_blocked(_LOOK)
            if self._activity() != seen:
                return False
            self._world.waited(waited := time.monotonic() - looked)
            # Not to stand still: a server whose answers take their time would keep it from ever moving.
            self._jump(self._due(), most=waited / OWED_PACE)
            began, seen = time.monotonic(), self._activity()
        while (patience := self._patience()) and (
            time.monotonic() - began < patience
            or (patience >= THREAD_PATIENCE and self._worked < WORK_PATIENCE and threads_work())
        ):
            looked = time.monotonic()
            await wait_all_tasks_blocked(_LOOK)
            if self._activity() != seen:
                return False
            if looked - began > patience:
                self._worked += time.monotonic() - looked
        return True

    def _on_its_way(self) -> bool:
        """Return whether data is between a loop and the world: on a busy machine, that takes its time."""
        ends = [*self._world.sockets, *(end for loop in self._loops for end in loop.descriptors)]
        return any(map(is_sending, ends))

    def _patience(self) -> float:
        # A loop has its idle connections registered; a Trio task waits only for what it wants.
        waits = max(0, sum(loop.sockets for loop in self._loops) - self._world.idle)
        patience = 0.0
        for task in all_tasks():
            kind = outside(task)
            if kind == "thread":
                patience = THREAD_PATIENCE
            elif kind == "socket" and task.context.get(current_plugin) is not None:
                waits += 1
        if any(loop.jobs for loop in self._loops) or (self._loops and _busy_executors()):
            patience = THREAD_PATIENCE
        return max(patience, SOCKET_PATIENCE if waits > self._world.hung else 0.0)


_THREAD_CODES: Final[tuple[CodeType, ...]] = (
    trio.to_thread.run_sync.__code__,
    AbandonableThread.wait.__code__,
)
#: A subprocess is waited for through a descriptor, but may take longer than a socket.
_SUBPROCESS: Final = trio.run_process.__code__.co_filename
_SOCKET_WAITS: Final = frozenset({"wait_readable", "wait_writable"})


def outside(task: trio.lowlevel.Task) -> str | None:
    """Return what outside of Trio a task waits for: ``thread`` (or a process), ``socket`` or nothing."""
    for frame in frames_of_coroutine(task.coro):
        code = frame.f_code
        if code in _THREAD_CODES or code.co_filename == _SUBPROCESS:
            return "thread"
        if code.co_name in _SOCKET_WAITS and "/trio/" in code.co_filename:
            return "socket"
    return None


def threads_work() -> bool:
    """Return whether a thread of this process, this one apart, computes, waits for a processor or a disk."""
    own = threading.get_native_id()
    for thread in threading.enumerate():
        if thread.native_id is None or thread.native_id == own:
            continue
        try:
            text = Path(f"/proc/self/task/{thread.native_id}/stat").read_text(
                encoding="ascii", errors="replace"
            )
        except OSError:
            continue  # it has ended, or this is no Linux
        if text.rpartition(")")[2].split()[0] in {"R", "D"}:
            return True
    return False


def is_sending(descriptor: int) -> bool:
    """Return whether what was sent through a socket has yet to arrive; False if nobody knows."""
    try:
        return any(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))
    except (OSError, ValueError):
        return False  # it is no socket, or it is closed


def _busy_executors() -> bool:
    """Return whether a thread of an asyncio loop's executor works."""
    frames = frames_of_threads()
    for thread in threading.enumerate():
        if thread.name.startswith("executor from ") and thread.ident in frames:
            code = frames[thread.ident].f_code
            if code.co_name != "_worker":
                return True
    return False


class _PacedSelector(selectors.DefaultSelector):
    """Waits for as long as it takes: the loop is woken when its time has come."""

    loop: VirtualLoop

    def ready(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now. Any thread may call while the loop rests."""
        return super().select(0)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        try:
            if timeout is not None and timeout <= 0:
                return super().select(0)
            seen = self.loop.wakeups
            if events := super().select(0):
                return events
            self.loop.rest(seen, timeout)
            events = super().select(None)
            self.loop.go_on()
            return events
        finally:
            self.loop.turning()


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop whose time is virtual.

    Attributes:
        virtual: The time; its classes have it.
        due: When its next timer is due, if it is at rest; else never.
        wakeups: How often others have woken it.
        turns: How often it has gone on after a rest.
        jobs: What its threads are to do for it.
    """

    virtual: VirtualTime

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._resting = False
        self._closer: threading.Thread | None = None
        self.due: float = math.inf
        self.wakeups: int = 0
        self.turns: int = 0
        self.jobs: set[asyncio.Future[Any]] = set()
        self._paced = selector = _PacedSelector()
        selector.loop = self
        super().__init__(selector)
        self.virtual.watch(self)

    @property
    def busy(self) -> bool:
        """Whether it runs something, or is about to."""
        if self._closer is not None:
            return self._closer.is_alive()
        # A socket of its has something for it, though its thread may not have noticed.
        return not self._resting or bool(self._paced.ready())

    def time(self) -> float:
        return self.virtual.now()

    def rest(self, seen: int, timeout: float | None) -> None:
        """Note that nothing is to be done for so long, unless somebody has woken it since."""
        with self._lock:
            if self.wakeups == seen:
                self.due = math.inf if timeout is None else self.time() + timeout
                self._resting = True
        self.virtual.rested()

    def go_on(self) -> None:
        """Note that it runs again."""
        with self._lock:
            self._resting, self.due = False, math.inf
            self.turns += 1

    def wake_if_due(self) -> None:
        """Have it look at its timers if one is due. Called in Trio's thread."""
        with self._lock:
            due = self._resting and self.due <= self.time()
        if due:
            self.call_soon_threadsafe(_nothing)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override] # generic there
        job = super().run_in_executor(executor, func, *args)
        self.jobs.add(job)
        job.add_done_callback(self.jobs.discard)
        return job

    @property
    def descriptors(self) -> list[int]:
        """What it waits for, by number; a descriptor of its own is among them."""
        return [] if self.is_closed() else list(self._paced.get_map())  # type: ignore[arg-type] # numbers only

    @property
    def sockets(self) -> int:
        """How many sockets it waits for, its own apart."""
        return max(0, len(self.descriptors) - 1)

    def call_soon_threadsafe(  # type: ignore[override] # generic there
        self, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        with self._lock:
            self.wakeups += 1
            self._resting, self.due = False, math.inf
        return super().call_soon_threadsafe(callback, *args, context=context)

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc] # the base class's one turn
        self.turned()

    def turning(self) -> None:
        """Called in its thread before each turn."""

    def turned(self) -> None:
        """Called in its thread after each turn."""

    def close(self) -> None:
        super().close()
        self._closer = threading.current_thread()  # which has yet to tell that the loop has ended


def _nothing() -> None:
    """Do nothing."""
