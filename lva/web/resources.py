"""The service's own resources."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, Final

from quart import Response
from quart_trio.wrappers import TrioResponse

from lva.errors import suggestion
from lva.host.host import Host
from lva.host.lifecycle import PluginLife
from lva.host.routing import Gate, Owner
from lva.host.runtimes import now
from lva.host.status import full_statuses, timestamp
from lva.host.tasks import task_tree
from lva.web.problems import Problem

#: What each resource is for; `GET /` and the documentation list them.
RESOURCES: Final = {
    "/": "this index",
    "/livez": "200 while the event loop answers",
    "/readyz": "200 while every active plugin runs and the service is not stopping, else 503",
    "/version": "versions of the service, Python and what it is built on",
    "/plugins": "every active plugin with its state, routes and ledger",
    "/plugins/<name>": "one of them",
    "/plugins/<name>/tasks": "its tasks, each with where it waits, below the task that started it",
}


class Resources:
    """Answers the service's own paths.

    Args:
        host: The plugins.
        draining: Tells whether the service has been asked to stop.
    """

    def __init__(self, host: Host, draining: Callable[[], bool]) -> None:
        self._host = host
        self._draining = draining
        owner = Owner(None, Gate.OPEN)
        handlers: tuple[Callable[..., Any], ...] = (
            self.index,
            self.livez,
            self.readyz,
            self.version,
            self.plugins,
            self.plugin,
            self.tasks,
        )
        for path, handler in zip(RESOURCES, handlers, strict=True):
            host.routes.add(owner, path, handler)

    async def index(self, _request: Any) -> Response:
        """List what there is."""
        return _json({"service": "luna-video-agent", "resources": RESOURCES})

    async def livez(self, _request: Any) -> Response:
        """Say that the event loop runs."""
        return _json({"status": "alive"})

    async def readyz(self, _request: Any) -> Response:
        """Say whether requests should be sent here."""
        if self._draining():
            raise _not_ready("The service is stopping.", {"service": "stopping"})
        if reasons := self._host.not_ready():
            raise _not_ready(f"Not running: {', '.join(reasons)}.", reasons)
        return _json({"status": "ready", "plugins": list(self._host.lives)})

    async def version(self, _request: Any) -> Response:
        """Tell the versions."""
        packages = ("trio", "hypercorn", "quart", "quart-trio")
        return _json(
            {
                "version": version("lva"),
                "python": platform.python_version(),
                **{name: version(name) for name in packages},
            }
        )

    async def plugins(self, _request: Any) -> Response:
        """Describe all plugins."""
        return _json({"plugins": full_statuses(self._host.lives.values(), self._host.loop_uses)})

    async def plugin(self, _request: Any, name: str) -> Response:
        """Describe one plugin."""
        return _json(full_statuses([self._life(name)], self._host.loop_uses)[0])

    async def tasks(self, _request: Any, name: str) -> Response:
        """Show what one plugin's tasks are doing."""
        life = self._life(name)
        return _json({"plugin": name, "at": timestamp(now()), "tasks": task_tree(life)})

    def _life(self, name: str) -> PluginLife:
        life = self._host.lives.get(name)
        if life is None:
            hint = suggestion(name, self._host.lives) or "; see /plugins"
            raise Problem(404, f"No active plugin is named {name!r}{hint}", "unknown_plugin")
        return life


def _not_ready(detail: str, reasons: Mapping[str, str]) -> Problem:
    return Problem(503, detail, "not_ready", reasons=reasons)


def _json(value: Any) -> Response:
    return TrioResponse(json.dumps(value) + "\n", content_type="application/json")
