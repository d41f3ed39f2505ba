"""The service's own resources: what answers them, and the one table that says what there is."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from types import MethodType
from typing import Any, Final, Literal

import trio
from pydantic import ConfigDict, with_config
from quart import Response
from typing_extensions import TypedDict

from lva.documents import Time
from lva.host.changes import Verb
from lva.host.host import Host
from lva.host.life.tasks import TaskNode, task_tree
from lva.host.routing import Gate, Owner
from lva.host.status import OpenCircuit, open_circuits, timestamp
from lva.logs.tail import LogRecord, LogTail
from lva.web.handling.exchange import SCOPE_KEY, Exchange
from lva.web.problems import HttpProblem, NotReady, Refused
from lva.web.resources import assets
from lva.web.resources.access import Access
from lva.web.resources.actions import act
from lva.web.resources.docs import docs_page
from lva.web.resources.event_stream import EventStreams
from lva.web.resources.openapi import document
from lva.web.resources.pages import (
    PluginPage,
    json_response,
    life_of,
    page_of,
    plugin_page,
    plugins_page,
    states_only,
    without_details,
)
from lva.web.resources.resource import Answer, Resource, refusal
from lva.web.resources.streams import Shutdown
from lva.web.resources.tap_stream import PARAMETERS, Tapped, TapStreams
from lva.web.resources.telemetry import Telemetry

_PACKAGES: Final = ("trio", "hypercorn", "quart", "quart-trio")


class Index(TypedDict):
    """What there is."""

    service: Literal["luna-video-agent"]
    resources: dict[str, str]
    """What each path is for."""
    actions: dict[str, str]
    """What a POST to each path does."""


class Alive(TypedDict):
    """The event loop runs."""

    status: Literal["alive"]


class Ready(TypedDict):
    """Every plugin runs that nobody has stopped."""

    status: Literal["ready"]
    plugins: list[str]
    """Their names, in activation order."""
    stopped: list[str]
    """Those that an operator has stopped."""
    open_circuits: list[OpenCircuit]
    """Receivers that cannot be reached, or take nothing: no reason to send requests elsewhere."""


@with_config(ConfigDict(extra="allow"))
class Versions(TypedDict):
    """Versions of the service, of Python, and of packages."""

    version: str
    python: str


class Plugins(TypedDict):
    """All active plugins."""

    plugins: list[PluginPage]


class TaskTree(TypedDict):
    """The tasks of a plugin."""

    plugin: str
    at: Time
    tasks: list[TaskNode]


class Log(TypedDict):
    """The newest log records of a plugin."""

    plugin: str
    records: list[LogRecord]
    last_failure: LogRecord | None
    """The newest with a traceback."""


@with_config(ConfigDict(extra="allow"))
class Document(TypedDict):
    """An API document."""

    openapi: str


class Resources:
    """Answers the service's own paths.

    Args:
        host: The plugins.
        access: Decides who may act, and see plugins' details.
        shutdown: How far the stop of the service is.
        tail: The plugins' newest log records.
        most_streams: How many event streams may be open at once.

    Attributes:
        telemetry: What the console plots.
        events: The event streams; they run with `events.run`.
        taps: The readers of points; they run with `taps.run`.
    """

    def __init__(
        self,
        host: Host,
        access: Access,
        shutdown: Shutdown,
        tail: LogTail | None = None,
        most_streams: int = 0,
    ) -> None:
        self._host = host
        self._access = access
        self._shutdown = shutdown
        self._tail = tail = tail or LogTail()
        ignored = (item.path for item in RESOURCES if not item.plotted)
        self.telemetry: Telemetry = Telemetry(host, ignored, tail.count)
        self.events: EventStreams = EventStreams(
            self.telemetry, host, access, shutdown, most_streams
        )
        self.taps: TapStreams = TapStreams(host, shutdown.closing, access)
        owner = Owner(None, Gate.OPEN)
        for item in RESOURCES:
            host.routes.add(owner, item.path, MethodType(item.handler, self), {item.verb.lower()})

    async def index(self, request: Any) -> Response:
        """Show the console to browsers; list what there is to everybody else."""
        if assets.wants_page(request):
            return assets.page(request)
        listed: Index = {
            "service": "luna-video-agent",
            "resources": {item.path: item.summary for item in RESOURCES if item.verb == "GET"},
            "actions": {item.path: item.summary for item in RESOURCES if item.verb == "POST"},
        }
        response = json_response(listed)
        response.vary.add("Accept")
        return response

    async def livez(self, _request: Any) -> Response:
        """Say that the event loop runs."""
        alive: Alive = {"status": "alive"}
        return json_response(alive)

    async def readyz(self, request: Any) -> Response:
        """Say whether requests should be sent here."""
        circuits, reasons = open_circuits(self._host.lives.values()), self._host.not_ready()
        if (reasons or circuits) and not self._may_see(request):
            reasons = states_only(reasons)
            circuits = [{**circuit, "reason": None} for circuit in circuits]
        if self._shutdown.draining.is_set():
            raise _not_ready("The service is stopping.", {"service": "stopping"}, circuits)
        if reasons:
            raise _not_ready(f"Not ready: {', '.join(reasons)}.", reasons, circuits)
        stopped = self._host.paused()
        running = [name for name in self._host.lives if name not in stopped]
        ready: Ready = {
            "status": "ready",
            "plugins": running,
            "stopped": stopped,
            "open_circuits": circuits,
        }
        return json_response(ready)

    def _may_see(self, request: Any) -> bool:
        """As `Access.sees_details`; but who asks whether the service is ready is told that in any case."""
        try:
            return self._access.sees_details(request)
        except HttpProblem:
            return False

    async def version(self, _request: Any) -> Response:
        """Tell the versions."""
        own: Versions = {"version": version("lva"), "python": platform.python_version()}
        return json_response({**own, **{name: version(name) for name in _PACKAGES}})

    async def plugins(self, request: Any) -> Response:
        """Describe all plugins."""
        pages = await plugins_page(self._host)
        if not self._access.sees_details(request):
            pages = [without_details(page) for page in pages]
        plugins: Plugins = {"plugins": pages}
        return json_response(plugins)

    async def plugin(self, request: Any, name: str) -> Response:
        """Describe one plugin."""
        life_of(self._host, name)
        page = await plugin_page(self._host, name)
        return json_response(page if self._access.sees_details(request) else without_details(page))

    async def tasks(self, request: Any, name: str) -> Response:
        """Show what one plugin's tasks are doing, to those who may see details."""
        life = life_of(self._host, name)
        self._access.check_details(request)
        tree: TaskTree = {"plugin": name, "at": timestamp(time.time()), "tasks": task_tree(life)}
        return json_response(tree)

    async def log(self, request: Any, name: str) -> Response:
        """Show the newest log records of one plugin, to those who may see details."""
        self._access.check_details(request)
        life_of(self._host, name)
        log: Log = {
            "plugin": name,
            "records": self._tail.records(name),
            "last_failure": self._tail.failure(name),
        }
        return json_response(log)

    async def event_stream(self, request: Any) -> Response:
        """Stream how the service is."""
        exchange: Exchange = request.scope[SCOPE_KEY]
        exchange.endless = True
        return await self.events.open(request, exchange.done.is_set)

    async def tap(self, request: Any) -> Response:
        """Stream points as they pass."""
        return await self.taps.open(request)

    async def part(self, request: Any, part: str) -> Response:
        """Send one of the console's parts, or the page of a plugin."""
        life = self._host.lives.get(part)
        if life is not None and (page := page_of(life)) is not None:
            return await assets.plugin_page(request, part, page)
        return await assets.part(request, part)

    async def act(self, verb: Verb, request: Any, name: str) -> Response:
        """Do something to one plugin, for those who may."""
        return await act(self._host, self._access, verb, request, name)

    async def openapi(self, _request: Any) -> Response:
        """Describe every route."""
        routes = [*self._host.routes]
        return await _in_thread(lambda: json_response(document(routes, RESOURCES)))

    async def docs(self, request: Any) -> Response:
        """Show the API document as a page."""
        routes, base = [*self._host.routes], request.host_url
        return await _in_thread(lambda: docs_page(document(routes, RESOURCES), base))


async def _in_thread(make: Callable[[], Response]) -> Response:
    """Make what may take longer than the event loop should be blocked: routes can be many."""
    return await trio.to_thread.run_sync(make, abandon_on_cancel=True)


def _not_ready(detail: str, reasons: Mapping[str, str], circuits: list[OpenCircuit]) -> HttpProblem:
    return HttpProblem(503, detail, "not_ready", reasons=reasons, open_circuits=circuits)


_HTML: Final = "text/html; charset=utf-8"
_DETAILS: Final = "Details, such as errors, need the admin token."
_WRONG_TOKEN: Final[Mapping[int, Answer]] = {
    401: refusal("The token is the wrong one."),
    429: refusal("Too many wrong tokens, or too many actions."),
}
_NO_ACCESS: Final[Mapping[int, Answer]] = {
    **_WRONG_TOKEN,
    401: refusal("The token is missing, or the wrong one."),
    403: refusal(
        "There is no token, and the request comes from elsewhere; or from another origin's page."
    ),
}
_UNKNOWN: Final[Mapping[int, Answer]] = {404: refusal("No active plugin has this name.")}


def _action(verb: Verb, summary: str) -> Resource:
    async def handle(resources: Resources, request: Any, name: str) -> Response:
        return await resources.act(verb, request, name)

    answers = {
        200: Answer("Done; the plugin as it is now.", PluginPage),
        **_NO_ACCESS,
        **_UNKNOWN,
        409: refusal("Not in its present state."),
        422: refusal("The file or the settings are wrong; the plugin goes on.", Refused),
    }
    needs = "Actions need the admin token."
    return Resource(f"/plugins/<name>/{verb}", summary, handle, answers, "POST", needs=needs)


#: All of them. The route table, `GET /`, the API document and the documentation are made from this.
RESOURCES: Final = (
    Resource(
        "/",
        "the console, for browsers; else this index",
        Resources.index,
        {200: Answer("The index; to browsers, the console.", Index, or_else=[_HTML])},
    ),
    Resource(
        "/livez",
        "200 while the event loop responds",
        Resources.livez,
        {200: Answer("It does.", Alive)},
        description="For liveness probes: says nothing of the plugins.",
        plotted=False,  # probes tell of the prober; so does the next
    ),
    Resource(
        "/readyz",
        "200 while every active plugin runs and the service is not stopping, else 503",
        Resources.readyz,
        {
            200: Answer("Every active plugin runs.", Ready),
            503: refusal("One does not, or the service is stopping.", NotReady),
        },
        description="For readiness probes and load balancers.",
        plotted=False,
    ),
    Resource(
        "/version",
        "versions of the service, Python and what it is built on",
        Resources.version,
        {200: Answer("The versions.", Versions)},
    ),
    Resource(
        "/plugins",
        "every active plugin with its state, routes and ledger",
        Resources.plugins,
        {200: Answer("In activation order.", Plugins), **_WRONG_TOKEN},
        needs=_DETAILS,
    ),
    Resource(
        "/plugins/<name>",
        "one plugin, with its settings",
        Resources.plugin,
        {200: Answer("The plugin.", PluginPage), **_WRONG_TOKEN, **_UNKNOWN},
        needs=_DETAILS,
    ),
    Resource(
        "/plugins/<name>/tasks",
        "its tasks, each with where it waits, below the task that started it",
        Resources.tasks,
        {200: Answer("Each below the task that started it.", TaskTree), **_NO_ACCESS, **_UNKNOWN},
        needs="This needs the admin token.",
    ),
    Resource(
        "/openapi.json",
        "the API document (OpenAPI 3.1): every resource and route there is now",
        Resources.openapi,
        {200: Answer("As of now: routes come and go with their plugins.", Document)},
    ),
    Resource(
        "/docs",
        "the API document as a page for people",
        Resources.docs,
        {200: Answer("A page.", media_type=_HTML)},
    ),
    Resource(
        "/plugins/<name>/log",
        "its newest log records, and the newest traceback",
        Resources.log,
        {200: Answer("Oldest first.", Log), **_NO_ACCESS, **_UNKNOWN},
        needs=_DETAILS,
    ),
    Resource(
        "/events",
        "server-sent events: how the service is, and each second what has changed",
        Resources.event_stream,
        {
            200: Answer(
                "Server-sent events: hello, tick, transition, bye.", media_type="text/event-stream"
            ),
            **_WRONG_TOKEN,
            503: refusal("Too many streams, or the service is stopping."),
        },
        description="What lva top and the console show. Reasons of changes are null without the token.",
        needs=_DETAILS,
        plotted=False,  # it serves the console, and would tell of itself in its plots; so does the next
    ),
    Resource(
        "/console/<path:part>",
        "the parts of the console, and the pages that plugins add to it",
        Resources.part,
        {
            200: Answer("A part, or a page.", media_type="*/*"),
            404: refusal("There is no such part, and no plugin that runs has such a page."),
            500: refusal("A plugin's page cannot be made from its files."),
        },
        plotted=False,
    ),
    Resource(
        "/tap",
        "points as they pass, as JSON lines, until the client leaves",
        Resources.tap,
        {
            200: Answer("One JSON object a line.", Tapped, "application/jsonl"),
            400: refusal("The query is malformed."),
            **_NO_ACCESS,
            **_UNKNOWN,
            503: refusal("Too many look already, or the service is stopping."),
        },
        description="Delivery is never slowed down: what there is no time or room for is left out, counted,"
        " and reported in a line of its own, at most once a second. Such a line comes after 15 seconds of"
        " silence, too. The last line says why the stream ends.",
        parameters=PARAMETERS,
        needs="Points can hold anything, so this needs the admin token.",
    ),
    _action("start", "start a plugin that was stopped or has failed"),
    _action("stop", "stop it; points wait for its next start"),
    _action("restart", "stop it and start it anew"),
    _action("reload", "load its file anew and start it with that; a broken file changes nothing"),
)
