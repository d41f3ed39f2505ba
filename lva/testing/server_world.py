"""A real server as the outside world of a plugin under test, with a proxy before it that fails for it."""

from __future__ import annotations

import enum
import socket
import struct
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

import trio

from lva.events.points import MonitoringPoint
from lva.testing.world import MARK, Behaviour, World, numbers_in

_CHUNK: Final = 65_536
#: Marks are shorter, so that one which two chunks share is found in the end of the first and the second.
_LONGEST_MARK: Final = 32
#: Has `close()` reset a connection: linger for no time.
_RESET: Final = struct.pack("ii", 1, 0)

#: What a server has taken, in a form in which marks of points are found.
Received = bytes | str | Iterable[MonitoringPoint]


class _Fate(enum.Enum):
    """What becomes of data with points in it."""

    PASS = enum.auto()
    CUT = enum.auto()
    UNANSWERED = enum.auto()
    HALF = enum.auto()
    STALL = enum.auto()


@dataclass(eq=False, slots=True)
class _ProxyLink:
    """One connection of the plugin's, and the one to the server that belongs to it."""

    client: trio.SocketStream
    server: trio.SocketStream | None = None
    quiet: bool = False  # nothing is under way, and something was before
    owed: float = 0.0  # for how many more real seconds an answer of the server is waited for
    stalled: bool = False


class ServerWorld(World):
    """A real server, behind a TCP proxy that passes its connections on, cuts, refuses or stalls them.

    For plugins that speak another protocol than HTTP. A test starts the server; each run of the plugin gets a
    proxy of its own on the loopback interface. All is passed on until points come by. Then, as the behaviour
    has it,

    * "fails now and then": the connection is reset, and so is the next one as soon as it is made; the next
      time the points are passed on, but the connection is reset before the response; the third time all is
      well;
    * "fails for ever": it is reset, and so is every other from then on;
    * "fails partly": half of the data is passed on, then the connection is reset; each third time all is
      well;
    * "hangs": no connection moves any more, in no direction; new ones are accepted.

    While the server owes a response, virtual time passes four times slower than real time: no time limit
    of the plugin's is over only because the machine is busy.

    Resources: a listener and a task for each connection; leaving it cancels and closes them.

    Args:
        upstream: The server's host and port. It must be an address, or a name of this machine.
        received: Returns what the server has taken, in order; called in a worker thread when a run is over.
            If left out, what was passed on counts as arrived, whatever the server made of it.
        clear: Empties the server; called in a worker thread before each run.
        patience: For how many real seconds a response is waited for; after that, it is taken that none is to
            come, as to a heartbeat. Must be longer than the server lets clients wait on purpose.

    Attributes:
        host: Where the proxy listens, once it is entered.
        port: At which port.
        sightings: How often points came by.
    """

    own_clock = True

    def __init__(
        self,
        upstream: tuple[str, int],
        *,
        received: Callable[[], Received] | None = None,
        clear: Callable[[], object] | None = None,
        patience: float = 5.0,
    ) -> None:
        super().__init__()
        self.host: str = "127.0.0.1"
        self.port: int = 0
        self.sightings: int = 0
        self._upstream = upstream
        self._received = received
        self._clear = clear
        self._patience = patience
        self._passed = bytearray()
        self._refusals: float = 0
        self._still = False
        self._links: set[_ProxyLink] = set()
        self._tasks: set[object] = set()
        self._manager: Any = None

    @property
    def address(self) -> str:
        """Where the proxy listens, as ``127.0.0.1:PORT``."""
        return f"{self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        if self._clear is not None:
            await trio.to_thread.run_sync(self._clear)
        (listener,) = await trio.open_tcp_listeners(0, host=self.host)
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        self.port = listener.socket.getsockname()[1]
        self._nursery.start_soon(trio.serve_listeners, self._serve, [listener])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._nursery.cancel_scope.cancel()
        await self._manager.__aexit__(None, None, None)
        if self._received is None:
            self.arrived: list[int] = numbers_in(bytes(self._passed))
        else:
            self.arrived = numbers_in(await trio.to_thread.run_sync(self._received))

    def carries_points(self, data: bytes) -> bool:
        """Return whether data on its way to the server has points in it; the marks are looked for.

        Derive a class and override this for a protocol that packs or encrypts what it sends.

        Args:
            data: What has just come, after the last bytes of what came before.
        """
        return bool(MARK.search(data))

    def wants_answer(self, data: bytes) -> bool:
        """Return whether the server responds to what the plugin has just sent; it is taken that it does.

        Derive a class and override this for heartbeats and the like, so that nobody waits for a response.
        """
        return True

    # What virtual time asks

    def owns(self, thing: object) -> bool:
        return thing in self._tasks or super().owns(thing)

    @property
    def sockets(self) -> Collection[int]:
        ends = [end for link in self._links for end in (link.client, link.server) if end]
        return [end.socket.fileno() for end in ends]

    @property
    def owes(self) -> bool:
        """Whether a response of the server is under way."""
        return any(link.owed > 0 and not link.stalled for link in self._links)

    def waited(self, seconds: float) -> None:
        """Take note that its responses were waited for, so many real seconds."""
        for link in self._links:
            if link.owed > 0:
                link.owed -= seconds
                link.quiet = link.owed <= 0
        self._count()

    def _count(self) -> None:
        self.hung: int = sum(link.stalled for link in self._links)
        self.idle: int = sum(link.quiet and not link.stalled for link in self._links)

    # The proxy

    async def _serve(self, client: trio.SocketStream) -> None:
        link = _ProxyLink(client)
        self._links.add(link)
        self._tasks.add(trio.lowlevel.current_task())
        try:
            if self._refusals > 0:
                self._refusals -= 1
                _reset(client)
            elif self._still:
                await self._stall(link)
            else:
                await self._connected(link)
        except OSError:
            _reset(client)  # the server is away
        finally:
            self._links.discard(link)
            self._count()
            self._tasks.discard(trio.lowlevel.current_task())
            for end in (link.client, link.server):
                if end is not None:
                    await trio.aclose_forcefully(end)

    async def _connected(self, link: _ProxyLink) -> None:
        with trio.socket.socket(_family(self._upstream[0])) as plain:
            await plain.connect(self._upstream)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link.server = trio.SocketStream(plain)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._back, link, nursery.cancel_scope)
                await self._forth(link, nursery.cancel_scope)

    async def _forth(self, link: _ProxyLink, scope: trio.CancelScope) -> None:
        """Pass on what the plugin sends, unless the world is ill."""
        assert link.server is not None
        tail = b""
        try:
            while data := await link.client.receive_some(_CHUNK):
                fate = self._fate(tail, data)
                tail = (tail + data)[-_LONGEST_MARK:]
                if fate is _Fate.STALL:
                    self._still = True
                    await self._stall(link)
                if fate is _Fate.HALF:
                    data = data[: len(data) // 2]
                if fate is not _Fate.CUT:
                    # What is to be cut is not waited for.
                    if fate is _Fate.PASS and self.wants_answer(data):
                        link.owed, link.quiet = self._patience, False
                        self._count()
                    await link.server.send_all(data)
                    self._passed += data
                if fate is not _Fate.PASS:
                    _reset(link.client)
                    return  # and the server sees an orderly end
            link.owed, link.quiet = 0.0, True  # nobody waits for it any more
            self._count()
            await link.server.send_eof()
            await trio.sleep_forever()  # until the server ends it, too
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # one of the two has left
        finally:
            scope.cancel()

    async def _back(self, link: _ProxyLink, scope: trio.CancelScope) -> None:
        """Pass on what the server sends back, unless the world hangs."""
        assert link.server is not None
        task = trio.lowlevel.current_task()
        self._tasks.add(task)
        try:
            data: bytes | bytearray | None = None
            while data != b"":
                data = await link.server.receive_some(_CHUNK)
                if self._still:
                    await self._stall(link)
                link.owed, link.quiet = 0.0, True
                self._count()
                await link.client.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # one of the two has left
        finally:
            self._tasks.discard(task)
            scope.cancel()

    async def _stall(self, link: _ProxyLink) -> None:
        link.stalled = True
        self._count()
        await trio.sleep_forever()

    def _fate(self, tail: bytes, data: bytes) -> _Fate:
        """Decide what becomes of data on its way to the server."""
        if self._still:
            return _Fate.STALL
        # A mark that was whole before was seen before.
        whole = max((match.end() for match in MARK.finditer(tail)), default=0)
        if self.behaviour is Behaviour.SUCCEED or not self.carries_points(tail[whole:] + data):
            return _Fate.PASS
        self.sightings += 1
        if self.behaviour is Behaviour.HANG:
            return _Fate.STALL
        if self.behaviour is Behaviour.FAIL:
            self._refusals = float("inf")
            return _Fate.CUT
        turn = self.sightings % 3
        if self.behaviour is Behaviour.PARTLY:
            return _Fate.HALF if turn else _Fate.PASS
        if turn == 1:
            self._refusals = 1
            return _Fate.CUT
        return _Fate.UNANSWERED if turn else _Fate.PASS


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _reset(stream: trio.SocketStream) -> None:
    """End a connection as a server does that has crashed."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    stream.socket.close()
