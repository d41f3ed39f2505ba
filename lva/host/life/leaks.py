"""What of a plugin is still alive: Trio tasks and threads, found by looking, not by trust."""

from __future__ import annotations

import concurrent.futures.thread
import threading
import time
import weakref
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from lva.host.loading.reload import IMPORT_THREAD
from lva.host.process.starts import Job, jobs_of, starter_of
from lva.host.runtimes.calls import waiting_at
from lva.logs.loggers import current_plugin
from lva.stacks import callers, frames_of_threads

if TYPE_CHECKING:
    from lva.host.life.footprint import Footprint


#: By what the names of plugins' files begin with, the modules that were made from them, and whose these are.
_Roots: TypeAlias = dict[str, dict[str, str]]


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
    roots = _roots(lives)
    found: defaultdict[str, Leaks] = defaultdict(Leaks)
    for name, task in _tasks_of(roots):
        found[name].tasks.append(f"{task.name} (at {waiting_at(task)})")
    for name, _, description in _threads_of(roots):
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
    roots = _roots(lives)
    began, looks = time.monotonic(), 0
    while (alive := _unexpected(roots)) and (
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


def _unexpected(roots: _Roots) -> set[threading.Thread | Job]:
    """Return the threads of these plugins, and their jobs, that nobody has waited for yet."""
    return {work for _, work, _ in _threads_of(roots)}.difference(_lasting)


def _threads_of(roots: _Roots) -> Iterator[tuple[str, threading.Thread | Job, str]]:
    """Yield the threads of these plugins, or their jobs in Trio's: whose, which, and what and where it is.

    Any thread may call.
    """
    names = {name for _, _, name in _each(roots)}
    frames = frames_of_threads()
    jobs = {job.ident: job for job in jobs_of(names)}
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
        own = list(_frames_of_plugins(stack, roots))
        if starter is None:
            loop_of = thread.name.removesuffix(LOOP_THREAD) if _is_loop(thread) else None
            for name in dict.fromkeys(name for name, _ in own):
                if loop_of in (
                    None,
                    name,
                ):  # another plugin from the same file may be at work in its own
                    yield name, thread, _described(thread, own, name, stack[0])
        elif starter in names:
            yield starter, job or thread, _described(thread, own, starter, stack[0])


def _is_loop(thread: threading.Thread) -> bool:
    """Return whether a thread runs the asyncio loop of a plugin."""
    return thread.name.endswith(LOOP_THREAD)


def _rests(stack: Sequence[FrameType]) -> bool:
    """Return whether a thread of an executor has nothing to do."""
    return stack[0].f_code is concurrent.futures.thread._worker.__code__  # noqa: SLF001 - nothing else tells


def _described(
    thread: threading.Thread,
    own: Iterable[tuple[str, FrameType]],
    plugin: str,
    innermost: FrameType,
) -> str:
    """Say what a thread is, and where: its innermost line of the plugin's, if it has one."""
    place = next((frame for name, frame in own if name == plugin), innermost)
    return f"{thread.name} (at {place.f_code.co_filename}:{place.f_lineno})"


def _frames_of_plugins(
    stack: Iterable[FrameType], roots: _Roots
) -> Iterator[tuple[str, FrameType]]:
    """Yield the frames that are of these plugins' files, with the plugin's name."""
    packages = _packages(roots)
    for frame in stack:
        owners = _owners(frame.f_code.co_filename, roots, packages)
        if owners and (name := _whose(owners, frame.f_globals)) is not None:
            yield name, frame


def trio_tasks_of(life: Footprint) -> list[trio.lowlevel.Task]:
    """Return the Trio tasks of a plugin; whose a task is, is told as by `find_leaks`."""
    return [task for _, task in _tasks_of(_roots([life]))]


def count_tasks(lives: Iterable[Footprint]) -> Counter[str]:
    """Count the Trio tasks of these plugins; whose a task is, is told as by `find_leaks`."""
    return Counter(name for name, _ in _tasks_of(_roots(lives)))


def _roots(lives: Iterable[Footprint]) -> _Roots:
    roots: _Roots = {}
    for life in lives:
        roots.setdefault(_root(life.loaded.path), {})[life.loaded.module] = life.name
    return roots


def _each(roots: _Roots) -> Iterator[tuple[str, str, str]]:
    for root, owners in roots.items():
        for module, name in owners.items():
            yield root, module, name


def _packages(roots: _Roots) -> list[str]:
    return [root for root in roots if root.endswith("/")]


def _owners(file: str, roots: _Roots, packages: Iterable[str]) -> dict[str, str] | None:
    """Return the plugins that were made from a file."""
    return roots.get(file) or next(
        (roots[root] for root in packages if file.startswith(root)), None
    )


def _whose(owners: Mapping[str, str], namespace: Mapping[str, object]) -> str | None:
    """Return which of the plugins made from one file code belongs to, by its module's namespace."""
    if len(owners) == 1:
        return next(iter(owners.values()))
    module = f"{namespace.get('__name__')}."
    return next((name for own, name in owners.items() if module.startswith(f"{own}.")), None)


def _tasks_of(roots: _Roots) -> Iterator[tuple[str, trio.lowlevel.Task]]:
    """Yield every task of these plugins with the plugin's name."""
    names = {name for _, _, name in _each(roots)}
    packages = _packages(roots)

    def by_code(task: trio.lowlevel.Task) -> str | None:
        owners = _owners(_code_file(task), roots, packages)
        frame = getattr(task.coro, "cr_frame", None)
        return _whose(owners, frame.f_globals if frame else {}) if owners else None

    for task in all_tasks():
        name = task.context.get(current_plugin) or by_code(task)
        if name in names:
            yield name, task


#: How long, in seconds, threads get before they count, and how often they are looked at, however busy the
#: machine is.
_A_MOMENT: Final = 0.2
#: How the name of a thread ends that runs the asyncio loop of a plugin; it begins with the name of that.
LOOP_THREAD: Final = " (asyncio loop)"
_LEAST_LOOKS: Final = 20
#: The seconds between two looks.
_LOOK: Final = 0.002
#: Threads and jobs that were waited for, and are still there.
_lasting: weakref.WeakSet[threading.Thread | Job] = weakref.WeakSet()


def _root(path: Path) -> str:
    return str(path.parent) + "/" if path.name == "__init__.py" else str(path)


def _code_file(task: trio.lowlevel.Task) -> str:
    code = getattr(task.coro, "cr_code", None)
    return code.co_filename if code is not None else ""


def all_tasks() -> Iterator[trio.lowlevel.Task]:
    """Yield every Trio task there is, Trio's own included."""
    root = trio.lowlevel.current_root_task()
    pending = [root] if root is not None else []
    while pending:
        task = pending.pop()
        yield task
        for nursery in task.child_nurseries:
            pending.extend(nursery.child_tasks)
