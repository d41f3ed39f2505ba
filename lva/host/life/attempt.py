"""One attempt at running a plugin: `run` initializes and starts it, `wind_up` ends and closes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from lva import contract
from lva.contract import BaseBackgroundPlugin, BaseEventPlugin, CannotRunError
from lva.host.delivery.delivery import Delivery
from lva.host.life.crash import Crash, why_over
from lva.host.life.instances import Instances, Plugin
from lva.host.life.leaks import Footprint, Leaks, lasting_leaks
from lva.host.life.record import Record
from lva.host.life.states import State
from lva.host.life.tasks import TaskNode, task_tree
from lva.host.life.view import Door, TooLateError
from lva.host.loading.load import PluginClass
from lva.host.routing import Gate, RouteRefusedError, RouteTable
from lva.host.runtimes.calls import Call, TrioCall
from lva.host.runtimes.errors import awaitable, without_host_frames
from lva.host.runtimes.patience import Patience
from lva.host.runtimes.runtime import Runtime
from lva.logs.loggers import brief
from lva.settings import PluginSettings

#: The states at the end of an attempt that nobody asked to end.
_NOT_BY_ORDER: Final = frozenset({State.BACKOFF, State.FAILED, State.ABANDONED})
#: How long, in seconds, a `close()` that was cut short may take to end.
_CLOSE_GRACE: Final = 1.0


@dataclass(frozen=True, slots=True)
class Means:
    """What every attempt of one life works with.

    Attributes:
        settings: The plugin's.
        instances: Its instances.
        runtime: Where its code runs.
        record: Its state, and what went wrong.
        deliveries: What delivers points to its event classes.
        routes: The service's routes.
        patience: How long the host waits for its code.
        slow_start: After how many seconds a start is reported as slow.
        door: Where the classes add routes.
    """

    settings: PluginSettings
    instances: Instances
    runtime: Runtime
    record: Record
    deliveries: Mapping[PluginClass, Delivery]
    routes: RouteTable
    patience: Patience
    slow_start: float
    door: Door


class Attempt:
    """One attempt. Each is used once: `run`, then `wind_up`, whatever came of it.

    Args:
        means: What it works with.
        plugin: The plugin as its tasks and threads are told by: its life.

    Attributes:
        closing: Whether it is being wound up: nothing new begins.
        body: The call whose task is the host's in the plugin's nursery, once there is one.
        running_since: When `initialize()` was done, in Trio time.
        reported: The error of a crash that has been logged.
    """

    def __init__(self, means: Means, plugin: Footprint) -> None:
        self.closing: bool = False
        self.body: TrioCall | None = None
        self.running_since: float | None = None
        self.reported: BaseException | None = None
        self._means = means
        means.door.too_late = False
        self._plugin = plugin
        self._members = means.instances.members
        self._runtime = means.runtime
        self._record = means.record
        self._patience = means.patience
        self._phase = "__init__()"
        self._initialized = trio.Event()
        self._entered: list[Plugin] = []
        self._first_failure: tuple[str, BaseException] | None = None
        self._stuck: Call | None = None

    # Running

    async def run(self) -> Crash | None:
        """Make the instances, initialize and run them until something ends it; return what did.

        Resources: the plugin's nursery, with the host's task and all others in it, which `wind_up` ends.

        Cancellation: ends the wait alone, and leaves everything to `wind_up`.

        Errors: whatever the plugin raises is in the crash that is returned.
        """
        if (crash := await self._means.instances.make()) is not None:
            return crash
        body = self.body = self._runtime.begin(self._live)
        self._means.door.open = True
        if (crash := await self._until_initialized(body)) is not None:
            return crash
        await self._until_over(body)
        if self._stuck is not None:
            return Crash(self._stuck.what, "ignored its cancellation", stuck=True)
        return await self._why_over(body)

    async def _live(self) -> None:
        """Be the host's task in the plugin's nursery: initialize, start and wait for what is started.

        On Trio, the plugin's `initialize()` and `start()` run in this very task.
        """
        assert self.body is not None
        assert self.body.nursery is not None
        try:
            self._runtime.equip(self._members.values(), self.body.nursery)
            for cls, member in self._members.items():
                if self.closing:
                    return  # it is too late: the host has gone on without this task
                self._phase = f"{cls.__name__}.initialize()"
                self._name_task(self._phase)
                await self._runtime.run(self._phase, partial(self._initialize, member))
            self._name_task(None)
            if not self._begin_running():
                return
        finally:
            self._initialized.set()
        background = [
            member for member in self._members.values() if isinstance(member, BaseBackgroundPlugin)
        ]
        # A scope of its own, so that breaking Trio's nesting rules shows as soon as `start()` returns.
        with trio.CancelScope():
            try:
                if len(background) == 1:
                    await self._start(background[0])
                else:
                    await self._start_together(background)
            finally:
                self._name_task(None)
        # Work that has ended is begun anew with `restart = "always"`, but not under a class that gets points.
        if self._means.settings.restart != "always" or self._means.deliveries:
            await trio.sleep_forever()
        await self._runtime.all_done()

    async def _initialize(self, member: Plugin) -> None:
        # Noted here, where the plugin's code runs: what a blocked loop never came to needs no `close()`.
        self._entered.append(member)
        await awaitable(self._phase, member.initialize())

    def _begin_running(self) -> bool:
        """Note that `initialize()` is done, and be running; return False to stop instead."""
        if self._record.state.value is not State.INITIALIZING or self.closing:
            return False
        self._phase = "start()"
        self.running_since = trio.current_time()
        self._means.routes.drop_stale(self._record.owner)
        self._record.owner.gate = Gate.OPEN
        self._record.move(State.RUNNING, "initialized")
        self._initialized.set()
        return True

    async def _start_together(self, members: Sequence[BaseBackgroundPlugin]) -> None:
        async with trio.open_nursery() as side_by_side:
            for member in members:
                side_by_side.start_soon(self._start, member)

    async def _start(self, member: BaseBackgroundPlugin) -> None:
        what = f"{type(member).__name__}.start()"
        self._name_task(what)
        try:
            await self._runtime.follow(what, member.start)
        except trio.Cancelled:
            raise
        except BaseException as error:
            if self._first_failure is None and not isinstance(error, BaseExceptionGroup):
                self._first_failure = (what, without_host_frames(error))
            raise

    def _name_task(self, call: str | None) -> None:
        """Name the task after the call that it runs, if any: threads that it starts are told by that."""
        name = self._plugin.name if call is None else f"{self._plugin.name}.{call}"
        trio.lowlevel.current_task().name = name

    async def _until_initialized(self, body: TrioCall) -> Crash | None:
        """Wait for `initialize()`; report a slow one; give up on one that takes too long."""
        limit = self._means.settings.initialize_timeout
        with trio.move_on_after(min(self._means.slow_start, limit)):
            await self._initialized.wait()
        if not self._initialized.is_set() and limit > self._means.slow_start:
            self._record.logger.warning(
                "%s is slow: %g s so far, waiting at %s; plugins behind it go ahead",
                self._phase,
                self._means.slow_start,
                self._place(),
                extra={"tasks": task_tree(self._plugin)},
            )
            with trio.move_on_after(limit - self._means.slow_start):
                await self._initialized.wait()
        if not self._initialized.is_set():
            return Crash(
                self._phase,
                f"took longer than {limit:g} s, waiting at {self._place()}",
                during_startup=True,
            )
        return None if self.running_since is not None else await self._why_over(body)

    async def _until_over(self, body: TrioCall) -> None:
        """Deliver points until the plugin's tasks have ended, or a call of `handleEvent` does not end.

        Cancellation: ends the deliveries as `Delivery.run` says; the plugin's tasks are not touched.
        """
        async with trio.open_nursery() as nursery:
            for cls, delivery in self._means.deliveries.items():
                nursery.start_soon(self._deliver, cls, delivery, nursery.cancel_scope)
            try:
                await body.done.wait()
            finally:
                # At once, and not when the last delivery has ended.
                self._record.owner.gate = self._record.ending.gate_before
            nursery.cancel_scope.cancel()

    async def _deliver(self, cls: PluginClass, delivery: Delivery, scope: trio.CancelScope) -> None:
        member = self._members[cls]
        assert isinstance(member, BaseEventPlugin)
        stuck = await delivery.run(self._runtime, member.handleEvent)
        if stuck is not None:
            self._stuck = stuck
            scope.cancel()

    async def _why_over(self, body: TrioCall) -> Crash:
        """Wait for the plugin's tasks to unwind; say why they did."""
        if not await self._patience.wait(body.done, self._means.settings.stop_timeout, share=1 / 2):
            return Crash(self._phase, "failed, and a task of it does not end", stuck=True)
        error = body.error
        first = error
        if self._first_failure is not None:
            phase, first = self._first_failure
            error = error or first
        elif self.running_since is not None:
            phase = "a task in its nursery"
        else:
            phase = self._phase
        if first is None and body.returned:
            phase = "its work"
        return Crash(
            phase,
            why_over(first, body.returned),
            error,
            during_startup=self.running_since is None,
            hopeless=isinstance(first, RouteRefusedError | CannotRunError),
        )

    def task_failed(self, where: str, error: BaseException) -> None:
        """Take note of a task that failed, and that is not below the body; after the end, only log it."""
        if self.closing or self.body is None:
            self._record.note_problem(where, f"raised {brief(error)}", error)
        elif self._first_failure is None:
            self._first_failure = (where, error)
            self.body.cancel()
        else:
            self._record.note_problem(where, f"raised {brief(error)}, too", error)

    # Winding up

    async def wind_up(self) -> None:
        """End everything of the attempt: cancel tasks and handlers; wait for handlers, then tasks; `close()`.

        Resources: what does not end in its time is abandoned, and named in the record.

        Cancellation: does not reach it; it waits with `Patience` only.

        Errors: what `close()` or a late task raises is noted as a problem of the plugin's.
        """
        self.closing = self._means.door.too_late = True
        self._means.door.open = False
        waiting = self._record.state.value is State.BACKOFF
        gate = Gate.WAITING if waiting else self._record.ending.gate_after
        self._means.routes.set_gate(self._record.owner, gate)
        body = self.body
        if body is not None:
            body.cancel()
        calls_over = self._record.owner.cancel_calls()
        limit = self._means.settings.stop_timeout
        if not await self._patience.wait(calls_over, limit, share=1 / 3):
            self._abandon("a route handler ignored its cancellation")
        if body is not None and not await self._patience.wait(body.done, limit, share=1 / 2):
            self._abandon(
                f"{self._phase}, or a task it started, ignored its cancellation ({self._place()})"
            )
        self._note_late_failure()
        for member in reversed(self._entered):
            inherited = getattr(member.close, "__func__", None) is contract.Plugin.close
            if not inherited:  # the inherited one does nothing
                await self._close(member)
        leaked = await self._runtime.settle(self._patience, limit)
        if leaked is None:
            self._abandon(self._runtime.not_ended())
        elif leaked:
            self._record.note_problem("close()", f"leaked, now ended: {'; '.join(leaked)}")
        await self._record.end_children(self._patience.left(limit), self._plugin)
        if self._record.state.value in _NOT_BY_ORDER:
            leaks = await lasting_leaks([self._plugin])
            self._record.note_leaks(leaks.get(self._plugin.name, Leaks()), self._plugin)

    def _note_late_failure(self) -> None:
        """Log what a task raised while it was being cancelled: no death is silent.

        But for what the host raised itself: on its own loop, an `initialize()` may come to `addRoute()` just
        when a stop has begun, before its cancellation arrives.
        """
        body = self.body
        if body is not None and isinstance(body.error, TooLateError):
            return
        if self._first_failure is not None and self.reported is None:
            where, error = self._first_failure
            self._record.note_problem(where, f"raised {brief(error)}", error)
        elif body is not None and body.error is not None and body.error is not self.reported:
            self._record.note_problem(
                "a task", f"raised {brief(body.error)} while it was being cancelled", body.error
            )

    async def _close(self, member: Plugin) -> None:
        """Call `close()` once, in its time limit."""
        what = f"{type(member).__name__}.close()"
        limit = self._means.settings.close_timeout
        begun = trio.current_time()
        call = self._runtime.call(f"{self._plugin.name}.{what}", member.close)
        if not await self._patience.wait(call.done, limit):
            place, tasks = call.place(), task_tree(self._plugin)
            took = trio.current_time() - begun
            call.cancel()
            ended = await self._patience.wait(call.done, _CLOSE_GRACE)
            how = "was cut short" if ended else "ignored its cancellation"
            self._abandon(
                f"{what} took longer than {took:.3g} s, waiting at {place}, and {how}", tasks
            )
        elif call.error is not None:
            self._record.note_problem(what, f"raised {brief(call.error)}", call.error)

    def _abandon(self, why: str, tasks: list[TaskNode] | None = None) -> None:
        self._record.abandon(why, task_tree(self._plugin) if tasks is None else tasks)

    def _place(self) -> str:
        return "no task yet" if self.body is None else self.body.place()
