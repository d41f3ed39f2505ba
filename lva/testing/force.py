"""Ending tasks of a plugin that ignore their cancellation."""

from __future__ import annotations

import ctypes
import time
from typing import Any, Final, NoReturn

import trio

from lva.host.life.leaks import all_tasks
from lva.logs.loggers import current_plugin

#: How long, in real seconds, a thread that a task waits for may take to end before that task is ended.
_THREAD_PATIENCE: Final = 5.0


async def end_by_force(plugin: str) -> None:
    """End the plugin's tasks that ignore their cancellation, or the test would not end either.

    Trio has no means for that. The coroutine of such a task is replaced by one that raises.
    """
    patience = time.monotonic() + _THREAD_PATIENCE
    while alive := [task for task in all_tasks() if task.context.get(current_plugin) == plugin]:
        for task in alive:
            if any(nursery.child_tasks for nursery in task.child_nurseries):
                continue  # its children first
            coro: Any = task.coro
            if not isinstance(coro, _EndedCoroutine):
                # It would not bear being freed, not even when Python ends: one reference stays for ever.
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(coro))
                task.coro = _EndedCoroutine()  # type: ignore[assignment] # Trio sends to it, and no more
            waits = getattr(task, "_next_send_fn", None) is None
            if waits and (_stops_waiting(task) or time.monotonic() > patience):
                trio.lowlevel.reschedule(task)
        await trio.lowlevel.checkpoint()


def _stops_waiting(task: Any) -> bool:
    """Have a task that waits let go of what it waits for; return whether it has.

    What does not let go, as a thread, comes back to the task; Trio would not bear it if that were gone.
    """
    abort, task._abort_func = task._abort_func, None  # noqa: SLF001 - as Trio does when it cancels
    return abort is not None and abort(_raise_ended) is trio.lowlevel.Abort.SUCCEEDED


def _raise_ended() -> NoReturn:
    raise _EndedByForceError


class _EndedCoroutine:
    """Stands for a coroutine that is not run any more."""

    def send(self, _value: Any) -> None:
        raise _EndedByForceError

    def throw(self, *_args: Any) -> None:
        raise _EndedByForceError


class _EndedByForceError(Exception):
    """A task was ended by the kit."""
