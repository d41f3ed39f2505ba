"""Worker threads that serve a plugin's requests: which of them is at one call for too long.

Trio's worker threads and asyncio's (`asyncio.to_thread`) run a call in the context that it was made in, which
tells plugin and request. A call of a background job may block its thread for as long as it likes; one that
a client waits for should not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import thread as executors
from contextvars import Context
from dataclasses import dataclass
from time import perf_counter
from types import FrameType
from typing import Any, Final

import trio

from lva.host.watch.pulse import Watched, modules_of
from lva.host.watch.reports import Culprit, OpenBlock, Reporter
from lva.host.watch.stacks import owner_of, stack_of, without_callers
from lva.logs.loggers import current_plugin, current_request
from lva.stacks import callers

#: How often worker threads are looked at: in seconds at most, and as a part of their limit.
_LONGEST_PERIOD: Final = 1.0
_PERIOD: Final = 0.2
#: The functions in whose local variables the context of a worker thread's call is found.
_TRIO: Final = trio.to_thread.run_sync.__code__.co_filename
_EXECUTOR: Final = executors.__file__


@dataclass(slots=True)
class _ThreadCall:
    """A call that a worker thread has been at since it was first seen; each has a context of its own."""

    context: Context
    since: float
    report: OpenBlock | None = None


class WorkerThreads:
    """Looks at worker threads that serve requests. In the watching thread only.

    Args:
        limit: A thread that is at one call for longer, in seconds, is blocked.
        reporter: Reports it.
        clock: Tells the time, in seconds.
    """

    def __init__(
        self, limit: float, reporter: Reporter, clock: Callable[[], float] = perf_counter
    ) -> None:
        self._limit = limit
        self._period = min(_LONGEST_PERIOD, limit * _PERIOD)
        self._reporter = reporter
        self._clock = clock
        self._next = 0.0
        self._calls: dict[int, _ThreadCall] = {}

    def look(
        self,
        plugins: Mapping[str, Watched],
        frames: Mapping[int, FrameType],
    ) -> None:
        """Look at each thread, if the last look was long enough ago.

        Args:
            plugins: The plugins by name.
            frames: The innermost frame of each thread.
        """
        now = self._clock()
        if now < self._next:
            return
        self._next = now + self._period
        contexts = _contexts_of_requests(frames)
        for ident, call in list(self._calls.items()):
            if contexts.get(ident) is not call.context:
                if call.report is not None:
                    call.report.end(now - call.since)
                del self._calls[ident]
        for ident, context in contexts.items():
            call = self._calls.setdefault(ident, _ThreadCall(context, now))
            if call.report is None and now - call.since >= self._limit:
                stack = stack_of(frames[ident], modules_of(plugins))
                owner = owner_of(context.get(current_plugin), stack, plugins)
                if owner is not None:
                    culprit = Culprit(owner, without_callers(stack, owner))
                    call.report = OpenBlock(self._reporter, culprit, "thread", call.since)
            if call.report is not None:
                call.report.go_on(now - call.since)


def _contexts_of_requests(frames: Mapping[int, FrameType]) -> dict[int, Context]:
    """Return the contexts of the calls that requests wait for, by thread."""
    contexts = {ident: _context(frame) for ident, frame in frames.items()}
    return {
        ident: context
        for ident, context in contexts.items()
        if context is not None and context.get(current_request) is not None
    }


def _context(innermost: FrameType) -> Context | None:
    """Return the context of a worker thread's call; None for other threads and idle ones."""
    for frame in callers(innermost):
        code = frame.f_code
        found: Any = None
        if code.co_name == "worker_fn" and code.co_filename == _TRIO:
            found = frame.f_locals.get("context")
        elif code.co_name == "run" and code.co_filename == _EXECUTOR:
            # `asyncio.to_thread` calls `functools.partial(context.run, …)`.
            work = getattr(frame.f_locals.get("self"), "fn", None)
            found = getattr(getattr(work, "func", None), "__self__", None)
        if isinstance(found, Context):
            return found
    return None
