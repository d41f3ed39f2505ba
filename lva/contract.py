"""The documented plugin contract: the base classes, and what their methods may rely on.

Names that the published plugin documentation uses stay camelCase. Nothing here knows which runtime,
web framework or server is underneath.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias

from lva.errors import counted, hint
from lva.events.streams import read_only_data
from lva.routes.wrong_keys import WrongKey, WrongKeysError, wrong_keys

if TYPE_CHECKING:
    import trio
    from pydantic import BaseModel

    from lva.events.points import MonitoringPoint
    from lva.events.streams import StreamAnalyticsEvent, StreamEvent
    from lva.metrics import Metric, ReadMetrics
    from lva.routes.pages import ConsolePage
    from lva.video.frame import Frame

#: A route's handler: a class with one coroutine per HTTP verb, or a function, sync or async. It is
#: called with the request and the path's variables by name.
RouteHandler: TypeAlias = "type[BaseBackgroundHandler] | Callable[..., Any]"
#: What can be published; each event type has one of these.
Published: TypeAlias = "MonitoringPoint | StreamEvent | StreamAnalyticsEvent"
#: Where a plugin's coroutines run.
RuntimeName: TypeAlias = Literal["trio", "asyncio"]


class PluginContext(Protocol):
    """`self.app.ctx`: holds the logger; a plugin may keep attributes of its own on it."""

    logger: logging.Logger


class PluginApp(Protocol):
    """`self.app`: the service as one plugin sees it. Safe to use from any thread.

    In the service it is a `PluginView` (`lva/host/life/view.py`).

    Attributes:
        name: The plugin's name, as in `ACTIVE_PLUGINS`; a second instance has one of its own.
        ctx: Holds the plugin's logger.
        events: The event types that this class gets.
        config: What `[plugins.NAME.config]` says, as the plugin's `Config` model if it has one.
        settings: A read-only view of the service's settings; secrets are left out.
    """

    @property
    def name(self) -> str: ...
    @property
    def ctx(self) -> PluginContext: ...
    @property
    def events(self) -> tuple[str, ...]: ...
    @property
    def config(self) -> Any: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...

    def publish(self, eventName: str, points: Iterable[Published]) -> bool:
        """Hand points, or events, to every plugin that asked for `eventName`; never waits for a plugin.

        It may be called from any thread and at any moment, in a signal handler or a finalizer too. A point of
        a class derived from `MonitoringPoint` that does not check itself reaches the plugins as a plain
        `MonitoringPoint`; so do events of derived classes.

        Returns:
            Whether all of these plugins take points. At the end of the service those that deliver their
            last ones take no more, which their ledgers count as refused. A True does not say that the
            points are delivered.

        Raises:
            ValueError: There is no such event type; the message lists those there are. Or one
                of the points has a value that none may have. Nothing is published.
            TypeError: One of the points is of another type than the event's, or has a value of a wrong type.
                Nothing is published.
        """

    def addRoute(
        self, path: str, handler: RouteHandler, methods: Iterable[str] | None = None
    ) -> None:
        """Add an HTTP route; see `BaseBackgroundPlugin.addRoute`."""

    def notReady(self, reason: str | None) -> None:
        """Say why the service is not ready because of this plugin, though it runs; None: it is again.

        ``/readyz`` tells it. Another attempt or life of the plugin begins without.

        Args:
            reason: For people, without secrets.
        """

    def forReceipt(self, account: Mapping[str, Any]) -> None:
        """Say what the receipt tells of this plugin's work, as its ``account``; the last word counts.

        Usually said in `close`.

        Args:
            account: Plain values for JSON, at most 16 KiB of it, without secrets.

        Raises:
            TypeError, ValueError: It cannot be written as JSON, or is too large.
        """

    def addMetrics(self, read: ReadMetrics) -> None:
        """Have a plugin's metrics read for `metrics()`, and so for ``/metrics``, while it runs.

        Args:
            read: Returns them as they are now. Called in the service's thread, asyncio style too; it must
                return at once. What it raises is logged, and costs this plugin's metrics alone.

        Raises:
            RuntimeError: The plugin is not in the attempt that it is called for, as with `addRoute`.
        """

    def metrics(self) -> dict[str, list[Metric]]:
        """Return what each plugin measures now that runs and has added metrics, by its name.

        From any other thread than the service's, it waits for the next step of the service's event loop.

        Raises:
            RuntimeError: The service has ended.
        """

    def analytics(self) -> list[AnalyticsInfo]:
        """Return the analytics plugins that are active, for what has frames looked at.

        From any other thread than the service's, it waits for the next step of the service's event loop.

        Raises:
            RuntimeError: The service has ended.
        """

    def plugins(self) -> list[dict[str, Any]]:
        """Describe every plugin, this one included, all as of the same moment.

        From any other thread than the service's, it waits for the next step of the service's event loop.

        Returns:
            What ``/plugins/NAME`` shows of each plugin, but for the history; in activation order. Plain
            values, without secrets, and the caller's own to change.

        Raises:
            RuntimeError: The service has ended.
        """


class Plugin(ABC):
    """What event and background plugins share.

    A life has one instance of each concrete class; an operator's restart begins another life. One life is::

        __init__(app)              once; Trio style: in a worker thread
        initialize() -> start() -> close()     once per attempt; a crash leads to another attempt

    * `close()` is called exactly once for each `initialize()` that was entered, also when that
      failed; Trio style: after every task of the plugin has ended; asyncio style: before they are ended.
    * A method that raises, hangs, or ignores its cancellation fails this plugin alone.

    Attributes:
        runtime: Where the class's coroutines run: ``"trio"``, on the service's own event loop, or
            ``"asyncio"``, on an asyncio loop in a thread of the file's own. All classes of a file agree.
        Config: A pydantic model for `[plugins.NAME.config]`; without one, `config` is a plain dict.
        host_settings: The plugin's own defaults for the host's keys of `[plugins.NAME]`.
        app: The service as this plugin sees it.
        nursery: The plugin's Trio nursery, open from `initialize()` until the plugin stops. A task
            in it that raises is a crash of the plugin. Not there in an asyncio-style plugin.
    """

    runtime: ClassVar[RuntimeName] = "trio"
    Config: ClassVar[type[BaseModel] | None] = None
    host_settings: ClassVar[Mapping[str, Any]] = {}

    app: PluginApp
    nursery: trio.Nursery

    def __init__(self, app: PluginApp) -> None:
        self.app = app

    @property
    def logger(self) -> logging.Logger:
        """The plugin's logger; its records carry the plugin's name."""
        return self.app.ctx.logger

    @property
    def config(self) -> Any:
        """The plugin's configuration, validated before the service starts."""
        return self.app.config

    async def initialize(self) -> None:  # noqa: B027 - documented as optional to override
        """Open what the plugin needs; called again after a crash, on the same instance.

        Cancelled when the service stops or `initialize_timeout` (seconds) is over. Raising means
        "not now": the host tries again after a back-off.
        """

    async def close(self) -> None:  # noqa: B027 - documented as optional to override
        """Release what the plugin holds; must cope with an `initialize()` that got half-way.

        Shielded from cancellation until `close_timeout` (seconds).
        """


class BaseEventPlugin(Plugin):
    """A plugin that is called with every batch of an event.

    Attributes:
        eventName: The name of the event type that it gets, for example ``monitoring_event``.
        otherEvents: Event types that it can get besides, where the key `events` of `[plugins.NAME]` names
            them. A batch then has items of each, in the order in which they were published.
    """

    eventName: ClassVar[str]
    otherEvents: ClassVar[Sequence[str]] = ()

    @abstractmethod
    async def handleEvent(self, *args: Any, **kwargs: Any) -> None:
        """Handle one batch; for ``monitoring_event``: ``handleEvent(points, logger)``.

        Returning means that every point is delivered. Raising `PartialDeliveryError`,
        `PermanentDeliveryError` or `RetryLaterError` says more exactly what became of them; any other
        error, and taking longer than `handle_timeout` (seconds), means that the batch is tried again
        after a back-off, at most `max_attempts` times.
        Cancelled at that limit and when the plugin stops.
        """


class BaseRequestMonitoringPlugin(BaseEventPlugin):
    """An event plugin that sends the points of requests one by one."""

    eventName = "monitoring_event"

    @abstractmethod
    async def flushPointToMonitoring(self, point: MonitoringPoint, logger: logging.Logger) -> None:
        """Send one point to the monitoring system; raising makes the host try it again."""

    async def handleEvent(self, points: list[MonitoringPoint], logger: logging.Logger) -> None:
        """Flush every point in order; report the ones that failed, so that only those are retried.

        A `RetryLaterError` ends it: what the receiver cannot take now, it is not sent.

        Raises:
            PartialDeliveryError: Some points failed; its cause is the last point's error.
        """
        outcomes: list[Exception | None] = []
        for point in points:
            try:
                await self.flushPointToMonitoring(point, logger)
                outcomes.append(None)
            except RetryLaterError as error:
                outcomes += [error] * (len(points) - len(outcomes))
                break
            except Exception as error:  # noqa: BLE001 - whatever the author's code raises
                outcomes.append(error)
        raise_failures(points, outcomes)


def raise_failures(points: Sequence[MonitoringPoint], outcomes: Sequence[object]) -> None:
    """Say which points of a batch failed, if any did.

    Args:
        points: The batch.
        outcomes: For each point what sending it raised; anything else if it was sent.

    Raises:
        PartialDeliveryError: Some points failed; its cause is the last point's error.
    """
    failures = [
        (point, error)
        for point, error in zip(points, outcomes, strict=True)
        if isinstance(error, BaseException)
    ]
    if failures:
        cause = failures[-1][1]
        later = [error for _, error in failures if isinstance(error, RetryLaterError)]
        raise PartialDeliveryError(
            f"{len(failures)} of {counted(len(points), 'point')} failed,"
            f" the last with {type(cause).__name__}: {cause}",
            failed=[point for point, error in failures if not _is_permanent(error)],
            rejected=[point for point, error in failures if _is_permanent(error)],
            after=max((error.after or 0.0 for error in later), default=None),
        ) from cause


def _is_permanent(error: BaseException) -> bool:
    return isinstance(error, PermanentDeliveryError)


class BaseBackgroundPlugin(Plugin):
    """A plugin that works in the background and may serve HTTP routes.

    Attributes:
        consolePage: A page of the plugin in the console; None if it has none.
    """

    consolePage: ClassVar[ConsolePage | None] = None

    async def start(self) -> None:
        """Do the plugin's work: run as long as it lasts, or start tasks for it and return.

        Trio style: put them into `self.nursery`; asyncio style: ``asyncio.create_task()``.

        Called once `initialize()` of every class in the file is done. Cancelled at stop. Returning
        leaves the plugin running (policy `restart = "always"` excepted); raising is a crash.
        """

    def addRoute(
        self, path: str, handler: RouteHandler, methods: Iterable[str] | None = None
    ) -> None:
        """Serve `path` while this plugin runs.

        Args:
            path: Starts with ``/``; may hold werkzeug converters, as in ``/cameras/<int:camera>``.
            handler: A `BaseBackgroundHandler` class, or a function of the request and the path's
                variables. A plain ``def`` runs in a worker thread; asyncio style: on the loop.
            methods: Verbs for a function, ``{"get"}`` if left out. A handler class has its own. Other
                verbs of the same path may be added by another call.
                HEAD (with GET) and OPTIONS are handled without being named.

        Raises:
            ValueError: The path is malformed, or the service or another plugin owns it.
            RuntimeError: The plugin is not in the attempt that it is called for (too early, or
                after its close).
        """
        self.app.addRoute(path, handler, methods)


class BaseAnalyticsPlugin(ABC):
    """A plugin that looks at the frames of streams.

    The service runs one instance for each stream that names the plugin, in that stream's own process. So all
    methods are plain ``def``: they may block, compute and use native libraries. What they log and print
    appears in the plugin's log with the stream's name. A method that raises costs one frame; after ten in
    a row the plugin is set aside for that stream.

    Args:
        config: The stream's parameters over `[plugins.NAME.config]`, as `Config` if there is one.
        logger: The plugin's.

    Attributes:
        Config: A pydantic model for the parameters; without one, `config` is a plain dict.
    """

    Config: ClassVar[type[BaseModel] | None] = None

    def __init__(self, config: Any, logger: logging.Logger) -> None:
        self.config: Any = config
        self.logger: logging.Logger = logger

    def open(self, stream: AnalyticsStream) -> None:  # noqa: B027 - documented as optional to override
        """Prepare for a stream; called once, before its first frame.

        Raising sets the plugin aside for this stream.
        """

    @abstractmethod
    def handleFrame(self, frame: Frame) -> Iterable[AnalyticsEvent] | AnalyticsEvent | None:
        """Look at a frame; return or yield what was seen.

        Frames come in order, not all of them: those that a live source sends meanwhile are dropped. The
        process is ended when this takes longer than `analytics_timeout` (seconds).
        """

    def close(self) -> None:  # noqa: B027 - documented as optional to override
        """Release what `open` opened; called once for each `open` that was entered.

        Not called when the process had to be ended.
        """


@dataclass(frozen=True, slots=True)
class AnalyticsInfo:
    """An analytics plugin, as its file was checked.

    Attributes:
        name: The plugin's name.
        cls: Its class.
        module: The name of the module or package that it was imported as.
        path: Its file.
        files: The SHA-256 of each file that it was made from, in hexadecimal.
        defaults: What `[plugins.NAME.config]` says.
    """

    name: str
    cls: type[BaseAnalyticsPlugin]
    module: str
    path: str
    files: Mapping[str, str]
    defaults: Mapping[str, Any]

    @property
    def description(self) -> str:
        """The first line of its docstring."""
        return next(iter((self.cls.__doc__ or "").strip().splitlines()), "")

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema of its parameters; of any object, if it has no `Config`."""
        return (
            {"type": "object"} if self.cls.Config is None else self.cls.Config.model_json_schema()
        )

    def parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return a stream's parameters over the defaults.

        Raises:
            WrongKeysError: They are wrong.
        """
        from pydantic import ValidationError

        whole = {**self.defaults, **given}
        model = self.cls.Config
        if model is None:
            return whole
        known = model.model_fields
        if unknown := [key for key in whole if key not in known]:
            raise WrongKeysError(
                *(WrongKey((key,), f"unknown key{hint(key, known)}") for key in unknown)
            )
        try:
            model.model_validate(whole)
        except ValidationError as error:
            raise wrong_keys(error, whole) from None
        return whole


@dataclass(frozen=True, slots=True)
class AnalyticsStream:
    """What an analytics plugin knows of its stream.

    Attributes:
        id: The stream's id.
        name: Its name.
    """

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class AnalyticsEvent:
    """What an analytics plugin has seen.

    Args:
        event_type: For example ``motion_start``. Not empty.
        data: What there is to say of it: anything that JSON can, of a megabyte at most.
        image: A JPEG of the frame or of a part of it, as `Frame.jpeg` makes it; or nothing.

    Raises:
        TypeError: An argument has the wrong type, or data what JSON cannot say.
        ValueError: The type is empty; data are too large, or have a number that is not finite.
    """

    event_type: str
    data: Mapping[str, Any] = field(default_factory=dict)
    image: bytes = b""

    def __post_init__(self) -> None:
        if not isinstance(self.event_type, str) or not isinstance(self.data, Mapping):
            raise TypeError("an event has a type, which is a str, and data, which is a mapping")
        if not isinstance(self.image, bytes):
            raise TypeError(f"image is a JPEG as bytes, not {type(self.image).__name__}")
        if not self.event_type:
            raise ValueError("event_type is empty")
        read_only_data(self.data)  # here, where the plugin's own line is in the traceback
        object.__setattr__(self, "data", dict(self.data))


class BaseBackgroundHandler:
    """A class of HTTP handlers: one coroutine per verb, ``async def get(self, request)``.

    An instance is made for each request.

    Attributes:
        app: The service as the plugin sees it.
    """

    app: PluginApp

    def response(
        self,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        statusCode: int = 200,
    ) -> PluginResponse:
        """Build a response; as `pluginHTTPResponse`."""
        return pluginHTTPResponse(statusCode=statusCode, body=body, headers=headers)


@dataclass(frozen=True, slots=True)
class PluginResponse:
    """An HTTP response in the contract's terms; the web layer turns it into a real one."""

    statusCode: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


def pluginHTTPResponse(
    statusCode: int = 200,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
) -> PluginResponse:
    """Build the response of a route handler.

    Args:
        statusCode: 100 to 599.
        body: Text, bytes, nothing, or any other value, which is sent as JSON.
        headers: Headers to set; ``Content-Type`` defaults to ``text/plain`` for text,
            ``application/octet-stream`` for bytes and ``application/json`` for the rest.

    Raises:
        ValueError: The status code is out of range.
    """
    if not 100 <= statusCode <= 599:
        raise ValueError(f"statusCode must be 100 to 599, not {statusCode}")
    return PluginResponse(statusCode, body, dict(headers or {}))


class RequestProblem(Exception):  # noqa: N818 - the RFC's word
    """Raised by a route's handler: its response is a problem document (RFC 9457).

    Args:
        status: The HTTP status, 400 to 599.
        detail: What happened and what to do, for people.
        error_code: Stable and short, for programs, and in the request's point; from the status if left out.
        headers: To set on the response.
        members: Further members of the document.

    Raises:
        ValueError: The status is out of range.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        error_code: str | None = None,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"the status of a problem is 400 to 599, not {status}")
        super().__init__(detail)
        self.status: int = status
        self.detail: str = detail
        self.error_code: str | None = error_code
        self.headers: dict[str, str] = dict(headers or {})
        self.members: dict[str, Any] = members


class CannotRunError(Exception):
    """Raised by `initialize()`: what the plugin needs is not there, and trying again does not bring it.

    The plugin has failed at once, and the message is logged in one line: it says what to do.
    """


class RetryLaterError(Exception):
    """Raised by `handleEvent`: the receiver cannot take points now, whatever they are.

    The batch is tried again after a back-off, and this attempt does not count towards `max_attempts`:
    the batch is not to blame.

    Args:
        message: What happened.
        after: For how many seconds the receiver asked for no calls, if it said so.
    """

    def __init__(self, message: str = "", *, after: float | None = None) -> None:
        super().__init__(message)
        self.after: float | None = after


class PermanentDeliveryError(Exception):
    """Raised by `handleEvent`: the batch is wrong for ever, trying again is useless."""


class PartialDeliveryError(Exception):
    """Raised by `handleEvent`: part of the batch arrived.

    Args:
        message: What happened.
        failed: The points to try again.
        rejected: The points that are wrong for ever. Points in neither list were delivered.
        after: Given if the receiver cannot take the failed points now, whatever they are: for how many
            seconds it asked for no calls, 0 if it did not say. As with `RetryLaterError`, this
            attempt then does not count towards `max_attempts`.
    """

    def __init__(
        self,
        message: str,
        *,
        failed: Sequence[Any] = (),
        rejected: Sequence[Any] = (),
        after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.failed: list[Any] = list(failed)
        self.rejected: list[Any] = list(rejected)
        self.after: float | None = after


#: Restart policies: after a crash; also after the work ended by itself; not at all.
RestartPolicy: TypeAlias = Literal["on-failure", "always", "never"]
