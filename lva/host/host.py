"""All plugins together: they start in order, get their points, and stop in order with a receipt."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import trio
from trio_util import wait_any

from lva.contract import AnalyticsInfo
from lva.errors import counted
from lva.host.changes import Changes
from lva.host.delivery.publisher import Publisher
from lva.host.life.leaks import lasting_leaks
from lva.host.life.life import PluginLife
from lva.host.life.states import BEGINNING, State
from lva.host.life.view import Services
from lva.host.lives import Lives
from lva.host.loading.files import begin_to_look_at, look_at
from lva.host.loading.load import LoadedPlugin
from lva.host.measures import Measures
from lva.host.process import forks, starts
from lva.host.process.limiters import a_limiter_for_each
from lva.host.receipt import Receipt, exit_code, plugin_receipt
from lva.host.routing import RouteTable
from lva.host.status import PluginStatus, statuses
from lva.host.stop import Stop
from lva.host.watch.loop_watch import LoopWatch
from lva.host.watch.pulse import Watched
from lva.host.watch.uses import LoopUses
from lva.logs.loggers import service_logger
from lva.metrics import Metric
from lva.settings import Settings

LOGGER: Final = service_logger("lva.host")

#: How the time for stopping plugins is shared: background plugins, draining, closing event plugins.
#: What a phase leaves is the next one's.
_BACKGROUND_SHARE: Final = 0.4
_DRAIN_SHARE: Final = 0.5  # of what is left after the background plugins
#: How long, in seconds, a stop may take before it says what it waits for.
_A_MOMENT: Final = 0.3
#: A worker thread that is at one call of a request for so long, in seconds, is reported as blocked.
_THREAD_LIMIT: Final = 10.0


class Host:
    """Runs the active plugins.

    Args:
        settings: The service's settings.
        loaded: The plugins, in activation order.
        rng: Source of the jitter of back-offs; seeded in tests.
        go: Awaited before the first plugin starts; points are accepted before.

    Attributes:
        routes: The service's routes; plugins add theirs here.
        lives: The plugins by name, in activation order, each with its life that is now; empty until
            `run` has begun.
        publisher: Hands points to plugins.
        stop: That the plugins are to stop.
        changes: What operators do to single plugins.
        stopped: Set once every plugin has ended and `receipt` is there.
        loop_uses: What each plugin uses of the event loop, by its name; None when nobody watches.
    """

    def __init__(
        self,
        settings: Settings,
        loaded: Sequence[LoadedPlugin],
        rng: random.Random | None = None,
        go: trio.Event | None = None,
    ) -> None:
        self.routes: RouteTable = RouteTable()
        self.stop: Stop = Stop(settings.shutdown_timeout)
        self.publisher: Publisher = Publisher(self.stop.requested.is_set)
        services = Services(
            routes=self.routes,
            publish=self.publisher.publish,
            describe=self.describe,
            analytics=self.analytics,
            metrics=self.metrics,
            settings=settings.public(),
            state_dir=settings.state_dir,
            slow_start=settings.slow_start,
            rng=rng or random.Random(),  # noqa: S311 - jitter, not cryptography
        )
        self.lives: Lives = Lives(services, self.publisher, self.stop)
        self.changes: Changes = Changes(self.lives, settings)
        self.stopped: trio.Event = self.lives.stopped
        self.receipt: Receipt | None = None
        self.loop_uses: LoopUses | None = None
        self._settings = settings
        self._loaded = loaded
        starts.install()
        forks.install()
        self._measures = Measures()
        self._go = go

    # Running

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the plugins, and stop them in order once told to; return when every plugin has ended.

        Resources: a plugin that was abandoned keeps this from returning; wait for `stopped` instead, which
        is set all the same.

        Cancellation: is taken as a request to stop: the plugins still end in order, within
        `shutdown_timeout`.

        Errors: what plugins raise stays with their lives, and a bug of the host's own is logged and counted.
        That a spool cannot be opened at the start is raised, as a `ConfigurationError` in a group.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._conduct, task_status)
            try:
                await self.stopped.wait()
            finally:
                self.stop.request("the host was cancelled")

    async def watch_loop(self) -> None:
        """Watch what blocks an event loop. Does nothing when that is turned off.

        Cancellation: ends the watch; its thread ends at its next look.

        Errors: a bug in the watch is logged, and ends its looks alone.
        """
        if limit := self._settings.loop_block_limit:
            self.loop_uses = LoopUses()
            # What makes the service not ready is to have been reported before.
            threads = min(_THREAD_LIMIT, self._settings.loop_block_unready or _THREAD_LIMIT)
            await LoopWatch(limit, threads, self.loop_uses, self.watched).run()

    def watched(self) -> dict[str, Watched]:
        """Return what is to be watched of each plugin. Any thread may call."""
        found = {}
        for name, life in list(self.lives.items()):
            thread = life.loop_thread()
            found[name] = Watched(life.package, None if thread is None else thread.pulse)
        return found

    async def _conduct(self, task_status: trio.TaskStatus[None]) -> None:
        self.publisher.at_home()
        with trio.CancelScope(shield=True), a_limiter_for_each():
            async with trio.open_nursery() as nursery:
                self.lives.live_in(nursery)
                self.lives.begin_all(self._loaded)
                self._loaded = ()  # what is reloaded must not stay
                task_status.started()
                await wait_any(self._start_each, self.stop.requested.wait)
                await self.stop.requested.wait()
                await self._stop_plugins()
                self.receipt = self.account()
                self.stopped.set()

    async def _start_each(self) -> None:
        """Start one after the other; one that is slow no longer delays the rest."""
        if self._go is not None:
            await self._go.wait()
        for life in self.lives.values():
            life.turn.set()
            with trio.move_on_after(self._settings.slow_start):
                await life.state.wait_value(lambda state: state not in BEGINNING)

    # Stopping

    async def _stop_plugins(self) -> None:
        """Background plugins in reverse order; then, once drained, event plugins in reverse order."""
        reverse = [*self.lives.values()][::-1]
        background = [life for life in reverse if not life.is_event_plugin]
        events = [life.name for life in reverse if life.is_event_plugin]
        await self._stop_each(background, self.stop.share(_BACKGROUND_SHARE if events else 1.0))
        drained = self.stop.share(_DRAIN_SHARE)
        self.lives.do(self._tell_of_waits, drained, name="what the stop waits for")
        async with trio.open_nursery() as nursery:
            for name in events:
                nursery.start_soon(self._drain, name, drained)
        await self._stop_each([self.lives[name] for name in events], self.stop.deadline)
        await self.changes.all_done()
        for life in self.lives.values():
            if life.record.deliveries:
                await life.give_up_points()  # of those that an operator had stopped
            # What something that was abandoned has started since.
            left = self.stop.deadline - trio.current_time()
            await life.record.end_children(left, life)
            await life.record.end_children_of_import(left, life)
        for name, leaks in (await lasting_leaks([*self.lives.values()])).items():
            self.lives[name].record.note_leaks(leaks, self.lives[name])

    async def _tell_of_waits(self, deadline: float) -> None:
        """Say what points the stop waits for, unless that takes but a moment."""
        with trio.move_on_after(_A_MOMENT):
            await self.stopped.wait()
        waiting = {
            life.name: life.record.deliveries.total().waiting for life in self.lives.values()
        }
        if not self.stopped.is_set() and any(waiting.values()):
            LOGGER.info(
                "waiting up to %.0f s for %s; a second Ctrl-C or SIGTERM ends the service now",
                max(0.0, deadline - trio.current_time()),
                ", ".join(
                    f"{name}: {counted(count, 'point')}" for name, count in waiting.items() if count
                ),
            )

    async def _drain(self, name: str, deadline: float) -> None:
        """Deliver what waits; an operator's restart that is under way may be completed for that."""
        with trio.move_on_at(deadline):
            await self.changes.done(name)
        await self.lives[name].drain(deadline)

    async def _stop_each(self, lives: Sequence[PluginLife], deadline: float) -> None:
        """Stop one after the other; one that takes more than its share no longer delays the rest."""
        patience = max(0.0, deadline - trio.current_time()) / (2 * max(1, len(lives)))
        for life in lives:
            life.begin_stop(deadline)
            with trio.move_on_after(patience):
                await life.ended.wait()
        for life in lives:
            await life.ended.wait()

    # Status

    def account(self, reason: str | None = None, code: int | None = None) -> Receipt:
        """Return the receipt as things stand now. Reads only, so any thread may call it.

        Args:
            reason: Why the service stops; what `stop` was told if left out.
            code: The exit code, when something else than the plugins decides it.
        """
        plugins = [plugin_receipt(life) for life in self.lives.values()]
        if code is None:
            code = exit_code(plugins, self.stop.critical, self.stop.failed)
        return Receipt(reason or self.stop.reason, code, self.stop.seconds(), plugins)

    def describe(self) -> list[PluginStatus]:
        """Describe every plugin, all as of this moment. In the host's thread only.

        Only whether their files have changed is as of the last look, which this begins anew.
        """
        begin_to_look_at(life.files for life in self.lives.values())
        return statuses(self.lives.values(), self.loop_uses)

    def analytics(self) -> list[AnalyticsInfo]:
        """Return the analytics plugins that are active. In the host's thread only."""
        found = [life.loaded.analytics for life in self.lives.values() if not life.record.paused]
        return [info for info in found if info is not None]

    def metrics(self) -> dict[str, list[Metric]]:
        """Return what plugins measure now, by their names. In the host's thread only."""
        return self._measures.read(life.record for life in self.lives.values())

    async def look_at_files(self, *names: str) -> None:
        """Look whether the files of some plugins, or of all, have changed, so that their status tells."""
        await look_at(self.lives[name].files for name in names or self.lives)

    def not_ready(self) -> dict[str, str]:
        """Return why the service is not ready, by plugin; empty if every active plugin runs.

        A plugin that an operator has stopped is no longer active. One that has been blocked for
        `loop_block_unready` does not run. A plugin that runs may say itself that it is not ready.
        """
        found = {}
        for name, life in self.lives.items():
            if life.record.paused:
                continue
            if life.state.value is not State.RUNNING:
                found[name] = f"{life.state.value.value}: {life.record.last.reason}"
            elif (block := self._blocked(name)) is not None:
                found[name] = f"blocked: {block}"
            elif life.record.not_ready is not None:
                found[name] = f"not ready: {life.record.not_ready}"
        return found

    def _blocked(self, plugin: str) -> str | None:
        """Say what a plugin has blocked for too long, and goes on to."""
        limit = self._settings.loop_block_unready
        if not limit or self.loop_uses is None:
            return None
        block = self.loop_uses.longest_open(plugin)
        return None if block is None or block.seconds < limit else str(block)

    def paused(self) -> list[str]:
        """Return the names of the plugins that an operator has stopped, or is stopping."""
        return [name for name, life in self.lives.items() if life.record.paused]
