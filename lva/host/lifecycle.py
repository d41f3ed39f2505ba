"""One plugin's life: its states, attempts, restarts and its close.

`PluginLife.supervise` is read top to bottom: an attempt constructs, initializes and runs the plugin; a
crash leads to a back-off and another attempt; a stop, wherever it comes, leads to `close()`.
"""

from __future__ import annotations

import enum
import logging
import random
from abc import ABCMeta
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import trio
from trio_util import AsyncValue, wait_any

from lva.contract import BaseBackgroundPlugin, BaseEventPlugin, RouteHandler
from lva.host.delivery import Delivery
from lva.host.expected import worth_a_traceback
from lva.host.leaks import Leaks, find_leaks
from lva.host.loading import LoadedPlugin, PluginClass
from lva.host.loops import LoopThread
from lva.host.mailbox import FAILED, SHUTDOWN
from lva.host.record import ENDED, TRANSITIONS, Record, State, Transition
from lva.host.restarts import Restarts
from lva.host.routing import Gate, Owner, RouteRefusedError, RouteTable
from lva.host.runtimes import (
    Call,
    Constructed,
    Patience,
    Runtime,
    TrioCall,
    awaitable,
    without_host_frames,
)
from lva.host.sourcefiles import SourceFiles
from lva.host.tasks import TaskNode, task_tree
from lva.host.view import Describe, PluginView, Publish
from lva.logs import brief
from lva.settings import PluginSettings

Plugin = BaseEventPlugin | BaseBackgroundPlugin

__all__ = ["ENDED", "TRANSITIONS", "Crash", "Ending", "PluginLife", "State", "Transition"]


class Ending(enum.Enum):
    """What comes after a life."""

    FOR_GOOD = "for good"  # nothing: the service stops, or the plugin was given up
    PAUSE = "pause"  # an operator stopped it: its points wait for a start, its routes are gone
    HANDOVER = "handover"  # the next life: points and routes wait for it


#: The states at the end of an attempt that nobody asked to end.
_NOT_BY_ORDER: Final = frozenset({State.BACKOFF, State.FAILED, State.ABANDONED})
#: What to do about errors that say too little.
_HINTS: Final = {
    "no running event loop": ' (for asyncio code, write `runtime = "asyncio"` on the class)',
    "signal only works in main thread": " (signals are the service's; to clean up, define close())",
}
#: How long, in seconds, a thread whose work is done may take to get there.
_LAST_INSTRUCTIONS: Final = 0.05
#: How long, in seconds, a `close()` that was cut short may take to end.
_CLOSE_GRACE: Final = 1.0
#: How long, in seconds, requests may take to end by themselves before an operator's change.
_REQUESTS_GRACE: Final = 1.0


@dataclass(frozen=True, slots=True)
class Crash:
    """Why an attempt ended by itself.

    Attributes:
        phase: Where: ``"Class.initialize()"``, ``"a task in its nursery"``.
        why: One line for people, without secrets.
        error: What was raised; None if a limit was passed or the work just ended.
        during_startup: Whether `initialize()` was not yet done.
        hopeless: Whether another attempt would end the same way, so that the plugin has failed.
        stuck: Whether code of the plugin does not end, so that the plugin is abandoned.
    """

    phase: str
    why: str
    error: BaseException | None = None
    during_startup: bool = False
    hopeless: bool = False
    stuck: bool = False


@dataclass(slots=True)
class _Attempt:
    """What one attempt holds."""

    initialized: trio.Event = field(default_factory=trio.Event)
    phase: str = "__init__()"
    closing: bool = False
    reported: BaseException | None = None
    running_since: float | None = None  # Trio time
    entered: list[Plugin] = field(default_factory=list)
    body: TrioCall | None = None
    first_failure: tuple[str, BaseException] | None = None
    stuck: list[Call] = field(default_factory=list)

    @property
    def running(self) -> bool:
        """Whether `initialize()` was done."""
        return self.running_since is not None


class PluginLife:
    """Supervises one life of a plugin, that is of one file with one or more classes.

    Args:
        loaded: The checked plugin.
        runtime: Where its code runs.
        routes: The service's routes.
        publish: Hands points to all plugins.
        describe: Describes all plugins.
        public_settings: What plugins see of the service's settings.
        slow_start: After how many seconds a start is reported as slow.
        rng: Source of the jitter.
        record: What this life has from those before it, and leaves to the next; new for the first.
    """

    def __init__(
        self,
        loaded: LoadedPlugin,
        runtime: Runtime,
        routes: RouteTable,
        publish: Publish,
        describe: Describe,
        public_settings: Mapping[str, Any],
        slow_start: float,
        rng: random.Random,
        record: Record | None = None,
    ) -> None:
        self._patience = Patience()
        self.record: Record = Record(loaded.name) if record is None else record
        self.ending: Ending = Ending.FOR_GOOD
        self.loaded = loaded
        self.name: str = loaded.name
        self.settings: PluginSettings = loaded.settings
        self.logger: logging.Logger = self.record.logger
        self.state: AsyncValue[State] = self.record.state
        self.deliveries: dict[PluginClass, Delivery] = self.record.deliveries(
            loaded, self._patience, rng, public_settings
        )
        self.owner: Owner = self.record.owner
        self.owner.retry_after = self._retry_after
        self.files: SourceFiles = SourceFiles(loaded.files)
        #: When its stop was begun, in Trio time, and how many seconds that took.
        self.stop_begun: float | None = None
        self.stop_seconds: float | None = None
        #: Set when the life is over and everything that could be released is.
        self.ended: trio.Event = trio.Event()
        self._runtime = runtime
        runtime.failed = self._task_failed
        self.owner.across = runtime.across
        self._routes = routes
        self._slow_start = slow_start
        self._views = {
            cls: PluginView(
                self.name,
                loaded.configs[cls],
                public_settings,
                publish,
                describe,
                self._add_route,
                self._check_alive,
            )
            for cls in loaded.classes
        }
        self._members: dict[PluginClass, Plugin] = {}
        self._constructing: str | None = None
        self._attempt: _Attempt | None = None
        self._scope = trio.CancelScope()
        self._restarts = Restarts(loaded.settings, rng)
        self._how_ended = "closed"
        self._told_to_end = False

    # What others ask of a life

    @property
    def is_event_plugin(self) -> bool:
        """Whether points are delivered to it, so that it stops after the background plugins."""
        return bool(self.deliveries)

    @property
    def last(self) -> Transition:
        """The newest transition."""
        return self.record.last

    @property
    def history(self) -> deque[Transition]:
        """The newest transitions, of all lives."""
        return self.record.history

    @property
    def problems(self) -> deque[str]:
        """What went wrong at the ends of its lives; the newest."""
        return self.record.problems

    @property
    def restarts(self) -> int:
        """Attempts after the first, of all lives."""
        return self.record.restarts

    @property
    def last_error(self) -> str | None:
        """What failed last, in this life or before."""
        return self.record.last_error

    @property
    def leaks(self) -> Leaks:
        """What was alive of it when that was last looked for."""
        return self.record.leaks

    def left_running(self) -> tuple[list[str], list[str]]:
        """Name the tasks and threads of its runtime that have not ended, once nothing more is tried."""
        over = self.ended.is_set() or self.state.value is State.ABANDONED
        return self._runtime.stubborn() if over else ([], [])

    def asyncio_tasks(self) -> int:
        """Count its tasks on its asyncio loop, if it has one."""
        return self._runtime.asyncio_tasks()

    def loop_thread(self) -> LoopThread | None:
        """Return the thread of its asyncio loop, while it has one. Any thread may call."""
        return self._runtime.loop_thread()

    async def supervise(self, turn: trio.Event | None = None) -> None:
        """Be the plugin's supervisor task until it is stopped or has failed.

        Args:
            turn: Awaited before the first attempt.

        Cancellation is by `stop`. Whatever happens, an `initialize()` that was entered gets its
        `close()`, and everything the plugin holds in the host is released.
        """
        try:
            with self._scope:
                if turn is not None:
                    await turn.wait()
                while await self._one_attempt():
                    await trio.sleep(self._restarts.seconds_left)
                    self.record.restarts += 1
        finally:
            if (ending := self._runtime.end()) is not None:
                await self._end_runtime(ending)
            if self.ending is Ending.FOR_GOOD and self.record.has_points:
                await self.give_up_points()
            self._release()

    def begin_stop(self, deadline: float) -> None:
        """Begin to stop the plugin: its tasks are cancelled, then it is closed.

        Args:
            deadline: Trio time past which the plugin is abandoned.

        `ended` is set once the life has ended, at most `Patience.LEAST` past the deadline for each
        thing that has to be waited for.
        """
        self._patience.set_deadline(deadline)
        self.stop_begun = trio.current_time()
        if self.ended.is_set():
            self.stop_seconds = 0.0
            return
        self._end("the service stops")

    async def finish_calls(self, ending: Ending) -> None:
        """Before an end: begin nothing new, and let the calls that are under way come to theirs.

        Batches have `stop_timeout` for that, requests a moment; what takes longer is cancelled later.
        """
        with trio.move_on_after(self.settings.stop_timeout):
            async with trio.open_nursery() as nursery:
                for delivery in self.deliveries.values():
                    nursery.start_soon(delivery.pause)
        self.owner.gate = Gate.HELD if ending is Ending.HANDOVER else Gate.WAITING
        with trio.move_on_after(min(_REQUESTS_GRACE, self.settings.stop_timeout)):
            await self.owner.idle().wait()

    def begin_ending(self, ending: Ending, reason: str) -> None:
        """Begin to end this life as an operator wants it; each step has the plugin's own limits.

        Args:
            ending: What comes after it.
            reason: Why, for people.
        """
        if not self.ended.is_set():
            self.ending = ending
            if ending is Ending.PAUSE:
                self._how_ended = reason
            self._end(reason)

    def _end(self, reason: str) -> None:
        self._told_to_end = True
        if self.state.value is not State.STOPPING and self.state.value not in ENDED:
            self._move(State.STOPPING, reason)
        self._scope.cancel()

    def note_end(self) -> None:
        """Note that the life is over, and tell who waits for that."""
        self.ended.set()

    async def give_up_points(self) -> None:
        """Accept no more points, and give up those that nobody will deliver; once.

        What has a spool on disk is kept there for the next run.
        """
        in_order = self.state.value in {State.LOADED, State.STOPPING, State.STOPPED}
        await self.record.give_up_points(SHUTDOWN if in_order else FAILED)

    @property
    def paused(self) -> bool:
        """Whether an operator has stopped it, or is stopping it."""
        return self.ending is Ending.PAUSE and self.state.value in {State.STOPPING, State.STOPPED}

    def set_aside(self, reason: str) -> None:
        """After the end: let a plugin that has failed count as one that an operator has stopped."""
        if self.state.value is State.FAILED:
            self._move(State.STOPPED, reason)
        if self.state.value is State.STOPPED:
            self.ending = Ending.PAUSE

    async def forgo_next(self) -> None:
        """After the end: no other life follows, although one was to; let go of what waits for it."""
        if self.paused:
            return  # its points go on waiting
        self.ending = Ending.FOR_GOOD
        self._close_gate(Gate.GONE)
        await self.give_up_points()

    @property
    def takes_points(self) -> bool:
        """Whether the channel of an event class is open."""
        return any(not delivery.mailbox.closed.is_set() for delivery in self.deliveries.values())

    async def drain(self, deadline: float) -> None:
        """Accept no more points and deliver those that wait, until the deadline (Trio time)."""
        for delivery in self.deliveries.values():
            delivery.mailbox.close()
        with trio.move_on_at(deadline):
            await wait_any(self._all_delivered, self._delivers_no_more)

    async def _all_delivered(self) -> None:
        for delivery in self.deliveries.values():
            await delivery.finished.wait()

    async def _delivers_no_more(self) -> None:
        alive = {State.RUNNING, State.INITIALIZING}
        await self.state.wait_value(lambda state: state not in alive)

    # One attempt

    async def _one_attempt(self) -> bool:
        """Live once; return whether to try again, after a back-off."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._move(State.INITIALIZING, self._why_now())
        attempt = self._attempt = _Attempt()
        self._routes.mark_stale(self.owner)
        try:
            crash = await self._construct() or await self._live(attempt)
            # A stop that came together with the crash goes first.
            again = crash is not None and not self._told_to_end and self._decide(crash, attempt)
        finally:
            await self._wind_up(attempt)
        return again and self.state.value is State.BACKOFF

    def _why_now(self) -> str:
        if self._attempt is None:
            return "starting"
        return f"restarting; before, {self.last_error}" if self.last_error else "restarting"

    async def _construct(self) -> Crash | None:
        """Make the instances that do not exist yet."""
        for cls in self.loaded.classes:
            if cls in self._members:
                continue
            what = f"{cls.__name__}.__init__()"
            self._constructing = what
            limit = self.settings.initialize_timeout
            make = partial(_make, cls, self._views[cls])
            if _has_own_constructor(cls):
                made = await self._runtime.construct(f"{self.name}.{what}", make, limit)
            else:
                made = Constructed(make())
            if made is None:
                return Crash(
                    what,
                    f"took longer than {limit:g} s, in a thread that is left behind",
                    stuck=True,
                )
            self._constructing = None
            if made.error is not None:
                return Crash(what, f"raised {brief(made.error)}", made.error)
            self._members[cls] = made.instance
        return None

    async def _live(self, attempt: _Attempt) -> Crash | None:
        """Initialize and run until something ends it; return a crash, or None if it was a stop."""
        attempt.body = self._runtime.begin(self._body, attempt)
        if (crash := await self._initialized(attempt)) is not None:
            return crash
        if self.deliveries:
            await self._deliver_all(attempt)
        else:
            await attempt.body.done.wait()
            self.owner.gate = self._gate_meanwhile()
        if self._told_to_end:
            return None
        if attempt.stuck:
            return Crash(attempt.stuck[0].what, "ignored its cancellation", stuck=True)
        return await self._why_over(attempt)

    async def _initialized(self, attempt: _Attempt) -> Crash | None:
        """Wait for `initialize()`; report a slow one; give up on one that takes too long."""
        limit = self.settings.initialize_timeout
        with trio.move_on_after(min(self._slow_start, limit)):
            await attempt.initialized.wait()
        if not attempt.initialized.is_set() and limit > self._slow_start:
            self.logger.warning(
                "%s is slow: %g s so far, waiting at %s; plugins behind it go ahead",
                attempt.phase,
                self._slow_start,
                _place(attempt),
                extra={"tasks": task_tree(self)},
            )
            with trio.move_on_after(limit - self._slow_start):
                await attempt.initialized.wait()
        if not attempt.initialized.is_set():
            return Crash(
                attempt.phase,
                f"took longer than {limit:g} s, waiting at {_place(attempt)}",
                during_startup=True,
            )
        return None if attempt.running else await self._why_over(attempt)

    async def _why_over(self, attempt: _Attempt) -> Crash:
        """Wait for the plugin's tasks to unwind; say why they did."""
        assert attempt.body is not None
        if not await self._patience.wait(
            attempt.body.done, self.settings.stop_timeout, share=1 / 2
        ):
            return Crash(attempt.phase, "failed, and a task of it does not end", stuck=True)
        error = attempt.body.error
        first = error
        if attempt.first_failure is not None:
            phase, first = attempt.first_failure
            error = error or first
        elif attempt.running:
            phase = "a task in its nursery"
        else:
            phase = attempt.phase
        if first is not None:
            why = f"raised {brief(first)}"
        elif not attempt.body.returned:
            why = "was cancelled by the plugin's own code"
        else:
            phase, why = "its work", "has ended"
        why += next((hint for text, hint in _HINTS.items() if text in why), "")
        return Crash(
            phase,
            why,
            error,
            during_startup=not attempt.running,
            hopeless=isinstance(first, RouteRefusedError),
        )

    async def _body(self, attempt: _Attempt) -> None:
        """Run in the plugin's task, in the plugin's nursery: initialize, start and work."""
        assert attempt.body is not None
        assert attempt.body.nursery is not None
        try:
            self._runtime.equip(self._members.values(), attempt.body.nursery)
            for cls, member in self._members.items():
                if attempt.closing:
                    return  # it is too late: the host has gone on without this task
                attempt.phase = f"{cls.__name__}.initialize()"
                self._name_task(attempt.phase)
                await self._runtime.run(attempt.phase, partial(_initialize, attempt, member))
            self._name_task(None)
            if not self._became_running(attempt):
                return
        finally:
            attempt.initialized.set()
        background = [
            member for member in self._members.values() if isinstance(member, BaseBackgroundPlugin)
        ]
        # A scope of its own, so that breaking Trio's nesting rules shows as soon as `start()` returns.
        with trio.CancelScope():
            try:
                if len(background) == 1:
                    await self._start(attempt, background[0])
                else:
                    await self._start_together(attempt, background)
            finally:
                self._name_task(None)
        if self.settings.restart != "always" or self.is_event_plugin:
            await trio.sleep_forever()
        await self._runtime.all_done()

    async def _start_together(
        self, attempt: _Attempt, members: Sequence[BaseBackgroundPlugin]
    ) -> None:
        async with trio.open_nursery() as side_by_side:
            for member in members:
                side_by_side.start_soon(self._start, attempt, member)

    async def _start(self, attempt: _Attempt, member: BaseBackgroundPlugin) -> None:
        what = f"{type(member).__name__}.start()"
        self._name_task(what)
        try:
            await self._runtime.follow(what, member.start)
        except trio.Cancelled:
            raise
        except BaseException as error:
            if attempt.first_failure is None and not isinstance(error, BaseExceptionGroup):
                attempt.first_failure = (what, without_host_frames(error))
            raise

    def _name_task(self, call: str | None) -> None:
        """Name the task after the call that it runs, if any: threads that it starts are told by that."""
        name = self.name if call is None else f"{self.name}.{call}"
        trio.lowlevel.current_task().name = name

    def _task_failed(self, where: str, error: BaseException) -> None:
        """Take note of a task that failed, and that is not below the body; after the end, only log it."""
        attempt = self._attempt
        if attempt is None or attempt.closing or attempt.body is None:
            self._note_failure(where, f"raised {brief(error)}", error)
        elif attempt.first_failure is None:
            attempt.first_failure = (where, error)
            attempt.body.cancel()
        else:
            self._note_failure(where, f"raised {brief(error)}, too", error)

    def _became_running(self, attempt: _Attempt) -> bool:
        """Note that `initialize()` is done; return whether to go on, and not to stop instead."""
        if self.state.value is not State.INITIALIZING or attempt.closing:
            return False
        attempt.phase = "start()"
        attempt.running_since = trio.current_time()
        self._routes.drop_stale(self.owner)
        self.owner.gate = Gate.OPEN
        self._move(State.RUNNING, "initialized")
        attempt.initialized.set()
        return True

    async def _deliver_all(self, attempt: _Attempt) -> None:
        """Deliver points until the plugin's tasks have ended, or a call of `handleEvent` does not end."""
        assert attempt.body is not None
        async with trio.open_nursery() as nursery:
            for cls, delivery in self.deliveries.items():
                nursery.start_soon(self._deliver, attempt, cls, delivery, nursery.cancel_scope)
            try:
                await attempt.body.done.wait()
            finally:
                self.owner.gate = (
                    self._gate_meanwhile()
                )  # at once, and not when the last delivery has ended
            nursery.cancel_scope.cancel()

    async def _deliver(
        self, attempt: _Attempt, cls: PluginClass, delivery: Delivery, scope: trio.CancelScope
    ) -> None:
        member = self._members[cls]
        assert isinstance(member, BaseEventPlugin)
        stuck = await delivery.run(self._runtime, member.handleEvent)
        if stuck is not None:
            attempt.stuck.append(stuck)
            scope.cancel()

    # After an attempt

    def _decide(self, crash: Crash, attempt: _Attempt) -> bool:
        """Log a crash; choose between back-off and giving up; return whether to try again."""
        attempt.reported = crash.error
        self.record.last_error = f"{crash.phase} {crash.why}"
        settings = self.settings
        if crash.stuck:
            self._give_up(State.ABANDONED, crash, "")
            return False
        if crash.hopeless:
            self._give_up(State.FAILED, crash, "")
            return False
        if settings.restart == "never":
            self._give_up(State.FAILED, crash, "; its restart policy is 'never'")
            return False
        counts = not crash.during_startup or settings.startup_error_behavior == "error"
        delay = self._restarts.plan(attempt.running_since, counts)
        if delay is None:
            most = f"{settings.max_restarts} restarts in {settings.restart_window:g} s"
            self._give_up(State.FAILED, crash, f"; that is more than {most}")
            return False
        self._close_gate(Gate.WAITING)
        self._log_crash(crash, f"; next attempt in {delay:.1f} s")
        self._move(State.BACKOFF, f"{self.last_error}; next attempt in {delay:.1f} s", quiet=True)
        return True

    def _give_up(self, state: State, crash: Crash, because: str) -> None:
        self._close_gate(Gate.GONE)
        self._log_crash(crash, f"{because}; the plugin is not started again")
        self._move(state, f"{self.last_error}{because}", quiet=True)

    def _log_crash(self, crash: Crash, consequence: str) -> None:
        # That what it connects to is away is what initialize() is tried again for.
        traced = not crash.during_startup or worth_a_traceback(crash.error, self.logger)
        self.logger.error(
            "crashed: %s %s%s",
            crash.phase,
            crash.why,
            consequence,
            exc_info=crash.error if traced else None,
            extra={"phase": crash.phase},
        )

    async def _wind_up(self, attempt: _Attempt) -> None:
        """End everything of the attempt: handlers, tasks, then `close()` for each class entered.

        Not to be interrupted: it waits with `Patience` only.
        """
        attempt.closing = True
        waiting = self.state.value is State.BACKOFF
        self._close_gate(Gate.WAITING if waiting else self._gate_at_end())
        body = attempt.body
        if body is not None and not body.done.is_set():
            body.cancel()
        calls_over = self.owner.cancel_calls()
        limit = self.settings.stop_timeout
        if not calls_over.is_set() and not await self._patience.wait(
            calls_over, limit, share=1 / 3
        ):
            self._abandon("a route handler ignored its cancellation")
        if not (body is None or body.done.is_set()) and not await self._patience.wait(
            body.done, limit, share=1 / 2
        ):
            self._abandon(
                f"{attempt.phase}, or a task it started, ignored its cancellation ({_place(attempt)})"
            )
        self._note_late_failure(attempt)
        for member in reversed(attempt.entered):
            inherited = getattr(member.close, "__func__", None) is BaseEventPlugin.close
            if not inherited:  # the inherited one does nothing
                await self._close(member)
        if (leftovers := self._runtime.settle()) is not None:
            await self._settle(leftovers)
        if self.state.value in _NOT_BY_ORDER:
            self.note_leaks(await self._leaks())

    async def _leaks(self) -> Leaks:
        """Look for what is left; a thread that is at its last instructions gets a moment to end."""
        leaks = find_leaks([self]).get(self.name, Leaks())
        if leaks.threads and not leaks.tasks:
            with trio.CancelScope(shield=True):
                await trio.sleep(_LAST_INSTRUCTIONS)
            leaks = find_leaks([self]).get(self.name, Leaks())
        return leaks

    def _note_late_failure(self, attempt: _Attempt) -> None:
        """Log what a task raised while it was being cancelled: no death is silent.

        But for what the host raised itself: on its own loop, an `initialize()` may come to `addRoute()` just
        when a stop has begun, before its cancellation arrives.
        """
        body = attempt.body
        if body is not None and isinstance(body.error, _TooLateError):
            return
        if attempt.first_failure is not None and attempt.reported is None:
            where, error = attempt.first_failure
            self._note_failure(where, f"raised {brief(error)}", error)
        elif body is not None and body.error is not None and body.error is not attempt.reported:
            self._note_failure(
                "a task", f"raised {brief(body.error)} while it was being cancelled", body.error
            )

    def _note_failure(self, phase: str, why: str, error: BaseException | None = None) -> None:
        """Log what failed while the plugin ends, and list it in the receipt."""
        problem = f"{phase} {why}"
        self.problems.append(problem)
        self.record.last_error = problem
        self.logger.error("%s", problem, exc_info=error, extra={"phase": phase})

    async def _settle(self, ending: Call) -> None:
        """Wait for the end of what the attempt left in its runtime after `close()`."""
        if not await self._patience.wait(ending.done, self.settings.stop_timeout, share=1 / 2):
            self._abandon_runtime()
        elif ending.value:
            self._note_failure("close()", f"left behind, now ended: {'; '.join(ending.value)}")

    async def _end_runtime(self, ending: Call) -> None:
        """Wait for the end of the place where the plugin ran, once no more attempts follow."""
        if not await self._patience.wait(ending.done, self.settings.stop_timeout, share=1 / 2):
            self._abandon_runtime()

    def _abandon_runtime(self) -> None:
        tasks, threads = self._runtime.stubborn()
        self._abandon(f"not ended, although cancelled: {'; '.join([*tasks, *threads])}")

    async def _close(self, member: Plugin) -> None:
        """Call `close()` once, in its time limit."""
        what = f"{type(member).__name__}.close()"
        limit = self.settings.close_timeout
        begun = trio.current_time()
        call = self._runtime.call(f"{self.name}.{what}", member.close)
        if not await self._patience.wait(call.done, limit):
            place, tasks = call.place(), task_tree(self)
            took = trio.current_time() - begun
            call.cancel()
            ended = await self._patience.wait(call.done, _CLOSE_GRACE)
            how = "was cut short" if ended else "ignored its cancellation"
            self._abandon(
                f"{what} took longer than {took:.3g} s, waiting at {place}, and {how}", tasks
            )
        elif call.error is not None:
            self._note_failure(what, f"raised {brief(call.error)}", call.error)

    def _abandon(self, why: str, tasks: list[TaskNode] | None = None) -> None:
        """Note that something of the plugin does not end.

        Args:
            why: What, and where.
            tasks: Its tasks at that time, for the log; those of now if left out.
        """
        if why in self.problems and self.state.value is State.ABANDONED:
            return
        extra = {"tasks": task_tree(self) if tasks is None else tasks}
        self.record.last_error = why
        self.problems.append(why)
        if self.state.value is not State.ABANDONED:
            self.logger.error("abandoned: %s", why, extra=extra)
            self._move(State.ABANDONED, why, quiet=True)
        else:
            self.logger.error("%s", why, extra=extra)

    def note_leaks(self, leaks: Leaks) -> None:
        """Log and keep what of the plugin is still alive after its close."""
        if leaks and leaks != self.leaks:
            self.record.leaks = leaks
            self.logger.error("left behind after its close: %s", leaks)
            if self.state.value is not State.ABANDONED:
                self._abandon(f"it left {leaks} behind")

    def _release(self) -> None:
        """Give back what the plugin holds in the host."""
        self._close_gate(self._gate_at_end())
        if self._constructing is not None and self.state.value is not State.ABANDONED:
            self._abandon(f"{self._constructing} did not return; its thread is left behind")
        if self.state.value is State.STOPPING:
            self._move(State.STOPPED, self._how_ended)
        if self.stop_begun is not None:
            self.stop_seconds = trio.current_time() - self.stop_begun
        self.note_end()

    # Small things

    def _move(self, state: State, reason: str, quiet: bool = False) -> None:
        """Change the state, keep and log the change.

        Args:
            quiet: The caller has just logged the reason; only debug logs repeat it.
        """
        self.record.move(state, reason, quiet)

    def _gate_meanwhile(self) -> Gate:
        return Gate.HELD if self.ending is Ending.HANDOVER else Gate.WAITING

    def _gate_at_end(self) -> Gate:
        return Gate.HELD if self.ending is Ending.HANDOVER else Gate.GONE

    def _close_gate(self, gate: Gate) -> None:
        if gate is self.owner.gate:
            return
        self.owner.gate = gate
        if gate is Gate.GONE and self.owner.routes:
            self._routes.remove(self.owner)

    def _retry_after(self) -> float:
        if self.state.value is State.BACKOFF:
            return max(1.0, self._restarts.seconds_left)
        return 1.0

    def _add_route(
        self,
        view: PluginView,
        path: str,
        handler: RouteHandler,
        methods: Iterable[str] | None = None,
    ) -> None:
        self._check_alive(path)
        self._routes.add(self.owner, path, handler, methods, view)

    def _check_alive(self, path: str) -> None:
        """Refuse a route outside of `initialize()` to `close()`. Any thread may call."""
        attempt = self._attempt
        if attempt is None or attempt.body is None or attempt.closing:
            kind = _TooLateError if attempt is not None and attempt.closing else RuntimeError
            raise kind(
                f"addRoute({path!r}): plugin {self.name!r} is {self.state.value.value}; add routes in"
                " initialize() or later, while it runs"
            )


class _TooLateError(RuntimeError):
    """A route was to be added while the attempt ends."""


async def _initialize(attempt: _Attempt, member: Plugin) -> None:
    # Noted here, where the plugin's code runs: what a held loop never came to needs no `close()`.
    attempt.entered.append(member)
    await awaitable(attempt.phase, member.initialize())


def _place(attempt: _Attempt) -> str:
    return "no task yet" if attempt.body is None else attempt.body.place()


def _has_own_constructor(cls: PluginClass) -> bool:
    """Return whether calling the class runs code of its author, which may take long or fail."""
    return (
        cls.__init__ is not BaseEventPlugin.__init__
        or cls.__new__ is not object.__new__
        or type(cls) is not ABCMeta
    )


def _make(cls: Callable[[Any], Plugin], view: PluginView) -> Plugin:
    """Call the plugin's class, and check that it called its base class."""
    instance = cls(view)
    if getattr(instance, "app", None) is None:
        raise TypeError(f"{type(instance).__name__}.__init__ must call super().__init__(app)")
    return instance
