"""Worker threads that serve a plugin's requests: how long each has been at one call.

Trio's worker threads and asyncio's (`asyncio.to_thread`) run a call in the context that it was made in, which
tells plugin and request. A call of a background job may block its thread for as long as it likes; one that
a client waits for should not.
"""

from __future__ import annotations

from concurrent.futures import thread as executors
from contextvars import Context
from types import FrameType
from typing import Any, Final, NamedTuple

import trio

from lva.logs.loggers import current_plugin, current_request
from lva.stacks import callers

#: The functions in whose local variables the context of a worker thread's call is found.
_TRIO: Final = trio.to_thread.run_sync.__code__.co_filename
_EXECUTOR: Final = executors.__file__


class WorkerCall(NamedTuple):
    """A call that a worker thread is at.

    Attributes:
        context: The context that it runs in; each call has its own.
        plugin: The plugin that it was made in the name of, if in one's.
        frame: The innermost frame of the thread.
    """

    context: Context
    plugin: str | None
    frame: FrameType


def calls_of_requests(frames: dict[int, FrameType]) -> dict[int, WorkerCall]:
    """Return the calls that requests wait for, by thread.

    Args:
        frames: The innermost frame of each thread (`sys._current_frames()`).
    """
    found = {}
    for ident, frame in frames.items():
        context = _context(frame)
        if context is not None and context.get(current_request) is not None:
            found[ident] = WorkerCall(context, context.get(current_plugin), frame)
    return found


def _context(innermost: FrameType) -> Context | None:
    """Return the context of a worker thread's call; None for other threads and idle ones."""
    for frame in callers(innermost):
        code = frame.f_code
        if code.co_name == "worker_fn" and code.co_filename == _TRIO:
            return _as_context(frame.f_locals.get("context"))
        if code.co_name == "run" and code.co_filename == _EXECUTOR:
            # `asyncio.to_thread` calls `functools.partial(context.run, …)`.
            work: Any = getattr(frame.f_locals.get("self"), "fn", None)
            return _as_context(getattr(getattr(work, "func", None), "__self__", None))
    return None


def _as_context(found: object) -> Context | None:
    return found if isinstance(found, Context) else None
