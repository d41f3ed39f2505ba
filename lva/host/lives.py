"""The plugins by name, each with its life that is now: begun, supervised, followed by the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import trio

from lva.host.delivery.deliveries import Deliveries
from lva.host.delivery.publisher import Publisher
from lva.host.delivery.shared import Shared
from lva.host.life.life import PluginLife
from lva.host.life.record import Record, Watcher
from lva.host.life.states import Ending, State
from lva.host.life.view import Services
from lva.host.loading.load import LoadedPlugin
from lva.host.runtimes.on_asyncio import AsyncioRuntime
from lva.host.runtimes.on_trio import TrioRuntime
from lva.host.runtimes.runtime import Runtime
from lva.host.stop import Stop
from lva.logs.loggers import service_logger

LOGGER: Final = service_logger("lva.host")


class Lives(Mapping[str, PluginLife]):
    """The plugins' lives by name, in activation order; empty until they are made.

    Args:
        services: What lives use of the service.
        publisher: What hands points to their mailboxes.
        stop: The host's stop.

    Attributes:
        watchers: Told of every change of a plugin's state.
        bugs: How many errors of the host's own were contained, by what failed.
        stopped: Set once every plugin has ended.
    """

    def __init__(self, services: Services, publisher: Publisher, stop: Stop) -> None:
        self.watchers: list[Watcher] = []
        self.bugs: Counter[str] = Counter()
        self.stopped: trio.Event = trio.Event()
        self.services: Services = services
        self.stop: Stop = stop
        self._publisher = publisher
        self._shared = Shared(
            services.rng,
            publisher.taps,
            self._do_meanwhile,
            stop.requested,
            self.stopped,
        )
        self._lives: dict[str, PluginLife] = {}
        self._nursery: trio.Nursery | None = None

    def __getitem__(self, name: str) -> PluginLife:
        return self._lives[name]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._lives))  # other threads look, too

    def __len__(self) -> int:
        return len(self._lives)

    def live_in(self, nursery: trio.Nursery) -> None:
        """Say where the tasks of the lives go: a nursery that tolerates tasks which never end."""
        self._nursery = nursery

    def do(self, work: Callable[..., Awaitable[None]], *args: Any, name: str) -> None:
        """Do something in a task of the host's own, which goes on when who asked for it does not.

        Cancellation: there is none, but with the host's own nursery.

        Errors: are logged and counted in `bugs`; the service goes on.
        """
        assert self._nursery is not None, "there are plugins only while the host runs"
        self._nursery.start_soon(self._contain, name, work, *args, name=name)

    async def _contain(self, what: str, work: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Await work of the host's own: an error in it must end neither a plugin nor the service."""
        try:
            await work(*args)
        except Exception:
            self.bugs[what] += 1
            LOGGER.critical(
                "bug in the host: %s failed; the service goes on (failure %d of this kind)",
                what,
                self.bugs[what],
                exc_info=True,
            )

    def _do_meanwhile(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        """Do something that ends by itself, unless the host has ended."""
        if not self.stopped.is_set():
            self.do(work, name=name)

    def _make(self, loaded: LoadedPlugin, record: Record | None = None) -> PluginLife:
        """Make the life of a plugin; it gets points once they are connected.

        Raises:
            ConfigurationError: Its spool cannot be opened.
        """
        assert self._nursery is not None
        if record is None:
            deliveries = Deliveries(loaded.name, self._shared, self.services.state_dir)
            record = Record(loaded.name, deliveries, self.watchers)
        life = PluginLife(loaded, _runtime(loaded, self._nursery), self.services, record)
        self._lives[loaded.name] = life
        return life

    def _connect(self) -> None:
        """Let each event's points go to the lives that there are now."""
        found = [
            (event, delivery)
            for life in self._lives.values()
            for delivery in life.deliveries.values()
            for event in delivery.intake.events
        ]
        for delivery in self._publisher.connect(found):
            self.do(delivery.mailbox.write_behind, name=f"{delivery.what} (spool)")

    def begin_all(self, plugins: Iterable[LoadedPlugin]) -> None:
        """Make the first life of each plugin, and begin it: each waits for its turn.

        Raises:
            ConfigurationError: A spool cannot be opened.
        """
        for loaded in plugins:
            self._make(loaded)
        self._connect()
        for life in self._lives.values():
            self._begin(life)

    def _begin(self, life: PluginLife) -> None:
        self.do(self._supervise, life, name=f"{life.name} (supervisor)")

    def begin_next(self, loaded: LoadedPlugin, record: Record, reason: str) -> PluginLife:
        """Begin another life of a plugin whose last one is over and has left nothing behind.

        Raises:
            ConfigurationError: Its spool cannot be opened.
        """
        life = self._make(loaded, record)
        self._connect()
        record.begin_life(reason)
        life.turn.set()
        self._begin(life)
        return life

    async def _supervise(self, life: PluginLife) -> None:
        """Contain even a bug of the host itself, so that the other plugins still stop in order."""
        try:
            await life.supervise()
        except Exception:
            LOGGER.critical(
                "bug in the host: the supervisor of %s failed", life.name, exc_info=True
            )
            self.stop.failed = True
            self.stop.request(f"the supervisor of plugin {life.name!r} failed")
            self.stop.gave_up.set()
        finally:
            life.ended.set()
        if life.record.ending is Ending.FOR_GOOD:
            self.look_at_end(life)

    def look_at_end(self, life: PluginLife) -> None:
        """End the service if a critical plugin has given up."""
        if life.settings.critical and life.state.value in {State.FAILED, State.ABANDONED}:
            if not self.stop.requested.is_set():
                self.stop.critical = life.name
                LOGGER.critical(
                    "critical plugin %s has given up: %s", life.name, life.record.last.reason
                )
            self.stop.gave_up.set()


def _runtime(loaded: LoadedPlugin, nursery: trio.Nursery) -> Runtime:
    if loaded.runtime == "asyncio":
        return AsyncioRuntime(loaded.name, nursery, loaded.settings.event_loop == "uvloop")
    return TrioRuntime(loaded.name, nursery)
