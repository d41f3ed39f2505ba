"""What a child process that a plugin forks has of the service, and what is put right there.

A fork copies the process with one of its threads. So the child has the service's signal handlers, through
which a signal to it would reach the service; its sockets, which would keep the port and clients' connections
open; its event loops, which would do the work twice; and no thread but its own. `multiprocessing` forks by
default.

SQLite's connections stay as they are: nothing uses them there, since nothing runs but the plugin's own code,
and SQLite's own locks keep the files from a child that closes one. Python puts the locks of logging right.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import trio

from lva.errors import counted
from lva.logs.loggers import current_plugin

#: Modules whose signal handlers are the service's.
_OURS: Final = ("lva.", "trio.")
#: What ends a child that comes back to an event loop of the service.
_EXIT: Final = 70
_STDERR: Final = 2
#: How long, in seconds, a start waits for another that is under way.
_PATIENCE: Final = 1.0


class _HasDescriptor(Protocol):
    def fileno(self) -> int: ...


class PointsInChildError(RuntimeError):
    """Points were published in a forked child process, from where nothing reaches the service."""


_hidden: weakref.WeakSet[_HasDescriptor] = weakref.WeakSet()
_loops: weakref.WeakSet[Any] = weakref.WeakSet()
_blocked = threading.local()
_starting = threading.RLock()
_installed = False
#: Whether this is a child process that was forked from a service.
in_child: bool = False


def hide(socket: _HasDescriptor) -> None:
    """Let no forked child have this socket of the service's, for as long as it is there."""
    _hidden.add(socket)


def keep_from_children(loop: Any) -> None:
    """Let no forked child go on with this asyncio loop."""
    _loops.add(loop)


def refuse(count: int) -> None:
    """Refuse points that are published in a forked child, where they would be lost.

    Raises:
        PointsInChildError: Always.
    """
    raise PointsInChildError(
        f"refused: {counted(count, 'point')} published in a forked child process; nothing that happens there"
        " reaches the service; hand them to the parent, for example through a multiprocessing.Queue"
    )


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Start a process, while no other thread forks.

    The pipe through which a started process tells that it could not execute its program would otherwise be
    inherited by what is forked at that moment, and be waited for until that ends.
    """
    held = _starting.acquire(timeout=_PATIENCE)
    try:
        yield
    finally:
        if held:
            _starting.release()


def install() -> None:
    """Put right what this process forks from now on; once, and for good."""
    global _installed
    if not _installed:
        _installed = True
        os.register_at_fork(
            before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
        )


def _before() -> None:
    _blocked.held = _starting.acquire(timeout=_PATIENCE)
    # A signal that came before the handlers are put right would go to the service's wake-up descriptor.
    _blocked.before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _after_in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _blocked.before)
    if _blocked.held:
        _starting.release()


def _after_in_child() -> None:
    global in_child
    try:
        if not in_child:
            in_child = True
            _default_handlers()
            _hide_descriptors()
            _end_at_loops()
    finally:
        _after_in_parent()


def _default_handlers() -> None:
    """Handle signals as a Python program does by itself, but for those that a plugin handles."""
    with contextlib.suppress(ValueError):  # not in the main interpreter
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if callable(handler) and _module_of(handler).startswith(_OURS):
                usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                signal.signal(number, usual)


def _module_of(handler: Callable[..., Any]) -> str:
    function = getattr(handler, "func", handler)  # of a `functools.partial`
    return str(getattr(function, "__module__", ""))


def _hide_descriptors() -> None:
    """Put nothing in the place of sockets and of event loops' own descriptors, whose numbers stay taken.

    What is registered with the latter is shared with the parent: who closed a connection here would make the
    parent deaf to its own.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in [*(socket.fileno() for socket in list(_hidden)), *_event_polls()]:
        if descriptor >= 0:
            os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


def _event_polls() -> list[int]:
    found = []
    directory = Path("/proc/self/fd")
    for path in list(directory.iterdir()) if directory.is_dir() else []:
        with contextlib.suppress(OSError):
            if os.readlink(path) == "anon_inode:[eventpoll]":  # noqa: PTH115 - it is no path
                found.append(int(path.name))
    return found


def _end_at_loops() -> None:
    """End the child as soon as it comes back to an event loop, which would do the service's work again."""
    plugin = current_plugin.get() or "unknown"
    if trio.lowlevel.in_trio_run():
        trio.lowlevel.add_instrument(_EndingInstrument(plugin))
    for loop in list(_loops):
        if (selector := getattr(loop, "_selector", None)) is not None:
            selector.select = lambda *_: _end(
                plugin
            )  # what a loop comes to next, whatever is ready
        elif not loop.is_closed():
            loop.call_soon(_end, plugin)  # uvloop's inside cannot be reached


class _EndingInstrument(trio.abc.Instrument):
    def __init__(self, plugin: str) -> None:
        self._plugin = plugin

    def after_task_step(self, _task: trio.lowlevel.Task) -> None:
        _end(self._plugin)

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        _end(self._plugin)


def _end(plugin: str) -> None:
    """End the process. With plain system calls: others' locks may never be free here."""
    text = (
        f"lva: plugin {plugin}: a forked child process returned to the service's event loop and was ended;"
        " end it with os._exit(), or use multiprocessing or subprocess\n"
    )
    with contextlib.suppress(OSError):
        os.write(_STDERR, text.encode())
    os._exit(_EXIT)
