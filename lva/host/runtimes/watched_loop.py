"""An event loop of a plugin, standard or uvloop's, that tells its owner what is made on it, and what fails.

Watched are the methods that make tasks, connections, servers and subprocesses, so that what plugin code and
its libraries leak can be ended and named; and the exception handler, so that what nobody retrieves is known.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from lva.host.runtimes.made import Made
from lva.host.runtimes.own_tasks import OwnTasks
from lva.host.runtimes.places import MACHINERY
from lva.stacks import callers

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

#: The class that loops other than uvloop's are derived from; `lva.testing` sets one in virtual time.
loop_base: Final[ContextVar[type[asyncio.SelectorEventLoop]]] = ContextVar(
    "lva_loop_base", default=asyncio.SelectorEventLoop
)


class LoopOwner(NamedTuple):
    """Who is told.

    Attributes:
        tasks: Of the tasks, and of what fails.
        made: Of what has to be closed.
        executors: Gets the default executors.
    """

    tasks: OwnTasks
    made: Made
    executors: list[ThreadPoolExecutor]


def new_loop(owner: LoopOwner, use_uvloop: bool) -> asyncio.AbstractEventLoop:
    """Return a loop that is told of.

    Args:
        owner: Who is told.
        use_uvloop: Whether it is uvloop's.
    """
    base: type[Any] = loop_base.get()
    if use_uvloop:
        import uvloop  # installed only where somebody asked for it

        base = uvloop.Loop
    kind: Any = type(f"Watched{base.__name__}", (_TellingLoop, base), {"owner": owner})
    loop: asyncio.AbstractEventLoop = kind()
    return loop


class _TellingLoop:
    """Mixed into a loop class: tells its owner what is made on it, and what fails."""

    # The ignores: what it has from the loop class, mypy cannot see.

    owner: LoopOwner

    def create_task(self, coro: Any, **options: Any) -> Any:
        site, gathers = _site(coro)
        made: list[asyncio.Task[Any]] = []
        if gathers:  # looked at before the task's first step, which may be its last
            self.call_soon(self.owner.tasks.watch_gathering, made, site)  # type: ignore[attr-defined] # a loop's
        task = super().create_task(coro, **options)  # type: ignore[misc] # a loop's
        made.append(task)
        self.owner.tasks.adopt(task, site)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.owner.tasks.heard(context)
        if self.get_exception_handler() is not None:  # type: ignore[attr-defined] # a loop's
            super().call_exception_handler(context)  # type: ignore[misc] # the plugin's own, too

    def set_default_executor(self, executor: Any) -> None:
        super().set_default_executor(executor)  # type: ignore[misc] # a loop's
        self.owner.executors.append(executor)

    # Not of uvloop. The loop makes these for connections that a server accepts, too.

    def _make_socket_transport(self, *args: Any, **options: Any) -> Any:
        made = super()._make_socket_transport(*args, **options)  # type: ignore[misc] # a loop's
        self.owner.made.note(made)
        return made

    def _make_ssl_transport(self, *args: Any, **options: Any) -> Any:
        made = super()._make_ssl_transport(*args, **options)  # type: ignore[misc] # a loop's
        self.owner.made.note(made)
        return made

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:
        raise RuntimeError(
            f"a plugin cannot handle signal {sig}: signals are the service's; to clean up at the end,"
            " define close()"
        )


def _watch(maker: str) -> Callable[..., Any]:
    async def watched(self: Any, *args: Any, **options: Any) -> Any:
        made = await getattr(super(_TellingLoop, self), maker)(*args, **options)
        self.owner.made.note(made[0] if isinstance(made, tuple) else made)
        return made

    watched.__name__ = maker
    return watched


for _name in _MAKERS:
    setattr(_TellingLoop, _name, _watch(_name))


def _site(coro: Any) -> tuple[str, bool]:
    """Say which line is making a task, the innermost that is not asyncio's, and whether to gather it.

    A task that asyncio itself makes, as for a connection that a server has accepted, is made where its
    coroutine is defined.
    """
    gathers = False
    for frame in callers(sys._getframe(2)):  # noqa: SLF001 - cheaper than `inspect.stack` by far
        if not frame.f_code.co_filename.startswith(MACHINERY):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}", gathers
        gathers = gathers or frame.f_code.co_name == "gather"
    code = getattr(coro, "cr_code", None)
    return "?" if code is None else f"{code.co_filename}:{code.co_firstlineno}", gathers
