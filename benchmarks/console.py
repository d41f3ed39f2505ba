"""What open consoles cost: requests per second with 50 of them open, and with none, in turns in one run.

The service runs with 100 plugins besides `history`, of which five take points and the others serve
routes. A process of its own reads the consoles' streams. Also measured: the first screen, as the time that
a client without a browser needs for the page, its parts one after the other, and the first event.

On a machine with other work to do, the processor time that the service takes for a request says more
than the requests per second: it is what bounds them. Both ratios are printed.

Goals: ratio at least 0.95; first screen below 300 ms; page below 300 kB.
"""

from __future__ import annotations

import os
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import psutil
from http_throughput import PLUGIN
from load import run_load, serving

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "8"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "4"))
CONSOLES = int(os.environ.get("BENCH_CONSOLES", "50"))
PLUGINS = int(os.environ.get("BENCH_PLUGINS", "100"))
PORT = 5343

BACKGROUND = """
import trio
from lva import BaseBackgroundPlugin

class P{number}(BaseBackgroundPlugin):
    async def initialize(self):
        self.addRoute("/p{number}", self.answer)

    async def answer(self, request):
        return "yes"

    async def start(self):
        await trio.sleep_forever()
"""
EVENT = """
from lva import BaseEventPlugin

class P{number}(BaseEventPlugin):
    eventName = "monitoring_event"

    async def handleEvent(self, points, logger):
        pass
"""


def read_streams(port: int, count: int) -> None:
    """Be the process that has the consoles open: read what comes, until told to end."""
    selector = selectors.DefaultSelector()
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        selector.register(connection, selectors.EVENT_READ)
    told = False
    seen: set[object] = set()
    while True:
        for key, _ in selector.select():
            if not key.fileobj.recv(1 << 20):  # type: ignore[union-attr]
                return
            seen.add(key.fileobj)
        if len(seen) == count and not told:
            told = True
            print("open", flush=True)


@contextmanager
def consoles(port: int, count: int):
    command = [sys.executable, __file__, "read", str(port), str(count)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        yield
    finally:
        child.terminate()
        child.wait()


def processor_time(pid: int) -> float:
    """Return the seconds of a processor that a process has taken."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def fetch(port: int, path: str, accept: str) -> bytes:
    """Return the body of an answer with a length, as it is on the wire."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nAccept-Encoding: gzip\r\n"
        connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
        data = b"".join(iter(lambda: connection.recv(1 << 20), b""))
    return data.partition(b"\r\n\r\n")[2]


def first_event(port: int) -> int:
    """Return how many bytes the first event has."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        data = b""
        while b"\n\n\r\n" not in data:
            data += connection.recv(1 << 20)
    return len(data)


def first_screen(port: int) -> tuple[float, int, int]:
    """Return the seconds for all that the first screen needs, the page's bytes, and the event's."""
    import gzip

    begun = time.perf_counter()
    page = fetch(port, "/", "text/html")
    size = len(page)
    for path in re.findall(r'(?:src|href)="(/console/[^"]+)"', gzip.decompress(page).decode()):
        size += len(fetch(port, path, "*/*"))
    event = first_event(port)
    return time.perf_counter() - begun, size, event


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        plugins = Path(directory, "plugins")
        plugins.mkdir()
        (plugins / "ping.py").write_text(PLUGIN)
        names = ["history", "ping"]
        for number in range(PLUGINS):
            source = EVENT if number % 20 == 0 else BACKGROUND
            (plugins / f"p{number}.py").write_text(source.format(number=number))
            names.append(f"p{number}")
        command = [sys.executable, "-m", "lva", "run", "--bind", f"127.0.0.1:{PORT}"]
        command += ["--plugins-dir", str(plugins), "--log-level", "WARNING"]
        for name in names:
            command += ["--active", name]
        env = {
            "LUNA_VIDEO_AGENT_STATE_DIR": str(Path(directory, "state")),
            "LUNA_VIDEO_AGENT_MAX_EVENT_STREAMS": str(CONSOLES + 10),
        }
        rates: dict[str, list[float]] = {"none": [], "open": []}
        tails: dict[str, list[float]] = {"none": [], "open": []}
        costs: dict[str, list[float]] = {"none": [], "open": []}

        def measure(name: str) -> None:
            before = processor_time(service.pid)
            load = run_load(PORT, "/ping", SECONDS)
            costs[name].append((processor_time(service.pid) - before) / load.requests)
            rates[name].append(load.rate)
            tails[name].append(load.quantile(0.99))

        with serving(command, PORT, **env) as service:
            time.sleep(2)
            screens = [first_screen(PORT) for _ in range(9)]
            run_load(PORT, "/ping", 1)
            for _ in range(ROUNDS):
                measure("none")
                with consoles(PORT, CONSOLES):
                    measure("open")
        for name, seen in rates.items():
            print(
                f"consoles: {name:5} {median(seen):8.0f} requests/s"
                f"  (min {min(seen):.0f}, max {max(seen):.0f})  p99 {median(tails[name]) * 1e3:.1f} ms"
                f"  {median(costs[name]) * 1e6:.0f} us of a processor for each"
            )
        ratios = [b / a for a, b in zip(rates["none"], rates["open"], strict=True)]
        print(
            f"ratio with {CONSOLES} consoles/none: median {median(ratios):.3f}"
            f" (min {min(ratios):.3f}, max {max(ratios):.3f}); goal >= 0.95"
        )
        ratios = [a / b for a, b in zip(costs["none"], costs["open"], strict=True)]
        print(
            f"the same by processor time: median {median(ratios):.3f}"
            f" (min {min(ratios):.3f}, max {max(ratios):.3f}); goal >= 0.95"
        )
        print(
            f"first screen, {PLUGINS} plugins: median {median(s for s, _, _ in screens) * 1e3:.0f} ms"
            f" (max {max(s for s, _, _ in screens) * 1e3:.0f}); goal < 300;"
            f" page {screens[0][1] / 1e3:.0f} kB on the wire, first event {screens[-1][2] / 1e3:.0f} kB"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["read"]:
        read_streams(int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
