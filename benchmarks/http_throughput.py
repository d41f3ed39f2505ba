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
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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
from lva.connection_errors import ConnectionErrors
from lva.connections import our_connections
from lva.serve import hypercorn_config, listen
from lva.settings import Settings

{app}

with {connections}:
    trio.run(serve, app, hypercorn_config(Settings(), listen(sys.argv[1])))
"""
OURS = "our_connections(ConnectionErrors(lambda _: None), 5.0)"

EMPTY = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"4")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"pong"})
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

    def measure(self) -> None:
        """Load it for a while."""
        before = self._cpu()
        count, seconds, p99 = _load(self.port)
        self.rates.append(count / seconds)
        self.cpu.append((self._cpu() - before) / count)
        self.p99.append(p99)

    def _cpu(self) -> float:
        fields = (
            Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        )
        return (int(fields[11]) + int(fields[12])) / _TICK


def _load(port: int) -> tuple[int, float, float]:
    """Return requests, seconds and the 99th percentile of the latency in seconds."""
    if WRK is None:
        load = run_load(port, "/ping", SECONDS, CONNECTIONS)
        return load.requests, load.seconds, load.quantile(0.99)
    url = f"http://127.0.0.1:{port}/ping"
    options = ["-t1", f"-c{CONNECTIONS}", f"-d{SECONDS:g}s", "--latency", url]
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
