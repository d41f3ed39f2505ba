"""A plugin on an asyncio loop in a thread of its own."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from contextvars import Context, copy_context
from typing import Any

import trio

from lva.host.runtimes.calls import Call, TrioCall
from lva.host.runtimes.errors import OwnCancellationError, awaitable, without_host_frames
from lva.host.runtimes.loop import RECANCEL, LoopThread
from lva.host.runtimes.own_tasks import OnFailure
from lva.host.runtimes.patience import Patience
from lva.host.runtimes.runtime import Across, Constructed, Runtime
from lva.logs.error_text import keep_text
from lva.logs.loggers import current_plugin


class AsyncioRuntime(Runtime):
    """Runs a plugin on an asyncio loop in a daemon thread of its own.

    Resources: the thread starts when the first instance is made and ends after the last `close()`. Code that
    blocks it, or ignores its cancellation, is abandoned with it.

    Errors: of tasks that the host did not start go to who called `report_to`.

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
        self._report: OnFailure

    def report_to(self, on_failure: OnFailure) -> None:
        self._report = on_failure

    @property
    def _loop(self) -> LoopThread:
        if self._thread is None:
            self._thread = LoopThread(
                self._plugin,
                self._context(),
                self._use_uvloop,
                self._on_failure,
                lambda: self._soon(self._ended.set),
            )
        return self._thread

    def _context(self) -> Context:
        context = copy_context()
        context.run(current_plugin.set, self._plugin)
        return context

    def _on_failure(self, where: str, error: BaseException) -> None:
        keep_text(without_host_frames(error))
        self._soon(lambda: self._report(where, error))

    def _soon(self, work: Callable[[], object]) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(work)

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
        with trio.move_on_after(min(timeout, Patience.LEAST), shield=True):
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

    def begin(self, body: Callable[[], Awaitable[Any]]) -> TrioCall:
        call = TrioCall(self._plugin, self._plugin, body)
        call.elsewhere = self._place
        self._nursery.start_soon(call.run, name=f"{self._plugin} (guard)")
        return call

    def _place(self) -> str:
        """Say where the plugin's code is, not the host's task that waits for it."""
        return "not started" if self._active is None else self._active.place()

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
        await self._wait(self._chore("its tasks", self._loop.own.all_done))

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

    async def settle(self, patience: Patience, limit: float) -> list[str] | None:
        if self._thread is None:
            return []
        started, self._started = self._started, []
        settling = self._chore("its end", self._settle, started)
        if not await patience.wait(settling.done, limit, share=1 / 2):
            return None
        return settling.value or []  # nothing of a loop that has ended

    async def _settle(self, started: list[AsyncioCall]) -> list[str]:
        assert self._thread is not None
        left = await self._thread.settle([call.task for call in started if call.task is not None])
        for call in started:
            if call.error is not None and not isinstance(call.error, OwnCancellationError):
                self._on_failure(call.what, call.error)
        return left

    async def end(self, patience: Patience, limit: float) -> bool:
        """End the loop and its thread; of a loop that does not come to its end, kill the subprocesses."""
        if self._thread is None or self._ended.is_set():
            return True
        self._chore("its loop's end", self._thread.end)
        if await patience.wait(self._ended, limit, share=1 / 2):
            return True
        self._thread.made.kill_processes()
        return False

    def stubborn(self) -> tuple[list[str], list[str]]:
        if self._thread is None or self._ended.is_set():
            return [], []
        return self._thread.stubborn()

    def loop_thread(self) -> LoopThread | None:
        return None if self._ended.is_set() else self._thread


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

    def _on_loop(self, work: Callable[[], None]) -> None:
        try:
            self._loop.loop.call_soon_threadsafe(work)
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


class _NoNursery:
    """Stands for `self.nursery` where there is none."""

    def __init__(self, plugin: str) -> None:
        self._plugin = plugin

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(
            f"plugin {self._plugin!r} is asyncio-style and has no Trio nursery; use"
            " asyncio.create_task() or asyncio.TaskGroup"
        )
