"""The outside world of a plugin under test: well, or ill in the way that a test wants it."""

from __future__ import annotations

import enum
import gzip
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, Self

import h11
import httpx
import trio

from lva.errors import counted
from lva.events.points import MonitoringPoint

#: The text by which a point is known wherever it arrives.
MARK: Final = re.compile(rb"lva-point-(\d+)-")
_CHUNK: Final = 65_536


class Behaviour(enum.Enum):
    """How the outside world takes points."""

    SUCCEED = "succeeds"
    SOMETIMES = "fails now and then"
    FAIL = "fails for ever"
    PARTLY = "fails partly"
    HANG = "hangs"


class WorldError(ConnectionError):
    """The outside world fails, as a test wants it to."""


def mark(number: int) -> str:
    """Return the text by which a point is known wherever it arrives."""
    return f"lva-point-{number}-"


def numbers_in(data: bytes | str | Iterable[MonitoringPoint]) -> list[int]:
    """Return the numbers of the points whose marks are in some data, each once, in order."""
    if isinstance(data, str):
        data = data.encode()
    if not isinstance(data, bytes):
        data = repr([(dict(point.tags), dict(point.fields)) for point in data]).encode()
    return list(dict.fromkeys(int(number) for number in MARK.findall(data)))


class World:
    """What a plugin sends points to. One for each run of the plugin.

    This one is inside the process: put something into the plugin's module in `prepare` that calls `take`.
    `HttpWorld` is a server. Use as an async context manager.

    Attributes:
        behaviours: What it can play; all if left out. For the others, `check_event_contract` disturbs the
            calls of `handleEvent()` themselves, and its report says so.
        own_clock: Whether its server has a clock of its own, which does not jump with virtual time: its
            heartbeats would be missing, so the checks do not leave a plugin to work for minutes.
        behaviour: How it takes points; `check_event_contract` sets it.
        arrived: The numbers of the points that it took, in the order in which they came.
        hung: How many senders wait for a response that does not come.
        idle: How many connections are open without a request.
    """

    behaviours: Collection[Behaviour] = tuple(Behaviour)
    own_clock: bool = False

    def __init__(self) -> None:
        self.behaviour: Behaviour = Behaviour.SUCCEED
        self.arrived: list[int] = []
        self.hung: int = 0
        self.idle: int = 0
        self._calls = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def prepare(self, module: ModuleType) -> None:
        """Called with the plugin's module once it is loaded, before an instance is made.

        The place to put a double of a client library there.
        """

    async def look(self, client: httpx.AsyncClient) -> None:
        """Called at the end of each run, while the plugin still runs.

        The place to find what has `arrived` by asking the plugin itself, if that is where points go.

        Args:
            client: Sends requests to the service, without a network.
        """

    def owns(self, thing: object) -> bool:
        """Return whether a task, or the number of a descriptor, is the world's and not the plugin's."""
        return thing in self.sockets

    @property
    def sockets(self) -> Collection[int]:
        """The numbers of the descriptors of its connections."""
        return ()

    @property
    def owes(self) -> bool:
        """Whether it is about to respond, but needs real time for that."""
        return False

    def waited(self, seconds: float) -> None:
        """Take note that what it owes was waited for, so many real seconds."""

    async def take(self, data: bytes | str | Iterable[MonitoringPoint]) -> None:
        """Take data with points in it, as the behaviour has it.

        On Trio only; asyncio code uses `judge`.

        Raises:
            WorldError: It does not take them, or only the first half.
        """
        if self.judge(data):
            self.hung += 1
            try:
                await trio.sleep_forever()
            finally:
                self.hung -= 1

    def judge(self, data: bytes | str | Iterable[MonitoringPoint]) -> bool:
        """Take data without waiting; return whether the sender is to wait for ever.

        Raises:
            WorldError: As of `take`.
        """
        numbers = numbers_in(data)
        if not numbers or self.behaviour is Behaviour.SUCCEED:
            self.arrived += numbers
            return False
        self._calls += 1
        if self.behaviour is Behaviour.HANG:
            return True
        if self.behaviour is Behaviour.FAIL:
            raise WorldError("the outside world fails for ever")
        if self.behaviour is Behaviour.SOMETIMES and self._calls % 2:
            raise WorldError("the outside world fails now and then")
        if self.behaviour is Behaviour.PARTLY and self._calls % 3:
            half = len(numbers) // 2
            self.arrived += numbers[:half]
            raise WorldError(f"the outside world took {half} of {counted(len(numbers), 'point')}")
        self.arrived += numbers
        return False


@dataclass(frozen=True, slots=True)
class WorldResponse:
    """What an `HttpWorld` responds with.

    Attributes:
        status: The HTTP status.
        body: The body.
        headers: The headers; the length is added.
    """

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class WorldRequest:
    """A request that an `HttpWorld` got.

    Attributes:
        method: The verb.
        path: The path with its query.
        headers: The headers, their names in small letters.
        body: The body, unpacked if it was compressed.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class HttpWorld(World):
    """An HTTP server on the loopback interface, in the same event loop as the host.

    It takes points in whatever form, as long as their tags or fields are in the body as text. Requests
    without points always succeed. What it does not take gets 503 or a closed connection, in turn.

    Resources: a listener and a task for each connection; leaving it cancels and closes them.

    Args:
        respond: Makes the response to a request that it takes; a 200 with ``{}`` if left out.

    Attributes:
        url: Its address, ``http://127.0.0.1:PORT``, once it is entered.
        requests: What it was sent.
    """

    idle: int

    def __init__(self, respond: Callable[[WorldRequest], WorldResponse] | None = None) -> None:
        super().__init__()
        self.url: str = ""
        self.requests: list[WorldRequest] = []
        self._respond = respond or (lambda _request: WorldResponse())
        self._failures = 0
        self._manager: Any = None
        self._tasks: set[object] = set()
        self._streams: set[trio.SocketStream] = set()

    async def __aenter__(self) -> Self:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        self.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        self._nursery.start_soon(trio.serve_listeners, self._serve, [listener])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._nursery.cancel_scope.cancel()
        await self._manager.__aexit__(None, None, None)

    def owns(self, thing: object) -> bool:
        return thing in self._tasks or super().owns(thing)

    @property
    def sockets(self) -> Collection[int]:
        return [stream.socket.fileno() for stream in self._streams]

    async def _serve(self, stream: trio.SocketStream) -> None:
        task = trio.lowlevel.current_task()
        self._tasks.add(task)
        self._streams.add(stream)
        try:
            async with stream:
                await self._converse(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError):
            pass  # the plugin has left
        finally:
            self._streams.discard(stream)
            self._tasks.discard(task)

    async def _converse(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        while True:
            self.idle += 1
            try:
                request = await _next(connection, stream)
            finally:
                self.idle -= 1
            if not isinstance(request, h11.Request):
                return
            whole = await self._whole(connection, stream, request)
            self.requests.append(whole)
            response = await self._judged(whole)
            if response is None:
                return
            await _send(connection, stream, response)
            if h11.MUST_CLOSE in {connection.our_state, connection.their_state}:
                return
            connection.start_next_cycle()

    async def _whole(
        self, connection: h11.Connection, stream: trio.SocketStream, head: h11.Request
    ) -> WorldRequest:
        body = b""
        while isinstance(event := await _next(connection, stream), h11.Data):
            body += event.data
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in head.headers}
        return WorldRequest(
            head.method.decode(), head.target.decode(), headers, _unpacked(headers, body)
        )

    async def _judged(self, request: WorldRequest) -> WorldResponse | None:
        try:
            await self.take(request.path.encode() + b"\n" + request.body)
        except WorldError:
            self._failures += 1
            return WorldResponse(503) if self._failures % 2 else None
        return self._respond(request)


async def _next(connection: h11.Connection, stream: trio.SocketStream) -> Any:
    while (event := connection.next_event()) is h11.NEED_DATA:
        if connection.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[])
            await stream.send_all(connection.send(go_on) or b"")
        connection.receive_data(await stream.receive_some(_CHUNK))
    return event


async def _send(
    connection: h11.Connection, stream: trio.SocketStream, response: WorldResponse
) -> None:
    body = b"" if response.status == 204 else response.body
    headers = {"Content-Type": "application/json", **(response.headers or {})}
    if response.status != 204:
        headers["Content-Length"] = str(len(body))
    head = h11.Response(status_code=response.status, headers=list(headers.items()))
    parts = [connection.send(head), connection.send(h11.Data(data=body))]
    parts.append(connection.send(h11.EndOfMessage()))
    await stream.send_all(b"".join(part for part in parts if part))


def _unpacked(headers: Mapping[str, str], body: bytes) -> bytes:
    coding = headers.get("content-encoding", "")
    try:
        if coding == "gzip" or body[:2] == b"\x1f\x8b":
            return gzip.decompress(body)
        if coding == "deflate":
            return zlib.decompress(body)
    except (OSError, EOFError, zlib.error):
        pass  # it is no such thing after all
    return body
