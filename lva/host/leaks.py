"""What of a plugin is still alive: Trio tasks and threads, found by looking, not by trust."""

from __future__ import annotations

import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from lva.host.runtimes import waiting_at
from lva.logs import current_plugin

if TYPE_CHECKING:
    from lva.host.footprint import Footprint


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
    thread to the plugin whose file is on its stack, or whose task called it. A library's own thread
    without either cannot be told.
    """
    lives = list(lives)
    roots = _roots(lives)
    found: defaultdict[str, Leaks] = defaultdict(Leaks)
    for name, task in _tasks_of(roots):
        found[name].tasks.append(f"{task.name} (at {waiting_at(task)})")
    frames = sys._current_frames()  # noqa: SLF001 - the documented way to see the stacks of threads
    for thread in threading.enumerate():
        if thread is threading.main_thread() or thread.ident not in frames:
            continue
        if thread.name.startswith(IMPORT_THREAD):
            continue  # it imports the file anew, and belongs to no life of the plugin
        stack = list(_stack(frames[thread.ident]))
        for root, module, name in _each(roots):
            own = [
                frame
                for frame in stack
                if frame.f_code.co_filename.startswith(root)
                and _whose(roots[root], frame.f_globals) == name
            ]
            callers = (f" from {name}.", f" from {module}.", f" from lva_plugins.{name}.")
            called = any(caller in thread.name for caller in callers)
            if own or (called and len(stack) > _IDLE_DEPTH):
                place = own[0] if own else stack[0]
                found[name].threads.append(
                    f"{thread.name} (at {place.f_code.co_filename}:{place.f_lineno})"
                )
    for life in lives:
        tasks, threads = life.left_running()
        if tasks or threads:
            leaks = found[life.name]
            leaks.tasks += tasks
            named = {line.partition(" (at ")[0] for line in leaks.threads}
            leaks.threads += [line for line in threads if line.partition(" (at ")[0] not in named]
    return dict(found)


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


def _whose(owners: Mapping[str, str], namespace: Mapping[str, object]) -> str | None:
    """Return which of the plugins made from one file code belongs to, by its module's namespace."""
    if len(owners) == 1:
        return next(iter(owners.values()))
    module = f"{namespace.get('__name__')}."
    return next((name for own, name in owners.items() if module.startswith(f"{own}.")), None)


def _tasks_of(roots: _Roots) -> Iterator[tuple[str, trio.lowlevel.Task]]:
    """Yield every task of these plugins with the plugin's name."""
    names = {name for _, _, name in _each(roots)}
    packages = [root for root in roots if root.endswith("/")]

    def by_code(task: trio.lowlevel.Task) -> str | None:
        file = _code_file(task)
        owners = roots.get(file) or next(
            (roots[root] for root in packages if file.startswith(root)), None
        )
        frame = getattr(task.coro, "cr_frame", None)
        return _whose(owners, frame.f_globals if frame else {}) if owners else None

    for task in all_tasks():
        name = task.context.get(current_plugin) or by_code(task)
        if name in names:
            yield name, task


#: How the names of threads begin that import a plugin's file while the plugin runs.
IMPORT_THREAD: Final = "import of plugin "
#: Frames of an idle worker thread that Trio keeps for its next job, under the name of its last.
_IDLE_DEPTH = 4


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


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
