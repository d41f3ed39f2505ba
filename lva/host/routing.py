"""The service's routes: its own, which stay, and those that plugins add and lose.

One table serves both, so that a path has one owner and one rule decides what it answers.
"""

from __future__ import annotations

import enum
import inspect
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import trio
from trio_util import AsyncValue
from werkzeug.exceptions import MethodNotAllowed, NotFound
from werkzeug.routing import Map, RequestRedirect, Rule

from lva.contract import BaseBackgroundHandler, PluginApp, RouteHandler
from lva.routes.admin import ADMIN_ONLY
from lva.routes.bodies import BODY, RESPONSES
from lva.routes.query import QUERY_PARAMETERS

VERBS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD")
_Shape = tuple[tuple[bool, str], ...]
#: Longer paths are refused: matching them takes the longer.
_LONGEST_PATH: Final = 1000
_BIND: Final = {"server_name": "lva", "script_name": "/"}


class RouteRefusedError(ValueError):
    """A route cannot be added, now or later: its path or handler is wrong, or the path is taken."""


class Gate(enum.Enum):
    """Whether the routes of an owner answer."""

    OPEN = "open"
    HELD = "held"  # the owner's next life is about to begin: requests wait for it, for a while
    WAITING = "waiting"  # the owner initializes or is in back-off: 503
    STOPPED = "stopped"  # an operator stopped the owner, and may start it again: 503
    GONE = "gone"  # 404


class Cancellable(Protocol):
    """What can be asked to end: a call of a handler."""

    def cancel(self) -> None:
        """Ask for the end."""


class Owner:
    """Who added routes: one plugin, or the service itself.

    Attributes:
        name: The plugin's name; None for the service.
        retry_after: Tells how many seconds a client should wait while the gate is waiting.
        across: Calls its handlers, where that is not done in the request's own task.
        calls: The requests its handlers are serving.
        routes: Its routes, by what makes a path unique; kept by the table.
    """

    def __init__(self, name: str | None, gate: Gate = Gate.WAITING) -> None:
        self.name = name
        self._gate = AsyncValue(gate)
        self.retry_after: Callable[[], float] = lambda: 1.0
        self.across: Callable[..., Awaitable[Any]] | None = None
        self.calls: set[Cancellable] = set()
        self.routes: dict[_Shape, Route] = {}
        self._idle = trio.Event()

    def serve(
        self, retry_after: Callable[[], float], across: Callable[..., Awaitable[Any]] | None
    ) -> None:
        """Be served by another life of the plugin from now on; see the attributes for the arguments."""
        self.retry_after = retry_after
        self.across = across

    @property
    def gate(self) -> Gate:
        """Whether its routes answer now."""
        gate: Gate = self._gate.value
        return gate

    @gate.setter
    def gate(self, gate: Gate) -> None:
        self._gate.value = gate

    async def wait_while_held(self, limit: float) -> None:
        """Wait until the gate is no longer held, for at most `limit` seconds."""
        with trio.move_on_after(limit):
            await self._gate.wait_value(lambda gate: gate is not Gate.HELD)

    def begin(self, call: Cancellable) -> None:
        """Note that a handler is being called."""
        self.calls.add(call)

    def end(self, call: Cancellable) -> None:
        """Note that the call has ended."""
        self.calls.discard(call)
        if not self.calls:
            self._idle.set()

    def idle(self) -> trio.Event:
        """Return what is set once the handlers serve nothing. Several may wait for that."""
        if not self.calls:
            self._idle.set()
        elif self._idle.is_set():
            self._idle = trio.Event()
        return self._idle

    def cancel_calls(self) -> trio.Event:
        """Cancel what the handlers are serving; return what is set once all calls have ended."""
        idle = self.idle()
        for call in list(self.calls):
            call.cancel()
        return idle


@dataclass(eq=False, slots=True)
class Route:
    """One path of one owner, and what serves each verb there.

    Attributes:
        template: The path as it was given, with its converters.
        verbs: The handler for each verb; HEAD is served by GET's.
    """

    owner: Owner
    template: str
    verbs: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    stale: bool = False

    def takes(self, owner: Owner, template: str, verbs: Mapping[str, object]) -> bool:
        """Return whether these are more verbs of this very path, by the same owner."""
        same = self.owner is owner and self.template == template and not self.stale
        return same and not self.verbs.keys() & verbs.keys()

    @property
    def allowed(self) -> list[str]:
        """The verbs that the path answers, for ``Allow``."""
        implied = {"OPTIONS"} | ({"HEAD"} if "GET" in self.verbs else set())
        return [verb for verb in VERBS if verb in self.verbs or verb in implied]


@dataclass(frozen=True, slots=True)
class Match:
    """A request's route and the path's variables."""

    route: Route
    variables: Mapping[str, Any]


class RouteTable:
    """All routes; where several match a path, the most specific answers, as werkzeug orders them.

    Everything below the first part of one of the service's own paths is the service's. Adding is
    cheap; removing is lazy: the map is rebuilt when it is next needed.
    """

    def __init__(self) -> None:
        self._routes: dict[_Shape, Route] = {}
        self._map = _new_map()
        self._adapter = self._map.bind(**_BIND)
        self._fixed: dict[str, Route] = {}  # paths without variables, which precede all others
        self._dirty = False
        self._reserved: set[str] = set()

    def __iter__(self) -> Iterator[Route]:
        """Go through all routes, in the order in which they were added."""
        return iter([*self._routes.values()])

    def add(
        self,
        owner: Owner,
        path: str,
        handler: RouteHandler,
        methods: Iterable[str] | None = None,
        app: PluginApp | None = None,
    ) -> Route:
        """Add a route, or more verbs of one, or renew one that the same owner had before its restart.

        Args:
            owner: Whose route it is.
            path: As in `lva.contract.BaseBackgroundPlugin.addRoute`, like the next two.
            handler: What serves it.
            methods: The verbs of a function.
            app: What the instances of a handler class get as `self.app`.

        Raises:
            RouteRefusedError: The path or a method is malformed, or the path is taken.
        """
        verbs = _verbs(path, handler, methods, app)
        rule = _rule(path, self._map)
        key = _shape(rule)
        taken = self._routes.get(key)
        if taken is not None and taken.takes(owner, path, verbs):
            taken.verbs = {**taken.verbs, **verbs}
            return taken
        if taken is not None and not (taken.owner is owner and taken.stale):
            raise RouteRefusedError(_conflict(path, owner, taken))
        if owner.name is None:
            self._reserved.add(path.partition("<")[0].rstrip("/"))
        elif (top := _top(path)) in self._reserved:
            raise RouteRefusedError(
                f"everything at {top!r} belongs to the service; choose another path"
            )
        route = Route(owner, path, verbs)
        self._routes[key] = owner.routes[key] = route
        if taken is not None:
            self._dirty = True
        elif not self._dirty:
            rule.endpoint = route
            self._map.add(rule)
            self._note_fixed(route)
        return route

    def _note_fixed(self, route: Route) -> None:
        if "<" not in route.template:
            self._fixed[route.template] = route

    def mark_stale(self, owner: Owner) -> None:
        """Before a restart: the routes stay, at 503, until the owner renews or drops them."""
        for route in owner.routes.values():
            route.stale = True

    def drop_stale(self, owner: Owner) -> None:
        """After a restart: remove the routes that the owner did not add again."""
        self._remove(owner, [key for key, route in owner.routes.items() if route.stale])

    def set_gate(self, owner: Owner, gate: Gate) -> None:
        """Say whether the owner's routes answer; without a way back, they are removed.

        Of those that an operator may bring back, the paths stay, without what served them.
        """
        if gate is not owner.gate:
            owner.gate = gate
            if gate is Gate.GONE:
                self.remove(owner)
            elif gate is Gate.STOPPED:
                self.mark_stale(owner)
                for route in owner.routes.values():
                    route.verbs = {}

    def remove(self, owner: Owner) -> None:
        """Remove all routes of the owner."""
        self._remove(owner, list(owner.routes))

    def _remove(self, owner: Owner, keys: Iterable[_Shape]) -> None:
        for key in keys:
            del self._routes[key], owner.routes[key]
            self._dirty = True

    def of(self, name: str) -> list[Route]:
        """Return the routes of a plugin."""
        return [route for route in self._routes.values() if route.owner.name == name]

    def match(self, path: str) -> Match | None:
        """Return what serves the path, whatever the method, or None."""
        if path.startswith("//"):
            return None  # werkzeug would take it for the path with one slash
        self.forget_removed()
        fixed = self._fixed.get(path)
        if fixed is not None:
            return Match(fixed, {})
        try:
            route, variables = self._adapter.match(path, method="GET")
        except (NotFound, MethodNotAllowed, RequestRedirect):
            return None
        if route.owner.name is not None and _top(path) in self._reserved:
            return None  # a plugin's catch-all does not reach there
        return Match(route, variables)

    def forget_removed(self) -> None:
        """Let go of what was removed, which is otherwise done when a path is next matched."""
        if not self._dirty:
            return
        self._map, self._fixed = _new_map(), {}
        for route in self._routes.values():
            self._map.add(_Rule(route.template, endpoint=route))
            self._note_fixed(route)
        self._adapter = self._map.bind(**_BIND)
        self._dirty = False


def _top(path: str) -> str:
    """Return the first part of a path."""
    return f"/{path.split('/', 2)[1]}"


def _conflict(path: str, owner: Owner, taken: Route) -> str:
    if taken.owner is owner:
        whose = "was added before by this plugin"
    elif taken.owner.name is None:
        whose = "belongs to the service"
    else:
        whose = f"belongs to plugin {taken.owner.name!r}"
    written = "" if taken.template == path else f" (as {taken.template!r})"
    return f"the path {path!r} {whose}{written}; choose another"


def _new_map() -> Map:
    return Map(strict_slashes=False, redirect_defaults=False, merge_slashes=False)


class _Rule(Rule):
    """A rule that only matches: werkzeug writes, and compiles, functions that build URLs from each one."""

    def bind(self, map: Map, rebind: bool = False) -> None:  # noqa: A002 - werkzeug's name
        """Bind it to its map; once is enough, whoever asks again."""
        if rebind or self.map is not map:
            super().bind(map, rebind)

    @staticmethod
    def _compile_builder(append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        """Leave that out: it would be most of the work."""
        return _build_no_url


def _build_no_url(*_: Any, **__: Any) -> tuple[str, str]:
    raise NotImplementedError("routes of the service are only matched")


def _rule(path: str, map_: Map) -> Rule:
    """Return the rule of a path, bound to a map but not in it."""
    if not isinstance(path, str) or not path.startswith("/"):
        raise RouteRefusedError(f"a route's path starts with '/', unlike {path!r}")
    if len(path) > _LONGEST_PATH:
        raise RouteRefusedError(f"a route's path has at most {_LONGEST_PATH} characters")
    fixed = re.sub(r"<[^<>]*>", "", path)
    if "//" in path or set(fixed) & set("?# ") or not path.isprintable():
        raise RouteRefusedError(
            f"the path {path!r} is malformed: no '//', '?', '#', space or unprintable character belongs in it"
        )
    try:
        rule = _Rule(path, endpoint=None)
        rule.bind(map_)
    except (ValueError, LookupError, SyntaxError, TypeError) as error:
        why = _turned_round(path, map_) or getattr(error, "msg", None) or error
        raise RouteRefusedError(f"the path {path!r} is malformed: {why}") from error
    names = Counter(name for is_variable, name in rule._trace if is_variable)  # noqa: SLF001 - as below
    if twice := [name for name, times in names.items() if times > 1]:
        raise RouteRefusedError(f"the path {path!r} is malformed: <{twice[0]}> is in it twice")
    return rule


def _turned_round(path: str, map_: Map) -> str | None:
    """Return what to write where a variable's name stands before its type, as in Sanic's paths."""
    for name, type_ in re.findall(r"<([A-Za-z_]\w*):(\w+)>", path):
        wanted = "string" if type_ == "str" else type_
        if wanted in map_.converters and name not in map_.converters:
            return f"the type comes before the name; write <{wanted}:{name}>"
    return None


def _shape(rule: Rule) -> _Shape:
    """Return what makes two paths the same: fixed parts and converters, not the variables' names."""
    parts = [(part.static, part.content) for part in rule._parts]  # noqa: SLF001 - no public view
    while parts and parts[-1] == (True, ""):
        del parts[-1]
    return tuple(parts)


def _verbs(
    path: str,
    handler: RouteHandler,
    methods: Iterable[str] | None,
    app: PluginApp | None,
) -> Mapping[str, Callable[..., Any]]:
    if inspect.isclass(handler):
        if not issubclass(handler, BaseBackgroundHandler):
            raise RouteRefusedError(
                f"the handler of {path!r} is the class {handler.__name__}; it must derive from"
                " BaseBackgroundHandler"
            )
        verbs = {
            verb: _bound(handler, verb.lower(), app)
            for verb in VERBS
            if hasattr(handler, verb.lower())
        }
        if methods is not None:
            verbs = {verb: call for verb, call in verbs.items() if verb in _checked(methods)}
        if not verbs:
            raise RouteRefusedError(
                f"the handler class {handler.__name__} of {path!r} has no method to serve; define"
                " `async def get(self, request)` or another verb"
            )
        return verbs
    if not callable(handler):
        raise RouteRefusedError(f"the handler of {path!r} is no class and no function: {handler!r}")
    return dict.fromkeys(_checked({"get"} if methods is None else methods), handler)


def _checked(methods: Iterable[str]) -> list[str]:
    if isinstance(methods, str):
        methods = [methods]
    wanted = [str(method).upper() for method in methods]
    if unknown := [verb for verb in wanted if verb not in VERBS]:
        raise RouteRefusedError(f"unknown methods {unknown}; available: {', '.join(VERBS)}")
    if not wanted:
        raise RouteRefusedError("methods is empty; name at least one, as in {'get'}")
    return wanted


def _bound(
    handler: type[BaseBackgroundHandler], name: str, app: PluginApp | None
) -> Callable[..., Any]:
    """Return a function that makes an instance for the request and calls its verb method."""

    def method() -> Callable[..., Any]:
        instance = handler()
        if app is not None:
            instance.app = app
        bound: Callable[..., Any] = getattr(instance, name)
        return bound

    def call(request: Any, **variables: Any) -> Any:
        return method()(request, **variables)

    async def call_async(request: Any, **variables: Any) -> Any:
        return await method()(request, **variables)

    bound = call_async if inspect.iscoroutinefunction(getattr(handler, name)) else call
    # Not what it inherits: the base class's text says nothing of this route.
    bound.__doc__ = getattr(handler, name).__doc__ or handler.__doc__
    for mark in (ADMIN_ONLY, BODY, RESPONSES, QUERY_PARAMETERS):
        declared = getattr(
            getattr(handler, name), mark, None
        )  # also where another decorator passes it on
        if declared is not None:
            setattr(bound, mark, declared)
    return bound
