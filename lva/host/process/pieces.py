"""What of the state of the process plugin code may change: each piece, how it is read and put back."""

from __future__ import annotations

import _locale
import _signal  # type: ignore[import-not-found] # the stubs leave it out; `signal` calls a handler's repr()
import gc
import locale
import os
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from lva.errors import listing
from lva.host.plugin_modules import PACKAGE, is_plugin_module

Value: TypeAlias = Any  # of each piece its own

#: What of the environment the service and the C library go by while they run.
_VARIABLES: Final = (
    "TZ", "TMPDIR", "TEMP", "TMP", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LC_TIME", "LC_NUMERIC",
)  # fmt: skip
_LIMITS: Final = (
    "RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_MEMLOCK",
    "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_STACK",
)  # fmt: skip
#: Profilers that plugins start may have SIGPROF; see `lva.host.watch.alarm`. The other two cannot be had.
_FREE_SIGNALS: Final = {signal.SIGPROF, signal.SIGKILL, signal.SIGSTOP}
_MOST_NAMES: Final = 5
#: The value of an attribute that is not there.
UNSET: Final = object()


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of the state.

    Attributes:
        name: For people, as the object of "changed".
        read: Returns its value, to be compared with `==`.
        put_back: Makes it what `read` has returned before; raises if it cannot.
        shown: Whether the two values tell people something.
        detail: Says what has changed, of values that are too large to be shown.
    """

    name: str
    read: Callable[[], Value]
    put_back: Callable[[Value], object]
    shown: bool = True
    detail: Callable[[Value, Value], str] | None = None


def _attribute(owner: object, name: str, shown: bool = False) -> Piece:
    """Return a piece that is an attribute, of `sys` say; it may be missing."""

    def put_back(value: object) -> None:
        delattr(owner, name) if value is UNSET else setattr(owner, name, value)

    label = f"{getattr(owner, '__name__', owner)}.{name}"
    return Piece(label, lambda: getattr(owner, name, UNSET), put_back, shown)


def _handler(number: signal.Signals) -> Piece:
    def put_back(value: Value) -> None:
        if value is None:
            raise ValueError("it was set by a library in C")
        _signal.signal(number, value)

    name = f"the handler of {number.name}"
    return Piece(name, lambda: _signal.getsignal(number), put_back, shown=False)


def _timer(which: int, name: str) -> Piece:
    return Piece(
        f"the timer {name}",
        lambda: _signal.getitimer(which) != (0.0, 0.0),
        lambda _: signal.setitimer(which, 0),
        shown=False,
    )


def _limit(name: str) -> Piece:
    """Return a limit of the process; only one that is lowered counts as changed."""
    number = getattr(resource, name)
    first = resource.getrlimit(number)

    def read() -> tuple[int, ...]:
        now = resource.getrlimit(number)
        return now if now == first else tuple(map(_lower, now, first))

    def put_back(value: tuple[int, int]) -> None:
        try:
            resource.setrlimit(number, value)
        except ValueError:  # whoever is not root cannot raise the second one again
            most = resource.getrlimit(number)[1]
            resource.setrlimit(number, (_lower(value[0], most), most))
            raise

    return Piece(name, read, put_back)


def _lower(one: int, other: int) -> int:
    if one == resource.RLIM_INFINITY:
        return other
    return one if other == resource.RLIM_INFINITY else min(one, other)


def _strict_filters() -> list[Value]:
    """Return what turns warnings into errors, which the service's code could meet; the rest is harmless."""
    return [item for item in warnings.filters if item[0] == "error"]


def _put_back_filters(strict: list[Value]) -> None:
    kept = [item for item in warnings.filters if item[0] != "error" or item in strict]
    warnings.filters[:] = [*(item for item in strict if item not in kept), *kept]  # type: ignore[index] # a list
    with warnings.catch_warnings():
        pass  # which makes the module look at its filters anew


def _umask() -> int:
    now = os.umask(0o077)
    os.umask(now)
    return now


def _environment() -> Piece:
    """Return the variables that the service goes by, and that none of those at the start is gone.

    Plugins may add variables for libraries of theirs.
    """
    environ, first = os.environ, dict(os.environ)
    # To decode all names at each look would take a third of it.
    before, ours = dict(_raw_environment()), [*map(os.fsencode, _VARIABLES)]

    def read() -> list[str]:
        if os.environ is not environ:
            return ["os.environ itself"]
        now = _raw_environment()
        changed = [name for name in ours if now.get(name) != before.get(name)]
        changed += before.keys() - now.keys()
        return sorted({*map(os.fsdecode, changed)})

    def put_back(_: Value) -> None:
        os.environ = environ  # noqa: B003 - a plugin has set it
        for name in read():
            if name in first:
                environ[name] = first[name]
            else:
                del environ[name]
        time.tzset()

    return Piece("the environment", read, put_back, detail=_names)


def _raw_environment() -> dict[bytes, bytes]:
    return os.environ._data  # type: ignore[attr-defined,no-any-return] # noqa: SLF001 - see above


def _modules() -> Piece:
    """Return the modules that are imported now, but for plugins', which come and go."""
    imported = [*sys.modules.items()]
    first = {
        name: item
        for name, item in imported
        if not (name.startswith(PACKAGE) and name.partition(".")[0] == PACKAGE)
    }

    def read() -> list[str]:
        if first.items() <= sys.modules.items():  # much faster than one by one
            return []
        now = {name: sys.modules.get(name) for name in first}
        changed = [name for name, module in first.items() if now[name] is not module]
        return [name for name in changed if not is_new_plugin(name, now[name])]

    def is_new_plugin(name: str, module: object) -> bool:
        """Return whether a plugin of an installed package took the place of what was imported unchecked."""
        namespace = getattr(module, "__dict__", {})
        return is_plugin_module(namespace) and namespace.get("__name__") == name

    def put_back(_: Value) -> None:
        sys.modules.update({name: first[name] for name in read()})

    return Piece("sys.modules", read, put_back, detail=_names)


def _finders() -> Piece:
    first = [*sys.meta_path]

    def gone() -> list[Value]:
        return [finder for finder in first if finder not in sys.meta_path]

    return Piece("sys.meta_path", gone, lambda _: sys.meta_path.extend(gone()), shown=False)


def _names(_: Value, now: Sequence[str]) -> str:
    more = len(now) - _MOST_NAMES
    return listing(now[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def all_pieces() -> Iterator[Piece]:
    """Yield all pieces. A plugin has no business with any of them, but libraries do such things."""
    yield from _PLAIN
    yield _environment()
    yield _modules()
    yield _finders()
    yield from map(_limit, _LIMITS)


def _of_signals() -> Iterator[Piece]:
    for number in sorted(set(signal.Signals) - _FREE_SIGNALS):
        yield _handler(number)
    yield Piece(
        "the signal mask of the main thread",
        lambda: _signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        lambda value: _signal.pthread_sigmask(signal.SIG_SETMASK, value),
        shown=False,
    )
    yield _timer(signal.ITIMER_REAL, "of signal.alarm()")
    yield _timer(signal.ITIMER_VIRTUAL, "ITIMER_VIRTUAL")


def _of_the_interpreter() -> Iterator[Piece]:
    for name in ("excepthook", "unraisablehook", "tracebacklimit"):
        yield _attribute(sys, name, shown=name == "tracebacklimit")
    yield _attribute(threading, "excepthook")
    yield Piece(
        "the filters that make warnings errors", _strict_filters, _put_back_filters, shown=False
    )
    yield Piece("the switch interval", sys.getswitchinterval, sys.setswitchinterval)
    yield Piece("gc.isenabled()", gc.isenabled, lambda on: gc.enable() if on else gc.disable())
    yield Piece("gc.get_threshold()", gc.get_threshold, lambda value: gc.set_threshold(*value))
    yield Piece("gc.get_debug()", gc.get_debug, gc.set_debug)
    yield Piece("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit)
    yield Piece(
        "sys.get_int_max_str_digits()", sys.get_int_max_str_digits, sys.set_int_max_str_digits
    )
    yield Piece(
        "sys.get_asyncgen_hooks()",
        lambda: tuple(sys.get_asyncgen_hooks()),
        lambda value: sys.set_asyncgen_hooks(*value),
        shown=False,
    )
    yield Piece("the trace function", sys.gettrace, sys.settrace)
    yield Piece("the profile function", sys.getprofile, sys.setprofile)
    yield Piece("threading.gettrace()", threading.gettrace, threading.settrace)
    yield Piece("threading.getprofile()", threading.getprofile, threading.setprofile)
    yield Piece("threading.stack_size()", threading.stack_size, threading.stack_size)
    yield Piece("socket.getdefaulttimeout()", socket.getdefaulttimeout, socket.setdefaulttimeout)


def _of_the_system() -> Iterator[Piece]:
    yield Piece("the working directory", os.getcwd, os.chdir)
    yield Piece("the umask", lambda: f"{_umask():03o}", lambda value: os.umask(int(value, 8)))
    yield Piece(
        "the locale",
        lambda: _locale.setlocale(locale.LC_ALL, None),
        lambda value: _locale.setlocale(locale.LC_ALL, value),
    )
    yield Piece(
        "the processors it may run on",
        lambda: os.sched_getaffinity(0),
        lambda value: os.sched_setaffinity(0, value),
    )
    yield Piece(
        "its priority",
        lambda: os.getpriority(os.PRIO_PROCESS, 0),
        lambda value: os.setpriority(os.PRIO_PROCESS, 0, value),
    )


#: Those that need not be compared with how things were at first; to make them takes longer than a look.
_PLAIN: Final = (*_of_signals(), *_of_the_interpreter(), *_of_the_system())
