"""Where a plugin's code runs, and how the host calls it without depending on it ever returning.

Every call into a plugin is a `Call`: a task of the host's own nursery that the caller can cancel, wait
for as long as it likes, and leave behind. Nothing a plugin raises gets out of it.
"""

from __future__ import annotations

import inspect
import math
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import trio

#: The name of the plugin whose code is running; inherited by every task and worker thread it starts.
current_plugin: Final[ContextVar[str | None]] = ContextVar("lva_plugin", default=None)

#: How long, in seconds, an `__init__` may hold up the event loop before it is waited for in the
#: background. Nearly all return sooner, and then no task switch is needed.
_BRIEFLY: Final = 0.02
_HOST_DIR: Final = str(Path(__file__).parent)


class NotAwaitableError(TypeError):
    """A method of the contract was written as a plain `def`."""


class Patience:
    """How long the host waits for one plugin: each wait has a limit, and a stop sets one over all."""

    #: What code gets at least, in seconds, to end once it is cancelled, even past the deadline.
    LEAST: Final = 0.1

    def __init__(self) -> None:
        self._deadline = math.inf
        self._scopes: set[trio.CancelScope] = set()

    def set_deadline(self, deadline: float) -> None:
        """Let no wait, not even one under way, last longer than this (Trio time)."""
        self._deadline = deadline
        end = max(deadline, trio.current_time() + self.LEAST)
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, end)

    async def wait(self, event: trio.Event, limit: float, share: float = 1.0) -> bool:
        """Wait for the event; return whether it is set.

        Args:
            event: What is waited for.
            limit: For how long at most, in seconds.
            share: How much of the time until the deadline this wait may use up.
        """
        if not event.is_set():
            left = (self._deadline - trio.current_time()) * share
            with trio.move_on_after(max(self.LEAST, min(limit, left))) as scope:
                self._scopes.add(scope)
                try:
                    await event.wait()
                finally:
                    self._scopes.discard(scope)
        return event.is_set()


class Call:
    """One call of plugin code, in a task that can be left behind.

    Attributes:
        what: What is called, for messages: ``"history.close"``.
        done: Set when the call has ended and all tasks below it with it.
        value: What it returned.
        error: What it raised, cancellation apart. None if it returned or was only cancelled.
    """

    def __init__(
        self, what: str, plugin: str, fn: Callable[..., Awaitable[Any]], *args: Any
    ) -> None:
        self.what = what
        self.done: trio.Event = trio.Event()
        self.value: Any = None
        self.error: BaseException | None = None
        self.returned: bool = False
        self._plugin = plugin
        self._fn = fn
        self._args = args
        self._scope = trio.CancelScope()
        self.task: trio.lowlevel.Task | None = None

    def cancel(self) -> None:
        """Ask the call to end."""
        self._scope.cancel()

    async def run(self) -> None:
        """Be the task. Raises nothing but the host's own cancellation."""
        try:
            with self._scope:
                # The plugin's task has a nursery of its own above it, because breaking Trio's
                # nesting rules breaks the nursery that the breaking task is in.
                async with trio.open_nursery() as guard:
                    guard.start_soon(self._body, name=self.what)
        except BaseException as error:
            if _cancelled_from_outside(error):
                raise
            self.error = self.error or unwrap(error)
        finally:
            self.done.set()

    async def _body(self) -> None:
        self.task = trio.lowlevel.current_task()
        current_plugin.set(self._plugin)
        try:
            self.value = await ensure_awaited(self.what, self._fn(*self._args))
            self.returned = True
        except BaseException as error:
            cancelled, own = split_cancelled(error)
            try:
                if own is not None:
                    self.error = without_host_frames(own)
                if cancelled is not None:
                    raise cancelled from None
            finally:
                del cancelled, own  # or error, traceback and frame would keep one another alive


@dataclass(frozen=True, slots=True)
class Constructed:
    """What calling a plugin class led to: an instance or an error."""

    instance: Any = None
    error: BaseException | None = None


class Runtime(Protocol):
    """Where the code of one plugin runs. Everything the host asks of it."""

    async def construct(
        self, what: str, make: Callable[[], Any], timeout: float
    ) -> Constructed | None:
        """Call a class; return None if it had not returned after `timeout` seconds."""

    def call(self, what: str, fn: Callable[..., Awaitable[Any]], *args: Any) -> Call:
        """Start calling a coroutine function of the plugin."""


class TrioRuntime:
    """Runs a plugin on the service's own Trio loop.

    Args:
        plugin: The plugin's name.
        nursery: The host's nursery; it must tolerate tasks that never end.
    """

    def __init__(self, plugin: str, nursery: trio.Nursery) -> None:
        self._plugin = plugin
        self._nursery = nursery

    async def construct(
        self, what: str, make: Callable[[], Any], timeout: float
    ) -> Constructed | None:
        """Call a class in a worker thread, since an `__init__` cannot be cancelled.

        A thread that does not return is left behind.
        """
        result: list[Constructed] = []
        finished = threading.Lock()
        finished.acquire()
        arrived = trio.Event()
        token = trio.lowlevel.current_trio_token()
        context = copy_context()
        context.run(current_plugin.set, self._plugin)

        def work() -> None:
            try:
                result.append(Constructed(instance=context.run(make)))
            except BaseException as error:
                result.append(Constructed(error=error))
            finished.release()

        def deliver(_outcome: object) -> None:
            try:
                token.run_sync_soon(arrived.set)
            except trio.RunFinishedError:
                return  # the service ended without it

        trio.lowlevel.start_thread_soon(work, deliver, what)
        if not finished.acquire(timeout=_BRIEFLY):
            with trio.move_on_after(timeout):
                await arrived.wait()
        return result[0] if result else None

    def call(self, what: str, fn: Callable[..., Awaitable[Any]], *args: Any) -> Call:
        call = Call(what, self._plugin, fn, *args)
        self._nursery.start_soon(call.run, name=f"{what} (guard)")
        return call


async def ensure_awaited(what: str, result: Any) -> Any:
    """Await what a method of the contract returned.

    Raises:
        NotAwaitableError: It returned something that cannot be awaited.
    """
    if not inspect.isawaitable(result):
        method = what.removesuffix("()")
        raise NotAwaitableError(
            f"{method}() returned {type(result).__name__}; write it as `async def`"
        )
    return await result


def split_cancelled(
    error: BaseException,
) -> tuple[BaseException | None, BaseException | None]:
    """Split an error into Trio's cancellation and the plugin's own part; either may be None."""
    if isinstance(error, trio.Cancelled):
        return error, None
    if isinstance(error, BaseExceptionGroup):
        cancelled, own = error.split(trio.Cancelled)
        return cancelled, None if own is None else unwrap(own)
    return None, error


def unwrap(error: BaseException) -> BaseException:
    """Return the one error inside nested groups, or the group if it holds several."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _cancelled_from_outside(error: BaseException) -> bool:
    cancelled, _ = split_cancelled(error)
    return cancelled is not None and trio.current_effective_deadline() == -math.inf


def without_host_frames(error: BaseException) -> BaseException:
    """Cut the host's frames off the start of a traceback: its reader wants the plugin's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith(_HOST_DIR):
            break
        trace = trace.tb_next
    return error.with_traceback(trace)


def waiting_at(task: trio.lowlevel.Task | None) -> str:
    """Say where a task is suspended, as ``file:line in function``, innermost own frame first."""
    place = "not started"
    coro: Any = task.coro if task is not None else None
    while coro is not None:
        frame = getattr(coro, "cr_frame", None) or getattr(coro, "gi_frame", None)
        if frame is not None and "/trio/" not in frame.f_code.co_filename:
            place = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        coro = getattr(coro, "cr_await", None) or getattr(coro, "gi_yieldfrom", None)
    return place


def now() -> float:
    """Return the Unix time, in seconds; the one place the host reads the wall clock."""
    return time.time()
