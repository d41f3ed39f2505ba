"""Requests per second and CPU time per request: the service with `history` active, and what else serves HTTP.

All serve one small route, each in a process of its own, in turns: a, b, c, a, b, c, … CPU time is user and
system time of the server's process. `wrk` is the client where there is one; else it is one in Python, and the
limit from some 8,000 requests/s on.

Goals: the service at least 4.0 of a bare Quart-Trio application on Hypercorn, and 0.8 of Starlette on uvicorn
with h11; an application that does nothing on our connections at least 6 of the same on Hypercorn's.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from load import run_load, serving

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "3"))
CONNECTIONS = int(os.environ.get("BENCH_CONNECTIONS", "16"))
WRK = shutil.which("wrk")
_TICK = os.sysconf("SC_CLK_TCK")

HYPERCORN = """
import sys
import trio
from contextlib import nullcontext
from hypercorn.trio import serve
from lva.server.connection_errors import ConnectionErrors
from lva.server.connections import our_connections
from lva.server.listening import listen
from lva.server.serve import hypercorn_config
from lva.settings import Settings

{app}

with {connections}:
    trio.run(serve, app, hypercorn_config(Settings(), listen(sys.argv[1])))
"""
OURS = "our_connections(ConnectionErrors(lambda _: None), 5.0, 5.0)"

EMPTY = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    while scope["method"] == "POST" and (await receive()).get("more_body", False):
        pass
    body = LARGE if dict(scope["headers"]).get(b"x-large") else b"pong"
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

LARGE = bytes(100 * 1024)
"""
QUART = """
from quart_trio import QuartTrio

app = QuartTrio("bare")

@app.get("/ping")
async def ping():
    return "pong"
"""
STARLETTE = """
import sys
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def ping(request):
    return PlainTextResponse("pong")

host, port = sys.argv[1].split(":")
app = Starlette(routes=[Route("/ping", ping)])
uvicorn.run(app, host=host, port=int(port), http="h11", loop="asyncio", log_level="warning", access_log=False)
"""
SANIC = """
import sys
from sanic import Sanic
from sanic.response import text

app = Sanic("ping")

@app.get("/ping")
async def ping(request):
    return text("pong")

if __name__ == "__main__":
    host, port = sys.argv[1].split(":")
    app.run(host=host, port=int(port), single_process=True, access_log=False, motd=False)
"""
PLUGIN = """
from lva import BaseBackgroundPlugin

class Ping(BaseBackgroundPlugin):
    async def initialize(self):
        self.addRoute("/ping", self.ping)

    async def ping(self, request):
        return "pong"
"""


@dataclass
class Side:
    """A server: its command, and what was seen of it."""

    name: str
    command: list[str]
    port: int
    env: dict[str, str] = field(default_factory=dict)
    pid: int = 0
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run it."""
        with serving(self.command, self.port, subprocess.DEVNULL, **self.env) as child:
            self.pid = child.pid
            yield

    def measure(self, shape: Sequence[str] = ()) -> None:
        """Load it for a while, with these options of wrk as well."""
        before = self._cpu()
        count, seconds, p99 = _load(self.port, shape)
        self.rates.append(count / seconds)
        self.cpu.append((self._cpu() - before) / count)
        self.p99.append(p99)

    def memory_of_idle(self) -> float:
        """Return how many bytes of memory a connection takes that has had a request and waits."""
        before, waiting = self._memory(), []
        for _ in range(IDLE):
            client = socket.create_connection(("127.0.0.1", self.port))
            client.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
            client.recv(1000)
            waiting.append(client)
        used = self._memory() - before
        for client in waiting:
            client.close()
        return used / IDLE

    def _memory(self) -> int:
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Private_Dirty:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("the system does not tell")

    def _cpu(self) -> float:
        fields = (
            Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        )
        return (int(fields[11]) + int(fields[12])) / _TICK


def _load(port: int, shape: Sequence[str] = ()) -> tuple[int, float, float]:
    """Return requests, seconds and the 99th percentile of the latency in seconds."""
    if WRK is None:
        load = run_load(port, "/ping", SECONDS, CONNECTIONS)
        return load.requests, load.seconds, load.quantile(0.99)
    options = ["-t1", f"-c{CONNECTIONS}", f"-d{SECONDS:g}s", "--latency", *shape]
    options.append(f"http://127.0.0.1:{port}/ping")
    said = subprocess.run([WRK, *options], capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in said, said
    counted = re.search(r"(\d+) requests in ([\d.]+)(m?s)", said)
    late = re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    assert counted, said
    assert late, said
    unit = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
    return int(counted[1]), float(counted[2]) * unit[counted[3]], float(late[1]) * unit[late[2]]


def sides(directory: Path) -> list[Side]:
    """Return all sides that can run here."""
    plugins = directory / "plugins"
    plugins.mkdir()
    (plugins / "ping.py").write_text(PLUGIN)
    ports = iter(range(5341, 5360))

    def python(name: str, code: str, *needs: str) -> list[Side]:
        missing = [package for package in needs if find_spec(package) is None]
        if missing:
            print(f"left out: {name}; it needs {', '.join(missing)}")
            return []
        port = next(ports)
        file = directory / f"side_{port}.py"
        file.write_text(code)
        return [Side(name, [sys.executable, str(file), f"127.0.0.1:{port}"], port)]

    def service(name: str, connections: str) -> Side:
        port = next(ports)
        command = [sys.executable, "-m", "lva", "run", "--bind", f"127.0.0.1:{port}"]
        command += ["--plugins-dir", str(plugins), "--active", "history", "--active", "ping"]
        env = {
            "LUNA_VIDEO_AGENT_STATE_DIR": str(directory / f"state-{port}"),
            "LUNA_VIDEO_AGENT_HTTP_CONNECTIONS": connections,
        }
        return Side(name, [*command, "--log-level", "WARNING"], port, env)

    return [
        service("lva", "lva"),
        service("lva, hypercorn's connections", "hypercorn"),
        *python("quart-trio, hypercorn", HYPERCORN.format(app=QUART, connections="nullcontext()")),
        *python("empty, lva's connections", HYPERCORN.format(app=EMPTY, connections=OURS)),
        *python("empty, hypercorn", HYPERCORN.format(app=EMPTY, connections="nullcontext()")),
        *python("starlette, uvicorn, h11", STARLETTE, "uvicorn", "starlette"),
        *python("sanic", SANIC, "sanic"),
    ]


#: Which is compared to which, and the goal.
RATIOS = [
    ("lva", "quart-trio, hypercorn", 4.0),
    ("lva", "starlette, uvicorn, h11", 0.8),
    ("lva", "sanic", None),
    ("empty, lva's connections", "empty, hypercorn", 6.0),
]


UPLOAD = """
wrk.method = "POST"
wrk.body = string.rep("x", 1024 * 1024)
"""
#: Of an application that does nothing, on both kinds of connections.
PAIR = ("empty, lva's connections", "empty, hypercorn")
IDLE = 1000


def compare_shapes(pair: Sequence[Side], directory: Path) -> None:
    """Print how other kinds of requests compare, and what idle connections cost."""
    upload = directory / "upload.lua"
    upload.write_text(UPLOAD)
    shapes = {
        "responses of 100 KiB": ["-H", "X-Large: 1"],
        "uploads of 1 MiB": ["-s", str(upload)],
        "a connection for each request": ["-H", "Connection: close"],
    }
    for name, shape in shapes.items():
        if WRK is None:
            print(f"left out: {name}; it needs wrk")
            continue
        for side in pair:
            side.rates.clear()
            side.cpu.clear()
        for _ in range(ROUNDS):
            for side in pair:
                side.measure(shape)
        ours, theirs = pair
        print(
            f"{name:30} {median(ours.rates):6.0f} and {median(theirs.rates):6.0f} requests/s,"
            f" CPU {min(ours.cpu) * 1e6:5.0f} and {min(theirs.cpu) * 1e6:5.0f} us;"
            f" ratio {median(a / b for a, b in zip(ours.rates, theirs.rates, strict=True)):.2f}; goal >= 1"
        )
    memory = [side.memory_of_idle() / 1024 for side in pair]
    print(
        f"an idle connection, of {IDLE}:    {memory[0]:.1f} and {memory[1]:.1f} KiB; goal: no more"
    )


def main() -> None:
    only = os.environ.get("BENCH_ONLY")
    with tempfile.TemporaryDirectory() as directory, ExitStack() as running:
        found = [side for side in sides(Path(directory)) if not only or re.search(only, side.name)]
        for side in found:
            running.enter_context(side.running())
            _load(side.port)
        for _ in range(ROUNDS):
            for side in found:
                side.measure()
        tell(found)
        pair = [side for name in PAIR for side in found if side.name == name]
        if len(pair) == len(PAIR):
            compare_shapes(pair, Path(directory))


def tell(found: Sequence[Side]) -> None:
    """Print what was seen, and the ratios."""
    print(f"client: {'wrk' if WRK else 'load.py'}, {CONNECTIONS} connections")
    for side in found:
        print(
            f"{side.name:30} {median(side.rates):8.0f} requests/s (max {max(side.rates):6.0f})"
            f"  CPU {median(side.cpu) * 1e6:5.0f} us (min {min(side.cpu) * 1e6:4.0f})"
            f"  p99 {median(side.p99) * 1e3:.1f} ms"
        )
    by_name = {side.name: side for side in found}
    for one, other, goal in RATIOS:
        if one in by_name and other in by_name:
            a, b = by_name[one], by_name[other]
            rates = [x / y for x, y in zip(a.rates, b.rates, strict=True)]
            aim = "" if goal is None else f"; goal >= {goal:g}"
            print(
                f"{one} / {other}: requests/s {median(rates):.2f} "
                f"(min {min(rates):.2f}, max {max(rates):.2f}),"
                f" CPU {min(b.cpu) / min(a.cpu):.2f}{aim}"
            )


if __name__ == "__main__":
    main()
