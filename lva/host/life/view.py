"""`self.app`: the service as one plugin class sees it. Safe to use from any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from lva.contract import PluginContext, RouteHandler
from lva.logs import own_logger

if TYPE_CHECKING:
    from lva.points import MonitoringPoint

T = TypeVar("T")

#: Takes an event, points, and the plugin that they come from.
Publish = Callable[[str, Iterable[Any], str], bool]
Describe = Callable[[], Sequence[Mapping[str, Any]]]
AddRoute = Callable[["PluginView", str, RouteHandler, "Iterable[str] | None"], None]


class PluginView:
    """Implements `lva.contract.PluginApp` for one class of one plugin.

    Made in the host's Trio task, whose thread is then the one where calls need no crossing.
    """

    def __init__(
        self,
        name: str,
        config: Any,
        settings: Mapping[str, Any],
        publish: Publish,
        describe: Describe,
        add_route: AddRoute,
        check_alive: Callable[[str], None],
    ) -> None:
        self.ctx: PluginContext = SimpleNamespace(logger=own_logger(name))
        self.config = config
        self.settings = settings
        self.name = name
        self._publish = publish
        self._describe = describe
        self._add_route = add_route
        self._check_alive = check_alive
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.get_ident()

    def publish(self, eventName: str, points: Iterable[MonitoringPoint]) -> bool:
        """See `lva.contract.PluginApp.publish`."""
        return self._publish(eventName, points, self.name)

    def addRoute(
        self, path: str, handler: RouteHandler, methods: Iterable[str] | None = None
    ) -> None:
        """See `lva.contract.BaseBackgroundPlugin.addRoute`."""
        self._check_alive(path)  # here too: in `__init__` the loop may be waiting for this thread
        self._in_trio(partial(self._add_route, self, path, handler, methods))

    def plugins(self) -> list[dict[str, Any]]:
        """See `lva.contract.PluginApp.plugins`."""
        return [dict(status) for status in self._in_trio(self._describe)]

    def _in_trio(self, step: Callable[[], T]) -> T:
        if threading.get_ident() == self._thread:
            return step()
        return trio.from_thread.run_sync(step, trio_token=self._token)
