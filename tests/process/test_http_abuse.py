"""The real service and clients that are broken, slow, rude or gone; and the points of each request.

One service serves the whole module. After each test it must still answer; at the end it must stop
cleanly, and each request must have made exactly one ``requests`` point, each failed one exactly one
``errors`` point.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support import ServiceProcess

pytestmark = pytest.mark.process

MAX_BODY = 5000
MADE_ID = re.compile(r"\d+,[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

RECORDER = """
import json

class Recorder(BaseEventPlugin):
    eventName = "monitoring_event"

    async def handleEvent(self, points, logger):
        with open(self.config["path"], "a") as file:
            for point in points:
                row = {"series": point.series, "time": point.time, **point.tags, **point.fields}
                file.write(json.dumps([row, sorted(point.tags), sorted(point.fields)]) + "\\n")
"""

ROUTES = """
from quart import Response

async def echo(request):
    return {"size": len(await request.get_data())}

async def read_json(request):
    return {"read": type(await request.get_json(force=True)).__name__}

async def read_json_silently(request):
    return {"read": type(await request.get_json(force=True, silent=True)).__name__}

async def read_text(request):
    return {"read": len(await request.get_data(as_text=True))}

async def read_form(request):
    return {"read": [*await request.form, *await request.files]}

HELD = []

async def hold_files(request, how):
    HELD.extend((await request.files).values())
    if how == "raise":
        raise RuntimeError("with a file")
    await trio.sleep(0 if how == "return" else 60)
    return "held"

async def closed_files(request):
    return [file.stream.closed for file in HELD]

async def ignore_body(request):
    return "ignored"

async def boom(request):
    add_point_tags(before="boom")
    raise RuntimeError("boom!")

async def item(request, n):
    return {"n": n}

async def slow(request):
    await trio.sleep(60)

STOPS = threading.Event()

def slow_sync(request):
    STOPS.wait(1.3)
    return "late"

async def late(request):
    await trio.sleep(0.6)
    return "late"

async def stream(request):
    async def body():
        for n in range(3):
            yield b"chunk%d " % n
            await trio.sleep(0)
    return body()

async def broken_stream(request):
    async def body():
        yield b"first"
        await trio.sleep(0)
        raise RuntimeError("broken midway")
    return body()

async def endless(request):
    async def body():
        while True:
            yield b"x" * 65536
    return body()

async def large(request):
    return b"x" * 8_000_000

async def additions(request):
    add_point_tags(camera="north", floor=2)
    add_point_fields(frames=3.5)
    await trio.to_thread.run_sync(lambda: add_point_tags(thread="worker"))
    async with trio.open_nursery() as nursery:
        async def child():
            add_point_fields(child=1)
        nursery.start_soon(child)
    return "added"

def additions_sync(request):
    add_point_tags(camera="south")
    add_point_fields(frames=1)
    return "added"

def respond(body, status=200, *headers):
    return lambda: Response(body(), status, headers)

def length(value):
    return lambda: pluginHTTPResponse(body=b"abcdef", headers={"Content-Length": value})

async def two_parts():
    yield b"abc"
    await trio.sleep(0)
    yield b"def"

def text():
    return b"abcdef"

WRONG = {
    "short": length("100"),
    "long": length("1"),
    "short_stream": respond(two_parts, 200, ("Content-Length", "100")),
    "long_stream": respond(two_parts, 200, ("Content-Length", "5")),
    "word": length("six"),
    "negative": length("-6"),
    "gzip": respond(two_parts, 200, ("Transfer-Encoding", "gzip")),
    "name": respond(text, 200, ("bad name", "x")),
    "no_name": respond(text, 200, ("", "x")),
    "pseudo": respond(text, 200, (":status", "x")),
    "nul": respond(text, 200, ("x", "a\\0b")),
    **{f"status_{n}": respond(text, n) for n in (100, 101, 199)},
    "status_0": respond(text, "0 x"),
    "hints": lambda: pluginHTTPResponse(statusCode=103, headers={"Link": "</style.css>"}),
    "right": respond(text, 200, ("Content-Length", "6")),
    "no_content": respond(text, 204),
}

async def wrong(request, how):
    return WRONG[how]()

class Routes(BaseBackgroundPlugin):
    async def initialize(self):
        self.addRoute("/wrong/<how>", wrong)
        for read in (read_json, read_json_silently, read_text, read_form):
            self.addRoute(f"/{read.__name__}", read, methods={"post"})
        self.addRoute("/echo", echo, methods={"post"})
        self.addRoute("/files/<how>", hold_files, methods={"post"})
        self.addRoute("/files", closed_files)
        self.addRoute("/ignore", ignore_body, methods={"post"})
        self.addRoute("/boom", boom)
        self.addRoute("/items/<int:n>", item)
        self.addRoute("/slow", slow, methods={"get", "post"})
        self.addRoute("/slow/sync", slow_sync)
        self.addRoute("/late", late)
        self.addRoute("/stream", stream)
        self.addRoute("/stream/broken", broken_stream)
        self.addRoute("/stream/endless", endless)
        self.addRoute("/large", large)
        self.addRoute("/additions", additions)
        self.addRoute("/additions/sync", additions_sync)

    async def close(self):
        STOPS.set()
"""

ASYNCIO = """
async def read_json(request):
    return {"read": type(request.json).__name__}

@query_parameter("first", "Where to begin.")
@query_parameter("most", "How many.")
async def page(request):
    return {"args": dict(request.args)}

class Page(BaseBackgroundHandler):
    @query_parameter("most", "How many.")
    async def get(self, request):
        return self.response(body={"args": dict(request.args)})

    async def post(self, request):
        return self.response(body={"args": dict(request.args)})

class Asyncio(BaseBackgroundPlugin):
    runtime = "asyncio"

    async def initialize(self):
        self.addRoute("/asyncio/page", page)
        self.addRoute("/asyncio/page_class", Page)
        self.addRoute("/asyncio/read_json", read_json, methods={"post"})
"""

_ids = itertools.count(1)


class Abused(ServiceProcess):
    """The service with a recorder of points, and raw connections to it."""

    def __init__(self, tmp_path: Path, toml: str = "", **options: Any) -> None:
        self.path = tmp_path / "points"
        self.path.touch()
        self._rows: list[tuple[dict[str, Any], list[str], list[str]]] = []
        self._read_so_far = 0
        self._reading = threading.Lock()  # clients that misbehave at once have a thread each
        table = f"\n[plugins.recorder.config]\npath = '{self.path}'\n"
        patience = "half_closed_timeout = 0.9\n"
        super().__init__(
            tmp_path,
            {"recorder": RECORDER, "routes": ROUTES, "asyncio_routes": ASYNCIO},
            toml=toml + patience + table,
            **options,
        )

    def raw(self, data: bytes, timeout: float = 20.0) -> bytes:
        """Send bytes; return everything that comes until the service closes the connection."""
        with self.connect(timeout) as client:
            client.sendall(data)
            return read_all(client)

    def ask(self, path: str, *headers: str, **options: str) -> tuple[str, bytes]:
        """Send a request with an id of its own; return that, and everything that comes."""
        request_id = new_id()
        return request_id, self.raw(
            get(path, f"Luna-Request-Id: {request_id}", *headers, **options)
        )

    def rows(self) -> list[tuple[dict[str, Any], list[str], list[str]]]:
        """Return all points so far, each with the names of its tags and fields."""
        with self._reading, self.path.open("rb") as file:
            file.seek(self._read_so_far)
            whole_lines = file.read().rpartition(b"\n")[0]
            if whole_lines:
                self._rows += map(json.loads, whole_lines.split(b"\n"))
                self._read_so_far += len(whole_lines) + 1
            return [*self._rows]

    def points(self, request_id: str | None = None) -> list[dict[str, Any]]:
        return [row for row, *_ in self.rows() if request_id in {None, row["request_id"]}]

    def exceptions(self, request_id: str) -> list[dict[str, Any]]:
        """Wait for what was logged with a traceback for a request, which may be just after its response."""

        def found() -> list[dict[str, Any]]:
            own = [record for record in self.records if record.get("request_id") == request_id]
            return [record for record in own if "exception" in record]

        self.wait_until(found)
        return found()

    def settled_points(self, request_id: str) -> list[dict[str, Any]]:
        """Wait for the request's points; return all that have come when later ones are there."""
        self.wait_until(lambda: self.points(request_id))
        marker = new_id()
        assert self.get("/livez", headers={"Luna-Request-Id": marker}).status_code == 200
        self.wait_until(lambda: self.points(marker))
        return self.points(request_id)

    def the_point(
        self, request_id: str, route: str, status: int, error: str | None
    ) -> dict[str, Any]:
        """Check that the request made its points and no more; return the ``requests`` point."""
        points = self.settled_points(request_id)
        expected = ["requests"] if error is None else ["requests", "errors"]
        assert [point["series"] for point in points] == expected
        for point in points:
            assert point["service"] == "luna-video-agent"
            assert point["route"] == route
            assert point["status_code"] == status
        if error is not None:
            assert points[1]["error_code"] == error
            assert points[1]["time"] == points[0]["time"]
        assert "error_code" not in points[0]
        assert 0 <= points[0]["execution_time"] < 60
        assert abs(points[0]["time"] - time.time()) < 120
        return points[0]


def new_id() -> str:
    return f"{1_700_000_000 + next(_ids)},test"


def read_all(client: socket.socket) -> bytes:
    """Read until the service closes the connection."""
    parts = []
    while True:
        try:
            part = client.recv(65536)
        except ConnectionResetError:  # closed while something of ours was still unread there
            part = b""
        if not part:
            return b"".join(parts)
        parts.append(part)


def go_on(client: socket.socket, path: str, request_id: str) -> bytes:
    """Make a request on a connection that is kept; return the response, which is JSON."""
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nLuna-Request-Id: {request_id}\r\n\r\n"
    client.sendall(head.encode())
    reply = b""
    while not reply.endswith(b"}\n"):
        reply += client.recv(65536)
    return reply


def status_of(reply: bytes) -> int:
    match = re.match(rb"HTTP/1\.[01] (\d{3}) ", reply)
    assert match, reply[:200]
    return int(match[1])


def header_of(reply: bytes, name: str) -> str | None:
    head = reply.partition(b"\r\n\r\n")[0].decode("latin-1")
    found = re.findall(rf"(?im)^{name}: *(.*?)\r?$", head)
    assert len(found) < 2, f"{name} stands {len(found)} times in {head}"
    return found[0] if found else None


def get(path: str, *headers: str, method: str = "GET", body: str = "") -> bytes:
    """Return a request as text, on a connection that ends with it."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "", body]
    return "\r\n".join(lines).encode("latin-1")


@contextlib.contextmanager
def abused(tmp_path: Path, toml: str) -> Iterator[Abused]:
    """Run a service to which clients are rude; at its end, its points must be right and complete."""
    with Abused(tmp_path, f"max_body_size = {MAX_BODY}\nshutdown_timeout = 10\n{toml}") as service:
        service.wait_until_ready()
        yield service
        assert service.stop() == 0, service.output
    assert service.receipt["exit_code"] == 0
    points = service.points()
    count = Counter((point["series"], point["request_id"]) for point in points)
    assert {key: number for key, number in count.items() if number != 1} == {}
    failed = {point["request_id"] for point in points if point["status_code"] >= 400}
    assert failed <= {point["request_id"] for point in points if point["series"] == "errors"}
    assert not [record for record in service.records if "bug in the service" in record["message"]]


@pytest.fixture(scope="module", params=["lva", pytest.param("hypercorn", marks=pytest.mark.soak)])
def connections(request: pytest.FixtureRequest) -> str:
    """Whose connections serve."""
    return f'http_connections = "{request.param}"\n'


@pytest.fixture(scope="module")
def shared(connections: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Abused]:
    with abused(tmp_path_factory.mktemp("abused"), connections) as service:
        yield service


@pytest.fixture
def service(shared: Abused) -> Iterator[Abused]:
    """The service, which must still answer after the test and not have logged a fault of its own."""
    before = len(shared.records)
    yield shared
    assert shared.get("/livez").status_code == 200
    assert shared.get("/readyz").status_code == 200
    own = [
        record
        for record in shared.records[before:]
        if "exception" in record and "plugin" not in record
    ]
    assert own == []


# Not HTTP


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 4 + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: five\r\n\r\nhello", 400),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\nhello", 501),
        (b"GET / HTTP/1.1\r\nHost: x\r\nBig: " + b"x" * 100_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"Many: x\r\n" * 10_000 + b"\r\n", 431),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
    ],
    ids=["TLS", "no Host", "no colon", "length", "encoding", "a big field", "many fields", "a big target"],
)  # fmt: skip
def test_malformed_head(data: bytes, status: int, service: Abused) -> None:
    """One of each kind: what is malformed is shown in `tests.http_server`."""
    reply = service.raw(data)
    if reply or len(data) < 60_000:  # what did not fit was thrown away, perhaps the reply with it
        assert status_of(reply) in {status, 400, 413, 414}
    assert reply.count(b"HTTP/1.1 ") <= 1


@pytest.mark.parametrize("chunks", [b"zz\r\nhello\r\n", b"5\r\nhello-no-end\r\n0\r\n\r\n"])
def test_malformed_chunks(chunks: bytes, service: Abused) -> None:
    request_id, reply = service.ask(
        "/echo", "Transfer-Encoding: chunked", method="POST", body=chunks.decode()
    )
    assert status_of(reply) in {400, 413}
    points = service.settled_points(request_id)
    assert [point["series"] for point in points] == ["requests", "errors"]
    assert points[0]["route"] == "POST:/echo"
    assert points[0]["status_code"] in {400, 413, 499}


# Targets


@pytest.mark.parametrize(
    ("target", "status", "template"),
    [
        ("/" + "x" * 10_000, 404, "*"),
        ("/livez?" + "x=y&" * 2_000, 200, "/livez"),
        ("/%00", 404, "*"),
        ("/livez%00", 404, "*"),
        ("/%FF%FE", 404, "*"),
        ("/livez/%2E%2E/plugins", 404, "*"),
        ("/plugins/%00", 404, "/plugins/<name>"),
        ("/items%2F5", 200, "/items/<int:n>"),
        ("/items/-5", 404, "*"),
        ("/items/" + "9" * 5000, 404, "*"),
        ("/livez/", 200, "/livez"),
        ("/livez//", 404, "*"),
        ("/%", 404, "*"),
        ("/livez?%FF=%ZZ&&&=", 200, "/livez"),
        ("http://elsewhere/livez", 200, "/livez"),
        ("*", 404, "*"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_strange_target(target: str, status: int, template: str, service: Abused) -> None:
    request_id, reply = service.ask(target)
    assert status_of(reply) == status
    assert header_of(reply, "Luna-Request-Id") == request_id
    service.the_point(request_id, f"GET:{template}", status, "unknown_plugin" if template.startswith(
        "/plugins") else None if status == 200 else "not_found")  # fmt: skip


@pytest.mark.parametrize("target", ["?no=path", "http://[", "http://", ";"])
def test_target_without_a_path(target: str, service: Abused) -> None:
    request_id, reply = service.ask(target)
    assert status_of(reply) in {200, 400, 404}
    points = service.settled_points(request_id)
    assert [point["series"] for point in points if point["series"] == "requests"] == ["requests"]
    assert points[0]["status_code"] < 500


# Methods


@pytest.mark.parametrize(
    ("method", "path", "status", "route", "error"),
    [
        ("BREW", "/items/5", 405, "OTHER:/items/<int:n>", "method_not_allowed"),
        ("BREW", "/nothing", 404, "OTHER:*", "not_found"),
        ("X" * 200, "/livez", 405, "OTHER:/livez", "method_not_allowed"),
        ("PROPFIND", "/livez", 405, "OTHER:/livez", "method_not_allowed"),
        ("TRACE", "/livez", 405, "TRACE:/livez", "method_not_allowed"),
        ("CONNECT", "/livez", 405, "CONNECT:/livez", "method_not_allowed"),
        ("POST", "/livez", 405, "POST:/livez", "method_not_allowed"),
        ("DELETE", "/plugins/routes", 405, "DELETE:/plugins/<name>", "method_not_allowed"),
        ("GET", "/echo", 405, "GET:/echo", "method_not_allowed"),
        ("HEAD", "/echo", 405, "HEAD:/echo", "method_not_allowed"),
        ("HEAD", "/nothing", 404, "HEAD:*", "not_found"),
        ("OPTIONS", "/nothing", 404, "OPTIONS:*", "not_found"),
        ("HEAD", "/boom", 500, "HEAD:/boom", "internal_server_error"),
    ],
)
def test_method(
    method: str, path: str, status: int, route: str, error: str, service: Abused
) -> None:
    request_id, reply = service.ask(path, method=method)
    assert status_of(reply) == status
    if status == 405:
        allowed = "POST, OPTIONS" if path == "/echo" else "GET, OPTIONS, HEAD"
        assert header_of(reply, "Allow") == allowed
    if method == "HEAD":
        assert reply.endswith(b"\r\n\r\n")
    else:
        document = json.loads(reply.partition(b"\r\n\r\n")[2])
        assert header_of(reply, "Content-Type") == "application/problem+json"
        assert (document["status"], document["error_code"]) == (status, error)
        assert document["request_id"] == request_id
    service.the_point(request_id, route, status, error)


@pytest.mark.parametrize(
    "path", ["/", "/livez", "/readyz", "/plugins", "/plugins/routes", "/items/5", "/stream"]
)  # fmt: skip
def test_head_and_options_everywhere(path: str, service: Abused) -> None:
    request_id, reply = service.ask(path, method="HEAD")
    assert status_of(reply) == 200
    assert reply.endswith(b"\r\n\r\n"), "a HEAD has no body"
    whole = service.raw(get(path))
    assert header_of(reply, "Content-Type") == header_of(whole, "Content-Type")
    if path not in {"/plugins", "/plugins/routes"}:  # these change with time
        assert header_of(reply, "Content-Length") == header_of(whole, "Content-Length")
    reply = service.raw(get(path, method="OPTIONS"))
    assert status_of(reply) == 204
    assert header_of(reply, "Allow") == "GET, OPTIONS, HEAD"
    assert reply.endswith(b"\r\n\r\n")
    template = path.replace("5", "<int:n>").replace("s/routes", "s/<name>")
    service.the_point(request_id, f"HEAD:{template}", 200, None)


# Bodies


@pytest.mark.parametrize("path", ["/echo", "/ignore"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_body_too_large(path: str, chunked: bool, service: Abused) -> None:
    size = MAX_BODY + 1
    body = f"{size:x}\r\n{'x' * size}\r\n0\r\n\r\n" if chunked else "x" * size
    kind = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    request_id, reply = service.ask(path, kind, method="POST", body=body)
    if path == "/ignore" and status_of(reply) == 200:  # answered before the body had come
        service.the_point(request_id, "POST:/ignore", 200, None)
        return
    assert status_of(reply) == 413
    assert header_of(reply, "Content-Type") == "application/problem+json"
    document = json.loads(reply.partition(b"\r\n\r\n")[2])
    assert document["request_id"] == request_id
    assert document["error_code"] in {"request_entity_too_large", "content_too_large"}
    service.the_point(request_id, f"POST:{path}", 413, document["error_code"])


def test_body_of_just_the_size(service: Abused) -> None:
    """Also in chunks of ten bytes: a busy machine must get through them all within the limit for a body."""
    assert service.request("POST", "/echo", content=b"x" * MAX_BODY).json() == {"size": MAX_BODY}
    chunks = [b"x" * 10] * (MAX_BODY // 10)
    assert service.request("POST", "/echo", content=iter(chunks)).json() == {"size": MAX_BODY}
    assert service.request("POST", "/echo", content=iter([*chunks, b"x"])).status_code == 413


def test_announced_body_too_large_is_refused_at_once(service: Abused) -> None:
    """Its limit of time is 60 s, and the client waits for 20."""
    reply = service.raw(
        get("/echo", f"Content-Length: {10**15}", "Expect: 100-continue", method="POST")
    )
    assert b"HTTP/1.1 413 " in reply


def test_expect_continue(service: Abused) -> None:
    reply = service.raw(
        get("/echo", "Content-Length: 2", "Expect: 100-continue", method="POST", body="hi")
    )
    assert reply.startswith(b"HTTP/1.1 100 ")
    assert b'{"size":2}' in reply.replace(b" ", b"")


#: The service's limits, in seconds, where clients are slow.
PATIENCE = 0.5


def slow_body(service: Abused, path: str, kind: str) -> None:
    request_id, reply = service.ask(path, kind, method="POST", body="5\r\nhello\r\n")
    assert status_of(reply) == 408
    document = json.loads(reply.partition(b"\r\n\r\n")[2])
    assert document["detail"] == "The request's body did not arrive within 0.5 s."
    service.the_point(request_id, f"POST:{path}", 408, "request_timeout")


def slow_head(service: Abused, start: bytes) -> None:
    assert b" 200 " not in service.raw(start)


def dripping_body(service: Abused) -> None:
    with service.connect(0.1) as client:
        client.sendall(get("/echo", "Content-Length: 1000", method="POST"))
        assert status_of(drip(client, b"x" * 100)) == 408


def dripping_head(service: Abused) -> None:
    with service.connect(0.1) as client:
        assert b" 200 " not in drip(
            client, b"GET /livez HTTP/1.1\r\nHost: x\r\nName: " + b"x" * 200
        )


def drip(client: socket.socket, data: bytes) -> bytes:
    """Send a byte each time nothing came for a moment; return the reply once there is one.

    It is empty when the connection was closed without one, perhaps just when a byte was on its way.
    """
    for byte in data:
        try:
            client.sendall(bytes([byte]))
            return client.recv(65536)
        except TimeoutError:
            continue
        except ConnectionError:
            return b""
    raise AssertionError("there was no reply to a client that drips")


def idle(service: Abused) -> None:
    """It is kept for the next request, and closed when there is none."""
    with service.connect() as client:
        for request_id in (new_id(), new_id(), new_id()):
            reply = go_on(client, "/livez", request_id)
            assert status_of(reply) == 200
            assert header_of(reply, "Luna-Request-Id") == request_id
        assert read_all(client) == b""


def nothing_happens(service: Abused, data: bytes) -> None:
    """Kind: connections that are handed on without a request, or whose handshake is refused."""
    service.raw(data)


UPGRADE = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
KEY = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
HANDED_ON = [
    PREFACE[:18], PREFACE, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + PREFACE,
    UPGRADE + b"\r\n", UPGRADE + KEY + b"\r\n",
]  # fmt: skip


def test_slow_clients_are_not_waited_for(
    connections: str, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """All at once, each for as long as the limit is, and none for ever."""
    clients: list[tuple[Callable[..., None], *tuple[Any, ...]]] = [
        (slow_body, "/echo", "Content-Length: 1000"),
        (slow_body, "/slow", "Transfer-Encoding: chunked"),
        (slow_head, b""),
        (slow_head, b"GET /livez HT"),
        (slow_head, b"GET /livez HTTP/1.1\r\nHost: x\r\n"),
        (dripping_body,),
        (dripping_head,),
        (idle,),
        *((nothing_happens, data) for data in HANDED_ON),
    ]
    limits = f"keep_alive_timeout = {PATIENCE}\nbody_timeout = {PATIENCE}\n"
    with (
        abused(tmp_path, connections + limits) as service,
        ThreadPoolExecutor(len(clients)) as threads,
    ):
        begun = time.monotonic()
        done = {}
        for behave, *arguments in clients:
            done[behave, *arguments] = future = threads.submit(behave, service, *arguments)
            future.add_done_callback(
                lambda future: setattr(future, "after", time.monotonic() - begun)
            )
        for (behave, *arguments), future in done.items():
            with subtests.test(behave.__name__, arguments=arguments):
                future.result()
                assert future.after > 0.8 * PATIENCE or behave is nothing_happens


def test_slow_reader_holds_up_nobody_and_gets_everything(service: Abused) -> None:
    request_id = new_id()
    with service.connect(receive_buffer=4096) as client:
        client.sendall(get("/large", f"Luna-Request-Id: {request_id}"))
        assert status_of(client.recv(1000)) == 200
        for _ in range(20):
            assert service.get("/items/5").json() == {"n": 5}
        assert service.points(request_id) == []
        rest = 0
        while part := client.recv(1 << 20):
            rest += len(part)
    assert rest > 7_900_000
    service.the_point(request_id, "GET:/large", 200, None)


# Clients that go away


def leave(client: socket.socket, abruptly: bool) -> None:
    """Close a connection, or reset it."""
    if abruptly:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()


@pytest.mark.parametrize(
    ("method", "path", "header", "body"),
    [
        ("POST", "/echo", "Content-Length: 1000", "hello"),
        ("POST", "/echo", "Transfer-Encoding: chunked", "5\r\nhel"),
        ("GET", "/slow", "A: b", ""),
        ("GET", "/slow/sync", "A: b", ""),
        ("POST", "/slow", "Content-Length: 1000", "hello"),
    ],
)
@pytest.mark.parametrize("abruptly", [False, True], ids=["closes", "resets"])
def test_client_leaves_before_the_answer(
    method: str, path: str, header: str, body: str, abruptly: bool, service: Abused
) -> None:
    request_id = new_id()
    client = service.connect()
    client.sendall(get(path, header, f"Luna-Request-Id: {request_id}", method=method, body=body))
    service.get("/livez")  # by now the request has been read
    leave(client, abruptly)
    service.the_point(request_id, f"{method}:{path}", 499, "client_disconnected")


@pytest.mark.parametrize("path", ["/stream/endless", "/large"])
@pytest.mark.parametrize("abruptly", [False, True], ids=["closes", "resets"])
def test_client_leaves_during_the_answer(path: str, abruptly: bool, service: Abused) -> None:
    request_id = new_id()
    client = service.connect(receive_buffer=4096)
    client.sendall(get(path, f"Luna-Request-Id: {request_id}"))
    assert status_of(client.recv(1000)) == 200
    leave(client, abruptly)
    points = service.settled_points(request_id)
    assert [point["series"] for point in points] == ["requests", "errors"]
    assert points[1]["error_code"] == "client_disconnected"
    assert points[0]["route"] == f"GET:{path}"
    assert points[0]["status_code"] in {200, 499}


def test_many_clients_leave_at_once(service: Abused) -> None:
    ids = [new_id() for _ in range(50)]
    clients = [service.connect() for _ in ids]
    for client, request_id in zip(clients, ids, strict=True):
        client.sendall(get("/slow", f"Luna-Request-Id: {request_id}"))
    for client in clients:
        client.close()
    for request_id in ids:
        service.wait_until(lambda wanted=request_id: service.points(wanted))
    assert all(service.points(request_id)[0]["status_code"] == 499 for request_id in ids)


# Protocol features


def test_websocket_is_refused(service: Abused) -> None:
    reply = service.raw(UPGRADE + KEY + b"\r\n")
    assert 400 <= status_of(reply) < 500


def test_uploaded_files_are_closed_however_the_request_ends(service: Abused) -> None:
    body = (
        '--B\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\ncontent\r\n--B--\r\n'
    )
    form = ("Content-Type: multipart/form-data; boundary=B", f"Content-Length: {len(body)}")
    for number, how in enumerate(("return", "raise", "wait"), 1):
        with service.connect() as client:
            client.sendall(get(f"/files/{how}", *form, method="POST", body=body))
            if how != "wait":
                read_all(client)
            else:
                service.wait_until(lambda: len(service.get("/files").json()) == 3)
        service.wait_until(lambda n=number: service.get("/files").json() == [True] * n)


def test_http_1_0(service: Abused) -> None:
    request_id = new_id()
    reply = service.raw(f"GET /stream HTTP/1.0\r\nLuna-Request-Id: {request_id}\r\n\r\n".encode())
    assert status_of(reply) == 200
    assert reply.endswith(b"\r\n\r\nchunk0 chunk1 chunk2 "), "no chunks for HTTP/1.0"
    service.the_point(request_id, "GET:/stream", 200, None)


def test_pipelining(service: Abused) -> None:
    ids = [new_id() for _ in range(4)]
    paths = ["/items/1", "/nothing", "/stream", "/items/4"]
    requests = [
        get(path, f"Luna-Request-Id: {request_id}")
        for path, request_id in zip(paths, ids, strict=True)
    ]
    kept = [request.replace(b"Connection: close\r\n", b"") for request in requests[:-1]]
    reply = service.raw(b"".join([*kept, requests[-1]]))
    statuses = re.findall(rb"HTTP/1\.1 (\d+) ", reply)
    assert statuses == [b"200", b"404", b"200", b"200"]
    echoed = re.findall(rb"(?im)^luna-request-id: (.*?)\r$", reply)
    assert [value.decode() for value in echoed] == ids
    for path, request_id in zip(paths, ids, strict=True):
        found = path != "/nothing"
        template = re.sub(r"\d", "<int:n>", path) if found else "*"
        service.the_point(
            request_id, f"GET:{template}", 200 if found else 404, None if found else "not_found"
        )


# The request's id


@pytest.mark.parametrize("value", ["x" * 128, 'with "quotes", \\ and spaces', "{}$(id)"])
def test_good_request_id_is_echoed(value: str, service: Abused) -> None:
    reply = service.raw(get("/items/5", f"Luna-Request-Id: {value}"))
    assert header_of(reply, "Luna-Request-Id") == value
    service.wait_until(lambda: service.points(value))


@pytest.mark.parametrize(
    "value", ["", "   ", "x" * 129, "x" * 8000, "k\xe4mera", "a\tb", "\x7f", None]
)
def test_bad_request_id_is_replaced(value: str | None, service: Abused) -> None:
    reply = service.raw(get("/items/5", *([] if value is None else [f"luna-REQUEST-id: {value}"])))
    if status_of(reply) == 400:  # refused as HTTP already
        return
    assert status_of(reply) == 200
    made = header_of(reply, "Luna-Request-Id")
    assert made is not None
    assert MADE_ID.fullmatch(made)
    assert abs(int(made.partition(",")[0]) - time.time()) < 60
    service.the_point(made, "GET:/items/<int:n>", 200, None)


def test_two_request_ids(service: Abused) -> None:
    reply = service.raw(get("/items/5", "Luna-Request-Id: one,x", "Luna-Request-Id: two,x"))
    assert header_of(reply, "Luna-Request-Id") in {"one,x", "two,x"}


# Points


def test_point_of_an_exception(service: Abused) -> None:
    request_id = new_id()
    reply = service.get("/boom", headers={"Luna-Request-Id": request_id})
    assert reply.status_code == 500
    assert "boom!" not in reply.text
    assert reply.json()["error_code"] == "internal_server_error"
    assert reply.headers["Luna-Request-Id"] == reply.json()["request_id"] == request_id
    point = service.the_point(request_id, "GET:/boom", 500, "internal_server_error")
    assert point["before"] == "boom"
    assert [p["before"] for p in service.points(request_id)] == ["boom", "boom"]
    logged = service.exceptions(request_id)
    assert [(record["plugin"], record["phase"]) for record in logged] == [("routes", "handler")]
    assert "boom!" in logged[0]["exception"]


def test_point_of_a_stream_that_fails_midway(service: Abused) -> None:
    request_id, reply = service.ask("/stream/broken")
    assert status_of(reply) == 200
    assert b"first" in reply
    assert not reply.endswith(b"0\r\n\r\n"), "the client must see that the body is not complete"
    service.the_point(request_id, "GET:/stream/broken", 200, "response_aborted")
    logged = service.exceptions(request_id)
    assert len(logged) == 1
    assert "broken midway" in logged[0]["exception"]
    assert logged[0].get("plugin") == "routes", "the log says whose fault it was"


def test_head_of_a_stream_that_fails_midway(service: Abused) -> None:
    request_id, reply = service.ask("/stream/broken", method="HEAD")
    assert status_of(reply) == 200
    assert reply.endswith(b"\r\n\r\n")
    points = service.settled_points(request_id)
    assert [point["series"] for point in points if point["series"] == "requests"] == ["requests"]


def test_points_have_what_an_async_handler_adds(service: Abused) -> None:
    request_id = new_id()
    assert service.get("/additions", headers={"Luna-Request-Id": request_id}).text == "added"
    point = service.the_point(request_id, "GET:/additions", 200, None)
    assert (point["camera"], point["floor"], point["thread"]) == ("north", 2, "worker")
    assert (point["frames"], point["child"]) == (3.5, 1)
    (tags, fields) = next(
        (tags, fields)
        for point, tags, fields in service.rows()
        if point["request_id"] == request_id
    )
    assert tags == ["camera", "floor", "route", "service", "status_code", "thread"]
    assert fields == ["child", "execution_time", "frames", "request_id"]


def test_points_have_what_a_threaded_handler_adds(service: Abused) -> None:
    request_id, other = new_id(), new_id()
    assert service.get("/additions/sync", headers={"Luna-Request-Id": request_id}).text == "added"
    point = service.the_point(request_id, "GET:/additions/sync", 200, None)
    assert (point["camera"], point["frames"]) == ("south", 1)
    service.get("/items/1", headers={"Luna-Request-Id": other})
    assert "camera" not in service.the_point(other, "GET:/items/<int:n>", 200, None)


# Bodies that cannot be read

NOT_UTF8 = b"\xe9\xff"
FORM = "application/x-www-form-urlencoded"
PARTS = "multipart/form-data; boundary=x"


@pytest.mark.parametrize(
    ("verb", "path", "said"),
    [
        ("GET", "/asyncio/page?frist=1&most=2", "'frist'; did you mean 'first'? Available: first, most."),
        ("HEAD", "/asyncio/page?frist=1", ""),
        ("GET", "/asyncio/page?MOST=2", "'MOST'; did you mean 'most'?"),
        ("GET", "/asyncio/page?%00=2", r"'\x00'; available"),
        ("GET", "/asyncio/page_class?first=1", "'first'; available: most."),
        ("GET", "/asyncio/page?first=1&most=2&most=3", None),
        ("POST", "/asyncio/page_class?first=1", None),
    ],
)  # fmt: skip
def test_parameters_that_a_handler_does_not_declare_are_refused(
    verb: str, path: str, said: str | None, service: Abused
) -> None:
    """Kind: a mistyped filter that filters nothing, in silence; a handler that declares none takes any."""
    reply = service.request(verb, path)
    if said is None:
        assert (reply.status_code, "first" in reply.json()["args"]) == (200, True)
        return
    assert reply.status_code == 400
    if verb != "HEAD":
        assert reply.json()["error_code"] == "unknown_parameter"
        assert said in reply.json()["detail"]


@pytest.mark.parametrize(
    ("path", "content_type", "body"),
    [
        ("/read_json", "application/json; charset=klingon", NOT_UTF8),
        ("/read_json", "application/json", b""),
        ("/read_json", "text/plain", b"\0"),
        ("/asyncio/read_json", "application/json", b"{"),
        *(
            (path, "application/json", body)
            for path in ("/read_json", "/asyncio/read_json")
            for body in (b"[NaN]", '{"a": 1}'.encode("utf-16"), b'{"a": 1, "a": 2}')
        ),
        ("/read_text", "text/plain; charset=utf-16", NOT_UTF8),
        ("/read_form", FORM, b"a=" + NOT_UTF8),
        ("/read_form", f"{FORM}; charset=klingon", b"a=" + NOT_UTF8),
        ("/read_form", "multipart/form-data", b"--x\r\n\r\n--x--\r\n"),
        ("/read_form", "multipart/form-data; boundary=\xe9", b"--x\r\n\r\n--x--\r\n"),
        ("/read_form", PARTS, b"--x\r\nno header\r\n\r\n--x--\r\n"),
        ("/read_form", PARTS, b"--x\r\n\xff\xff: \xff\r\n\r\nbody\r\n--x--\r\n"),
        ("/read_form", PARTS, b"--x\r\nContent-Disposition: form-data\r\n\r\nbody\r\n--x--\r\n"),
        ("/read_form", PARTS, b"garbage"),
        ("/read_form", PARTS, b""),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_a_body_that_cannot_be_read_is_the_clients_mistake(
    path: str, content_type: str, body: bytes, service: Abused
) -> None:
    """Whatever a client sends as JSON, text or a form: it is not put down to the plugin that asked for it."""
    request_id = new_id()
    before = len(service.records)
    headers = {"Luna-Request-Id": request_id, "Content-Type": content_type.encode("latin-1")}
    reply = service.request("POST", path, content=body, headers=headers)
    assert reply.status_code in ({200, 400} if path == "/read_form" else {400})
    if reply.status_code == 400:
        assert reply.json()["error_code"] == "bad_request"
        assert "The request's " in reply.json()["detail"]
        service.the_point(request_id, f"POST:{path}", 400, "bad_request")
    silently = service.request("POST", "/read_json_silently", content=body)
    assert silently.json() == {"read": "NoneType"}
    assert not [
        r for r in service.records[before:] if r.get("plugin") in {"routes", "asyncio_routes"}
    ]


# Responses that HTTP does not allow


@pytest.mark.parametrize("how", ["short", "long", "short_stream", "long_stream"])
def test_a_response_that_does_not_keep_to_its_length_is_cut_off_at_once(
    how: str, service: Abused
) -> None:
    """A client waits for what was announced: it must see that it will not come, and whose fault that is."""
    request_id = new_id()
    with service.connect(timeout=20) as client:  # which keeps its connection alive
        client.sendall(
            f"GET /wrong/{how} HTTP/1.1\r\nHost: x\r\nLuna-Request-Id: {request_id}\r\n\r\n".encode()
        )
        reply = read_all(client)
    assert status_of(reply) == 200
    assert len(reply.partition(b"\r\n\r\n")[2]) < int(header_of(reply, "Content-Length") or 0)
    service.the_point(request_id, "GET:/wrong/<how>", 200, "response_aborted")
    service.wait_for("the response to GET /wrong/<how> is invalid: ")  # now and then, of many


@pytest.mark.parametrize(
    "how",
    ["word", "negative", "gzip", "name", "no_name", "pseudo", "nul", "hints"]
    + [f"status_{number}" for number in (0, 100, 101, 199)],
)
def test_a_response_that_cannot_be_sent_is_the_plugins_failure(how: str, service: Abused) -> None:
    """Of hints, informational statuses and malformed headers the server's connection would not recover."""
    first, second = new_id(), new_id()
    with service.connect() as client:
        assert status_of(go_on(client, f"/wrong/{how}", first)) == 500
        assert status_of(go_on(client, "/livez", second)) == 200
    service.the_point(first, "GET:/wrong/<how>", 500, "internal_server_error")
    service.wait_for("the response to GET /wrong/<how> is invalid: ")  # now and then, of many


@pytest.mark.parametrize(("how", "body"), [("right", b"abcdef"), ("no_content", b"")])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_response_whose_body_is_left_out_has_the_length_it_would_have(
    how: str, body: bytes, method: str, service: Abused
) -> None:
    reply = service.raw(get(f"/wrong/{how}", method=method))
    assert status_of(reply) in {200, 204}
    assert reply.partition(b"\r\n\r\n")[2] == (body if method == "GET" else b"")


# Clients that say that they will send no more


@pytest.mark.parametrize("path", ["/livez", "/openapi.json", "/stream", "/large", "/late"])
def test_a_client_that_closes_its_side_gets_the_whole_response(path: str, service: Abused) -> None:
    """As ``nc -N`` does, and proxies of some kinds: it has sent all it wanted to, and reads on."""
    request_id = new_id()
    with service.connect() as client:
        client.sendall(get(path, f"Luna-Request-Id: {request_id}"))
        client.shutdown(socket.SHUT_WR)
        reply = read_all(client)
    assert status_of(reply) == 200
    body = reply.partition(b"\r\n\r\n")[2]
    length = header_of(reply, "Content-Length")
    assert len(body) == int(length) if length else body.endswith(b"0\r\n\r\n")
    service.the_point(request_id, f"GET:{path}", 200, None)


# Services of their own


def test_too_many_requests_at_once(tmp_path: Path) -> None:
    with Abused(tmp_path, "max_requests = 2\n") as service:
        service.wait_until_ready()
        held = []
        request_id = new_id()

        def overloaded() -> bool:
            if service.get("/livez", headers={"Luna-Request-Id": new_id()}).status_code == 503:
                return True
            # One may come while the request before it still counts, and be refused itself.
            held.append(service.connect())
            held[-1].sendall(get("/slow"))
            return False

        service.wait_until(overloaded)
        reply = service.get("/livez", headers={"Luna-Request-Id": request_id})
        assert reply.status_code == 503
        assert reply.headers["Retry-After"] == "1"
        assert reply.headers["Luna-Request-Id"] == request_id
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert reply.json()["error_code"] == "overloaded"
        for client in held:
            client.close()
        service.wait_until(lambda: service.get("/livez").status_code == 200)
        service.the_point(request_id, "GET:*", 503, "overloaded")
        assert service.stop() == 0, service.output
