"""All plugins together: they start in order, get their points, and stop in order with a receipt."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from threading import get_ident
from typing import Any, Final, TypeAlias

import trio
from trio_util import wait_any

from lva.errors import listing, suggestion
from lva.events import EVENT_TYPES, EventType
from lva.host import forks, starts
from lva.host.changes import Changes
from lva.host.contained import Bugs
from lva.host.intake import Intake, handling
from lva.host.leaks import lasting_leaks
from lva.host.lifecycle import Ending, PluginLife, Services
from lva.host.limiters import a_limiter_for_each
from lva.host.loading import PACKAGE, LoadedPlugin
from lva.host.losses import Losses
from lva.host.mailbox import Mailbox, number_of, size_of
from lva.host.receipt import Receipt, exit_code, plugin_receipt
from lva.host.record import BEGINNING, Record, State, Watcher
from lva.host.routing import RouteTable
from lva.host.runtimes import AsyncioRuntime, Patience, Runtime, TrioRuntime
from lva.host.sourcefiles import Looks
from lva.host.status import statuses
from lva.host.tap import PUBLISHED, Taps
from lva.host.watch.loop_watch import LoopWatch
from lva.host.watch.pulse import Watched
from lva.host.watch.uses import LoopUses
from lva.logs import service_logger
from lva.settings import Settings

LOGGER: Final = service_logger("lva.host")

_Way: TypeAlias = tuple[EventType, tuple[tuple[Mailbox, Intake], ...]]

#: How the time for stopping plugins is shared: background plugins, draining, closing event plugins.
#: What a phase leaves is the next one's.
_BACKGROUND_SHARE: Final = 0.4
_LAST_WAITS: Final = 4
#: How long, in seconds, a stop may take before it says what it waits for.
_A_MOMENT: Final = 0.3
_DRAIN_SHARE: Final = 0.5  # of what is left after the background plugins
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
        changes: What operators do to single plugins.
        watchers: Told of every change of a plugin's state.
        taps: Those who look at points as they pass.
        stop_requested: Set once the plugins are to stop.
        stopped: Set once every plugin has ended and `receipt` is there.
        critical_failure: The critical plugin that failed, if one has.
        gave_up: Set together with it, or when the host itself failed.
        failed: Whether the service, and not a plugin, is what failed.
        bugs: Errors of the host's own that were contained.
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
        self.lives: dict[str, PluginLife] = {}
        self.watchers: list[Watcher] = []
        self.changes: Changes = Changes(self, settings)
        self.taps: Taps = Taps()
        self.stop_requested: trio.Event = trio.Event()
        self.stopped: trio.Event = trio.Event()
        self.gave_up: trio.Event = trio.Event()
        self.critical_failure: str | None = None
        self.receipt: Receipt | None = None
        self.loop_uses: LoopUses | None = None
        self._settings = settings
        self._services = Services(
            routes=self.routes,
            publish=self.publish,
            describe=self.describe,
            settings=settings.public(),
            slow_start=settings.slow_start,
            rng=rng or random.Random(),  # noqa: S311 - jitter, not cryptography
        )
        self._loaded = loaded
        starts.install()
        forks.install()
        # By event: what its points are, and who gets them. Replaced as a whole, never changed, since
        # other threads read it too.
        self._ways: Mapping[str, _Way] = {name: (event, ()) for name, event in EVENT_TYPES.items()}
        self._looks = Looks()
        self._packages: dict[str, str] = {}
        self._nursery: trio.Nursery | None = None
        self._go = go
        self.failed: bool = False
        self.bugs: Bugs = Bugs()
        self._reason = "the service stopped"
        self._deadline = float("inf")
        self._stop_begun = 0.0
        self._stop_begun_real = 0.0
        self._thread = 0

    # Running

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the plugins, and stop them in order once told to.

        Returns when every plugin has ended. A plugin that was abandoned keeps this from returning;
        wait for `stopped` instead, which is set all the same.

        Cancellation is taken as a request to stop: the plugins still end in order, within
        `shutdown_timeout`.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._conduct, task_status)
            try:
                await self.stopped.wait()
            finally:
                self.request_stop("the host was cancelled")

    async def watch_loop(self) -> None:
        """Watch what blocks an event loop, until cancelled. Does nothing when that is turned off."""
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
            loop = None if thread is None else thread.watched()
            found[name] = Watched(self._packages[name], loop)
        return found

    async def _conduct(self, task_status: trio.TaskStatus[None]) -> None:
        self._thread = get_ident()
        self._losses = Losses(self._start_work, self.stop_requested, self.stopped)
        with trio.CancelScope(shield=True), a_limiter_for_each():
            async with trio.open_nursery() as self._nursery:
                for loaded in self._loaded:
                    self._make_life(loaded)
                self._connect()
                self._loaded = ()  # what is reloaded must not stay
                turns = {life: trio.Event() for life in self.lives.values()}
                for life, turn in turns.items():
                    self._begin(life, turn)
                task_status.started()
                await wait_any(partial(self._start_each, turns), self.stop_requested.wait)
                await self.stop_requested.wait()
                await self._stop_plugins()
                self.receipt = self.account()
                self.stopped.set()

    async def _start_each(self, turns: Mapping[PluginLife, trio.Event]) -> None:
        """Start one after the other; one that is slow no longer holds up the rest."""
        if self._go is not None:
            await self._go.wait()
        for life, turn in turns.items():
            turn.set()
            with trio.move_on_after(self._settings.slow_start):
                await life.state.wait_value(lambda state: state not in BEGINNING)

    def begin_next_life(self, loaded: LoadedPlugin, record: Record, reason: str) -> PluginLife:
        """Begin another life of a plugin whose last one is over and has left nothing behind.

        Raises:
            ConfigurationError: Its spool cannot be opened.
        """
        life = self._make_life(loaded, record)
        self._connect()
        record.begin_life(reason)
        self._begin(life)
        return life

    def do(self, work: Callable[..., Awaitable[None]], *args: Any, name: str) -> None:
        """Do something in a task of the host's own, which goes on when who asked for it does not.

        An error in it is logged and counted in `bugs`; the service goes on.
        """
        assert self._nursery is not None, "there are plugins only while the host runs"
        self._nursery.start_soon(self.bugs.contain, name, work, *args, name=name)

    def _start_work(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        """Do something that ends by itself, unless the host has ended."""
        if not self.stopped.is_set():
            self.do(work, name=name)

    def _make_life(self, loaded: LoadedPlugin, record: Record | None = None) -> PluginLife:
        assert self._nursery is not None
        life = PluginLife(loaded, _runtime(loaded, self._nursery), self._services, record)
        self._packages[loaded.name] = _package(loaded.module)
        self.lives[loaded.name] = life
        life.record.watchers = self.watchers
        return life

    def _begin(self, life: PluginLife, turn: trio.Event | None = None) -> None:
        self.do(self._supervise, life, turn, name=f"{life.name} (supervisor)")

    def _connect(self) -> None:
        """Let each event's points go to the mailboxes that there are now."""
        before = {mailbox for _, takers in self._ways.values() for mailbox, _ in takers}
        found: dict[str, list[tuple[Mailbox, Intake]]] = {name: [] for name in EVENT_TYPES}
        for life in self.lives.values():
            for cls, delivery in life.deliveries.items():
                taker = delivery.mailbox, delivery.intake
                found[cls.eventName].append(taker)  # type: ignore[union-attr] # only event classes have deliveries
                delivery.intake.start = self._start_work
                delivery.taps = self.taps
                delivery.report_losses(self._losses)
                if delivery.mailbox not in before:
                    self.do(delivery.mailbox.write_behind, name=f"{life.name} (spool)")
        self._ways = {name: (EVENT_TYPES[name], tuple(found[name])) for name in EVENT_TYPES}

    async def _supervise(self, life: PluginLife, turn: trio.Event | None) -> None:
        """Contain even a bug of the host itself, so that the other plugins still stop in order."""
        try:
            await life.supervise(turn)
        except Exception:
            LOGGER.critical(
                "bug in the host: the supervisor of %s failed", life.name, exc_info=True
            )
            self.failed = True
            self.request_stop(f"the supervisor of plugin {life.name!r} failed")
            self.gave_up.set()
        finally:
            life.note_end()
        if life.record.ending is Ending.FOR_GOOD:
            self.look_at_end(life)

    def look_at_end(self, life: PluginLife) -> None:
        """End the service if a critical plugin has given up."""
        if life.settings.critical and life.state.value in {State.FAILED, State.ABANDONED}:
            if not self.stop_requested.is_set():
                self.critical_failure = life.name
                LOGGER.critical(
                    "critical plugin %s has given up: %s", life.name, life.record.last.reason
                )
            self.gave_up.set()

    # Points

    def publish(self, event: str, points: Iterable[Any], source: str | None = None) -> bool:
        """Hand points to every plugin that asked for the event; never waits.

        Any thread may call it, at any moment: a signal handler, or a finalizer that the garbage collector
        runs, too.

        Args:
            event: The event's name.
            points: They.
            source: The plugin that they come from; None for the service itself.

        Returns:
            Whether all of these plugins take points; at the end of the service some do not any more.

        Raises:
            ValueError: There is no such event.
            TypeError, ValueError: A point, or a value in it, is wrong; none is published.
        """
        try:
            kind, takers = self._ways[event]
        except KeyError:
            raise ValueError(
                f"unknown event {event!r}{suggestion(str(event), EVENT_TYPES)};"
                f" available: {listing(EVENT_TYPES)}"
            ) from None
        batch = tuple(points)
        if forks.in_child:
            forks.refuse(len(batch))
        if not batch:
            return True
        item = kind.item
        for point in batch:
            if type(point) is not item:
                batch = _whole(kind, batch)
                break
        try:
            size = size_of(batch)
        except AttributeError:  # a point was made without its constructor
            batch = _whole(kind, batch)
            size = size_of(batch)
        if self.taps.open:
            self.taps.offer(PUBLISHED, source, batch)
        at_home = get_ident() == self._thread
        call = handling.get() if source is not None else None
        own = None if call is None else call.publishes(source)
        try:
            for mailbox, intake in takers:
                if intake is own or intake.filter is not None:
                    wanted = intake.wanted(batch, intake is own)
                    mailbox.sift(wanted, len(batch) - len(wanted), at_home)
                elif at_home and not mailbox.books.depth:
                    mailbox.offer(batch, size)
                else:
                    mailbox.cross(batch)
        except trio.RunFinishedError:
            LOGGER.warning("published after the end of the service: %s", number_of(len(batch)))
            return False
        # Looked at last: what closed in between has refused the points. A plugin that has failed is no
        # reason for others to stop publishing.
        if not self.stop_requested.is_set():
            return True
        return not any(mailbox.closed.is_set() for mailbox, _ in takers)

    # Stopping

    def request_stop(self, reason: str, deadline: float | None = None) -> None:
        """Ask for the plugins to be stopped; the first request counts.

        Args:
            reason: For the log and the receipt.
            deadline: Trio time by which they must have ended; `shutdown_timeout` from now if left out.
        """
        if not self.stop_requested.is_set():
            self._reason = reason
            self._stop_begun = trio.current_time()
            self._stop_begun_real = time.monotonic()
            limit = self._stop_begun + self._settings.shutdown_timeout
            limit = limit if deadline is None else min(limit, deadline)
            # The last wait of each plugin may outlast its deadline by the least grace there is.
            reserve = min(_LAST_WAITS * Patience.LEAST, (limit - self._stop_begun) / 3)
            self._deadline = limit - reserve
            self.stop_requested.set()

    async def _stop_plugins(self) -> None:
        """Background plugins in reverse order; then, once drained, event plugins in reverse order."""
        reverse = [*reversed(self.lives.values())]
        background = [life for life in reverse if not life.is_event_plugin]
        events = [life.name for life in reverse if life.is_event_plugin]
        await self._stop_each(background, self._share(_BACKGROUND_SHARE if events else 1.0))
        drained = self._share(_DRAIN_SHARE)
        self.do(self._tell_of_waits, drained, name="what the stop waits for")
        async with trio.open_nursery() as nursery:
            for name in events:
                nursery.start_soon(self._drain, name, drained)
        await self._stop_each([self.lives[name] for name in events], self._deadline)
        await self.changes.all_done()
        for life in self.lives.values():
            if life.record.has_points:
                await life.give_up_points()  # of those that an operator had stopped
            # What something that was abandoned has started since.
            left = self._deadline - trio.current_time()
            await life.record.end_children(left, life)
        for name, leaks in (await lasting_leaks([*self.lives.values()])).items():
            self.lives[name].record.note_leaks(leaks, self.lives[name])

    async def _tell_of_waits(self, deadline: float) -> None:
        """Say what points the stop waits for, unless that takes but a moment."""
        with trio.move_on_after(_A_MOMENT):
            await self.stopped.wait()
        waiting = {life.name: life.record.points().waiting for life in self.lives.values()}
        if not self.stopped.is_set() and any(waiting.values()):
            LOGGER.info(
                "waiting up to %.0f s for %s; a second Ctrl-C or SIGTERM ends the service now",
                max(0.0, deadline - trio.current_time()),
                ", ".join(
                    f"{name}: {number_of(count)}" for name, count in waiting.items() if count
                ),
            )

    async def _drain(self, name: str, deadline: float) -> None:
        """Deliver what waits; an operator's restart that is under way may be completed for that."""
        with trio.move_on_at(deadline):
            await self.changes.done(name)
        await self.lives[name].drain(deadline)

    def _share(self, part: float) -> float:
        now = trio.current_time()
        return now + max(0.0, self._deadline - now) * part

    async def _stop_each(self, lives: Sequence[PluginLife], deadline: float) -> None:
        """Stop one after the other; one that takes more than its share no longer holds up the rest."""
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
            reason: Why the service stops; what `request_stop` was told if left out.
            code: The exit code, when something else than the plugins decides it.
        """
        plugins = [plugin_receipt(life) for life in self.lives.values()]
        if code is None:
            code = exit_code(plugins, self.critical_failure, self.failed)
        return Receipt(reason or self._reason, code, self._seconds_stopping(), plugins)

    def _seconds_stopping(self) -> float:
        if not self._stop_begun_real:
            return 0.0
        try:
            return trio.current_time() - self._stop_begun
        except RuntimeError:  # outside Trio, in the terminator's thread
            return time.monotonic() - self._stop_begun_real

    def describe(self) -> list[dict[str, Any]]:
        """Describe every plugin, all as of this moment. In the host's thread only.

        Only whether their files have changed is as of the last look, which this begins anew.
        """
        self._looks.begin(life.files for life in self.lives.values())
        return statuses(self.lives.values(), self.loop_uses)

    async def look_at_files(self, *names: str) -> None:
        """Look whether the files of some plugins, or of all, have changed, so that their status tells."""
        await self._looks.look(self.lives[name].files for name in names or self.lives)

    def not_ready(self) -> dict[str, str]:
        """Return why the service is not ready, by plugin; empty if every active plugin runs.

        A plugin that an operator has stopped is no longer active. One that has been blocked for
        `loop_block_unready` does not run.
        """
        found = {}
        for name, life in self.lives.items():
            if life.record.paused:
                continue
            if life.state.value is not State.RUNNING:
                found[name] = f"{life.state.value.value}: {life.record.last.reason}"
            elif (block := self._blocked(name)) is not None:
                found[name] = f"blocked: {block}"
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


def _whole(kind: EventType, points: Iterable[Any]) -> tuple[Any, ...]:
    """Return points that are not all of the event's own class, checked one by one."""
    checked = []
    for point in points:
        if not isinstance(point, kind.item):
            raise TypeError(
                f"{kind.name} takes {kind.item.__name__} objects, not {type(point).__name__}"
            )
        checked.append(kind.whole(point))
    return tuple(checked)


def _package(module: str) -> str:
    """Return what the names of a plugin's modules begin with, by that of the one that has its class."""
    package, _, rest = module.partition(".")
    return f"{package}.{rest.partition('.')[0]}" if package == PACKAGE else module


def _runtime(loaded: LoadedPlugin, nursery: trio.Nursery) -> Runtime:
    if loaded.runtime == "asyncio":
        return AsyncioRuntime(loaded.name, nursery, loaded.settings.event_loop == "uvloop")
    return TrioRuntime(loaded.name, nursery)
