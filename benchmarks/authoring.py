"""What an author waits for: `lva check` of many plugins, and the test of a plugin made by `lva new`.

Each command is started anew, as at a prompt, so the start of Python and all imports count. The best of some
runs is given, and all of them; and the processor's time of the best one, which other programs do not add to.

Pytest has the plugins that `lva[testing]` brings along, and no others that happen to be installed: an author
who has more waits longer, but not for us.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

PLUGIN = '''"""Plugin number {n}."""

import logging
import time

import trio
from pydantic import BaseModel, Field

from lva import BaseBackgroundHandler, BaseBackgroundPlugin, BaseEventPlugin, MonitoringPoint


class Config(BaseModel):
    interval: float = Field(1.0, gt=0)


class Handler{n}(BaseBackgroundHandler):
    async def get(self, request, camera):
        return self.response(body={{"camera": camera}})


class Sink{n}(BaseEventPlugin):
    eventName = "monitoring_event"
    Config = Config

    async def initialize(self) -> None:
        self.count = 0

    async def handleEvent(self, points: list[MonitoringPoint], logger: logging.Logger) -> None:
        for point in points:
            if point.series == "requests":
                self.count += 1
        await trio.to_thread.run_sync(self.write)

    def write(self) -> None:
        time.sleep(0.001)


class Work{n}(BaseBackgroundPlugin):
    Config = Config

    async def initialize(self) -> None:
        self.addRoute("/bench/{n}/<int:camera>", Handler{n})

    async def start(self) -> None:
        while True:
            await trio.sleep(self.config.interval)
            self.app.publish("monitoring_event", [])
'''


#: Runs pytest without plugins from elsewhere, and without a package that pytest-trio uses if it is there.
PYTEST = """
import sys
sys.modules["hypothesis"] = None
import pytest
plugins = ["-p", "pytest_trio.plugin", "-p", "lva.testing.pytest_plugin", "-p", "no:cacheprovider"]
sys.exit(pytest.main([*plugins, *sys.argv[1:]]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plugins", type=int, default=100)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    lva = [sys.executable, "-m", "lva"]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "many").mkdir(mode=0o755)
        for n in range(options.plugins):
            path = directory / "many" / f"plugin_{n}.py"
            path.write_text(PLUGIN.format(n=n))
            path.chmod(0o644)
        paths = sorted(str(path) for path in (directory / "many").iterdir())
        report("lva --help", [*lva, "--help"], directory, options.runs)
        report("lva check of 1 plugin", [*lva, "check", paths[0]], directory, options.runs)
        title = f"lva check of {len(paths)} plugins"
        report(title, [*lva, "check", *paths], directory, options.runs)
        for kind in ("--background", "--event"):
            subprocess.run(
                [*lva, "new", f"made{kind[1:].replace('-', '_')}", kind],
                cwd=directory, check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        for test in sorted((directory / "tests").iterdir()):
            command = [sys.executable, "-c", PYTEST, "-q", str(test)]
            report(f"pytest {test.name}, as lva new writes it", command, directory, options.runs)


def report(title: str, command: Sequence[str], directory: Path, runs: int) -> None:
    """Run a command some times; print how long it took."""
    environment = {key: value for key, value in os.environ.items() if "LUNA_VIDEO_AGENT" not in key}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    seconds: list[tuple[float, float]] = []
    for _ in range(runs):
        start, before = time.perf_counter(), os.times()
        done = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, check=False
        )
        after = os.times()
        used = after.children_user + after.children_system
        used -= before.children_user + before.children_system
        seconds.append((time.perf_counter() - start, used))
        if done.returncode != 0:
            sys.exit(
                f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
    best, used = min(seconds)
    shown = " ".join(f"{value:.2f}" for value, _ in sorted(seconds))
    print(f"{title:<56} {best:6.2f} s, processor {used:5.2f} s   ({shown})")


if __name__ == "__main__":
    main()
