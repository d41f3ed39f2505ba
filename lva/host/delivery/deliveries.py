"""What delivers the points of one plugin, from one of its lives to the next."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeAlias

import trio

from lva.contract import BaseBackgroundPlugin, BaseEventPlugin
from lva.errors import counted
from lva.host.delivery.dead_letters import DeadLetters
from lva.host.delivery.delivery import Delivery
from lva.host.delivery.ledger import REMOVED, Ledger
from lva.host.delivery.shared import Shared
from lva.host.delivery.spool_file import SpoolFile, open_spool
from lva.host.process.threads import in_thread
from lva.host.runtimes.patience import Patience
from lva.logs.loggers import plugin_logger
from lva.settings import PluginSettings

PluginClass: TypeAlias = type[BaseEventPlugin] | type[BaseBackgroundPlugin]


class Deliveries:
    """One plugin's deliveries, by the name and the event of each of its event classes.

    Args:
        plugin: The plugin's name.
        shared: What they have in common with those of other plugins.
        state_dir: Where spools and dead letters are.
    """

    def __init__(self, plugin: str, shared: Shared, state_dir: Path) -> None:
        self._name = plugin
        self._shared = shared
        self._state_dir = state_dir
        self._logger = plugin_logger(plugin)
        # With those of event classes that a reload has removed, which may come back.
        self._deliveries: dict[tuple[str, str], Delivery] = {}
        self._spools: dict[tuple[str, str], SpoolFile | None] = {}
        self._thread = trio.CapacityLimiter(1)

    def of(
        self, classes: Iterable[PluginClass], settings: PluginSettings, patience: Patience
    ) -> dict[PluginClass, Delivery]:
        """Return what delivers to each event class of a life that begins.

        A class of the same name and event goes on where it stood: with its points, counts, and circuit.

        Args:
            classes: The plugin's classes.
            settings: The plugin's.
            patience: The life's.

        Raises:
            ConfigurationError: A spool cannot be opened.
        """
        return {
            cls: self._delivery(cls, settings, patience)
            for cls in classes
            if issubclass(cls, BaseEventPlugin)
        }

    def _delivery(
        self, cls: type[BaseEventPlugin], settings: PluginSettings, patience: Patience
    ) -> Delivery:
        dead_letters = _dead_letters(self._state_dir, self._name, cls, settings)
        key = (cls.__name__, cls.eventName)

        def spool() -> SpoolFile | None:
            if key in self._spools:
                return self._spools.pop(key)
            return open_spool(self._state_dir, self._name, cls, settings)

        delivery = self._deliveries.get(key)
        if delivery is not None:
            delivery.carry_on(settings, patience, spool, dead_letters)
        else:
            what = f"{self._name}.{cls.__name__}.handleEvent"
            delivery = Delivery(what, settings, self._shared, patience, spool(), dead_letters)
            self._deliveries[key] = delivery
        delivery.intake.events = events_of(cls, settings)
        return delivery

    async def open_spools(self, classes: Iterable[PluginClass], settings: PluginSettings) -> None:
        """Open the spools that a next life has to open again, in a thread; `of` takes them.

        Resources: they are open and locked until `of` takes them, or until `close_spools`; after an error or
        a cancellation none is.

        Raises:
            ConfigurationError: One of them cannot be opened.
        """
        try:
            for cls in classes:
                if not issubclass(cls, BaseEventPlugin):
                    continue
                key = (cls.__name__, cls.eventName)
                delivery = self._deliveries.get(key)
                if delivery is None or delivery.mailbox.closed.is_set():
                    work = partial(open_spool, self._state_dir, self._name, cls, settings)
                    self._spools[key] = await in_thread(work, self._thread)
        except BaseException:
            self.close_spools()
            raise

    def close_spools(self) -> None:
        """Close what `open_spools` has opened, if no life follows after all."""
        with ExitStack() as each:  # also when one of them fails
            for spool in self._spools.values():
                if spool is not None:
                    each.callback(spool.close)
            self._spools.clear()

    async def remove_others(self, classes: Iterable[PluginClass]) -> None:
        """Give up the points of the event classes that the reloaded file does not have any more."""
        left = {(cls.__name__, getattr(cls, "eventName", None)) for cls in classes}
        for key, delivery in self._deliveries.items():
            if key not in left:
                await self._give_up_one(delivery, REMOVED)

    def __len__(self) -> int:
        """To how many event classes points are, or were, delivered."""
        return len(self._deliveries)

    @property
    def open(self) -> bool:
        """Whether one of them takes points."""
        return any(not each.mailbox.closed.is_set() for each in self._deliveries.values())

    def close(self) -> None:
        """Take no more points; those that wait can still be delivered."""
        for delivery in self._deliveries.values():
            delivery.mailbox.close()

    async def all_delivered(self) -> None:
        """Wait until each is `finished`."""
        for delivery in list(self._deliveries.values()):
            await delivery.finished.wait()

    async def pause(self) -> None:
        """Begin no more calls until the plugin's next life; return when none is under way.

        Cancellation: ends the wait; no more calls begin all the same.
        """
        async with trio.open_nursery() as nursery:
            for delivery in self._deliveries.values():
                nursery.start_soon(delivery.pause)

    async def give_up(self, reason: str) -> None:
        """Take no more points, and give up those that wait, but for what its spool keeps; once.

        Cancellation: does not reach it: points are kept or counted as dropped.
        """
        for delivery in list(self._deliveries.values()):
            await self._give_up_one(delivery, reason)

    async def _give_up_one(self, delivery: Delivery, reason: str) -> None:
        if delivery.given_up:
            return
        with trio.CancelScope(shield=True):
            await delivery.settlement.bury()
            await delivery.keep()
        dropped = delivery.drop_rest(reason)
        if dropped:
            self._logger.error("not delivered, dropped: %s", counted(dropped, "point"))

    def total(self) -> Ledger:
        """Return the account of all its points: the sums over its event classes, past ones included."""
        total = Ledger()
        for delivery in list(self._deliveries.values()):  # the terminator's thread asks, too
            total.add(delivery.ledger)
        return total


def events_of(cls: type[BaseEventPlugin], settings: PluginSettings) -> tuple[str, ...]:
    """Return the event types that a class gets, by its plugin's settings."""
    taken = (cls.eventName, *cls.otherEvents)
    if settings.events is None:
        return (cls.eventName,)
    return tuple(name for name in dict.fromkeys(settings.events) if name in taken)


def _dead_letters(
    state_dir: Path, plugin: str, cls: PluginClass, settings: PluginSettings
) -> DeadLetters | None:
    if not settings.dead_letters:
        return None
    path = state_dir / "dead_letters" / f"{plugin}.{cls.__name__}.jsonl"
    return DeadLetters(path, settings.dead_letters_bytes, plugin_logger(plugin))
