"""One plugin's life: its states, attempts, restarts and its close.

`PluginLife.supervise` is read top to bottom: an attempt constructs, initializes and runs the plugin; a
crash leads to a back-off and another attempt; a stop, wherever it comes, leads to `close()`.
"""

from __future__ import annotations

import logging
from typing import Final

import trio
from trio_util import AsyncValue, wait_any

from lva.contract import CannotRunError
from lva.host.delivery.delivery import Delivery
from lva.host.delivery.ledger import FAILED, SHUTDOWN
from lva.host.delivery.outages import worth_a_traceback
from lva.host.life.attempt import Attempt, Means
from lva.host.life.crash import Crash
from lva.host.life.instances import Instances
from lva.host.life.record import Record
from lva.host.life.restarts import Restarts
from lva.host.life.states import ENDED, Ending, State
from lva.host.life.tasks import task_tree
from lva.host.life.view import Door, PluginView, Services
from lva.host.loading.files import SourceFiles
from lva.host.loading.load import LoadedPlugin, PluginClass
from lva.host.plugin_modules import package_of
from lva.host.routing import Gate, Owner
from lva.host.runtimes.loop import LoopThread
from lva.host.runtimes.patience import Patience
from lva.host.runtimes.runtime import Runtime
from lva.logs.loggers import brief
from lva.settings import PluginSettings

#: How long, in seconds, requests may take to end by themselves before an operator's change.
_REQUESTS_GRACE: Final = 1.0


class PluginLife:
    """Supervises one life of a plugin, that is of one file with one or more classes.

    Args:
        loaded: The checked plugin.
        runtime: Where its code runs.
        services: What it uses of the service.
        record: What this life has from those before it, and leaves to the next.

    Attributes:
        record: The plugin's state, and what else outlives this life.
        package: What the names of its modules begin with.
        deliveries: What delivers points to its event classes.
        owner: Of its routes.
        files: The files that it was made from.
        stop_begun: When its stop was begun, in Trio time.
        stop_seconds: How long that took.
        turn: Set by the host once its first attempt may begin, in the order of activation.
        ended: Set when the life is over and everything that could be released is.
    """

    def __init__(
        self,
        loaded: LoadedPlugin,
        runtime: Runtime,
        services: Services,
        record: Record,
    ) -> None:
        self.record: Record = record
        self.loaded = loaded
        self.name: str = loaded.name
        self.package: str = package_of(loaded.module)
        self.settings: PluginSettings = loaded.settings
        self.logger: logging.Logger = self.record.logger
        self.state: AsyncValue[State] = self.record.state
        self.files: SourceFiles = SourceFiles(loaded.files)
        self.stop_begun: float | None = None
        self.stop_seconds: float | None = None
        self.turn: trio.Event = trio.Event()
        self.ended: trio.Event = trio.Event()
        self._patience = Patience()
        self.deliveries: dict[PluginClass, Delivery] = self.record.deliveries.of(
            loaded.classes, loaded.settings, self._patience
        )
        self.owner: Owner = self.record.owner
        self.owner.serve(self._retry_after, runtime.across)
        runtime.report_to(self._task_failed)
        self._runtime = runtime
        self._routes = services.routes
        door = Door(record)
        views = {
            cls: PluginView(
                record,
                loaded.configs[cls],
                self.deliveries[cls].intake.events if cls in self.deliveries else (),
                services,
                door,
            )
            for cls in loaded.classes
        }
        self._instances = Instances(loaded, runtime, views)
        self._means = Means(
            settings=loaded.settings,
            instances=self._instances,
            runtime=runtime,
            record=self.record,
            deliveries=self.deliveries,
            routes=services.routes,
            patience=self._patience,
            slow_start=services.slow_start,
            door=door,
        )
        self._attempt: Attempt | None = None
        self._scope = trio.CancelScope()
        self._restarts = Restarts(loaded.settings, services.rng)
        self._how_ended = "closed"  # the reason of `State.STOPPED`, if nothing else becomes it
        self._told_to_end = False

    async def supervise(self) -> None:
        """Be the plugin's supervisor task, from its turn on, until it is stopped or has failed.

        Resources: whatever happens, an `initialize()` that was entered gets its `close()`, and everything the
        plugin holds in the host is released.

        Cancellation: by `begin_stop` or `begin_ending`, of the supervisor alone; the plugin's own tasks are
        cancelled when the attempt is wound up.

        Errors: none of the plugin's gets here. One that does is a bug of the host, which ends the service.
        """
        try:
            with self._scope:
                await self.turn.wait()
                while await self._one_attempt():
                    await trio.sleep(self._restarts.seconds_left)
                    self.record.restarts += 1
        finally:
            if not await self._runtime.end(self._patience, self.settings.stop_timeout):
                self.record.abandon(self._runtime.not_ended(), task_tree(self))
            if self.record.ending is Ending.FOR_GOOD and self.record.deliveries:
                await self.give_up_points()
            self._release()

    async def _one_attempt(self) -> bool:
        """Live once; return whether to try again, after a back-off."""
        await trio.lowlevel.checkpoint_if_cancelled()
        why = "starting" if self._attempt is None else "restarting"
        if self._attempt is not None and self.record.last_error:
            why += f"; before, {self.record.last_error}"
        self.record.move(State.INITIALIZING, why)
        self.record.not_ready = None
        self.record.metrics.clear()
        self._routes.mark_stale(self.owner)
        attempt = self._attempt = Attempt(self._means, self)
        try:
            crash = await attempt.run()
            # A stop that came together with the crash goes first.
            again = crash is not None and not self._told_to_end and self._decide(crash, attempt)
        finally:
            await attempt.wind_up()
        return again and self.state.value is State.BACKOFF

    def _decide(self, crash: Crash, attempt: Attempt) -> bool:
        """Log a crash; choose between back-off and giving up; return whether to try again."""
        attempt.reported = crash.error
        what = f"{crash.phase} {crash.why}"
        self.record.note_error(what)
        state, because = self._restarts.after(crash, attempt.running_since)
        again = state is State.BACKOFF
        self._routes.set_gate(self.owner, Gate.WAITING if again else Gate.GONE)
        # That what it connects to is unreachable is what initialize() is tried again for.
        traced = not crash.during_startup or (
            worth_a_traceback(crash.error, self.logger)
            and not isinstance(crash.error, CannotRunError)
        )
        self.logger.error(
            "crashed: %s%s%s",
            what,
            because,
            "" if again else "; the plugin is not started again",
            exc_info=crash.error if traced else None,
            extra={"phase": crash.phase},
        )
        self.record.move(state, f"{what}{because}", quiet=True)
        return again

    def _release(self) -> None:
        """Give back what the plugin holds in the host."""
        self._routes.set_gate(self.owner, self.record.ending.gate_after)
        unfinished = self._instances.unfinished
        if unfinished is not None and self.state.value is not State.ABANDONED:
            why = f"{unfinished} did not return; its thread is abandoned"
            self.record.abandon(why, task_tree(self))
        if self.state.value is State.STOPPING:
            self.record.move(State.STOPPED, self._how_ended)
        if self.stop_begun is not None:
            self.stop_seconds = trio.current_time() - self.stop_begun
        self.ended.set()

    # What ends it

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

    def begin_ending(self, ending: Ending, reason: str) -> None:
        """Begin to end this life as an operator wants it; each step has the plugin's own limits.

        Args:
            ending: What comes after it.
            reason: Why, for people.
        """
        if not self.ended.is_set():
            self.record.ending = ending
            if ending is Ending.PAUSE:
                self._how_ended = reason
            self._end(reason)

    def _end(self, reason: str) -> None:
        self._told_to_end = True
        if self.state.value is not State.STOPPING and self.state.value not in ENDED:
            self.record.move(State.STOPPING, reason)
        self._scope.cancel()

    async def finish_calls(self, ending: Ending) -> None:
        """Before an end: begin nothing new, and let the calls that are under way come to theirs.

        Batches have `stop_timeout` for that, requests a moment; what takes longer is cancelled later.

        Cancellation: ends the wait; no other batch begins all the same.
        """
        with trio.move_on_after(self.settings.stop_timeout):
            await self.record.deliveries.pause()
        self.owner.gate = ending.gate_before
        with trio.move_on_after(min(_REQUESTS_GRACE, self.settings.stop_timeout)):
            await self.owner.idle().wait()

    async def drain(self, deadline: float) -> None:
        """Accept no more points and deliver those that wait, until the deadline (Trio time).

        Cancellation: only the wait ends; the points go on being delivered while the plugin runs.
        """
        self.record.deliveries.close()
        with trio.move_on_at(deadline):
            await wait_any(self.record.deliveries.all_delivered, self._delivers_no_more)

    async def _delivers_no_more(self) -> None:
        alive = {State.RUNNING, State.INITIALIZING}
        await self.state.wait_value(lambda state: state not in alive)

    async def give_up_points(self) -> None:
        """Accept no more points, and give up those that nobody will deliver; once.

        What has a spool on disk is kept there for the next run.
        """
        in_order = self.state.value in {State.LOADED, State.STOPPING, State.STOPPED}
        await self.record.deliveries.give_up(SHUTDOWN if in_order else FAILED)

    # After it

    def set_aside(self, reason: str) -> None:
        """After the end: let a plugin that has failed count as one that an operator has stopped."""
        if self.state.value is State.FAILED:
            self.record.move(State.STOPPED, reason)
        if self.state.value is State.STOPPED:
            self.record.ending = Ending.PAUSE

    async def forgo_next(self) -> None:
        """After the end: no other life follows, although one was to; let go of what waits for it."""
        if self.record.paused:
            return  # its points go on waiting
        self.record.ending = Ending.FOR_GOOD
        self._routes.set_gate(self.owner, Gate.GONE)
        await self.give_up_points()

    # What others ask of a life

    @property
    def is_event_plugin(self) -> bool:
        """Whether points are delivered to it, so that it stops after the background plugins."""
        return bool(self.deliveries)

    def left_running(self) -> tuple[list[str], list[str]]:
        """Name the tasks and threads of its runtime that have not ended, once nothing more is tried."""
        over = self.ended.is_set() or self.state.value is State.ABANDONED
        return self._runtime.stubborn() if over else ([], [])

    def loop_thread(self) -> LoopThread | None:
        """Return the thread of its asyncio loop, while it has one. Any thread may call."""
        return self._runtime.loop_thread()

    def _task_failed(self, where: str, error: BaseException) -> None:
        if self._attempt is None:
            self.record.note_problem(where, f"raised {brief(error)}", error)
        else:
            self._attempt.task_failed(where, error)

    def _retry_after(self) -> float:
        if self.state.value is State.BACKOFF:
            return max(1.0, self._restarts.seconds_left)
        return 1.0
