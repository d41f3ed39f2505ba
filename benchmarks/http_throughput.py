"""Requests per second: the whole service with `history` active against a bare Quart-Trio application.

Both serve the same route on the same Hypercorn, in turns: bare, service, bare, service, …
Goal: at least 0.90.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from load import run_load

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "3"))

BARE = """
import logging, socket, sys
import trio
from hypercorn.trio import serve
from lva.serve import hypercorn_config, listen
from lva.settings import Settings
from quart_trio import QuartTrio

app = QuartTrio("bare")

@app.get("/ping")
async def ping():
    return "pong"

settings = Settings()
trio.run(serve, app, hypercorn_config(settings, listen(sys.argv[1])))
"""

PLUGIN = """
from lva import BaseBackgroundPlugin

class Ping(BaseBackgroundPlugin):
    async def initialize(self):
        self.addRoute("/ping", self.ping)

    async def ping(self, request):
        return "pong"
"""


@contextmanager
def process(command: list[str], port: int, **env: str):
    child = subprocess.Popen(command, env={**os.environ, **env}, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                if run_load(port, "/ping", 0.05, connections=1).requests:
                    break
            except (OSError, RuntimeError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield child
    finally:
        child.terminate()
        child.wait()


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        plugins = Path(directory, "plugins")
        plugins.mkdir()
        (plugins / "ping.py").write_text(PLUGIN)
        service = [sys.executable, "-m", "lva", "run", "--bind", "127.0.0.1:5341", "--plugins-dir"]
        service += [
            str(plugins),
            "--active",
            "history",
            "--active",
            "ping",
            "--log-level",
            "WARNING",
        ]
        bare = [sys.executable, "-c", BARE, "127.0.0.1:5342"]
        rates: dict[str, list[float]] = {"bare": [], "service": []}
        p99: dict[str, list[float]] = {"bare": [], "service": []}
        with (
            process(service, 5341, LUNA_VIDEO_AGENT_STATE_DIR=str(Path(directory, "state"))),
            process(bare, 5342),
        ):
            for port in (5341, 5342):
                run_load(port, "/ping", 1)
            for _ in range(ROUNDS):
                for name, port in (("bare", 5342), ("service", 5341)):
                    load = run_load(port, "/ping", SECONDS)
                    rates[name].append(load.rate)
                    p99[name].append(load.quantile(0.99))
        for name, seen in rates.items():
            print(
                f"{name:8} {median(seen):8.0f} requests/s"
                f"  (min {min(seen):.0f}, max {max(seen):.0f})"
                f"  p99 {median(p99[name]) * 1e3:.1f} ms"
            )
        ratios = [b / a for a, b in zip(rates["bare"], rates["service"], strict=True)]
        print(
            f"ratio service/bare: median {median(ratios):.3f}"
            f" (min {min(ratios):.3f}, max {max(ratios):.3f}); goal >= 0.90"
        )


if __name__ == "__main__":
    main()
