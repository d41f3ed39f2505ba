"""What a client sends never ends the service, whatever it is: requests, HTTP/2 frames, WebSocket handshakes.

One service serves the whole module. `LVA_STORM_SEED` makes other random clients.
"""

from __future__ import annotations

import contextlib
import random
import re
import select
import socket
import time
from collections.abc import Iterator
from typing import Self

import h2.config
import h2.connection
import h2.events
import pytest
from h2.settings import SettingCodes
from hyperframe.frame import SettingsFrame

from tests.process import moments
from tests.process.frames import HANDSHAKE, PREFACE, anything
from tests.support import ServiceProcess, write_plugin

pytestmark = pytest.mark.process

UPLOAD = 500_000
AT_ONCE = 40

ECHO = """
from hypercorn.protocol.ws_stream import WSStream
from quart import Response

handle = WSStream.handle

async def fail(stream, event):
    if getattr(event, "raw_path", b"") == b"/fails":
        raise LookupError("in the server")
    await handle(stream, event)

WSStream.handle = fail

async def echo(request):
    return {"size": len(await request.get_data())}

def count_requests(task):
    children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    ours = task.name == "request" or task.name.endswith("task_group._handle")
    return ours + sum(map(count_requests, children))

async def requests(request):
    return {"tasks": count_requests(trio.lowlevel.current_root_task())}

async def parts():
    yield b"abc"
    await trio.sleep(0)
    yield b"def"

async def broken():
    yield b"abc"
    await trio.sleep(0)
    raise RuntimeError("broken midway")

ENDS = {
    "short": lambda: pluginHTTPResponse(body=b"abcdef", headers={"Content-Length": "100"}),
    "long_stream": lambda: Response(parts(), headers={"Content-Length": "5"}),
    "broken": broken,
    "no_content": lambda: pluginHTTPResponse(statusCode=204, body=b"abcdef"),
    "not_modified": lambda: pluginHTTPResponse(statusCode=304, body=b"abcdef"),
}

async def ends(request, how):
    return ENDS[how]()

class Echo(BaseBackgroundPlugin):
    async def initialize(self):
        self.addRoute("/echo", echo, methods={"post"})
        self.addRoute("/requests", requests)
        self.addRoute("/ends/<how>", ends)
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    directory = tmp_path_factory.mktemp("frames")
    write_plugin(directory / "plugins", "echo", ECHO)
    toml = "max_body_size = 10000\nkeep_alive_timeout = 5\n"
    with ServiceProcess(directory, ["prometheus", "echo"], toml) as running:
        running.wait_until_ready()
        yield running
        assert running.stop() == 0, running.output


class Http2Client:
    """One HTTP/2 connection over clear text, begun with prior knowledge."""

    def __init__(self, service: ServiceProcess, settings: dict[int, int] | None = None) -> None:
        self._socket = service.connect(5)
        self._state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self._state.initiate_connection()
        self._state.update_settings(settings or {})
        self.statuses: dict[int, int] = {}
        self.heads: dict[int, dict[bytes, bytes]] = {}
        self.over: set[int] = set()
        self.reset: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def request(self, method: str, path: str, body: int = 0) -> int:
        """Send a request with a body of zeros, as flow control lets it; return the response's status."""
        return self.statuses[self.wait(self.begin(method, path, body))]

    @property
    def table_size(self) -> int:
        """How many bytes of header fields the service has said it refers to."""
        return int(self._state.decoder.header_table_size)

    def begin(self, method: str, path: str, body: int = 0) -> int:
        """Send a request; return its stream."""
        stream = self._state.get_next_available_stream_id()
        names = (":method", ":path", ":scheme", ":authority")
        head = list(zip(names, (method, path, "http", "x"), strict=True))
        self._state.send_headers(stream, head, end_stream=not body)
        while body:
            self._send()
            window = self._state.local_flow_control_window(stream)
            size = min(window, self._state.max_outbound_frame_size, body)
            if size:
                body -= size
                self._state.send_data(stream, bytes(size), end_stream=not body)
            else:
                self._receive()
        self._send()
        return stream

    def wait(self, stream: int) -> int:
        """Wait until a stream is over; return it."""
        while stream not in self.over:
            self._receive()
        return stream

    def _send(self) -> None:
        self._socket.sendall(self._state.data_to_send())

    def _receive(self) -> None:
        data = self._socket.recv(65_536)
        assert data, "the connection was closed"
        for event in self._state.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                self.heads[event.stream_id] = dict(event.headers)
                self.statuses[event.stream_id] = int(dict(event.headers)[b":status"])
            elif isinstance(event, h2.events.DataReceived):
                self._state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                self.over.add(event.stream_id)
                if isinstance(event, h2.events.StreamReset):
                    self.reset.add(event.stream_id)
        self._send()


@pytest.mark.parametrize(("path", "statuses"), [("/nothing", {404, 413}), ("/echo", {413})])
def test_an_http2_upload_that_is_answered_early_costs_nobody_anything(
    path: str, statuses: set[int], service: ServiceProcess
) -> None:
    """A client may go on sending after the response; other streams of the connection stay alive."""
    before = len(service.records)  # other tests have the server fail
    with Http2Client(service) as client:
        assert client.request("POST", path, UPLOAD) in statuses
        assert client.request("GET", "/livez") == 200
        assert client.request("POST", "/echo", 9000) == 200
    assert service.get("/livez").status_code == 200
    assert not [record for record in service.records[before:] if "exception" in record]


@pytest.mark.parametrize("how", ["short", "long_stream", "broken"])
def test_an_http2_response_that_is_cut_off_ends_for_the_client_and_no_other_does(
    how: str, service: ServiceProcess
) -> None:
    """In HTTP/1.1 the connection is closed; here it has other streams, which go on."""
    with Http2Client(service) as client:
        other = client.begin("GET", "/openapi.json")
        cut_off = client.wait(client.begin("GET", f"/ends/{how}"))
        assert client.statuses[cut_off] == 200
        client.wait(other)
        assert client.request("GET", "/livez") == 200
        assert client.reset == {cut_off}


@pytest.mark.parametrize(("how", "status"), [("no_content", 204), ("not_modified", 304)])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_response_without_a_body_announces_none(
    method: str, how: str, status: int, service: ServiceProcess
) -> None:
    """A handler may give it one: clients of HTTP/2 take the length of what does not come for an error."""
    with Http2Client(service) as client:
        stream = client.wait(client.begin(method, f"/ends/{how}"))
        assert client.statuses[stream] == status
        assert b"content-length" not in client.heads[stream]
    assert service.request(method, f"/ends/{how}").headers.get("Content-Length") is None


def test_a_frame_that_is_too_large_is_refused_by_its_head(service: ServiceProcess) -> None:
    """Kind: what a client makes the service keep. The frame need not come, so nothing of it is kept."""
    with service.connect(5) as client:
        client.sendall(PREFACE + SettingsFrame(0).serialize() + b"\xff\xff\xff\0\0\0\0\0\1")
        while client.recv(65_536):
            pass


def test_a_client_does_not_decide_how_much_the_service_keeps_of_header_fields(
    service: ServiceProcess,
) -> None:
    """Kind: what a client makes the service keep. Each response has a field that none had before."""
    with Http2Client(service, {SettingCodes.HEADER_TABLE_SIZE: 2**31}) as client:
        for _ in range(2):
            assert client.request("GET", "/livez") == 200
        assert client.table_size == 4096


@pytest.mark.soak
def test_an_http2_connection_lasts_for_as_many_requests_as_a_client_makes(
    service: ServiceProcess,
) -> None:
    """A server that wants to close a connection must finish the requests that it has accepted."""
    with Http2Client(service) as client:
        for _ in range(2500):
            assert client.request("GET", "/livez") == 200


def failed_connections(service: ServiceProcess) -> float:
    text = service.get("/metrics").text
    found = re.search(r'lva_connection_errors_total{.*"connection_failed".*} (\S+)', text)
    return float(found[1]) if found else 0.0


def test_an_error_of_the_server_for_one_connection_is_contained_logged_once_and_counted(
    service: ServiceProcess,
) -> None:
    """As a plugin's is: here one of a WebSocket handshake, in a server that was made to fail."""
    before = failed_connections(service)
    for _ in range(5):
        with service.connect(5) as client:
            client.sendall(HANDSHAKE.replace(b"/livez", b"/fails"))
            while client.recv(65_536):
                pass
    service.wait_until(lambda: failed_connections(service) == before + 5)
    service.wait_for("in the server")
    (logged,) = [record for record in service.records if "in the server" in str(record)]
    assert "a client is not served" in logged["message"]
    assert "h11.py" in logged["exception"]


def test_a_handshake_with_data_right_behind_it_is_refused_once(service: ServiceProcess) -> None:
    """Kind: the server refuses what came too early, the application the handshake, both on one connection."""
    before = failed_connections(service)
    for data in (b"", b"data", b"\x81\x85" * 300):
        with service.connect(5) as client:
            client.sendall(HANDSHAKE + data)
            reply = b""
            while part := client.recv(65_536):
                reply += part
        assert reply.count(b"HTTP/1.1 ") == 1
        assert reply.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 "))
    assert failed_connections(service) == before


@pytest.mark.parametrize("clients", [400, pytest.param(4000, marks=pytest.mark.soak)])
def test_no_client_ends_the_service(clients: int, service: ServiceProcess) -> None:
    """Whatever requests, frames and handshakes are sent, in whatever order, others are served."""
    print(f"LVA_STORM_SEED={moments.SEED}")
    rng = random.Random(f"{moments.SEED}/{clients}")
    for _ in range(clients // AT_ONCE):
        connected = [service.connect(5) for _ in range(AT_ONCE)]
        for client in connected:
            with contextlib.suppress(ConnectionError):
                for piece in anything(rng):
                    client.sendall(piece)
        served = service.get("/livez")
        read_for(0.02, connected)
        for client in connected:
            if rng.random() < 0.3:  # a reset
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
        assert served.status_code == 200
    service.wait_until_ready()
    # Nothing of them is left, whether they took their responses or not.
    service.wait_until(lambda: service.get("/requests").json() == {"tasks": 1})
    assert not [record for record in service.records if "bug in the" in record["message"]]


def read_for(seconds: float, clients: list[socket.socket]) -> None:
    """Take what comes, since a server that cannot write does not read."""
    deadline = time.monotonic() + seconds
    open_ones = list(clients)
    while open_ones and (left := deadline - time.monotonic()) > 0:
        for client in select.select(open_ones, [], [], left)[0]:
            try:
                over = not client.recv(65_536)
            except ConnectionError:
                over = True
            if over:
                open_ones.remove(client)
