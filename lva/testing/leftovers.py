"""What is still there after a plugin's end: tasks, threads, files, sockets, routes, channels."""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Self

import trio

from lva.errors import counted
from lva.host.life.leaks import all_tasks
from lva.host.process import starts
from lva.host.runtimes.calls import waiting_at
from lva.stacks import frames_of_threads
from lva.testing.blocks import SCHEDULE
from lva.testing.places import Place, frame_place, parsed_place
from lva.testing.report import Breach
from lva.testing.virtual import threads_work
from lva.testing.world import World
from lva.web.handling import runners, short_waits

if TYPE_CHECKING:
    from lva.host.host import Host

#: How many looks, so many real seconds apart, what is about to end may take to do so: looks, since on a busy
#: machine this thread does not run either when that one does not.
_LOOKS: Final = 100
_LOOK: Final = 0.002
#: Most looks at a thread that works, or waits for a processor, and so may be about to end.
_MOST_LOOKS: Final = 1000
_FD_DIR: Final = next((path for path in ("/proc/self/fd", "/dev/fd") if Path(path).is_dir()), None)
#: Where tasks are that the service keeps for requests, and which end by themselves or with it.
_OF_REQUESTS: Final = {runners.__file__, short_waits.__file__}
#: What to do about each kind of thing that was leaked.
HINTS: Final = {
    "task": "let tasks end when they are cancelled: no bare except around an await, no shield",
    "thread": "tell the thread to end, and join it, in close()",
    "socket": "close it in close(), in a finally if something else there may be cancelled",
    "file": "close it in close(), in a finally if something else there may be cancelled",
}


class Origins:
    """Notes which line of a plugin opens files and sockets, and starts threads.

    Args:
        root: What the names of the plugin's files begin with.

    Use as a context manager.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._files: dict[str, Place] = {}
        self._sockets: list[tuple[weakref.ref[socket.socket], Place]] = []
        self._threads: weakref.WeakKeyDictionary[threading.Thread, Place] = (
            weakref.WeakKeyDictionary()
        )

    def __enter__(self) -> Self:
        _install_hook()
        starts.install()  # below this wrapper, which goes again
        _recorders.append(self)
        # Python tells no hook of threads, at least not before 3.12. The ignores: mypy knows it as a method.
        self._start = threading.Thread.start
        threading.Thread.start = _noting(self._start, self._threads, self._root)  # type: ignore[method-assign,assignment] # put back
        return self

    def __exit__(self, *_: object) -> None:
        threading.Thread.start = self._start  # type: ignore[method-assign] # as it was
        _recorders.remove(self)

    def note(self, event: str, args: tuple[Any, ...]) -> None:
        """Take note of what the plugin, or a library that it calls, is about to make."""
        place = self._caller()
        if place is None:
            return
        if event == "open":
            if isinstance(args[0], str | bytes | os.PathLike):
                self._files[os.path.realpath(os.fsdecode(args[0]))] = place
        elif isinstance(args[0], socket.socket):
            self._sockets.append((weakref.ref(args[0]), place))

    def _caller(self) -> Place | None:
        return frame_place(sys._getframe(3), self._root)  # noqa: SLF001 - cheaper than `inspect.stack`

    def of_file(self, descriptor: int, target: str) -> Place | None:
        """Return where a file or socket was opened."""
        for reference, place in self._sockets:
            made = reference()
            if made is not None and made.fileno() == descriptor:
                return place
        return self._files.get(target)

    def of_thread(self, thread: threading.Thread) -> Place | None:
        """Return where a thread was started."""
        return self._threads.get(thread)


_recorders: list[Origins] = []
_hooks: list[Callable[..., None]] = []
_EVENTS: Final = frozenset({"open", "socket.__new__"})


def _noting(
    start: Callable[[threading.Thread], None],
    started: weakref.WeakKeyDictionary[threading.Thread, Place],
    root: str,
) -> Callable[[threading.Thread], None]:
    """Return what starts a thread, and notes which line of the plugin did."""

    def noting(thread: threading.Thread) -> None:
        if (place := frame_place(sys._getframe(1), root)) is not None:  # noqa: SLF001 - as above
            started[thread] = place
        start(thread)

    return noting


def _install_hook() -> None:
    """Hear of what is made in this process. Such a hook cannot be removed; it is idle between checks."""
    if not _hooks:
        _hooks.append(_heard)
        sys.addaudithook(_heard)


def _heard(event: str, args: tuple[Any, ...]) -> None:
    if event in _EVENTS:
        for recorder in _recorders:
            recorder.note(event, args)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there was before a plugin: everything that it leaves is found by comparison."""

    tasks: frozenset[trio.lowlevel.Task]
    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[int, str]]


def snapshot() -> Snapshot:
    """Look at what there is. In a Trio task."""
    return Snapshot(
        frozenset(all_tasks()), frozenset(threading.enumerate()), frozenset(_descriptors())
    )


async def left_since(
    before: Snapshot, root: str, origins: Origins, world: World | None = None
) -> list[Breach]:
    """Return what is there that was not there before, once what is about to end has had a moment.

    Args:
        before: What there was.
        root: What the names of the plugin's files begin with.
        origins: Where things were made.
        world: What the plugin talked to; its own things do not count.
    """
    found = _found(before, root, origins, world)
    if found:
        gc.collect()  # what nobody holds is closed sooner or later, and is not leaked
    looks = 0
    while found and (looks < _LOOKS or (looks < _MOST_LOOKS and threads_work())):
        looks += 1
        time.sleep(_LOOK)  # noqa: ASYNC251 - threads end in real time, which the loop's may not be
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        found = _found(before, root, origins, world)
    return found


def host_leftovers(host: Host) -> list[Breach]:
    """Return what a host still holds for plugins that have ended: routes and points."""
    found = []
    for life in host.lives.values():
        if paths := [route.template for route in host.routes.of(life.name)]:
            found.append(Breach("G7", f"leaked: the route {', '.join(paths)}"))
        for cls, delivery in life.deliveries.items():
            ledger = delivery.ledger
            if not delivery.mailbox.closed.is_set():
                found.append(Breach("G7", f"leaked: the open channel of {cls.__name__}"))
            if unsettled := ledger.queued + ledger.in_flight:
                found.append(
                    Breach(
                        "G5",
                        f"in no final place at the end: {counted(unsettled, 'point')} of {cls.__name__}",
                    )
                )
    return found


def _found(before: Snapshot, root: str, origins: Origins, world: World | None) -> list[Breach]:
    problems = []
    ours = {trio.lowlevel.current_task()}
    for task in all_tasks():
        foreign = (
            _of_trio(task) or _waits_for_requests(task) or (world is not None and world.owns(task))
        )
        if task not in before.tasks | ours and not foreign:
            where = waiting_at(task)
            problems.append(_left("task", f"{task.name} (at {where})", parsed_place(where, root)))
    frames = frames_of_threads()
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if frame is None or thread is threading.current_thread():
            continue
        own = frame_place(frame, root)
        if own is None and (thread in before.threads or _is_idle(thread, frame)):
            continue
        place = own or origins.of_thread(thread)
        problems.append(_left("thread", thread.name, place))
    for descriptor, target in _descriptors() - before.descriptors:
        if world is not None and world.owns(descriptor):
            continue
        kind = "socket" if target.startswith("socket:") else "file"
        what = f"descriptor {descriptor}" if kind == "socket" else target
        problems.append(_left(kind, what, origins.of_file(descriptor, target)))
    return problems


def _left(kind: str, what: str, place: Place | None) -> Breach:
    return Breach("G7", f"leaked: the {kind} {what}", place, HINTS[kind])


def _waits_for_requests(task: trio.lowlevel.Task) -> bool:
    """Return whether a task is one that the service keeps for requests, and has none now."""
    code = getattr(task.coro, "cr_code", None)
    idle = not any(nursery.child_tasks for nursery in task.child_nurseries)
    return code is not None and code.co_filename in _OF_REQUESTS and idle


def _of_trio(task: trio.lowlevel.Task) -> bool:
    """Return whether a task is one of Trio's own helpers."""
    code = getattr(task.coro, "cr_code", None)
    return code is not None and "/trio/_core/" in code.co_filename


def _is_idle(thread: threading.Thread, frame: FrameType) -> bool:
    """Return whether a thread is one that Trio keeps for its next job; with a job it has another name."""
    return thread.name.startswith("Trio thread ") or frame.f_code.co_filename.endswith(
        "/trio/_core/_thread_cache.py"
    )


def _descriptors() -> set[tuple[int, str]]:
    found = set()
    for name in os.listdir(_FD_DIR) if _FD_DIR is not None else ():  # noqa: PTH208 - descriptors, not files
        try:
            if _FD_DIR == "/proc/self/fd":
                target = os.readlink(f"{_FD_DIR}/{name}")  # noqa: PTH115 - a socket's is no path
            else:
                status = os.fstat(int(name))
                target = f"{status.st_dev}:{status.st_ino}"
        except OSError:
            continue  # that of the listing itself
        if not target.endswith(f"/{SCHEDULE}"):  # the kit's own
            found.add((int(name), target))
    return found
