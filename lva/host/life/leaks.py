"""What of a plugin is still alive: Trio tasks and threads, found by looking, not by trust."""

from __future__ import annotations

import concurrent.futures.thread
import threading
import time
import weakref
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Final, Protocol

import trio

from lva.host.loading.load import LoadedPlugin
from lva.host.loading.reload import IMPORT_THREAD
from lva.host.process.starts import Job, jobs_of, starter_of
from lva.host.runtimes.calls import waiting_at
from lva.host.runtimes.loop import LOOP_THREAD, LoopThread
from lva.logs.loggers import current_plugin
from lva.stacks import callers, frames_of_threads

#: How long, in seconds, threads get before they count, and how often they are looked at, however busy the
#: machine is.
_A_MOMENT: Final = 0.2
_LEAST_LOOKS: Final = 20
#: The seconds between two looks.
_LOOK: Final = 0.002
#: Threads and jobs that were waited for, and are still there.
_lasting: weakref.WeakSet[threading.Thread | Job] = weakref.WeakSet()


class Footprint(Protocol):
    """One life of a plugin, as those see it who look for its tasks and threads.

    Attributes:
        name: The plugin's name.
        loaded: Its file, module and runtime.
    """

    name: str
    loaded: LoadedPlugin

    def left_running(self) -> tuple[list[str], list[str]]:
        """Name the tasks and threads of its runtime that have not ended, once nothing more is tried."""

    def loop_thread(self) -> LoopThread | None:
        """Return the thread of its asyncio loop, while it has one. Any thread may call."""


@dataclass(slots=True)
class Leaks:
    """Names of the tasks and threads, each with where it is."""

    tasks: list[str] = field(default_factory=list)
    threads: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.tasks or self.threads)

    def __str__(self) -> str:
        kinds = (("task", self.tasks), ("thread", self.threads))
        return ", ".join(f"{kind} {item}" for kind, items in kinds for item in items)


def find_leaks(lives: Iterable[Footprint]) -> dict[str, Leaks]:
    """Find what is alive of these plugins, in one walk over all tasks and threads.

    A task belongs to the plugin in whose context it was started or whose file its code is from; a
    thread to the plugin whose code has started it, or its work, or whose file is on its stack.
    """
    lives = list(lives)
    owners = _Owners(lives)
    found: defaultdict[str, Leaks] = defaultdict(Leaks)
    for name, task in _tasks_of(owners):
        found[name].tasks.append(f"{task.name} (at {waiting_at(task)})")
    for name, _, description in _threads_of(owners):
        found[name].threads.append(description)
    for life in lives:
        tasks, threads = life.left_running()
        if tasks or threads:
            leaks = found[life.name]
            leaks.tasks += tasks
            named = {line.partition(" (at ")[0] for line in leaks.threads}
            leaks.threads += [line for line in threads if line.partition(" (at ")[0] not in named]
    return dict(found)


async def lasting_leaks(lives: Sequence[Footprint]) -> dict[str, Leaks]:
    """Find what is alive of these plugins, once threads that are about to end have had a moment to do so.

    Nobody can wait for a thread that was abandoned, not even when its work is done. None gets two such
    moments: a stop that looks at each plugin, and then at all, has its time for other things.
    """
    owners = _Owners(lives)
    began, looks = time.monotonic(), 0
    while (alive := _unexpected(owners)) and (
        looks < _LEAST_LOOKS or time.monotonic() - began < _A_MOMENT
    ):
        looks += 1
        look = time.monotonic()
        with trio.CancelScope(shield=True):
            await trio.sleep(_LOOK)
        # Threads end in real time, which the event loop's may not be.
        time.sleep(max(0.0, look + _LOOK - time.monotonic()))  # noqa: ASYNC251 - what is left of one short look
    _lasting.update(alive)
    return find_leaks(lives)


def trio_tasks_of(life: Footprint) -> list[trio.lowlevel.Task]:
    """Return the Trio tasks of a plugin; whose a task is, is told as by `find_leaks`."""
    return [task for _, task in _tasks_of(_Owners([life]))]


def count_tasks(lives: Iterable[Footprint]) -> Counter[str]:
    """Count the Trio tasks of these plugins; whose a task is, is told as by `find_leaks`."""
    return Counter(name for name, _ in _tasks_of(_Owners(lives)))


def all_tasks() -> Iterator[trio.lowlevel.Task]:
    """Yield every Trio task there is, Trio's own included."""
    root = trio.lowlevel.current_root_task()
    pending = [root] if root is not None else []
    while pending:
        task = pending.pop()
        yield task
        for nursery in task.child_nurseries:
            pending.extend(nursery.child_tasks)


class _Owners:
    """Tells which of these plugins code belongs to.

    Attributes:
        names: The plugins' names.
    """

    def __init__(self, lives: Iterable[Footprint]) -> None:
        self.names: set[str] = set()
        # By file, or by directory with a slash, the names of the plugins made from it, by their modules.
        self._made_from: dict[str, dict[str, str]] = {}
        for life in lives:
            path = life.loaded.path
            place = f"{path.parent}/" if path.name == "__init__.py" else str(path)
            self._made_from.setdefault(place, {})[life.loaded.module] = life.name
            self.names.add(life.name)
        self._packages = [place for place in self._made_from if place.endswith("/")]

    def of(self, file: str, namespace: Mapping[str, object]) -> str | None:
        """Return the plugin that code belongs to, by its file and its module's namespace."""
        names = self._made_from.get(file)
        if names is None:
            package = next((place for place in self._packages if file.startswith(place)), None)
            if package is None:
                return None
            names = self._made_from[package]
        if len(names) == 1:
            return next(iter(names.values()))
        module = f"{namespace.get('__name__')}."
        return next((name for own, name in names.items() if module.startswith(f"{own}.")), None)


def _tasks_of(owners: _Owners) -> Iterator[tuple[str, trio.lowlevel.Task]]:
    """Yield every task of these plugins with the plugin's name."""
    for task in all_tasks():
        name = task.context.get(current_plugin) or _by_code(task, owners)
        if name in owners.names:
            yield name, task


def _by_code(task: trio.lowlevel.Task, owners: _Owners) -> str | None:
    code = getattr(task.coro, "cr_code", None)
    if code is None:
        return None
    frame = getattr(task.coro, "cr_frame", None)
    return owners.of(code.co_filename, frame.f_globals if frame else {})


def _unexpected(owners: _Owners) -> set[threading.Thread | Job]:
    """Return the threads of these plugins, and their jobs, that nobody has waited for yet."""
    return {work for _, work, _ in _threads_of(owners)}.difference(_lasting)


def _threads_of(owners: _Owners) -> Iterator[tuple[str, threading.Thread | Job, str]]:
    """Yield the threads of these plugins, or their jobs in Trio's: whose, which, and what and where it is.

    Any thread may call.
    """
    frames = frames_of_threads()
    jobs = {job.ident: job for job in jobs_of(owners.names)}
    for thread in threading.enumerate():
        if thread is threading.main_thread() or thread.ident not in frames:
            continue
        if thread.name.startswith(IMPORT_THREAD):
            continue  # it imports the file anew, and belongs to no life of the plugin
        stack = list(callers(frames[thread.ident]))
        job = jobs.get(thread.ident)
        starter = starter_of(thread) if job is None else job.plugin
        if thread.name.startswith(f"executor from {starter}.") and _rests(stack):
            continue  # the loop's own executor is there for the next attempt
        innermost: dict[str, FrameType] = {}  # by whose it is
        for frame in stack:
            name = owners.of(frame.f_code.co_filename, frame.f_globals)
            if name is not None:
                innermost.setdefault(name, frame)
        if starter is None:
            for name, frame in innermost.items():
                # Another plugin from the same file may be at work in its own loop.
                if not thread.name.endswith(LOOP_THREAD) or thread.name == name + LOOP_THREAD:
                    yield name, thread, _described(thread, frame)
        elif starter in owners.names:
            yield starter, job or thread, _described(thread, innermost.get(starter, stack[0]))


def _rests(stack: Sequence[FrameType]) -> bool:
    """Return whether a thread of an executor has nothing to do."""
    return stack[0].f_code is concurrent.futures.thread._worker.__code__  # noqa: SLF001 - nothing else tells


def _described(thread: threading.Thread, frame: FrameType) -> str:
    """Say what a thread is, and where."""
    return f"{thread.name} (at {frame.f_code.co_filename}:{frame.f_lineno})"
