"""An asyncio event loop in a thread of its own, on which no task dies in silence.

Knows asyncio and threads, not Trio: what happens on the loop is reported through two callbacks.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Any, Final, NamedTuple

from lva.errors import counted
from lva.host.process.forks import keep_from_children
from lva.host.runtimes.made import Made
from lva.host.runtimes.own_tasks import OnFailure, OwnTasks
from lva.host.runtimes.places import frames_of_thread, lines_of, place_of
from lva.host.runtimes.watched_loop import LoopOwner, new_loop
from lva.host.watch.pulse import Pulse
from lva.stacks import frames_of_coroutine

#: How the name of the thread of a plugin's loop ends; it begins with the plugin's.
LOOP_THREAD: Final = " (asyncio loop)"
#: A task that ignores its cancellation is cancelled again after this many seconds, and again.
RECANCEL: Final = 1.0
#: How long, in seconds, what `close()` left may take to end by itself before it counts as leaked.
LINGER: Final = 0.1
#: How many tasks are named; the rest are counted.
_MOST_NAMED: Final = 20
#: A loop that does not answer for so long, in seconds, is blocked by what runs on it.
_SILENT: Final = 0.1
#: How often, in seconds, the end of what cannot be awaited is looked for.
_LOOK: Final = 0.01


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

    Resources: the loop, with its descriptors, and a daemon thread, until `end` has returned and the thread
    has closed the loop. Code that blocks it, or a job of the executor that does not end, keeps both;
    `stubborn` names it.

    Errors: what code on the loop raises goes to `on_failure`; the loop goes on.

    Args:
        name: The plugin's name.
        context: Copied for the thread, so that everything on the loop knows its plugin.
        use_uvloop: Whether the loop is uvloop's.
        on_failure: See `OwnTasks`.
        on_end: Called from the thread as the last thing it does.

    Attributes:
        loop: The event loop.
        own: The plugin's tasks on it.
        made: What was made on it and has to be closed.
        unanswered: Called from the thread once the loop has ended: for calls that it never came to the
            end of.
        pulse: Tells whether the loop comes round.

    Raises:
        OSError: There is no descriptor left for a loop.
        RuntimeError: There is no thread left for it.
    """

    def __init__(
        self,
        name: str,
        context: Context,
        use_uvloop: bool,
        on_failure: OnFailure,
        on_end: Callable[[], None],
    ) -> None:
        self._name = name
        self._on_end = on_end
        self._chores: set[asyncio.Task[Any]] = set()
        self._executors: list[ThreadPoolExecutor] = []
        self._ending = False
        self.own: OwnTasks = OwnTasks(name, on_failure)
        self.made: Made = Made(name)
        self.unanswered: set[Callable[[], None]] = set()
        owner = LoopOwner(self.own, self.made, self._executors)
        self.loop: asyncio.AbstractEventLoop = new_loop(owner, use_uvloop)
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
            target=context.run, args=(self._main,), name=name + LOOP_THREAD, daemon=True
        )
        try:
            Context().run(self.thread.start)  # by the host, whoever's code led here
        except RuntimeError:
            self.loop.close()
            raise

    def _main(self) -> None:
        self.pulse.begin()
        asyncio.set_event_loop(self.loop)
        while not self.own.over:
            try:
                self.loop.run_forever()
            except BaseException as error:  # SystemExit and its like leave the loop through here
                self.own.report("its event loop", error)
            else:
                if not self.own.over:
                    why = "the plugin's code stopped the event loop, which is the service's"
                    self.own.report("loop.stop()", RuntimeError(why))
        try:
            self.loop.close()
        except Exception as error:  # uvloop's does not like everything that may be left on it
            self.own.report("its event loop's close()", error)
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
        kind = self._chores if chore else self.own.calls
        kind.add(task)
        task.add_done_callback(kind.discard)
        return task

    async def settle(self, started: list[asyncio.Task[None]]) -> list[str]:
        """End everything that is left of an attempt, after `close()`; return what was leaked.

        Args:
            started: The calls of `start()` that still run; they are cancelled, but not leaked.

        Resources: each task gets `RECANCEL` to clean up before it is cancelled once more, also one that
        `close()` has cancelled, and the connections that it may need for that stay open. Does not return
        while a task ignores its cancellation.

        Errors: of failed tasks are judged, and reported if they are crashes.
        """
        # Other calls that are left here have been cancelled, or close a stream that was being sent.
        asked = {*self.own.calls, *(task for task in self._pending() if task.cancelling())}
        for task in started:
            task.cancel()
        left = self._pending()
        if not asked.issuperset(left):
            await asyncio.wait(left, timeout=LINGER)
        leaked = [task for task in left if not task.done() and not task.cancelling()]
        named = _first([self._described(task) for task in leaked])
        await self._cancel([task for task in self._left() if task not in asked])
        named += self.made.close()
        while left := self._left():
            await self._cancel(left)
        self.own.judge_all()
        return named

    def _left(self) -> list[asyncio.Task[Any]]:
        return [*self._pending(), *(task for task in self.own.calls if not task.done())]

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
            self.made.close()  # there is some if a task has kept `settle` from its end
            self.made.close_processes()
            await self.loop.shutdown_asyncgens()
            for executor in self._executors:
                executor.shutdown(wait=False, cancel_futures=True)
            while self._executor_threads():  # noqa: ASYNC110 - a thread's end sets no event
                await asyncio.sleep(_LOOK)
        finally:
            self.own.over = True
            self.loop.stop()

    def _executor_threads(self) -> list[threading.Thread]:
        prefix = f"executor from {self._name}."
        return [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]

    def _pending(self) -> list[asyncio.Task[Any]]:
        known = {*self.own.sites, *asyncio.all_tasks(self.loop)} - {*self.own.calls, *self._chores}
        return [task for task in known if not task.done()]

    # What can be said of it, from any thread

    def stubborn(self) -> tuple[list[str], list[str]]:
        """Name the tasks that keep the loop from ending, and the threads: its own, jobs of its executor."""
        blocked = self.blocked_at()
        tasks = _first([self._described(task, blocked) for task in self._unfinished()])
        threads = self._executor_threads()
        idle = self._ending and not (tasks or threads)  # before, it rests for the next attempt
        if self.thread.is_alive() and (blocked or idle):
            threads.append(self.thread)
        return tasks, [f"{thread.name} (at {place_of(thread)})" for thread in threads]

    def count_tasks(self) -> int:
        """Count the plugin's tasks, and the calls into it, that have not ended."""
        return len(self._unfinished())

    def tasks(self) -> list[LoopTask]:
        """Describe the plugin's tasks, and the calls into it, that have not ended."""
        found = []
        for task in self._unfinished():
            maker = self.own.makers.get(task, lambda: None)()
            found.append(LoopTask(task, _full_name(task), self._place(task, None), maker))
        return found

    def _unfinished(self) -> list[asyncio.Task[Any]]:
        # Each copied in one step: the loop's thread changes them.
        return [task for task in (*list(self.own.sites), *list(self.own.calls)) if not task.done()]

    def _described(self, task: asyncio.Task[Any], blocked: str | None = None) -> str:
        """Return a task's name, where it was made and where it waits."""
        site = self.own.sites.get(task)
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
        return place_of(self.thread) if runs else lines_of(frames_of_coroutine(task.get_coro()))

    def blocked_at(self) -> str | None:
        """Say which lines block the loop; None if none do, or it is not known yet. Does not wait.

        Whoever asks first finds the loop asked already if the watch has seen it at work, or if a call of the
        host's waits for it.
        """
        if self.pulse.silent_for() < _SILENT:
            return None
        frames = frames_of_thread(self.thread)
        # One that waits for events by all appearances has not been given a processor, or the interpreter.
        return None if not frames or self.pulse.waits(frames[-1]) else lines_of(frames)


def _full_name(task: asyncio.Task[Any]) -> str:
    """Return a task's name, with what it runs if it was given none."""
    name = task.get_name()
    function = getattr(task.get_coro(), "__qualname__", None)
    return f"{name} ({function})" if name.startswith("Task-") and function else name


def _first(described: list[str]) -> list[str]:
    more = len(described) - _MOST_NAMED
    return [*described[:_MOST_NAMED], counted(more, "more task")] if more > 0 else described


def _adopt_context(context: Context) -> None:
    """Let what a thread logs carry the plugin's name, as `run_in_executor` does not see to."""
    for variable, value in context.items():
        variable.set(value)
