"""Works on video streams: each in a process of its own, whose frames analytics plugins look at.

Streams are created and watched at /NAME; see docs/streams.rst. This needs PyAV: ``pip install 'lva[video]'``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast
from urllib.parse import quote

from pydantic import BaseModel, BeforeValidator, Field, ValidationInfo, field_validator
from quart import Response
from werkzeug.exceptions import BadRequest, NotFound, ServiceUnavailable

from lva import (
    BaseBackgroundPlugin,
    CannotRunError,
    ConsolePage,
    PluginApp,
    PluginResponse,
    RequestProblem,
    StreamAnalyticsEvent,
    WrongKey,
    WrongKeysError,
    admin_only,
    pluginHTTPResponse,
    query_parameter,
    request_body,
    response,
)
from lva.fleet.config import FleetConfig
from lva.settings.user_paths import absolute
from lva.video.codes import ENDED, StreamState
from lva.video.definition import StreamDefinition
from lva.video.fleet.far_events import FarEvents, Page, page_of
from lva.video.fleet.forwarding import Forwarding, asked_by_an_agent, moved, own_address
from lva.video.fleet.schemas import AGENT_ACTED, AGENT_ACTION, FLEET, MOVED
from lva.video.processes.forks import ForkServer
from lva.video.processes.process import worker_spec
from lva.video.registry.admission import Admission
from lva.video.registry.elsewhere import Elsewhere
from lva.video.registry.renewal import follow
from lva.video.registry.store import StoreError, StreamStore
from lva.video.registry.streams import Pace, Streams
from lva.video.reporting import api
from lva.video.reporting.account import account_of
from lva.video.reporting.feed import CONSOLE, EVENTS, Feed, TooManyReadersError
from lva.video.reporting.metrics import metrics_of
from lva.video.reporting.publishing import event_of, point_of_event, points_of_change
from lva.video.supervision.kept import MOST_PICTURES, MOST_PICTURES_OF_ONE, KeptPictures
from lva.video.supervision.previews import EDGE, QUALITY, TooManyKindsError
from lva.video.supervision.record import StreamChange
from lva.video.supervision.stream import Stream, StreamServices

if TYPE_CHECKING:
    from lva.video.fleet.streams import FleetStreams

#: Most entries of a page, and how long, in seconds, a preview is waited for.
MAX_PAGE = 1000
PREVIEW_PATIENCE = 3.0
#: After how many seconds without a frame the next one is not waited for, if there is a picture.
STALLED = 1.0
#: A proxy passes on what comes as it comes.
_NOT_KEPT = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
#: Largest body of a request, in bytes.
MAX_BODY = 1024 * 1024
#: Most digits of a number in a query or a header.
MAX_DIGITS = 16


class Config(BaseModel):
    """`[plugins.streams.config]`."""

    path: Annotated[Path | None, BeforeValidator(absolute)] = Field(
        None, description="Where streams are kept; NAME.sqlite3 in state_dir if left out."
    )
    schemes: list[Literal["rtsp", "rtsps", "http", "https", "file", "test", "v4l2"]] = Field(
        ["rtsp", "rtsps", "http", "https", "test"], description="Sources that are allowed."
    )
    directories: list[Annotated[Path, BeforeValidator(absolute)]] = Field(
        [], description="Files are allowed below these, if schemes has file."
    )
    max_streams: int = Field(100, ge=1, le=10_000, description="Most streams.")
    account_id: str | None = Field(
        None, min_length=1, max_length=200, description="The account_id in events of streams."
    )
    picture_bytes: int = Field(
        MOST_PICTURES,
        ge=0,
        description="Most bytes of events' pictures kept in memory, of all streams.",
    )
    stream_picture_bytes: int = Field(
        MOST_PICTURES_OF_ONE, ge=0, description="Most bytes of them of one stream."
    )
    fleet: FleetConfig | None = Field(
        None, description="Share the streams of other agents over a Redis server."
    )

    @field_validator("fleet")
    @classmethod
    def _can_take_part(cls, fleet: FleetConfig | None, info: ValidationInfo) -> FleetConfig | None:
        if fleet is None:
            return None
        if find_spec("redis") is None:
            raise ValueError(
                "a fleet needs the Redis client; install the extra: pip install '/path/to/lva[redis]'"
            )
        if fleet.address is None and info.context is not None:
            own_address(info.context["bind"])
        return fleet


class StreamsPlugin(BaseBackgroundPlugin):
    """The table of streams as HTTP routes."""

    Config: ClassVar[type[BaseModel] | None] = Config
    consolePage: ClassVar[ConsolePage | None] = ConsolePage(
        "Streams", CONSOLE / "streams.js", CONSOLE / "streams.css"
    )

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        self._streams: Streams | FleetStreams | None = None
        self._forwarding: Forwarding | None = None
        self._forks = ForkServer()
        self._ends: Counter[str] = Counter()

    async def initialize(self) -> None:
        if find_spec("av") is None or find_spec("numpy") is None:
            raise CannotRunError(
                "streams need PyAV and NumPy; install the extra: pip install '/path/to/lva[video]'"
            )
        base = f"/{self.app.name}"
        self._streams = self._make_table(base)
        shown = self._streams.here if self.config.fleet is None else self._fleet_table.shown
        self._feed = Feed(shown, self._streams.status, self._fleet_shown)
        self.app.addMetrics(lambda: metrics_of(self._table.here()))
        self.addRoute(base, self.listing, {"get"})
        self.addRoute(base, self.create, {"post"})
        self.addRoute(f"{base}/live", self.live)
        self.addRoute(f"{base}/<stream_id>", self.one, {"get"})
        self.addRoute(f"{base}/<stream_id>", self.replace, {"put"})
        self.addRoute(f"{base}/<stream_id>", self.patch, {"patch"})
        self.addRoute(f"{base}/<stream_id>", self.remove, {"delete"})
        self.addRoute(f"{base}/<stream_id>/definition", self.definition)
        self.addRoute(f"{base}/<stream_id>/logs", self.logs)
        self.addRoute(f"{base}/<stream_id>/events", self.events)
        self.addRoute(f"{base}/<stream_id>/events/<int:number>.jpg", self.picture)
        self.addRoute(f"{base}/<stream_id>/preview.jpg", self.preview)
        with suppress(ValueError):  # another instance serves the same
            self.addRoute("/analytics", self.analytics)

    def _make_table(self, base: str) -> Streams | FleetStreams:
        config = self.config
        admission = Admission(config.schemes, config.directories, self._analytics_of)
        services = StreamServices(
            self._analytics_of,
            self,
            self.logger,
            Pace(),
            not_ready=self.app.notReady,
            path=base,
            forks=self._forks,
            ends=self._ends,
            account_id=config.account_id,
            pictures=KeptPictures(config.picture_bytes, config.stream_picture_bytes),
        )
        if config.fleet is None:
            return Streams(self._path, admission, services, config.max_streams)
        # Only a fleet needs what these import.
        from lva.video.fleet.metrics import fleet_metrics
        from lva.video.fleet.streams import FleetPart, FleetStreams

        address = config.fleet.address or own_address(self.app.settings["bind"])
        part = FleetPart(config.fleet, address, self._analytics_names)
        streams = FleetStreams(part, admission, services, config.max_streams)
        self._forwarding = Forwarding(config.fleet.agent)
        self.app.addMetrics(lambda: fleet_metrics(streams))
        self.addRoute("/fleet", self.fleet)
        self.addRoute("/fleet/agents/<agent>", self.act_on_agent, {"patch"})
        self.addRoute(f"{base}/move-to-fleet", self.move_to_fleet, {"post"})
        return streams

    @property
    def _path(self) -> Path:
        """Where streams are kept that are no fleet's."""
        path: Path | None = self.config.path
        return path or self.app.settings["state_dir"] / f"{self.app.name}.sqlite3"

    def _analytics_names(self) -> list[str]:
        return [each.name for each in self.app.analytics()]

    async def start(self) -> None:
        assert self._streams is not None
        self.nursery.start_soon(self._feed.run, name="the feed of streams")
        if self._forwarding is not None:
            far = FarEvents(self._feed.looked_at, self._far_events, self._feed.seen_far)
            self.nursery.start_soon(far.run, name="events of streams of other agents")
        self.nursery.start_soon(follow, self.app.analytics, self._streams.here)
        async with self._forks:
            if self.app.analytics():  # else there is hardly a stream to come
                self._forks.warm_up()
            await self._streams.run()

    async def close(self) -> None:
        if self._streams is not None:
            self.app.forReceipt(account_of(self._streams.here(), self._ends))

    # What a worker is sent of analytics plugins.

    def _analytics_of(self, definition: StreamDefinition) -> list[Mapping[str, Any]]:
        known = {each.name: each for each in self.app.analytics()}
        specs: list[Mapping[str, Any]] = []
        wrong: list[WrongKey] = []
        for number, use in enumerate(definition.analytics):
            where = "analytics", number
            if use.name not in known:
                available = ", ".join(sorted(known)) or "none; activate one"
                what = f"no plugin {use.name!r}; available: {available}"
                wrong.append(WrongKey((*where, "name"), what))
                continue
            plugin = known[use.name]
            try:
                specs.append(worker_spec(plugin, plugin.parameters(use.parameters)))
            except WrongKeysError as error:
                wrong += error.below(*where, "parameters").problems
        if wrong:
            raise WrongKeysError(*wrong)
        return specs

    def _check_callbacks(self, body: Mapping[str, Any]) -> None:
        """Refuse callbacks that nobody would send."""
        if body.get("callbacks") and not any(
            "Callbacks" in plugin["classes"] for plugin in self.app.plugins()
        ):
            wrong = WrongKey(("callbacks",), "no plugin sends them; activate the plugin callbacks")
            raise RequestProblem(400, str(wrong), "wrong_definition", errors=[wrong.as_dict()])

    # What happens.

    def changed(self, change: StreamChange) -> None:
        """Publish a change of a stream's state."""
        self._feed.changed(change)
        self.app.publish("stream_event", [event_of(change, self.config.account_id)])
        self.app.publish("monitoring_event", points_of_change(change))

    def seen(self, event: StreamAnalyticsEvent) -> None:
        """Publish what an analytics plugin saw, with its picture."""
        self._feed.seen(event.without_picture())
        self.app.publish("analytics_event", [event])
        self.app.publish("monitoring_event", [point_of_event(event)])

    # The routes.

    @query_parameter(
        "status", "Only streams in this state.", {"type": "string", "enum": [*StreamState]}
    )
    @query_parameter("name", "Only streams of this name.")
    @query_parameter("analytics", "Only streams that this analytics plugin looks at.")
    @query_parameter(
        "limit",
        "Streams in the response.",
        {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 100},
    )
    @query_parameter(
        "offset", "Streams to leave out.", {"type": "integer", "minimum": 0, "default": 0}
    )
    @response(200, "A page of streams.", api.STREAMS)
    async def listing(self, request: Any) -> dict[str, Any]:
        """Answer GET /streams: all streams, oldest first, a page at a time."""
        self._table.check_known()
        status, name, analytics = map(request.args.get, ("status", "name", "analytics"))
        if status is not None and status not in {*StreamState}:
            raise BadRequest(f"status is one of {', '.join(StreamState)}.")
        found = self._table.search(status, name, analytics)
        limit = _number(request, "limit", 100, 1, MAX_PAGE)
        offset = _number(request, "offset", 0, 0)
        page = [self._table.get(stream_id) for stream_id in found[offset : offset + limit]]
        return {"streams": [self._table.status(stream) for stream in page], "total": len(found)}

    @request_body(api.DEFINITION)
    @response(201, "Made, and kept.", api.IDENTITY, links=["stream_id"])
    @admin_only
    async def create(self, request: Any) -> PluginResponse:
        """Answer POST /streams: 201 and the id of the new stream."""
        body = await _body(request)
        self._check_callbacks(body)
        stream = await _carried_out(self._table.create, body)
        headers = {"Location": f"/{self.app.name}/{stream.id}", **_etag(stream)}
        return pluginHTTPResponse(201, _identity(stream), headers)

    @response(200, "The stream as it is now.", api.STREAM)
    async def one(self, request: Any, stream_id: str) -> PluginResponse:
        """Answer GET /streams/ID: its state, account of frames, input and worker."""
        stream = self._table.get(stream_id)
        if (
            isinstance(stream, Elsewhere)
            and stream.reachable
            and not asked_by_an_agent(request.headers)
        ):
            with suppress(RequestProblem):  # what the fleet knows of it is something, too
                return await self._ask_its_agent(request, stream, "")
        return pluginHTTPResponse(200, self._table.status(stream), _etag(stream))

    @response(200, "The definition.", api.DEFINITION)
    @admin_only
    async def definition(self, request: Any, stream_id: str) -> PluginResponse:
        """Answer GET /streams/ID/definition: what a PUT may send back, the source without a password."""
        stream = self._table.get(stream_id)
        return pluginHTTPResponse(200, stream.defined(), _etag(stream))

    @request_body(api.DEFINITION)
    @response(200, "Changed, and kept.", api.IDENTITY)
    @admin_only
    async def replace(self, request: Any, stream_id: str) -> PluginResponse:
        """Answer PUT /streams/ID: another definition, and the next version.

        The header If-Match, or a version in the body, names the version that this one is to follow.
        """
        body, versions = await _body(request), _versions(request)
        self._check_callbacks(body)
        stream = await _carried_out(self._table.replace, stream_id, body, versions)
        return pluginHTTPResponse(200, _identity(stream), _etag(stream))

    @request_body(api.ACTION)
    @response(200, "Done.", api.ACTED)
    @admin_only
    async def patch(self, request: Any, stream_id: str) -> dict[str, Any]:
        """Answer PATCH /streams/ID: ``{"action": "stop"}`` or ``{"action": "resume"}``."""
        body = await _body(request)
        action = body.get("action") if len(body) == 1 else None
        if action not in ("stop", "resume"):
            raise BadRequest('The body is {"action": "stop"} or {"action": "resume"}.')
        work = self._table.stop if action == "stop" else self._table.resume
        all_the_same = "what was asked for is done, and kept once the file can be used"
        stream = await _carried_out(work, stream_id, so=all_the_same)
        return {"stream_id": stream.id, "status": stream.state.value}

    @response(204, "Its worker has ended.")
    @admin_only
    async def remove(self, request: Any, stream_id: str) -> PluginResponse:
        """Answer DELETE /streams/ID: 204; its worker has ended then."""
        await _carried_out(self._table.remove, stream_id)
        return pluginHTTPResponse(204)

    @response(200, "The last changes.", api.LOGS)
    async def logs(self, request: Any, stream_id: str) -> dict[str, Any]:
        """Answer GET /streams/ID/logs: its changes, newest first."""
        return {"logs": await _carried_out(self._table.logs, self._table.get(stream_id))}

    @query_parameter(
        "limit",
        "Events in the response.",
        {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 100},
    )
    @query_parameter(
        "before", "Only events with a smaller number: the next page.", {"type": "integer"}
    )
    @response(200, "A page of events.", api.EVENTS)
    async def events(self, request: Any, stream_id: str) -> dict[str, Any] | PluginResponse:
        """Answer GET /streams/ID/events: the newest first, of those that are kept in memory."""
        stream = self._here(stream_id)
        if isinstance(stream, Elsewhere):
            return await self._ask_its_agent(request, stream, "/events")
        limit = _number(request, "limit", 100, 1, MAX_PAGE)
        before = _number(request, "before", 2**53, 0)
        found = [event for event in reversed(stream.events) if event.number < before]
        page = found[:limit]
        following = None
        if len(found) > limit:
            following = f"{request.path}?limit={limit}&before={page[-1].number}"
        return {"events": [stream.events.document(event) for event in page], "next": following}

    @response(200, "The picture.", media_type="image/jpeg")
    async def picture(self, request: Any, stream_id: str, number: int) -> PluginResponse:
        """Answer GET /streams/ID/events/N.jpg: the picture of an event, while it is kept in memory."""
        stream = self._here(stream_id)
        if isinstance(stream, Elsewhere):
            return await self._ask_its_agent(request, stream, f"/events/{number}.jpg")
        picture = stream.events.picture(number)
        if picture is None:
            raise NotFound(f"There is no picture of event {number}, or not any more.")
        headers = {"Content-Type": "image/jpeg", "Cache-Control": "no-store"}
        return pluginHTTPResponse(200, picture, headers)

    @query_parameter("stream", "Only the stream of this id or name.")
    @response(200, "Events, as they come.", media_type="text/event-stream")
    async def live(self, request: Any) -> Response:
        """Answer GET /streams/live: server-sent events, of how the streams are and what happens."""
        only = request.args.get("stream")
        if only is not None:
            only = self._table.get(only).id
        try:
            body = self._feed.open(only)
        except TooManyReadersError:
            raise ServiceUnavailable("There are too many readers; close a console.") from None
        return Response(body, content_type="text/event-stream", headers=_NOT_KEPT)

    @query_parameter(
        "size",
        "Its longest edge, in pixels.",
        {"type": "integer", "minimum": EDGE[0], "maximum": EDGE[1], "default": EDGE[2]},
    )
    @query_parameter(
        "quality",
        "Of the JPEG.",
        {"type": "integer", "minimum": QUALITY[0], "maximum": QUALITY[1], "default": QUALITY[2]},
    )
    @response(200, "The picture.", media_type="image/jpeg")
    async def preview(self, request: Any, stream_id: str) -> PluginResponse:
        """Answer GET /streams/ID/preview.jpg: a picture that is made now, or else the last one.

        503 with Retry-After if there is none yet, 404 if there will not be one: the stream is not worked on.
        """
        stream = self._here(stream_id)
        if isinstance(stream, Elsewhere):
            return await self._ask_its_agent(request, stream, "/preview.jpg")
        edge = _number(request, "size", EDGE[2], *EDGE[:2])
        quality = _number(request, "quality", QUALITY[2], *QUALITY[:2])
        try:
            patience = 0.0 if _stalls(stream) else PREVIEW_PATIENCE
            found = await stream.previews.take(stream.worker, edge, quality, patience)
        except TooManyKindsError:
            what = "Too many sizes and qualities are asked for; try again, or ask for one of them."
            raise RequestProblem(503, what, "preview_busy", {"Retry-After": "1"}) from None
        if found is None:
            raise _no_picture(stream)
        headers = {
            "Content-Type": "image/jpeg",
            "Cache-Control": "no-store",
            "X-Frame-Time": f"{found.time:.3f}",
        }
        return pluginHTTPResponse(200, found.jpeg, headers)

    @response(200, "The analytics plugins.", api.ANALYTICS)
    async def analytics(self, request: Any) -> dict[str, Any]:
        """Answer GET /analytics: the analytics plugins, and the schema of their parameters."""
        return {
            "analytics": [
                {"name": each.name, "description": each.description, "schema": each.schema}
                for each in self.app.analytics()
            ]
        }

    # The routes of a fleet.

    @response(200, "The fleet, as this agent sees it.", FLEET)
    async def fleet(self, request: Any) -> dict[str, Any]:
        """Answer GET /fleet: its agents, their room and streams, and what waits."""
        from lva.video.fleet.api import fleet_document

        return fleet_document(self._fleet_table)

    def _fleet_shown(self) -> dict[str, Any] | None:
        if self._forwarding is None:
            return None
        from lva.video.fleet.api import fleet_document

        return fleet_document(self._fleet_table)

    @request_body(AGENT_ACTION)
    @response(200, "Done.", AGENT_ACTED)
    @admin_only
    async def act_on_agent(self, request: Any, agent: str) -> dict[str, Any]:
        """Answer PATCH /fleet/agents/NAME: ``{"action": "drain"}`` or ``{"action": "undrain"}``."""
        from lva.video.fleet.api import act_on_agent

        body = await _body(request)
        done: dict[str, Any] = await _carried_out(act_on_agent, self._fleet_table, agent, body)
        return done

    @response(200, "Moved.", MOVED)
    @admin_only
    async def move_to_fleet(self, request: Any) -> dict[str, Any]:
        """Answer POST /streams/move-to-fleet: what this agent kept without a fleet is moved there."""
        from lva.video.fleet.api import move_to_fleet

        store = StreamStore(self._path)
        done: dict[str, Any] = await _carried_out(move_to_fleet, self._fleet_table, store)
        return done

    def _here(self, stream_id: str) -> Stream | Elsewhere:
        """Return a stream, itself if it is in this process."""
        stream = self._table.get(stream_id)
        return self._table.last_here(stream.id) or stream

    async def _ask_its_agent(self, request: Any, stream: Elsewhere, what: str) -> PluginResponse:
        """Return what the agent that has a stream responds to a request for a part of it.

        It is asked by the stream's id: a name may hold anything that means something in an address.
        """
        assert self._forwarding is not None
        if asked_by_an_agent(request.headers):
            raise moved()
        if stream.agent is None:
            raise _no_picture(stream)
        query = request.query_string.decode("latin-1")
        path = f"/{self.app.name}/{quote(stream.id, safe='')}{what}{'?' if query else ''}{query}"
        return await self._forwarding.get(stream.agent.address, path)

    async def _far_events(self, stream_id: str) -> Page:
        """Return the newest events of a stream that another agent works on, if they can be had."""
        assert self._forwarding is not None
        with suppress(
            RequestProblem
        ):  # there is no such stream any more, or its agent is unreachable
            stream = self._table.get(stream_id)
            if isinstance(stream, Elsewhere) and stream.agent is not None and stream.reachable:
                path = f"/{self.app.name}/{stream_id}/events?limit={EVENTS}"
                return page_of((await self._forwarding.get(stream.agent.address, path)).body)
        return None

    @property
    def _fleet_table(self) -> FleetStreams:
        assert self._forwarding is not None
        return cast("FleetStreams", self._table)

    @property
    def _table(self) -> Streams | FleetStreams:
        assert self._streams is not None
        return self._streams


def _stalls(stream: Stream) -> bool:
    """Return whether no frame will come soon: the next attempt is waited for, or only old ones are there."""
    if stream.state is StreamState.RESTART:
        return True
    age = stream.freshness.age
    return stream.previews.newest is not None and age is not None and age > STALLED


def _no_picture(stream: Stream | Elsewhere) -> RequestProblem:
    status = stream.state.value
    if stream.state in {*ENDED, StreamState.PAUSED}:
        what = f"There is no picture: the stream is {status}."
        return RequestProblem(404, what, "no_picture", stream_status=status)
    what = f"There is no picture yet: the stream is {status}."
    return RequestProblem(503, what, "no_picture_yet", {"Retry-After": "2"}, stream_status=status)


def _identity(stream: Stream | Elsewhere) -> dict[str, Any]:
    return {"stream_id": stream.id, "version": stream.version}


def _etag(stream: Stream | Elsewhere) -> dict[str, str]:
    return {"ETag": f'"{stream.version}"'}


def _versions(request: Any) -> Container[int] | None:
    """Return the versions that the header If-Match names; None if it is not there, or asks for any."""
    if "If-Match" not in request.headers or request.if_match.star_tag:
        return None
    return {int(tag) for tag in request.if_match if _is_number(tag)}


async def _carried_out(work: Any, *arguments: Any, so: str = "") -> Any:
    """Return what the work does; where it cannot be kept, the problem says what that means."""
    try:
        return await work(*arguments)
    except StoreError as error:
        text = f"{error}; {so}" if so else str(error)
        raise RequestProblem(503, text, "not_kept", {"Retry-After": "5"}) from error


async def _body(request: Any) -> dict[str, Any]:
    """Return the JSON object that a request brings."""
    data = await request.get_data()
    if len(data) > MAX_BODY:
        what = f"The body has {len(data)} bytes, more than {MAX_BODY}."
        raise RequestProblem(413, what)
    body = await request.get_json(force=True)
    if not isinstance(body, dict):
        raise BadRequest("The body is a JSON object.")
    return body


def _number(request: Any, name: str, default: int, least: int, most: int = 2**53) -> int:
    text = request.args.get(name)
    if text is None:
        return default
    if not _is_number(text) or not least <= int(text) <= most:
        raise BadRequest(f"{name} is a whole number from {least} to {most}.")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS
