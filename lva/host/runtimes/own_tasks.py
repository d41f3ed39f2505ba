"""A plugin's tasks on its own loop: where each was made, and which failed one is a crash of the plugin.

asyncio tells of an error that nobody retrieves when the task is freed, which may be never. Somebody may yet
await it. So each failed task is looked at again until that is clear.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from types import CellType, FrameType
from typing import Any, Final

from lva.host.runtimes.places import ASYNCIO_DIR
from lva.logs.loggers import service_logger
from lva.stacks import frames_of_coroutine

LOGGER: Final = service_logger("lva.host")

#: A failed task whose error nobody has retrieved after this many seconds is a crash of the plugin...
RETRIEVAL_GRACE: Final = 0.25
#: ...unless a coroutine that is still running has it in a local variable and so may await it: then this.
HELD_GRACE: Final = 60.0
#: How many errors of an attempt are reported one by one; the rest are counted.
MOST_REPORTS: Final = 10
#: For how long, in seconds, it is remembered which tasks are in local variables.
_HOLDERS_AGE: Final = 0.05

#: Told of an error: where it came from, and the error.
OnFailure = Callable[[str, BaseException], None]


class OwnTasks:
    """All tasks of one plugin on its loop. In the loop's thread only, but for what says otherwise.

    Args:
        plugin: The plugin's name.
        on_failure: Called, from any thread, with where an error came from and the error: of a task that
            nobody awaits, of a callback, or of code that stopped the loop.

    Attributes:
        sites: Where each was made that has not ended, or whose verdict is not known.
        makers: The task that made it.
        calls: The host's calls into the plugin, which are tasks, too.
        over: Whether the loop has ended; what asyncio tells of it from then on was told before.
    """

    def __init__(self, plugin: str, on_failure: OnFailure) -> None:
        self.sites: dict[asyncio.Task[Any], str] = {}
        self.makers: dict[asyncio.Task[Any], weakref.ref[asyncio.Task[Any]]] = {}
        self.calls: set[asyncio.Task[Any]] = set()
        self.over = False
        self._plugin = plugin
        self._on_failure = on_failure
        self._gathered: dict[asyncio.Future[Any], str] = {}
        self._failed: dict[asyncio.Future[Any], asyncio.TimerHandle] = {}
        self._none_left = asyncio.Event()
        self._holders: dict[int, str] = {}
        self._holders_at = -math.inf  # in the loop's time
        self._reports = 0
        self._reported: deque[BaseException] = deque(maxlen=4)  # errors have no weak references

    async def all_done(self) -> None:
        """Wait until no task of the plugin is left, and the verdict on those that failed is known."""
        while self.sites or self._failed:
            # Not `asyncio.wait`: this coroutine must not look like one that will retrieve their errors.
            self._none_left.clear()
            await self._none_left.wait()

    def judge_all(self) -> None:
        """Decide on every task that failed, at the end of an attempt."""
        for failed, handle in list(self._failed.items()):
            handle.cancel()
            self._judge(failed, 0)
        if (more := self._reports - MOST_REPORTS) > 0:
            self._on_failure(f"further tasks or callbacks ({more})", self._reported[-1])
        self._reports = 0

    def report(self, where: str, error: BaseException) -> None:
        """Report an error, unless it is known. Any thread may call."""
        if not any(error is known for known in self._reported):
            self._reported.append(error)
            self._reports += 1
            if self._reports <= MOST_REPORTS:
                self._on_failure(where, error)

    def adopt(self, task: asyncio.Task[Any], site: str) -> None:
        """Note that the plugin, or a library of it, has made a task, and where."""
        self.sites[task] = site
        if (maker := asyncio.current_task(task.get_loop())) is not None:
            self.makers[task] = weakref.ref(maker)
        task.add_done_callback(self._ended)

    def watch_gathering(self, made: list[asyncio.Task[Any]], site: str) -> None:
        """Treat what `asyncio.gather` returned as a task: it retrieves the errors of those it gathers."""
        for callback, _context in getattr(made[0], "_callbacks", None) or ():
            for cell in getattr(callback, "__closure__", None) or ():
                future = _content(cell)
                if type(future).__name__ == "_GatheringFuture" and future not in self._gathered:
                    self._gathered[future] = site
                    future.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Future[Any]) -> None:
        if _unretrieved(task):
            self._failed[task] = task.get_loop().call_later(
                RETRIEVAL_GRACE, self._judge, task, HELD_GRACE
            )
        else:
            self._forget(task)

    def _judge(self, task: asyncio.Future[Any], patience: float) -> None:
        """Decide whether a failed task is a crash: unless its error was, or may yet be, retrieved."""
        if _unretrieved(task):
            holder = self._holder(task) if patience > 0 else None
            if holder is not None:
                if not holder.startswith(ASYNCIO_DIR):
                    patience -= RETRIEVAL_GRACE
                self._failed[task] = task.get_loop().call_later(
                    RETRIEVAL_GRACE, self._judge, task, patience
                )
                return
            error = task.exception()
            assert error is not None
            self.report(self._name_of(task), error)
        del self._failed[task]
        self._forget(task)

    def _name_of(self, task: asyncio.Future[Any]) -> str:
        if isinstance(task, asyncio.Task):
            return f"task {task.get_name()!r} (made at {self.sites.get(task)})"
        return f"asyncio.gather() (called at {self._gathered.get(task)})"

    def _forget(self, task: asyncio.Future[Any]) -> None:
        if isinstance(task, asyncio.Task):
            self.sites.pop(task, None)
            self.makers.pop(task, None)
        else:
            self._gathered.pop(task, None)
        if not self.sites and not self._failed:
            self._none_left.set()

    def _holder(self, task: asyncio.Future[Any]) -> str | None:
        """Return the file of a waiting coroutine that has the task in a local variable."""
        now = task.get_loop().time()
        if now - self._holders_at > _HOLDERS_AGE:
            self._holders_at = now
            self._holders = self._find_holders()
        return self._holders.get(id(task))

    def _find_holders(self) -> dict[int, str]:
        """Return, by identity, the futures in local variables; asyncio's own coroutines go first."""
        found: dict[int, str] = {}
        for task in asyncio.all_tasks():
            for frame in frames_of_coroutine(task.get_coro()):
                file = frame.f_code.co_filename
                for held in _futures(frame):
                    if file.startswith(ASYNCIO_DIR) or id(held) not in found:
                        found[id(held)] = file
        # What `asyncio.gather` waits for is in no frame; it takes the errors once all have ended.
        waits = (getattr(task, "_fut_waiter", None) for task in asyncio.all_tasks())
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
        if self.over:
            return  # the tasks that it told of were named before
        error = context.get("exception")
        if isinstance(error, asyncio.CancelledError):
            return  # a callback has asked a cancelled task for its error, as asyncio's own do in 3.11
        source = context.get("task") or context.get("future")
        message = str(context.get("message"))
        callback = "handle" in context or "protocol" in context or "asyncgen" in context
        gathered = type(source).__name__ == "_GatheringFuture"
        if error is not None and (callback or gathered or isinstance(source, asyncio.Task)):
            self.report(message, error)
        else:
            LOGGER.warning("plugin %s: asyncio: %s", self._plugin, message, exc_info=error)


def _unretrieved(task: asyncio.Future[Any]) -> bool:
    # Asking for the exception would count as retrieving it; this is asyncio's own note.
    return bool(getattr(task, "_log_traceback", False))


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
