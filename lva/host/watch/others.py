"""What else of plugins may block: their own event loops, and worker threads that serve requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from contextvars import Context
from time import perf_counter
from types import FrameType
from typing import Final

from lva.host.watch.pulse import PluginLoop, Watched
from lva.host.watch.readings import Reading, ThreadReader
from lva.host.watch.reports import Culprit, OpenBlock, Reporter
from lva.host.watch.stacks import owner_of, stack_of, without_callers
from lva.host.watch.workers import calls_of_requests

#: How often worker threads are looked at: in seconds at most, and as a part of their limit.
_LONGEST_PERIOD: Final = 1.0
_PERIOD: Final = 0.2


class LoopsOfPlugins:
    """Looks at plugins' own loops. In the watching thread only.

    A loop is asked to come round when it is seen at work, so an idle one costs nothing. What it has waited
    for a processor or for the interpreter is not counted.

    Args:
        limit: A loop that is silent for longer, in seconds, is blocked.
        reporter: Reports it.
    """

    def __init__(self, limit: float, reporter: Reporter) -> None:
        self._limit = limit
        self._reporter = reporter
        self._silent: dict[str, _SilentLoop] = {}

    def look(
        self,
        plugins: Mapping[str, Watched],
        modules: Mapping[str, str],
        frames: Mapping[int, FrameType],
    ) -> None:
        """Look at each loop once.

        Args:
            plugins: The plugins by name.
            modules: Their names by their modules.
            frames: The innermost frame of each thread.
        """
        loops = {name: seen.loop for name, seen in plugins.items() if seen.loop is not None}
        for name, known in list(self._silent.items()):
            if (
                name not in loops
                or loops[name].pulse is not known.loop.pulse
                or known.has_answered()
            ):
                known.end()
                del self._silent[name]
        for name, loop in loops.items():
            frame = frames.get(loop.ident)
            if frame is None:
                continue  # it has not begun, or has ended
            if name in self._silent:
                stack = without_callers(stack_of(frame, modules), name)
                self._silent[name].look(Culprit(name, stack), self._limit)
            elif not loop.pulse.waits(frame):
                self._ask(name, loop)

    def _ask(self, name: str, loop: PluginLoop) -> None:
        loop.pulse.ask()
        if (since := loop.pulse.silent_since) is not None and (now := _read(loop)) is not None:
            self._silent[name] = _SilentLoop(loop, since, now, self._reporter)


class _SilentLoop:
    """A plugin's loop that was asked, until it answers."""

    def __init__(self, loop: PluginLoop, since: float, before: Reading, reporter: Reporter) -> None:
        self.loop = loop
        self._since = since
        self._before = before
        self._reporter = reporter
        self._report: OpenBlock | None = None

    def has_answered(self) -> bool:
        return self.loop.pulse.silent_since != self._since

    def look(self, culprit: Culprit, limit: float) -> None:
        now = _read(self.loop)
        if now is None:
            return
        if self._report is not None:
            self._report.go_on(now.at - self._since)
        elif now.own_since(self._before) >= limit:
            self._report = OpenBlock(
                self._reporter, culprit, "plugin", self._since, now.at - self._since
            )

    def end(self) -> None:
        if self._report is not None:
            self._report.end(max(self.loop.pulse.answered, self._since) - self._since)


def _read(loop: PluginLoop) -> Reading | None:
    with closing(ThreadReader(loop.native_id, loop.clock)) as reader:
        try:
            return reader.read_from_outside()
        except OSError:
            return None  # the thread has ended


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
        self._seen: dict[int, _Busy] = {}

    def look(
        self,
        plugins: Mapping[str, Watched],
        modules: Mapping[str, str],
        frames: dict[int, FrameType],
    ) -> None:
        """Look at each thread, if the last look was long enough ago.

        Args:
            plugins: The plugins by name.
            modules: Their names by their modules.
            frames: The innermost frame of each thread.
        """
        now = self._clock()
        if now < self._next:
            return
        self._next = now + self._period
        calls = calls_of_requests(frames)
        for ident, busy in list(self._seen.items()):
            if ident not in calls or calls[ident].context is not busy.context:
                busy.end(now)
                del self._seen[ident]
        for ident, call in calls.items():
            busy = self._seen.setdefault(ident, _Busy(call.context, now))
            if busy.report is not None:
                busy.report.go_on(now - busy.since)
            elif now - busy.since >= self._limit:
                stack = stack_of(call.frame, modules)
                owner = owner_of(call.plugin, stack, plugins)
                if owner is not None:
                    culprit = Culprit(owner, without_callers(stack, owner))
                    busy.report = OpenBlock(
                        self._reporter, culprit, "thread", busy.since, now - busy.since
                    )
                    busy.report.go_on(now - busy.since)


class _Busy:
    """A call that a worker thread has been at since it was first seen."""

    def __init__(self, context: Context, since: float) -> None:
        self.context = context
        self.since = since
        self.report: OpenBlock | None = None

    def end(self, now: float) -> None:
        if self.report is not None:
            self.report.end(now - self.since)
