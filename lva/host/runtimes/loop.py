"""An asyncio event loop in a thread of its own, on which no task dies in silence.

Knows asyncio and threads, not Trio: what happens on the loop is reported through two callbacks. The loop
is the standard one, or uvloop's, with five methods watched: those that make tasks, connections, servers
and subprocesses, so that what plugin code and its libraries leak can be ended and named; and
the exception handler, so that what nobody retrieves is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import selectors
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, ContextVar
from pathlib import Path
from types import CellType, FrameType
from typing import Any, Final, NamedTuple

from lva.errors import counted
from lva.host import HOST_DIR
from lva.host.process.forks import keep_from_children
from lva.host.process.starts import note_process
from lva.host.watch.pulse import PluginLoop, Pulse
from lva.host.watch.readings import own_processor_clock
from lva.logs import service_logger
from lva.stacks import callers, frames_of_coroutine, frames_of_threads, line_of

LOGGER: Final = service_logger("lva.host")

#: A failed task whose error nobody has retrieved after this many seconds is a crash of the plugin...
RETRIEVAL_GRACE: Final = 0.25
#: ...unless a coroutine that is still running has it in a local variable and so may await it: then this.
HELD_GRACE: Final = 60.0
#: A task that ignores its cancellation is cancelled again after this many seconds, and again.
RECANCEL: Final = 1.0
#: How long, in seconds, what `close()` left may take to end by itself before it counts as leaked.
LINGER: Final = 0.1
#: How many tasks are named; the rest are counted.
_MOST_NAMED: Final = 20
#: A loop that does not answer for so long, in seconds, is blocked by what runs on it.
_SILENT: Final = 0.1
#: How many lines of a stack are shown.
_STACK_LINES: Final = 4
#: How many errors of an attempt are reported one by one; the rest are counted.
MOST_REPORTS: Final = 10
#: For how long, in seconds, it is remembered which tasks are in local variables.
_HOLDERS_AGE: Final = 0.05
#: How often, in seconds, the end of what cannot be awaited is looked for.
_LOOK: Final = 0.01

_ASYNCIO_DIR: Final = f"{Path(asyncio.__file__).parent}{os.sep}"
#: Files whose frames say nothing about what a plugin is doing.
_MACHINERY: Final = (
    _ASYNCIO_DIR,
    f"{HOST_DIR}{os.sep}",
    selectors.__file__,
    threading.__file__,
)
#: What the loop makes that has to be closed; each is a coroutine method.
_MAKERS: Final = (
    "connect_accepted_socket",
    "connect_read_pipe",
    "connect_write_pipe",
    "create_connection",
    "create_datagram_endpoint",
    "create_server",
    "create_unix_connection",
    "create_unix_server",
    "subprocess_exec",
    "subprocess_shell",
)

Report = Callable[[str, BaseException], None]

#: The class that loops other than uvloop's are derived from; `lva.testing` sets one in virtual time.
loop_base: Final[ContextVar[type[asyncio.SelectorEventLoop]]] = ContextVar(
    "lva_loop_base", default=asyncio.SelectorEventLoop
)


class LoopTask(NamedTuple):
    """One task on an asyncio loop.

    Attributes:
        where: Where it waits or runs.
        maker: The task that made it, if that is still there.
    """

    task: asyncio.Task[Any]
    name: str
    where: str
    maker: asyncio.Task[Any] | None


class LoopThread:
    """One plugin's event loop and its thread.

    Args:
        name: The plugin's name.
        context: Copied for the thread, so that everything on the loop knows its plugin.
        use_uvloop: Whether the loop is uvloop's.
        on_failure: Called, from any thread, with where an error came from and the error: of a task that
            nobody awaits, of a callback, or of code that stopped the loop.
        on_end: Called from the thread as the last thing it does.

    Attributes:
        loop: The event loop.
        unanswered: Called from the thread once the loop has ended: for calls that it never came to the
            end of.
        pulse: Tells whether the loop comes round.
    """

    def __init__(
        self,
        name: str,
        context: Context,
        use_uvloop: bool,
        on_failure: Report,
        on_end: Callable[[], None],
    ) -> None:
        self._name = name
        self._on_failure = on_failure
        self._on_end = on_end
        self._tasks: dict[asyncio.Task[Any], str] = {}
        self._makers: dict[asyncio.Task[Any], weakref.ref[asyncio.Task[Any]]] = {}
        self._gathered: dict[asyncio.Future[Any], str] = {}
        self._failed: dict[asyncio.Future[Any], asyncio.TimerHandle] = {}
        self._calls: set[asyncio.Task[Any]] = set()
        self._chores: set[asyncio.Task[Any]] = set()
        self._made: weakref.WeakSet[Any] = weakref.WeakSet()
        self._making = threading.Lock()  # another thread may look at what was made
        self._processes: list[Any] = []  # uvloop's, which have no weak references
        self._no_task = asyncio.Event()
        self._executors: list[ThreadPoolExecutor] = []
        self._holders: dict[int, str] = {}
        self._holders_at = -math.inf  # in the loop's time
        self._reports = 0
        self._reported: deque[BaseException] = deque(maxlen=4)  # errors have no weak references
        self._ending = False
        self._over = False
        self.unanswered: set[Callable[[], None]] = set()
        self._processor_clock: int | None = None
        self.loop: asyncio.AbstractEventLoop = _new_loop(self, use_uvloop)
        keep_from_children(self.loop)
        self.pulse: Pulse = Pulse(self.loop.call_soon_threadsafe, LoopThread._main.__code__)
        self.loop.set_default_executor(
            ThreadPoolExecutor(
                thread_name_prefix=f"executor from {name}.",
                initializer=_adopt_context,
                initargs=(context,),
            )
        )
        self.thread: threading.Thread = threading.Thread(
            target=context.run, args=(self._main,), name=f"{name} (asyncio loop)", daemon=True
        )
        Context().run(self.thread.start)  # by the host, whoever's code led here

    def _main(self) -> None:
        self._processor_clock = own_processor_clock()
        asyncio.set_event_loop(self.loop)
        while not self._over:
            try:
                self.loop.run_forever()
            except BaseException as error:  # SystemExit and its like leave the loop through here
                self._report("its event loop", error)
            else:
                if not self._over:
                    why = "the plugin's code stopped the event loop, which is the service's"
                    self._report("loop.stop()", RuntimeError(why))
        try:
            self.loop.close()
        except Exception as error:  # uvloop's does not like everything that may be left on it
            self._report("its event loop's close()", error)
        for answer in list(self.unanswered):
            answer()
        self._on_end()

    # The host's own calls

    def spawn(
        self, work: Coroutine[Any, Any, None], name: str, context: Context, chore: bool
    ) -> asyncio.Task[None]:
        """Start a task of the host's, which is not among the plugin's. In the loop's thread.

        Args:
            work: What to run.
            name: For messages.
            context: What it runs in.
            chore: Whether no code of the plugin runs in it.
        """
        task = asyncio.Task(work, loop=self.loop, name=name, context=context)
        kind = self._chores if chore else self._calls
        kind.add(task)
        task.add_done_callback(kind.discard)
        return task

    async def idle(self) -> None:
        """Wait until no task of the plugin is left, and the verdict on those that failed is known."""
        while self._tasks or self._failed:
            # Not `asyncio.wait`: this coroutine must not look like one that will retrieve their errors.
            self._no_task.clear()
            await self._no_task.wait()

    async def settle(self, started: list[asyncio.Task[None]]) -> list[str]:
        """End everything that is left of an attempt, after `close()`; return what was leaked.

        Args:
            started: The calls of `start()` that still run; they are cancelled, but not leaked.

        Each task gets `RECANCEL` to clean up before it is cancelled once more, also one that `close()`
        has cancelled, and the connections that it may need for that stay open. Does not return while a
        task ignores its cancellation.
        """
        # Other calls that are left here have been cancelled, or close a stream that was being sent.
        asked = {*self._calls, *(task for task in self._pending() if task.cancelling())}
        for task in started:
            task.cancel()
        left = self._pending()
        if not asked.issuperset(left):
            await asyncio.wait(left, timeout=LINGER)
        named = [
            self._described(task) for task in left if not task.done() and not task.cancelling()
        ]
        named = _first(named)
        await self._cancel([task for task in self._left() if task not in asked])
        named += self._close_made()
        while left := self._left():
            await self._cancel(left)
        for failed, handle in list(self._failed.items()):
            handle.cancel()
            self._judge(failed, 0)
        if (more := self._reports - MOST_REPORTS) > 0:
            self._on_failure(f"further tasks or callbacks ({more})", self._reported[-1])
        self._reports = 0
        return named

    def _left(self) -> list[asyncio.Task[Any]]:
        return [*self._pending(), *(task for task in self._calls if not task.done())]

    async def _cancel(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        """Cancel tasks, and give all that are left some time to end."""
        for task in tasks:
            task.cancel()
        if left := self._left():
            await asyncio.wait(left, timeout=RECANCEL)

    async def end(self) -> None:
        """End what the loop itself holds; the thread ends next. Waits for jobs of the executor."""
        self._ending = True
        try:
            if late := self._left():  # calls that close a stream which was being sent
                await asyncio.wait(late, timeout=LINGER)
            self._close_made()  # there is some if a task has kept `settle` from its end
            self._close_processes()
            await self.loop.shutdown_asyncgens()
            for executor in self._executors:
                executor.shutdown(wait=False, cancel_futures=True)
            while self._executor_threads():  # noqa: ASYNC110 - a thread's end sets no event
                await asyncio.sleep(_LOOK)
        finally:
            self._over = True
            self.loop.stop()

    def _executor_threads(self) -> list[threading.Thread]:
        prefix = f"executor from {self._name}."
        return [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]

    def _pending(self) -> list[asyncio.Task[Any]]:
        known = {*self._tasks, *asyncio.all_tasks(self.loop)} - {*self._calls, *self._chores}
        return [task for task in known if not task.done()]

    def _close_made(self) -> list[str]:
        """Close connections and servers; return which were open."""
        found = []
        for item in self._all_made():
            # By what they can do: uvloop's are of types of their own.
            if hasattr(item, "is_serving"):
                if item.is_serving():
                    found.append("a server")
                item.close()
            elif not hasattr(item, "get_returncode") and not item.is_closing():
                found.append(_connection(item))
                getattr(item, "abort", item.close)()
        return found

    def _close_processes(self) -> None:
        """Close what is left of subprocesses, which the host ends."""
        made = self._all_made()
        self._processes = []
        for item in made:
            if hasattr(item, "get_returncode"):
                item.close()

    def _all_made(self) -> list[Any]:
        with self._making:
            return [*self._made, *self._processes]

    def kill_processes(self) -> None:
        """Kill the subprocesses of a loop that does not end. Any thread may call; raises nothing."""
        for item in self._all_made():
            try:
                if hasattr(item, "get_returncode") and item.get_returncode() is None:
                    LOGGER.warning(
                        "plugin %s: its event loop does not end; killing subprocess %d of it",
                        self._name,
                        item.get_pid(),
                    )
                    item.kill()
            except ProcessLookupError:
                continue  # it has just ended
            except Exception:
                LOGGER.exception("plugin %s: a subprocess of it cannot be killed", self._name)

    # What can be said of it, from any thread

    def stubborn(self) -> tuple[list[str], list[str]]:
        """Name the tasks that keep the loop from ending, and the threads: its own, jobs of its executor."""
        blocked = self.blocked_at()
        tasks = _first([self._described(task, blocked) for task in self._unfinished()])
        threads = self._executor_threads()
        idle = self._ending and not (tasks or threads)  # before, it rests for the next attempt
        if self.thread.is_alive() and (blocked or idle):
            threads.append(self.thread)
        return tasks, [f"{thread.name} (at {_place_of(thread)})" for thread in threads]

    def count_tasks(self) -> int:
        """Count the plugin's tasks, and the calls into it, that have not ended."""
        return len(self._unfinished())

    def tasks(self) -> list[LoopTask]:
        """Describe the plugin's tasks, and the calls into it, that have not ended."""
        found = []
        for task in self._unfinished():
            maker = self._makers.get(task)
            where = self._place(task, None)
            found.append(
                LoopTask(task, _full_name(task), where, None if maker is None else maker())
            )
        return found

    def _unfinished(self) -> list[asyncio.Task[Any]]:
        # Each copied in one step: the loop's thread changes them.
        return [task for task in (*list(self._tasks), *list(self._calls)) if not task.done()]

    def _described(self, task: asyncio.Task[Any], blocked: str | None = None) -> str:
        """Return a task's name, where it was made and where it waits."""
        site = self._tasks.get(task)
        made = f"made at {site}, " if site else ""
        return f"{task.get_name()} ({made}at {self._place(task, blocked)})"

    def place(self, task: asyncio.Task[Any] | None) -> str:
        """Say where a task is: the line that it runs, where it waits, or what blocks the loop."""
        return self._place(task, self.blocked_at())

    def _place(self, task: asyncio.Task[Any] | None, blocked: str | None) -> str:
        if blocked is not None:
            return f"{blocked}, which blocks its event loop"
        if task is None:
            return "not started"
        runs = task is asyncio.current_task(self.loop)
        return _place_of(self.thread) if runs else lines_of(frames_of_coroutine(task.get_coro()))

    def blocked_at(self) -> str | None:
        """Say which lines block the loop; None if none do, or it is not known yet. Does not wait.

        Whoever asks first finds the loop asked already if the watch has seen it at work, or if a call of the
        host's waits for it.
        """
        if self.pulse.silent_for() < _SILENT:
            return None
        frames = _thread_frames(self.thread)
        # One that waits for events by all appearances has not been given a processor, or the interpreter.
        return None if not frames or self.pulse.waits(frames[-1]) else lines_of(frames)

    def watched(self) -> PluginLoop | None:
        """Return what the watch has to know of the loop; None until its thread runs."""
        thread = self.thread
        if thread.ident is None or thread.native_id is None:
            return None
        return PluginLoop(thread.ident, thread.native_id, self._processor_clock, self.pulse)

    # What the loop tells

    def adopt(self, task: asyncio.Task[Any], site: str) -> None:
        """Note that the plugin, or a library of it, has made a task, and where."""
        self._tasks[task] = site
        if (maker := asyncio.current_task(self.loop)) is not None:
            self._makers[task] = weakref.ref(maker)
        task.add_done_callback(self._ended)

    def watch_gathering(self, made: list[asyncio.Task[Any]], site: str) -> None:
        """Treat what `asyncio.gather` returned as a task: it retrieves the errors of those it gathers."""
        for callback, _context in getattr(made[0], "_callbacks", None) or ():
            for cell in getattr(callback, "__closure__", None) or ():
                future = _content(cell)
                if type(future).__name__ == "_GatheringFuture" and future not in self._gathered:
                    self._gathered[future] = site
                    future.add_done_callback(self._ended)

    def note_made(self, item: Any) -> None:
        """Note something that has to be closed."""
        if hasattr(item, "get_pid"):
            note_process(item.get_pid(), self._name)  # uvloop starts it by itself
        with self._making:
            try:
                self._made.add(item)
            except TypeError:
                alive = [kept for kept in self._processes if kept.get_returncode() is None]
                self._processes = [*alive, item]

    def note_executor(self, executor: ThreadPoolExecutor) -> None:
        """Note the default executor."""
        self._executors.append(executor)

    def _ended(self, task: asyncio.Future[Any]) -> None:
        if _unretrieved(task):
            self._failed[task] = self.loop.call_later(
                RETRIEVAL_GRACE, self._judge, task, HELD_GRACE
            )
        else:
            self._forget(task)

    def _judge(self, task: asyncio.Future[Any], patience: float) -> None:
        """Decide whether a failed task is a crash: unless its error was, or may yet be, retrieved."""
        if _unretrieved(task):
            holder = self._holder(task) if patience > 0 else None
            if holder is not None:
                if not holder.startswith(_ASYNCIO_DIR):
                    patience -= RETRIEVAL_GRACE
                self._failed[task] = self.loop.call_later(
                    RETRIEVAL_GRACE, self._judge, task, patience
                )
                return
            error = task.exception()
            assert error is not None
            self._report(self._name_of(task), error)
        del self._failed[task]
        self._forget(task)

    def _name_of(self, task: asyncio.Future[Any]) -> str:
        if isinstance(task, asyncio.Task):
            return f"task {task.get_name()!r} (made at {self._tasks.get(task)})"
        return f"asyncio.gather() (called at {self._gathered.get(task)})"

    def _forget(self, task: asyncio.Future[Any]) -> None:
        if isinstance(task, asyncio.Task):
            self._tasks.pop(task, None)
            self._makers.pop(task, None)
        else:
            self._gathered.pop(task, None)
        if not self._tasks and not self._failed:
            self._no_task.set()

    def _holder(self, task: asyncio.Future[Any]) -> str | None:
        """Return the file of a waiting coroutine that has the task in a local variable."""
        now = self.loop.time()
        if now - self._holders_at > _HOLDERS_AGE:
            self._holders_at = now
            self._holders = self._find_holders()
        return self._holders.get(id(task))

    def _find_holders(self) -> dict[int, str]:
        """Return, by identity, the futures in local variables; asyncio's own coroutines go first."""
        found: dict[int, str] = {}
        for task in asyncio.all_tasks(self.loop):
            for frame in frames_of_coroutine(task.get_coro()):
                file = frame.f_code.co_filename
                for held in _futures(frame):
                    if file.startswith(_ASYNCIO_DIR) or id(held) not in found:
                        found[id(held)] = file
        # What `asyncio.gather` waits for is in no frame; it takes the errors once all have ended.
        waits = (getattr(task, "_fut_waiter", None) for task in asyncio.all_tasks(self.loop))
        pending: list[Any] = [*self._gathered, *waits]
        while pending:
            future = pending.pop()
            if type(future).__name__ == "_GatheringFuture" and not future.done():
                children = future._children  # noqa: SLF001 - nothing else tells
                found |= dict.fromkeys(map(id, children), asyncio.tasks.__file__)
                pending += children
        return found

    def heard(self, context: dict[str, Any]) -> None:
        """Take what would have gone to asyncio's log. Any thread: garbage is collected in any."""
        if self._over:
            return  # the tasks that it told of were named before
        error = context.get("exception")
        if isinstance(error, asyncio.CancelledError):
            return  # a callback has asked a cancelled task for its error, as asyncio's own do in 3.11
        source = context.get("task") or context.get("future")
        message = str(context.get("message"))
        callback = "handle" in context or "protocol" in context or "asyncgen" in context
        gathered = type(source).__name__ == "_GatheringFuture"
        if error is not None and (callback or gathered or isinstance(source, asyncio.Task)):
            self._report(message, error)
        else:
            LOGGER.warning("plugin %s: asyncio: %s", self._name, message, exc_info=error)

    def _report(self, where: str, error: BaseException) -> None:
        if not any(error is known for known in self._reported):
            self._reported.append(error)
            self._reports += 1
            if self._reports <= MOST_REPORTS:
                self._on_failure(where, error)


class _Watched:
    """Mixed into a loop class: tells its keeper what is made on it, and what fails."""

    # The ignores: what it has from the loop class, mypy cannot see.

    keeper: LoopThread

    def create_task(self, coro: Any, **options: Any) -> Any:
        site, gathers = _site(coro)
        made: list[asyncio.Task[Any]] = []
        if gathers:  # looked at before the task's first step, which may be its last
            self.call_soon(self.keeper.watch_gathering, made, site)  # type: ignore[attr-defined] # a loop's
        task = super().create_task(coro, **options)  # type: ignore[misc] # a loop's
        made.append(task)
        self.keeper.adopt(task, site)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.keeper.heard(context)
        if self.get_exception_handler() is not None:  # type: ignore[attr-defined] # a loop's
            super().call_exception_handler(context)  # type: ignore[misc] # the plugin's own, too

    def set_default_executor(self, executor: Any) -> None:
        super().set_default_executor(executor)  # type: ignore[misc] # a loop's
        self.keeper.note_executor(executor)

    # Not of uvloop. The loop makes these for connections that a server accepts, too.

    def _make_socket_transport(self, *args: Any, **options: Any) -> Any:
        made = super()._make_socket_transport(*args, **options)  # type: ignore[misc] # a loop's
        self.keeper.note_made(made)
        return made

    def _make_ssl_transport(self, *args: Any, **options: Any) -> Any:
        made = super()._make_ssl_transport(*args, **options)  # type: ignore[misc] # a loop's
        self.keeper.note_made(made)
        return made

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:
        raise RuntimeError(
            f"a plugin cannot handle signal {sig}: signals are the service's; to clean up at the end,"
            " define close()"
        )


def _watch(maker: str) -> Callable[..., Any]:
    async def watched(self: Any, *args: Any, **options: Any) -> Any:
        made = await getattr(super(_Watched, self), maker)(*args, **options)
        self.keeper.note_made(made[0] if isinstance(made, tuple) else made)
        return made

    watched.__name__ = maker
    return watched


for _name in _MAKERS:
    setattr(_Watched, _name, _watch(_name))


def _new_loop(keeper: LoopThread, use_uvloop: bool) -> asyncio.AbstractEventLoop:
    base: type[Any] = loop_base.get()
    if use_uvloop:
        import uvloop  # installed only where somebody asked for it

        base = uvloop.Loop
    kind: Any = type(f"Watched{base.__name__}", (_Watched, base), {"keeper": keeper})
    loop: asyncio.AbstractEventLoop = kind()
    return loop


def _unretrieved(task: asyncio.Future[Any]) -> bool:
    # Asking for the exception would count as retrieving it; this is asyncio's own note.
    return bool(getattr(task, "_log_traceback", False))


def _site(coro: Any) -> tuple[str, bool]:
    """Say which line is making a task, the innermost that is not asyncio's, and whether to gather it.

    A task that asyncio itself makes, as for a connection that a server has accepted, is made where its
    coroutine is defined.
    """
    gathers = False
    for frame in callers(sys._getframe(2)):  # noqa: SLF001 - cheaper than `inspect.stack` by far
        if not frame.f_code.co_filename.startswith(_MACHINERY):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}", gathers
        gathers = gathers or frame.f_code.co_name == "gather"
    code = getattr(coro, "cr_code", None)
    return "?" if code is None else f"{code.co_filename}:{code.co_firstlineno}", gathers


def _thread_frames(thread: threading.Thread) -> list[FrameType]:
    """Return the frames of a thread, outermost first."""
    return [*callers(frames_of_threads().get(thread.ident or 0))][::-1]


def _place_of(thread: threading.Thread) -> str:
    return lines_of(_thread_frames(thread))


def _full_name(task: asyncio.Task[Any]) -> str:
    """Return a task's name, with what it runs if it was given none."""
    name = task.get_name()
    function = getattr(task.get_coro(), "__qualname__", None)
    return f"{name} ({function})" if name.startswith("Task-") and function else name


def _first(described: list[str]) -> list[str]:
    more = len(described) - _MOST_NAMED
    return [*described[:_MOST_NAMED], counted(more, "more task")] if more > 0 else described


def lines_of(frames: Iterable[FrameType]) -> str:
    """Say where code is: its innermost lines, innermost first, without asyncio's and the host's own."""
    frames = list(frames)
    own = [frame for frame in frames if not frame.f_code.co_filename.startswith(_MACHINERY)]
    lines = [line_of(frame) for frame in own[-_STACK_LINES:] or frames[-1:]]
    return " < ".join(reversed(lines)) or "not started"


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


def _futures(frame: FrameType) -> Iterator[asyncio.Future[Any]]:
    """Yield the futures in a frame's local variables, also those in a collection there."""
    for value in list(frame.f_locals.values()):
        items = list(value.values()) if isinstance(value, dict) else value
        if isinstance(items, list | tuple | set | frozenset):
            yield from (item for item in items if isinstance(item, asyncio.Future))
        elif isinstance(value, asyncio.Future):
            yield value


def _adopt_context(context: Context) -> None:
    """Let what a thread logs carry the plugin's name, as `run_in_executor` does not see to."""
    for variable, value in context.items():
        variable.set(value)


def _connection(transport: Any) -> str:
    accepted = getattr(transport, "_server", None) is not None
    with contextlib.suppress(Exception):
        if (peer := transport.get_extra_info("peername")) is not None:
            where = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else f"{peer}"
            return f"a connection {'from' if accepted else 'to'} {where}"
    return f"an open {type(transport).__name__}"
