"""The service's own resources."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import trio
from quart import Response

from lva.host.host import Host
from lva.host.life.tasks import task_tree
from lva.host.routing import Gate, Owner
from lva.host.runtimes.runtime import now
from lva.host.status import timestamp
from lva.web import assets
from lva.web.access import Access
from lva.web.actions import ACTIONS
from lva.web.docs import docs_page
from lva.web.openapi import document
from lva.web.pages import (
    json_response,
    life_of,
    plugin_page,
    plugins_page,
    states_only,
    without_details,
)
from lva.web.paths import OBSERVING, RESOURCES, TAPPING
from lva.web.problems import HttpProblem


class Resources:
    """Answers the service's own paths.

    Args:
        host: The plugins.
        draining: Tells whether the service has been asked to stop.
        access: Decides who may see plugins' details.
    """

    def __init__(self, host: Host, draining: Callable[[], bool], access: Access) -> None:
        self._host = host
        self._draining = draining
        self._access = access
        owner = Owner(None, Gate.OPEN)
        handlers: tuple[Callable[..., Any], ...] = (
            self.index,
            self.livez,
            self.readyz,
            self.version,
            self.plugins,
            self.plugin,
            self.tasks,
            self.openapi,
            self.docs,
        )
        own = (path for path in RESOURCES if path not in {**OBSERVING, **TAPPING})
        for path, handler in zip(own, handlers, strict=True):
            host.routes.add(owner, path, handler)

    async def index(self, request: Any) -> Response:
        """Show the console to browsers; list what there is to everybody else."""
        if assets.wants_page(request):
            return assets.page(request)
        response = json_response(
            {"service": "luna-video-agent", "resources": RESOURCES, "actions": ACTIONS}
        )
        response.vary.add("Accept")
        return response

    async def livez(self, _request: Any) -> Response:
        """Say that the event loop runs."""
        return json_response({"status": "alive"})

    async def readyz(self, request: Any) -> Response:
        """Say whether requests should be sent here."""
        if self._draining():
            raise _not_ready("The service is stopping.", {"service": "stopping"})
        if reasons := self._host.not_ready():
            if not self._may_see(request):
                reasons = states_only(reasons)
            raise _not_ready(f"Not ready: {', '.join(reasons)}.", reasons)
        stopped = self._host.paused()
        running = [name for name in self._host.lives if name not in stopped]
        return json_response({"status": "ready", "plugins": running, "stopped": stopped})

    def _may_see(self, request: Any) -> bool:
        """As `Access.sees_details`; but who asks whether the service is ready is told that in any case."""
        try:
            return self._access.sees_details(request)
        except HttpProblem:
            return False

    async def version(self, _request: Any) -> Response:
        """Tell the versions."""
        packages = ("trio", "hypercorn", "quart", "quart-trio")
        return json_response(
            {
                "version": version("lva"),
                "python": platform.python_version(),
                **{name: version(name) for name in packages},
            }
        )

    async def plugins(self, request: Any) -> Response:
        """Describe all plugins."""
        pages = await plugins_page(self._host)
        if not self._access.sees_details(request):
            pages = [without_details(page) for page in pages]
        return json_response({"plugins": pages})

    async def plugin(self, request: Any, name: str) -> Response:
        """Describe one plugin."""
        life_of(self._host, name)
        page = await plugin_page(self._host, name)
        return json_response(page if self._access.sees_details(request) else without_details(page))

    async def tasks(self, request: Any, name: str) -> Response:
        """Show what one plugin's tasks are doing, to those who may see details."""
        life = life_of(self._host, name)
        self._access.check_details(request)
        return json_response({"plugin": name, "at": timestamp(now()), "tasks": task_tree(life)})

    async def openapi(self, _request: Any) -> Response:
        """Describe every route."""
        routes = [*self._host.routes]
        return await _in_thread(lambda: json_response(document(routes)))

    async def docs(self, request: Any) -> Response:
        """Show the API document as a page."""
        routes, base = [*self._host.routes], request.host_url
        return await _in_thread(lambda: docs_page(document(routes), base))


async def _in_thread(make: Callable[[], Response]) -> Response:
    """Make what may take longer than the event loop should be blocked: routes can be many."""
    return await trio.to_thread.run_sync(make, abandon_on_cancel=True)


def _not_ready(detail: str, reasons: Mapping[str, str]) -> HttpProblem:
    return HttpProblem(503, detail, "not_ready", reasons=reasons)
