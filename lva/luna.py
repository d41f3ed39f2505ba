"""Import aliases: a plugin file written for the original service loads as it stands.

The documented module names resolve to what is here, for as long as no real package of that name is
installed. The classes are those of `lva.contract`, run asyncio-style: what was written for an asyncio
service keeps its event loop.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from lva import contract
from lva.contract import (
    BaseBackgroundHandler,
    PluginApp,
    PluginResponse,
    RuntimeName,
    pluginHTTPResponse,
)
from lva.events.points import MonitoringPoint

if TYPE_CHECKING:
    import httpx

__all__ = [
    "BackgroundPluginExample",
    "BaseBackgroundHandler",
    "BaseBackgroundPlugin",
    "BaseEventPlugin",
    "BaseRequestMonitoringPlugin",
    "HandlerExample",
    "RequestMonitoringPlugin",
    "anotherHandlerExample",
    "install",
    "pluginHTTPResponse",
]


class BaseEventPlugin(contract.BaseEventPlugin):
    """`lva.BaseEventPlugin`, asyncio-style."""

    runtime: ClassVar[RuntimeName] = "asyncio"


class BaseBackgroundPlugin(contract.BaseBackgroundPlugin):
    """`lva.BaseBackgroundPlugin`, asyncio-style: `start()` makes its tasks and may return at once."""

    runtime: ClassVar[RuntimeName] = "asyncio"


class BaseRequestMonitoringPlugin(contract.BaseRequestMonitoringPlugin, BaseEventPlugin):
    """`lva.BaseRequestMonitoringPlugin`, asyncio-style: the points of a batch are flushed concurrently."""

    runtime: ClassVar[RuntimeName] = "asyncio"

    async def handleEvent(self, points: list[MonitoringPoint], logger: logging.Logger) -> None:
        """Flush all points at once; report the ones that failed, so that only those are retried.

        Raises:
            PartialDeliveryError: Some points failed; its cause is the last point's error.
            asyncio.CancelledError: The call was cancelled; then so are the points not yet flushed.
        """
        outcomes = await asyncio.gather(
            *(self.flushPointToMonitoring(point, logger) for point in points),
            return_exceptions=True,
        )
        contract.raise_failures(points, outcomes)


# The documented examples, for files that build on them: asyncio-style, with attributes in place of settings,
# as their authors know them. `lva.plugins` has the same in the style of this service.


class RequestMonitoringPlugin(BaseRequestMonitoringPlugin):
    """Sends each request's point to an object store: the documented example.

    Attributes:
        url: Where the buckets are; the bucket is made when the plugin initializes.
        bucketName: The bucket that points go to.
    """

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        self.url: str = "http://127.0.0.1:5020/1/buckets"
        self.bucketName: str = "plugin_test_bucket"
        self.session: httpx.AsyncClient | None = None

    async def initialize(self) -> None:
        import httpx  # late: these names resolve for every service, and few use this one

        self.session = httpx.AsyncClient(trust_env=False)
        reply = await self.session.post(self.url, params={"bucket": self.bucketName})
        if reply.status_code != httpx.codes.CONFLICT:  # it exists already
            reply.raise_for_status()

    async def flushPointToMonitoring(self, point: MonitoringPoint, logger: logging.Logger) -> None:
        assert self.session is not None
        reply = await self.session.post(
            f"{self.url}/{self.bucketName}/objects",
            json={"tags": point.tags, "fields": point.fields},
        )
        reply.raise_for_status()
        logger.debug("sent a point of %s: %d", point.series, reply.status_code)

    async def close(self) -> None:
        if self.session is not None:
            await self.session.aclose()
            self.session = None


class HandlerExample(BaseBackgroundHandler):
    """Says that it is a teapot."""

    async def get(self, request: Any) -> PluginResponse:
        return self.response(
            body="I am teapot", headers={"Content-Type": "text/plain"}, statusCode=418
        )


def anotherHandlerExample(request: Any) -> PluginResponse:
    """Respond with the teapot's version."""
    return pluginHTTPResponse(statusCode=200, body="T800", headers={"Content-Type": "text/plain"})


class BackgroundPluginExample(BaseBackgroundPlugin):
    """A teapot that heats up by a degree each second, with two routes: the documented example."""

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        self.task: asyncio.Task[None] | None = None
        self.temperature: int = 0

    async def initialize(self) -> None:
        self.addRoute("/teapot", HandlerExample)
        self.addRoute("/teapot/version", anotherHandlerExample, methods={"get"})

    async def usefulJob(self) -> None:
        """Count up to 100, one step a second, and stay there."""
        while True:
            await asyncio.sleep(1)
            self.temperature = min(100, self.temperature + 1)
            if self.temperature < 100:
                self.logger.info("the teapot is at %d degrees", self.temperature)
            else:
                self.logger.info("the teapot boils")

    async def start(self) -> None:
        self.task = asyncio.create_task(self.usefulJob())

    async def close(self) -> None:
        if self.task is not None:
            self.task.cancel()


_BASES: Final = {
    "BaseBackgroundHandler": BaseBackgroundHandler,
    "BaseBackgroundPlugin": BaseBackgroundPlugin,
    "BaseEventPlugin": BaseEventPlugin,
    "pluginHTTPResponse": pluginHTTPResponse,
}
_EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "cow.plugins.plugin_examples.request_monitoring_plugin_example": {
        "BaseEventPlugin": BaseEventPlugin,
        "BaseRequestMonitoringPlugin": BaseRequestMonitoringPlugin,
        "RequestMonitoringPlugin": RequestMonitoringPlugin,
    },
    "cow.plugins.plugin_examples.background_plugin_example": {
        **_BASES,
        "BackgroundPluginExample": BackgroundPluginExample,
        "HandlerExample": HandlerExample,
        "anotherHandlerExample": anotherHandlerExample,
    },
}
#: What each documented module holds.
MODULES: Final[dict[str, dict[str, Any]]] = {
    "luna_plugins.base.plugins_meta.base_plugins": _BASES,
    "crutches_on_wheels.plugins.plugins_meta.base_plugins": _BASES,
    "crutches_on_wheels.cow.plugins.plugins_meta.base_plugins": _BASES,
    **_EXAMPLES,
    **{f"crutches_on_wheels.{name}": held for name, held in _EXAMPLES.items()},
}
#: The packages that the original service's modules are in.
TOP_NAMES: Final = {name.partition(".")[0] for name in MODULES} | {"luna_video_agent"}
_PACKAGES: Final = {
    name.rsplit(".", depth)[0] for name in MODULES for depth in range(1, name.count(".") + 1)
}


class _AliasFinder(MetaPathFinder, Loader):
    """Makes the documented modules, after every other finder has been asked."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in MODULES and fullname not in _PACKAGES:
            return None
        parent = sys.modules.get(fullname.rpartition(".")[0])
        if parent is not None and getattr(parent.__spec__, "loader", None) is not self:
            return None  # a real package of that name: what it lacks is not for us to add
        return ModuleSpec(fullname, self, origin="lva.luna", is_package=fullname in _PACKAGES)

    def create_module(self, spec: ModuleSpec) -> None:
        """Let the import system make the module."""

    def exec_module(self, module: ModuleType) -> None:
        module.__doc__ = "Stands for the original service's module; see lva.luna."
        vars(module).update(MODULES.get(module.__name__, {}))


_finder: Final = _AliasFinder()


def install() -> None:
    """Let the documented module names resolve, unless a real package has them."""
    if _finder not in sys.meta_path:
        sys.meta_path.append(_finder)
