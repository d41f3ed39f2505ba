"""`self.app`: the service as one plugin class sees it. Safe to use from any thread."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
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
    """Whether the classes of one life may add routes and metrics, and say that they are not ready.

    It is open from `initialize()` until the attempt is wound up.

    Args:
        record: The plugin's.

    Attributes:
        open: Whether they may.
        too_late: Whether they may not any more in this attempt.
    """

    def __init__(self, record: Record) -> None:
        self.open: bool = False
        self.too_late: bool = False
        self._record = record

    def check(self, call: str, what: str) -> None:
        """Refuse a call, unless the door is open. Any thread may call."""
        if not self.open:
            raise (TooLateError if self.too_late else RuntimeError)(
                f"{call}: plugin {self._record.name!r} is {self._record.state.value.value};"
                f" {what} in initialize() or later, while it runs"
            )


class PluginView:
    """Implements `lva.contract.PluginApp` for one class of one plugin.

    Made in the host's Trio task, whose thread is then the one where calls need no crossing.

    Args:
        record: The plugin's.
        config: The class's.
        events: The event types that the class gets.
        services: What it uses of the service.
        door: Open while it may add routes.
    """

    def __init__(
        self, record: Record, config: Any, events: tuple[str, ...], services: Services, door: Door
    ) -> None:
        self.ctx: PluginContext = SimpleNamespace(logger=own_logger(record.name))
        self.events: tuple[str, ...] = events
        self.config = config
        self.settings: Mapping[str, Any] = services.settings
        self.name: str = record.name
        self._record = record
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

        def add() -> None:
            self._door.check(call, "add routes")
            self._services.routes.add(self._record.owner, path, handler, methods, self)

        call = f"addRoute({path!r})"
        # Here too: in `__init__` the loop may be waiting for this thread.
        self._door.check(call, "add routes")
        self._in_trio(add)

    def notReady(self, reason: str | None) -> None:
        """See `lva.contract.PluginApp.notReady`."""
        if self._door.open:
            self._record.not_ready = reason

    def forReceipt(self, account: Mapping[str, Any]) -> None:
        """See `lva.contract.PluginApp.forReceipt`."""
        text = json.dumps(account, allow_nan=False)
        if len(text) > MOST_ACCOUNT:
            raise ValueError(f"forReceipt(): {len(text)} bytes of JSON, more than {MOST_ACCOUNT}")
        self._record.account = json.loads(text)

    def addMetrics(self, read: ReadMetrics) -> None:
        """See `lva.contract.PluginApp.addMetrics`."""

        def add() -> None:
            self._door.check("addMetrics()", "add metrics")
            self._record.metrics.append(read)

        self._in_trio(add)

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
