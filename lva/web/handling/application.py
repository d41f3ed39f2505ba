"""The Quart-Trio application: finds the route of a request and calls its handler.

Quart's own URL map takes no routes after the first request and none can be removed, so matching is
left to the host's table, which the service's own resources use too.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlparse

import trio
from quart import Response
from quart.ctx import AppContext, RequestContext
from quart.globals import _cv_app, _cv_request
from quart.sessions import NullSession
from quart.utils import encode_headers
from quart.wrappers.response import DataBody
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioResponse
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as WerkzeugResponse

from lva.contract import PluginResponse, RequestProblem
from lva.host.routing import Gate, Match, RouteTable
from lva.host.runtimes.errors import split_cancelled
from lva.host.watch.clock import enter_plugin, leave_plugin
from lva.logs.loggers import brief
from lva.routes.admin import is_admin_only
from lva.settings import Settings
from lva.web.handling.bodies import end_with_server, stream_for_plugin
from lva.web.handling.complete import complete
from lva.web.handling.exchange import LOGGER, SCOPE_KEY, Exchange, Scope, Send
from lva.web.handling.feeding import Body
from lva.web.handling.plain_results import plain
from lva.web.handling.queries import check_query
from lva.web.handling.request import ServiceRequest, request_headers
from lva.web.handling.requests import Web
from lva.web.handling.whole_responses import WholeResponse, content_of, whole_response
from lva.web.problems import HttpProblem

#: Most worker threads that the plain `def` handlers of one plugin use at once.
_THREADS = 10
#: The service sets no cookies.
_NO_SESSION = NullSession()
#: How long, in seconds, a request waits for the plugin's next life.
_HELD = 5.0


def web_application(
    routes: RouteTable,
    settings: Settings,
    check_admin: Callable[[Any], None],
    closing: trio.Event,
) -> Web:
    """Return a new web application that serves what is in the route table.

    Args:
        routes: The service's own and the plugins' routes.
        settings: Limits on requests.
        check_admin: Raises an HttpProblem for a request that may not do what only an administrator may.
        closing: Set when the server is about to close its connections.
    """
    return _WebApplication(routes, settings, check_admin, closing)


# Private, because a class on top of Quart cannot pass `pyright --verifytypes`: Quart derives from a class
# in `flask.sansio`, which has no `__init__.py` and is therefore of unknown type there.
class _WebApplication(QuartTrio):
    """Serves what is in the route table."""

    request_class = ServiceRequest

    def __init__(
        self,
        routes: RouteTable,
        settings: Settings,
        check_admin: Callable[[Any], None],
        closing: trio.Event,
    ) -> None:
        super().__init__("lva", static_folder=None)
        self.routes = routes
        self._check_admin = check_admin
        self._closing = closing
        self.config["MAX_CONTENT_LENGTH"] = settings.max_body_size
        self.config["BODY_TIMEOUT"] = None  # whoever feeds the body keeps to the limit
        self._limiters: dict[str, trio.CapacityLimiter] = {}
        self._dumps = partial(self.json.dumps, separators=(",", ":"))

    def create_url_adapter(self, request: Any) -> None:
        """Return nothing: the host's table matches."""

    def open(self, asgi: Scope, send: Send) -> _QuartConnection:
        """Begin a request; see `lva.web.handling.requests.Web`."""
        return _QuartConnection(self, asgi, send)

    async def full_dispatch_request(self, request_context: RequestContext | None = None) -> Any:
        """Find the route and call its handler; every failure becomes a problem document.

        Quart's hooks and signals around this are left out: nobody can have registered for them,
        since plugins do not see the application. `after_this_request` works.
        """
        assert request_context is not None
        request = request_context.request
        exchange: Exchange = request.scope[SCOPE_KEY]  # type: ignore[typeddict-item] # our own key
        try:
            response: Any = await self._serve(exchange, request)
        except HttpProblem as problem:
            exchange.error_code = problem.error_code
            response = problem.response(exchange.request_id)
        functions = request_context._after_request_functions  # noqa: SLF001 - as Quart does
        if functions and isinstance(response, WholeResponse):
            response = response.as_quart()
        for function in functions:
            response = await self.ensure_async(function)(response)
        return response

    async def do_teardown_request(
        self, exc: BaseException | None, request_context: RequestContext | None = None
    ) -> None:
        """Do nothing; see `full_dispatch_request`."""

    async def do_teardown_appcontext(self, exc: BaseException | None) -> None:
        """Do nothing; see `full_dispatch_request`."""

    async def _serve(self, exchange: Exchange, request: Any) -> Any:
        match = await self._match(request.path)
        if match is None or match.route.owner.gate is Gate.GONE:
            raise HttpProblem(404, f"There is nothing at {request.path!r}.")
        route = match.route
        exchange.template = route.template
        if not route.verbs:  # an operator has stopped the plugin, or just started it again
            name, owner = route.owner.name or "", route.owner
            stopped = owner.gate is Gate.STOPPED
            raise _stopped(name) if stopped else _unavailable(name, owner.retry_after)
        handler = self._handler(match, request.method)
        request.view_args = dict(match.variables)
        if route.owner.name is None:
            return await handler(request, **match.variables)
        return await self._serve_plugin(exchange, handler, request, match)

    async def _match(self, path: str) -> Match | None:
        """Find what serves the path; between two lives of a plugin, wait for the next."""
        match = self.routes.match(path)
        if match is None or match.route.owner.gate is not Gate.HELD:
            return match
        owner = match.route.owner
        match = None  # which leads to the old code
        await owner.wait_while_held(_HELD)
        if owner.gate is Gate.GONE:
            raise _unavailable(owner.name or "", owner.retry_after)
        return self.routes.match(path)

    def _handler(self, match: Match, method: str) -> Callable[..., Any]:
        route = match.route
        handler = route.verbs.get(method)
        if handler is None and method == "HEAD":
            handler = route.verbs.get("GET")
        if handler is not None:
            return handler
        allow = {"Allow": ", ".join(route.allowed)}
        if method == "OPTIONS":
            return partial(_options, allow)
        raise HttpProblem(
            405, f"{method} is not possible here; {allow['Allow']} are.", headers=allow
        )

    async def _serve_plugin(
        self, exchange: Exchange, handler: Callable[..., Any], request: Any, match: Match
    ) -> WholeResponse | Response | WerkzeugResponse:
        owner = match.route.owner
        name = owner.name or ""
        # A plugin that crashes or stops cancels the requests it serves, which then get this answer.
        unavailable = partial(_unavailable, name, owner.retry_after)
        if owner.gate is not Gate.OPEN:
            raise unavailable()
        if is_admin_only(handler):
            self._check_admin(request)
        check_query(handler, request)
        exchange.served_by(owner)
        exchange.unavailable = exchange.unavailable or unavailable
        # Reset afterwards: the server's own tasks for the connection are started from this task.
        token = enter_plugin(name)
        try:
            if owner.across is None:
                result = await self._call(name, handler, request, match.variables)
            else:
                result = await self._call_across(owner.across, handler, request, match)
            response = await self._response(result)
            if owner.across is None and not isinstance(response, WholeResponse):
                stream_for_plugin(name, response)
            exchange.endless = end_with_server(response, self._closing)
            return response
        except HttpProblem:
            raise
        except BaseException as error:
            cancelled, own = split_cancelled(error)
            try:
                if cancelled is not None:
                    raise
                assert own is not None
                if isinstance(own, HTTPException) and own.response is not None:
                    return own.response  # type: ignore[return-value] # what `abort(response)` was given
                raise self._plugin_problem(exchange, name, match, request, own) from own
            finally:
                del cancelled, own  # or error, traceback and frame would keep one another alive
        finally:
            leave_plugin(token)

    async def _call(
        self, name: str, handler: Callable[..., Any], request: Any, variables: Mapping[str, Any]
    ) -> Any:
        if _is_async(handler):
            return await handler(request, **variables)
        limiter = self._limiters.setdefault(name, trio.CapacityLimiter(_THREADS))
        result = await trio.to_thread.run_sync(
            partial(handler, request, **variables),
            abandon_on_cancel=True,
            limiter=limiter,
            thread_name=f"handler from {name}.",
        )
        return await result if inspect.isawaitable(result) else result

    async def _call_across(
        self, across: Callable[..., Any], handler: Callable[..., Any], request: Any, match: Match
    ) -> Any:
        """Call a handler on the plugin's own loop, with a request that is complete."""
        whole = await complete(request, request.scope[SCOPE_KEY].request_id)
        what = f"the handler of {request.method} {match.route.template}"
        return await across(what, partial(self._encoded, handler), whole, **match.variables)

    async def _encoded(self, handler: Callable[..., Any], request: Any, **variables: Any) -> Any:
        """Call a handler on the plugin's own loop, and do there what runs code of what it returned."""
        result = handler(request, **variables)
        if inspect.isawaitable(result):
            result = await result
        if isinstance(result, PluginResponse):
            result = _plugin_response(result)
        elif isinstance(result, list | dict):
            result = self.json.response(result)
        elif isinstance(result, tuple) and result and isinstance(result[0], list | dict):
            result = (self.json.response(result[0]), *result[1:])
        return plain(result)

    async def _response(self, result: Any) -> WholeResponse | Response | WerkzeugResponse:
        """Turn what a handler returned into a response, here, where its errors are the plugin's."""
        whole = whole_response(result, self._dumps)
        if whole is not None:
            return whole
        if isinstance(result, PluginResponse):
            return _plugin_response(result)
        return await self.make_response(result)

    def _plugin_problem(
        self, exchange: Exchange, name: str, match: Match, request: Any, error: BaseException
    ) -> HttpProblem:
        if isinstance(error, HTTPException) and error.code is not None:
            return HttpProblem(error.code, error.description or error.name, headers=_allow(error))
        if isinstance(error, RequestProblem):
            return HttpProblem(
                error.status, error.detail, error.error_code, error.headers, **error.members
            )
        what = f"the handler of {request.method} {match.route.template}"
        exchange.failures.log(name, what, error)
        return HttpProblem(500, f"Plugin {name!r} failed to handle the request; its log says why.")

    async def handle_exception(self, error: Exception) -> Response:
        """Answer what failed outside of a handler: a malformed request, or a bug of the service."""
        from quart import request

        exchange: Exchange = request.scope[SCOPE_KEY]  # type: ignore[typeddict-item] # our own key
        if isinstance(error, HTTPException) and error.code is not None:
            problem = HttpProblem(error.code, error.description or error.name)
        else:
            LOGGER.error("bug in the service: %s", brief(error), exc_info=error)
            problem = HttpProblem(500, "The service failed to handle the request.")
        exchange.error_code = problem.error_code
        return problem.response(exchange.request_id)


class _QuartConnection(TrioASGIHTTPConnection):
    """Quart's side of one request. Whoever made it feeds the body and cancels `respond`."""

    def __init__(self, app: _WebApplication, asgi: Scope, send: Send) -> None:
        super().__init__(app, asgi)  # type: ignore[arg-type] # its scopes are typed dicts
        self._send = send
        self._request = self._create_request_from_scope(send)

    def _create_request_from_scope(self, send: Send) -> ServiceRequest:
        asgi: Any = self.scope
        path = asgi["path"]
        return ServiceRequest(
            asgi["method"],
            asgi["scheme"],
            path if path[0] == "/" else urlparse(path).path,
            asgi["query_string"],
            request_headers(asgi),
            "",
            asgi["http_version"],
            asgi,
            max_content_length=self.app.config["MAX_CONTENT_LENGTH"],
            send_push_promise=partial(_push, asgi, send),
        )

    @property
    def body(self) -> Body:
        return self._request.body

    async def respond(self) -> None:
        app, request = self.app, self._request
        # The task is the request's own and ends with it: nothing has to be taken back.
        _cv_app.set(AppContext(app))
        context = RequestContext(app, request, _NO_SESSION)
        _cv_request.set(context)
        try:
            await self._answer(context)
        finally:
            await request.close()  # uploaded files, which waits for nothing

    async def _answer(self, context: RequestContext) -> None:
        try:
            response: Any = await self.app.full_dispatch_request(context)
        except trio.Cancelled:
            raise
        except (Exception, BaseExceptionGroup) as error:
            response = await self._failed(error)
        body = response.response if isinstance(response, Response) else None
        if isinstance(body, DataBody):
            # Quart would send the body, and its end in a message of its own.
            data, headers = body.data[body.begin : body.end], encode_headers(response.headers)
            response = WholeResponse(response.status_code, headers, bytes(data))
        if isinstance(response, WholeResponse):
            await response.send(self._send)
        else:
            await self._send_response(self._send, response)

    async def _failed(self, error: BaseException) -> Any:
        if isinstance(error, BaseExceptionGroup):
            _, own = error.split(trio.Cancelled)
            if own is None:
                raise error
        return await self.app.handle_exception(error)  # type: ignore[arg-type] # as Quart-Trio does


async def _push(asgi: Scope, send: Send, path: str, headers: Any) -> None:
    """Offer a client of HTTP/2 another resource, as Quart does."""
    if "http.response.push" in (asgi.get("extensions") or {}):
        await send({"type": "http.response.push", "path": path, "headers": encode_headers(headers)})


def _unavailable(name: str, retry_after: Callable[[], float]) -> HttpProblem:
    seconds = math.ceil(retry_after())
    return HttpProblem(
        503,
        f"Plugin {name!r}, which serves this, is not running; try again in {seconds} s.",
        error_code="plugin_unavailable",
        headers={"Retry-After": str(seconds)},
    )


def _stopped(name: str) -> HttpProblem:
    return HttpProblem(
        503,
        f"Plugin {name!r}, which serves this, was stopped by an operator.",
        error_code="plugin_stopped",
    )


def _is_async(handler: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004 - an object with an async __call__
    )


async def _options(allow: Mapping[str, str], _request: Any, **_variables: Any) -> Response:
    return TrioResponse("", 204, dict(allow))


def _allow(error: HTTPException) -> dict[str, str]:
    methods = getattr(error, "valid_methods", None)
    return {"Allow": ", ".join(methods)} if methods else {}


def _plugin_response(response: PluginResponse) -> Response:
    content, media_type = content_of(response)
    made = TrioResponse(content, response.statusCode)
    del made.headers["Content-Type"]
    if media_type is not None:
        made.headers["Content-Type"] = media_type
    made.headers.update(response.headers)
    return made
