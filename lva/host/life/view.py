"""`self.app`: the service as one plugin class sees it. Safe to use from any thread."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, TypeVar

import trio

from lva.contract import AnalyticsInfo, PluginContext, Published, RouteHandler
from lva.host.life.record import Record
from lva.host.routing import RouteTable
from lva.logs.loggers import own_logger
from lva.metrics import Metric, ReadMetrics

T = TypeVar("T")
#: Largest JSON of what a plugin says for the receipt.
MOST_ACCOUNT: Final = 16 * 1024

#: Takes an event, points, and the plugin that they come from.
Publish = Callable[[str, Iterable[Any], str], bool]
Describe = Callable[[], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Services:
    """What plugins and their lives use of the service.

    Attributes:
        routes: The service's routes.
        publish: `lva.host.delivery.publisher.Publisher.publish`: hands points to all plugins.
        describe: Describes all plugins.
        analytics: Returns the analytics plugins that are active.
        metrics: Returns what plugins measure, by their names.
        settings: What plugins see of the service's settings.
        state_dir: Where spools and dead letters are.
        slow_start: After how many seconds a start is reported as slow.
        rng: Source of the jitter.
    """

    routes: RouteTable
    publish: Publish
    describe: Describe
    analytics: Callable[[], list[AnalyticsInfo]]
    metrics: Callable[[], dict[str, list[Metric]]]
    settings: Mapping[str, Any]
    state_dir: Path
    slow_start: float
    rng: random.Random


class TooLateError(RuntimeError):
    """A route, or what reads metrics, was to be added while the attempt ends."""


class Door:
    """Through it the classes of one life add routes, and say that they are not ready.

    It is open from `initialize()` until the attempt is wound up.

    Args:
        record: The plugin's.
        routes: The service's routes.

    Attributes:
        open: Whether routes may be added.
        too_late: Whether they may not any more in this attempt.
    """

    def __init__(self, record: Record, routes: RouteTable) -> None:
        self.open: bool = False
        self.too_late: bool = False
        self._record = record
        self._routes = routes

    def check(self, path: str) -> None:
        """Refuse a route, unless the door is open. Any thread may call."""
        self.check_open(f"addRoute({path!r})", "add routes")

    def check_open(self, call: str, what: str) -> None:
        """Refuse a call, unless the door is open. Any thread may call."""
        if not self.open:
            raise (TooLateError if self.too_late else RuntimeError)(
                f"{call}: plugin {self._record.name!r} is {self._record.state.value.value};"
                f" {what} in initialize() or later, while it runs"
            )

    def add(
        self, view: PluginView, path: str, handler: RouteHandler, methods: Iterable[str] | None
    ) -> None:
        """Add a route. In Trio's thread only."""
        self.check(path)
        self._routes.add(self._record.owner, path, handler, methods, view)

    def add_metrics(self, read: ReadMetrics) -> None:
        """Let a plugin's metrics be read. In Trio's thread only."""
        self.check_open("addMetrics()", "add metrics")
        self._record.metrics.append(read)

    def note_not_ready(self, reason: str | None) -> None:
        """Note why the plugin makes the service not ready. Any thread may call."""
        if self.open:
            self._record.not_ready = reason

    def note_account(self, account: Mapping[str, Any]) -> None:
        """Note what the receipt tells of the plugin's work. Any thread may call.

        Raises:
            TypeError, ValueError: It cannot be told.
        """
        text = json.dumps(account, allow_nan=False)
        if len(text) > MOST_ACCOUNT:
            raise ValueError(f"forReceipt(): {len(text)} bytes of JSON, more than {MOST_ACCOUNT}")
        self._record.account = json.loads(text)


class PluginView:
    """Implements `lva.contract.PluginApp` for one class of one plugin.

    Made in the host's Trio task, whose thread is then the one where calls need no crossing.

    Args:
        name: The plugin's name.
        config: The class's.
        events: The event types that the class gets.
        services: What it uses of the service.
        door: Where it adds routes.
    """

    def __init__(
        self, name: str, config: Any, events: tuple[str, ...], services: Services, door: Door
    ) -> None:
        self.ctx: PluginContext = SimpleNamespace(logger=own_logger(name))
        self.events: tuple[str, ...] = events
        self.config = config
        self.settings: Mapping[str, Any] = services.settings
        self.name = name
        self._services = services
        self._door = door
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.get_ident()

    def publish(self, eventName: str, points: Iterable[Published]) -> bool:
        """See `lva.contract.PluginApp.publish`."""
        return self._services.publish(eventName, points, self.name)

    def addRoute(
        self, path: str, handler: RouteHandler, methods: Iterable[str] | None = None
    ) -> None:
        """See `lva.contract.BaseBackgroundPlugin.addRoute`."""
        self._door.check(path)  # here too: in `__init__` the loop may be waiting for this thread
        self._in_trio(partial(self._door.add, self, path, handler, methods))

    def notReady(self, reason: str | None) -> None:
        """See `lva.contract.PluginApp.notReady`."""
        self._door.note_not_ready(reason)

    def forReceipt(self, account: Mapping[str, Any]) -> None:
        """See `lva.contract.PluginApp.forReceipt`."""
        self._door.note_account(account)

    def addMetrics(self, read: ReadMetrics) -> None:
        """See `lva.contract.PluginApp.addMetrics`."""
        self._in_trio(partial(self._door.add_metrics, read))

    def metrics(self) -> dict[str, list[Metric]]:
        """See `lva.contract.PluginApp.metrics`."""
        return self._in_trio(self._services.metrics)

    def analytics(self) -> list[AnalyticsInfo]:
        """See `lva.contract.PluginApp.analytics`."""
        return self._in_trio(self._services.analytics)

    def plugins(self) -> list[dict[str, Any]]:
        """See `lva.contract.PluginApp.plugins`."""
        return [dict(status) for status in self._in_trio(self._services.describe)]

    def _in_trio(self, work: Callable[[], T]) -> T:
        if threading.get_ident() == self._thread:
            return work()
        return trio.from_thread.run_sync(work, trio_token=self._token)
