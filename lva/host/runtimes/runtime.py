"""Where a plugin's code runs, and how the host calls it without depending on it ever returning.

There are two places: the service's own Trio loop (`TrioRuntime`), and for asyncio-style files an asyncio
loop in a thread of its own (`AsyncioRuntime`). The rest of the host knows only `Runtime`.

Every call into a plugin is a `Call`, which the caller can cancel, wait for as long as it likes, and leave
behind. Nothing a plugin raises gets out of it.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any, Final, Protocol

import trio

from lva.error_text import has_text, keep_text
from lva.host import HOST_DIR
from lva.host.runtimes.loop import RECANCEL, LoopThread
from lva.host.watch.clock import enter_plugin
from lva.logs import current_plugin
from lva.stacks import frames_of_coroutine, line_of

#: How long, in seconds, an `__init__` may block the event loop before it is waited for in the
#: background. Nearly all return sooner, and then no task switch is needed.
_BRIEFLY = 0.02
_HOST_DIR: Final = str(HOST_DIR)


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
        for scope in self._scopes:
            end = max(deadline, trio.current_time() + self.LEAST)
            scope.deadline = min(scope.deadline, end)

    def left(self, limit: float) -> float:
        """Return how long a wait may last, in seconds.

        Args:
            limit: For how long at most.
        """
        return max(self.LEAST, min(limit, self._deadline - trio.current_time()))

    async def wait(self, event: trio.Event, limit: float, share: float = 1.0) -> bool:
        """Wait for the event; return whether it is set. Not interrupted by a cancellation.

        Args:
            event: What is waited for.
            limit: For how long at most, in seconds.
            share: How much of the time until the deadline this wait may use up.
        """
        if not event.is_set():
            left = (self._deadline - trio.current_time()) * share
            with trio.move_on_after(max(self.LEAST, min(limit, left)), shield=True) as scope:
                self._scopes.add(scope)
                try:
                    await event.wait()
                finally:
                    self._scopes.discard(scope)
        return event.is_set()


class Call:
    """One call of plugin code, which can be abandoned.

    Attributes:
        what: What is called, for messages: ``"history.close"``.
        done: Set when the call has ended and, on Trio, all tasks below it with it.
        value: What it returned.
        error: What it raised, cancellation apart. None if it returned or was only cancelled.
        returned: Whether it returned.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.done: trio.Event = trio.Event()
        self.value: Any = None
        self.error: BaseException | None = None
        self.returned: bool = False

    def _returned(self, value: Any) -> None:
        self.value = value
        self.returned = True

    def _raised(self, error: BaseException) -> None:
        self.error = without_host_frames(error)

    def cancel(self) -> None:
        """Ask the call to end."""
        raise NotImplementedError

    def place(self) -> str:
        """Say where it is, as ``file:line in function``."""
        raise NotImplementedError


class TrioCall(Call):
    """A call in a task of its own, below one of the host's nursery that guards it.

    Attributes:
        nursery: The nursery that the call's task is in, once it is open. The call ends with all of it.
    """

    def __init__(
        self, what: str, plugin: str, fn: Callable[..., Awaitable[Any]], *args: Any
    ) -> None:
        super().__init__(what)
        self.nursery: trio.Nursery | None = None
        self._plugin = plugin
        self._fn = fn
        self._args = args
        self._cancelled = False
        self._task: trio.lowlevel.Task | None = None

    def cancel(self) -> None:
        self._cancelled = True
        if self.nursery is not None:
            self.nursery.cancel_scope.cancel()

    def place(self) -> str:
        return waiting_at(self._task)

    async def run(self) -> None:
        """Be the guard. Raises nothing but the host's own cancellation."""
        try:
            # The plugin's code is in a task below, because breaking Trio's nesting rules breaks the
            # nursery that the breaking task is in.
            async with trio.open_nursery() as self.nursery:
                if self._cancelled:
                    self.nursery.cancel_scope.cancel()
                self.nursery.start_soon(self._body, name=self.what)
            if self.nursery.cancel_scope.cancel_called and not self._cancelled:
                self.returned = False  # the plugin's code cancelled it
        except BaseException as error:
            cancelled, own = split_cancelled(error)
            try:
                if cancelled is not None and trio.current_effective_deadline() == -math.inf:
                    raise cancelled from None
                self._raised(unwrap(error) if own is None else own)
            finally:
                del cancelled, own  # or error, traceback and frame would keep one another alive
        finally:
            self.done.set()

    async def _body(self) -> None:
        self._task = trio.lowlevel.current_task()
        enter_plugin(self._plugin)
        self._returned(await awaitable(self.what, self._fn(*self._args)))


@dataclass(frozen=True, slots=True)
class Constructed:
    """What calling a plugin class led to: an instance or an error."""

    instance: Any = None
    error: BaseException | None = None


#: Calls a route's handler, in a request's task, with a request that is complete and the path's variables.
Across = Callable[..., Awaitable[Any]]


class Runtime(Protocol):
    """Where the code of one plugin runs. Everything the host asks of it.

    Attributes:
        across: Calls the handlers of the plugin's routes; None if they run where requests are handled.
        failed: Called, on Trio, with where an error came from and the error, for tasks of the plugin
            that the host did not start.
    """

    across: Across | None
    failed: Callable[[str, BaseException], None]

    async def construct(
        self, what: str, make: Callable[[], Any], timeout: float
    ) -> Constructed | None:
        """Call a class; return None if it had not returned after `timeout` seconds."""

    def call(self, what: str, fn: Callable[..., Awaitable[Any]], *args: Any) -> Call:
        """Start calling a coroutine function of the plugin."""

    def begin(self, body: Callable[..., Awaitable[Any]], *args: Any) -> TrioCall:
        """Start the host's own coroutine that lives an attempt of the plugin, on the service's loop."""

    def equip(self, members: Iterable[Any], nursery: trio.Nursery) -> None:
        """Give the instances what they may use during an attempt; on Trio, the body's nursery."""

    def run(self, what: str, fn: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
        """Call a method of the plugin, to be awaited in the body; cancelled with it."""

    def follow(self, what: str, fn: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
        """Call `start()`, to be awaited in the body; the runtime decides whether cancellation reaches it."""

    async def all_done(self) -> None:
        """Wait until the plugin's tasks outside of the body's nursery have ended."""

    def settle(self) -> Call | None:
        """After `close()`: end what is left of the attempt; the call's value says what it was."""

    def end(self) -> Call | None:
        """After the last attempt: end the place itself."""

    def stubborn(self) -> tuple[list[str], list[str]]:
        """Name the tasks and the threads of the runtime's own that have not ended."""

    def not_ended(self) -> str:
        """Say what of the runtime's own has not ended, for messages."""
        tasks, threads = self.stubborn()
        return f"not ended, although cancelled: {'; '.join([*tasks, *threads])}"

    def asyncio_tasks(self) -> int:
        """Count the tasks of the plugin on its asyncio loop."""

    def loop_thread(self) -> LoopThread | None:
        """Return the thread of the plugin's asyncio loop, while it has one."""


class TrioRuntime(Runtime):
    """Runs a plugin on the service's own Trio loop.

    Args:
        plugin: The plugin's name.
        nursery: The host's nursery; it must tolerate tasks that never end.
    """

    across: Across | None = None
    failed: Callable[[str, BaseException], None]  # never called: a task that fails ends its nursery

    def __init__(self, plugin: str, nursery: trio.Nursery) -> None:
        self._plugin = plugin
        self._nursery = nursery

    async def construct(
        self, what: str, make: Callable[[], Any], timeout: float
    ) -> Constructed | None:
        """Call a class in a worker thread, since an `__init__` cannot be cancelled.

        A thread that does not return is abandoned.
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
                keep_text(error)
                result.append(Constructed(error=error))
            finished.release()

        def deliver(_outcome: object) -> None:
            try:
                token.run_sync_soon(arrived.set)
            except trio.RunFinishedError:
                return  # the service ended without it

        try:
            context.copy().run(trio.lowlevel.start_thread_soon, work, deliver, what)
        except RuntimeError as error:  # no thread left
            return Constructed(error=error)
        if not finished.acquire(timeout=_BRIEFLY):
            with trio.move_on_after(timeout):
                await arrived.wait()
        return result[0] if result else None

    def call(self, what: str, fn: Callable[..., Awaitable[Any]], *args: Any) -> TrioCall:
        call = TrioCall(what, self._plugin, fn, *args)
        self._nursery.start_soon(call.run, name=f"{what} (guard)")
        return call

    def begin(self, body: Callable[..., Awaitable[Any]], *args: Any) -> TrioCall:
        return self.call(self._plugin, body, *args)

    def equip(self, members: Iterable[Any], nursery: trio.Nursery) -> None:
        for member in members:
            member.nursery = nursery

    def run(self, what: str, fn: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
        return awaitable(what, fn())

    follow = run

    async def all_done(self) -> None:
        """Return: leaving the body's nursery waits for them."""

    def settle(self) -> None:
        """Do nothing: the nursery's end left no task."""

    def end(self) -> None:
        """Do nothing: the loop is the service's."""

    def stubborn(self) -> tuple[list[str], list[str]]:
        return [], []

    def asyncio_tasks(self) -> int:
        return 0

    def loop_thread(self) -> None:
        return None


class AsyncioCall(Call):
    """A call on a plugin's asyncio loop, as a task there.

    Cancelling it cancels the task, again and again while that is ignored.
    """

    def __init__(
        self,
        what: str,
        loop: LoopThread,
        context: Context,
        fn: Callable[..., Any],
        *args: Any,
        chore: bool = False,
    ) -> None:
        super().__init__(what)
        self._loop = loop
        self._chore = chore
        self._context = context
        self._fn = fn
        self._args = args
        self._token = trio.lowlevel.current_trio_token()
        self._cancelled = False
        self.task: asyncio.Task[None] | None = None
        self._question = loop.pulse.begin_question()
        loop.unanswered.add(self._end)
        self._on_loop(self._begin)

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._on_loop(self._cancel)

    def place(self) -> str:
        return self._loop.place(self.task)

    def _raised(self, error: BaseException) -> None:
        super()._raised(error)
        keep_text(error)  # here, in the plugin's thread

    def _on_loop(self, step: Callable[[], None]) -> None:
        try:
            self._loop.loop.call_soon_threadsafe(step)
        except RuntimeError:  # the loop has ended; then so has everything on it
            self._end()

    def _begin(self) -> None:
        self._loop.pulse.answer(self._question)
        if self._cancelled:
            self._end()
        else:
            self.task = self._loop.spawn(self._run(), self.what, self._context, self._chore)

    async def _run(self) -> None:
        try:
            self._returned(await awaitable(self.what, self._fn(*self._args)))
        except asyncio.CancelledError:
            if not self._cancelled:
                self._raised(
                    OwnCancellationError(f"{self.what} was cancelled by the plugin's code")
                )
        except BaseException as error:
            self._raised(error)
        finally:
            self._end()

    def _end(self) -> None:
        self._loop.unanswered.discard(self._end)
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self.done.set)

    def _cancel(self) -> None:
        if self.task is not None and not self.task.done():
            self.task.cancel()
            self._loop.loop.call_later(RECANCEL, self._cancel)


class OwnCancellationError(Exception):
    """The plugin's own code cancelled a method of the contract."""


class _NoNursery:
    """Stands for `self.nursery` where there is none."""

    def __init__(self, plugin: str) -> None:
        self._plugin = plugin

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(
            f"plugin {self._plugin!r} is asyncio-style and has no Trio nursery; use"
            " asyncio.create_task() or asyncio.TaskGroup"
        )


class AsyncioRuntime(Runtime):
    """Runs a plugin on an asyncio loop in a daemon thread of its own.

    The thread starts when the first instance is made and ends after the last `close()`. Code that holds
    it up, or ignores its cancellation, is abandoned with it.

    Args:
        plugin: The plugin's name.
        nursery: The host's nursery; it must tolerate tasks that never end.
        use_uvloop: Whether the loop is uvloop's.
    """

    def __init__(self, plugin: str, nursery: trio.Nursery, use_uvloop: bool = False) -> None:
        self._plugin = plugin
        self._nursery = nursery
        self._use_uvloop = use_uvloop
        self._token = trio.lowlevel.current_trio_token()
        self._thread: LoopThread | None = None
        self._ended = trio.Event()
        self._active: Call | None = None
        self._started: list[AsyncioCall] = []
        self.across: Across | None = self._call_handler
        self.failed: Callable[[str, BaseException], None]

    @property
    def _loop(self) -> LoopThread:
        if self._thread is None:
            self._thread = LoopThread(
                self._plugin, self._context(), self._use_uvloop, self._on_failure, self._on_end
            )
        return self._thread

    def _context(self) -> Context:
        context = copy_context()
        context.run(current_plugin.set, self._plugin)
        return context

    def _on_failure(self, where: str, error: BaseException) -> None:
        keep_text(without_host_frames(error))
        self._soon(lambda: self.failed(where, error))

    def _on_end(self) -> None:
        self._soon(self._ended.set)

    def _soon(self, step: Callable[[], object]) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(step)

    async def construct(
        self, what: str, make: Callable[[], Any], timeout: float
    ) -> Constructed | None:
        """Call a class on the loop, so that code in its `__init__` which looks for one finds it."""

        async def construct() -> Any:
            return make()

        try:
            call = self._active = self.call(what, construct)
        except (OSError, RuntimeError) as error:  # no descriptors or no thread left for a loop
            return Constructed(error=error)
        # A stop that comes now must not make a constructor that is nearly done one that was abandoned.
        with trio.move_on_after(min(timeout, _BRIEFLY), shield=True):
            await call.done.wait()
        if not call.done.is_set():
            with trio.move_on_after(timeout):
                await call.done.wait()
        if not call.done.is_set():
            call.cancel()
            return None
        return Constructed(call.value, call.error)

    def call(self, what: str, fn: Callable[..., Any], *args: Any) -> AsyncioCall:
        return AsyncioCall(what, self._loop, self._context(), fn, *args)

    def begin(self, body: Callable[..., Awaitable[Any]], *args: Any) -> TrioCall:
        call = _Body(self, self._plugin, self._plugin, body, *args)
        self._nursery.start_soon(call.run, name=f"{self._plugin} (guard)")
        return call

    def equip(self, members: Iterable[Any], nursery: trio.Nursery) -> None:
        for member in members:
            member.nursery = _NoNursery(self._plugin)

    async def run(self, what: str, fn: Callable[[], Awaitable[Any]]) -> None:
        call = self._active = self.call(what, fn)
        await self._wait(call)

    async def follow(self, what: str, fn: Callable[[], Awaitable[Any]]) -> None:
        """Await `start()`; cancelled, leave it running: `close()` comes first, then its end."""
        call = self._active = self.call(what, fn)
        self._started.append(call)
        await call.done.wait()
        self._started.remove(call)
        if call.error is not None:
            raise call.error

    async def all_done(self) -> None:
        await self._wait(self._chore("its tasks", self._loop.idle))

    def _chore(self, what: str, fn: Callable[..., Any], *args: Any) -> AsyncioCall:
        """Call a coroutine function of the host's own on the loop."""
        what = f"{self._plugin}: {what}"
        return AsyncioCall(what, self._loop, self._context(), fn, *args, chore=True)

    async def _wait(self, call: AsyncioCall) -> Any:
        """Wait for a call; when cancelled, cancel it and wait until it has ended."""
        try:
            await call.done.wait()
        except trio.Cancelled:
            call.cancel()
            with trio.CancelScope(shield=True):
                await call.done.wait()
            if call.error is None:
                raise
        if call.error is not None:
            raise call.error
        return call.value

    async def _call_handler(
        self, what: str, handler: Callable[..., Any], request: Any, **variables: Any
    ) -> Any:
        """Call a route's handler on the loop; a streamed body is fetched from there piece by piece."""

        async def handle() -> Any:
            result = handler(request, **variables)
            return await result if inspect.isawaitable(result) else result

        result = await self._wait(self.call(what, handle))
        if isinstance(result, tuple) and result:  # with a status, headers or both
            return (self._reachable(what, result[0]), *result[1:])
        return self._reachable(what, result)

    def _reachable(self, what: str, body: Any) -> Any:
        return self._stream(what, body) if hasattr(body, "__anext__") else body

    async def _stream(self, what: str, pieces: Any) -> AsyncIterator[Any]:
        try:
            while True:
                try:
                    yield await self._wait(self.call(what, pieces.__anext__))
                except StopAsyncIteration:
                    return
        finally:
            if hasattr(pieces, "aclose"):
                with trio.CancelScope(shield=True):
                    await self._wait(self.call(what, pieces.aclose))

    def settle(self) -> Call | None:
        if self._thread is None:
            return None
        started, self._started = self._started, []
        return self._chore("its end", self._settle, started)

    async def _settle(self, started: list[AsyncioCall]) -> list[str]:
        assert self._thread is not None
        left = await self._thread.settle([call.task for call in started if call.task is not None])
        for call in started:
            if call.error is not None and not isinstance(call.error, OwnCancellationError):
                self._on_failure(call.what, call.error)
        return left

    def end(self) -> Call | None:
        if self._thread is None or self._ended.is_set():
            return None
        ending = self._chore("its loop's end", self._thread.end)
        return _LoopEnd(ending.what, self._thread, self._ended)

    def stubborn(self) -> tuple[list[str], list[str]]:
        if self._thread is None or self._ended.is_set():
            return [], []
        return self._thread.stubborn()

    def asyncio_tasks(self) -> int:
        return 0 if self._thread is None else self._thread.count_tasks()

    def loop_thread(self) -> LoopThread | None:
        return None if self._ended.is_set() else self._thread


class _LoopEnd(Call):
    """The end of a plugin's loop and its thread.

    Args:
        what: For messages.
        thread: They.
        ended: Set by the thread as the last thing it does.
    """

    def __init__(self, what: str, thread: LoopThread, ended: trio.Event) -> None:
        super().__init__(what)
        self.done = ended
        self._thread = thread

    def cancel(self) -> None:
        """Kill the plugin's subprocesses: the loop will not come to it."""
        self._thread.kill_processes()


class _Body(TrioCall):
    """The host's task that lives an attempt of an asyncio-style plugin."""

    def __init__(self, runtime: AsyncioRuntime, *args: Any) -> None:
        super().__init__(*args)
        self._runtime = runtime

    def place(self) -> str:
        """Say where the plugin's code is, not the host's task that waits for it."""
        active = self._runtime._active  # noqa: SLF001 - its own runtime
        return super().place() if active is None else active.place()


def awaitable(what: str, result: Any) -> Awaitable[Any]:
    """Return what a method of the contract returned, which is to be awaited.

    Raises:
        NotAwaitableError: It returned something that cannot be awaited.
    """
    if not inspect.isawaitable(result):
        method = what.removesuffix("()")
        raise NotAwaitableError(
            f"{method}() returned {type(result).__name__}; write it as `async def`"
        )
    return result


def split_cancelled(
    error: BaseException,
) -> tuple[BaseException | None, BaseException | None]:
    """Split an error into Trio's cancellation and the plugin's own part; either may be None."""
    if isinstance(error, trio.Cancelled):
        return error, None
    if has_text(error):  # it was raised in a plugin's own thread, where there is no Trio
        return None, unwrap(error)
    if isinstance(error, BaseExceptionGroup):
        cancelled, own = error.split(trio.Cancelled)
        return cancelled, None if own is None else unwrap(own)
    return None, error


def unwrap(error: BaseException) -> BaseException:
    """Return the one error inside nested groups, or the group if it holds several."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


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
    """Say where a task is suspended, as ``file:line in function``, innermost own frame first.

    A task that waits in the host's own code for the children of a nursery is where its first child is.
    """
    if task is None:
        return "not started"
    frames = [*frames_of_coroutine(task.coro)]
    known = [frame for frame in frames if "/trio/" not in frame.f_code.co_filename][-1:]
    own = all(frame.f_code.co_filename.startswith(_HOST_DIR) for frame in known)
    place = line_of(known[0]) if known else "not started"
    children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return waiting_at(children[0]) if own and children else place


def now() -> float:
    """Return the Unix time, in seconds; the one place the host reads the wall clock."""
    return time.time()
