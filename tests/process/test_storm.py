"""SIGTERM at any moment of start, run and stop, under load: nothing is left open, no point unaccounted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process.moments import LONG, moment
from tests.process.traffic import Traffic
from tests.support import ServiceProcess, write_plugin

pytestmark = pytest.mark.process

MOMENTS = 100 if LONG else 10  # of each of the two kinds

#: The plugins write one line for each thing that happens; a line is there before anything follows.
PLUGINS_PREAMBLE = """
import trio
from lva import *


class Journal:
    async def initialize(self):
        self.note("initialize")

    async def close(self):
        self.note("close")

    def note(self, line):
        with open(self.config["journal"], "a") as journal:
            journal.write(line + "\\n")


"""

#: The publisher is the last background plugin to stop, so that event plugins are busy when their turn
#: comes.
PLUGINS = {
    "publisher": """
        class Publisher(Journal, BaseBackgroundPlugin):
            async def start(self):
                while True:
                    points = [MonitoringPoint("numbers", 1.0, {}, {"n": n}) for n in range(20)]
                    self.app.publish("monitoring_event", points)
                    await trio.sleep(0.003)
        """,
    "slow": """
        class Slow(Journal, BaseBackgroundPlugin):
            async def initialize(self):
                await super().initialize()
                await trio.sleep(0.15)

            async def close(self):
                await super().close()
                await trio.sleep(0.1)
        """,
    "crashing": """
        class Crashing(Journal, BaseBackgroundPlugin):
            async def start(self):
                await trio.sleep(0.04)
                raise RuntimeError("crashes again and again")
        """,
    "counter": """
        class Counter(Journal, BaseEventPlugin):
            eventName = "monitoring_event"

            async def handleEvent(self, points, logger):
                await trio.sleep(0.004)
                ids = [p.fields["request_id"] for p in points if p.series == "requests"]
                self.note(f"handled {len(points)} {' '.join(ids)}")
        """,
    "picky": """
        class Picky(Journal, BaseEventPlugin):
            eventName = "monitoring_event"
            calls = 0

            async def handleEvent(self, points, logger):
                self.calls += 1
                if self.calls % 5 == 0:
                    raise RuntimeError("try these again")
                half = len(points) // 2
                self.note(f"handled {len(points) - half}")
                if half:
                    raise PartialDeliveryError("half of it is wrong", rejected=points[:half])
        """,
    "fragile": """
        class Fragile(Journal, BaseEventPlugin, BaseBackgroundPlugin):
            eventName = "monitoring_event"

            async def start(self):
                await trio.sleep(0.06)
                raise RuntimeError("crashes while points are delivered")

            async def handleEvent(self, points, logger):
                await trio.sleep(0.002)
                self.note(f"handled {len(points)}")
        """,
}
EVENT_PLUGINS = ("counter", "picky", "fragile")

TABLE = """
[plugins.{name}]
max_restarts = 1000
backoff_initial = 0.03
backoff_max = 0.03
batch_size = 50
retry_initial = 0.02
retry_max = 0.02
max_attempts = 20

[plugins.{name}.config]
journal = "{journal}"
"""


class Storm:
    """The service with all of the plugins, under load, told to stop at some moment."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        for name, source in PLUGINS.items():
            write_plugin(directory / "plugins", name, source, PLUGINS_PREAMBLE)
        tables = (TABLE.format(name=name, journal=self._path(name)) for name in PLUGINS)
        self.service = ServiceProcess(
            directory, [*PLUGINS], "shutdown_timeout = 10\n" + "".join(tables)
        )

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.journal"

    def journal(self, name: str) -> list[str]:
        """Return the lines that a plugin has written."""
        return self._path(name).read_text().splitlines() if self._path(name).exists() else []

    def run(self, *delays: float, ready: Callable[[], bool] = lambda: True) -> int:
        """Run until `ready`, signal after each of the delays in turn, and return the exit code."""
        with (
            self.service as service,
            Traffic(service, ["/livez", "/plugins", "/nowhere"]) as self.traffic,
        ):
            service.wait_until(ready)
            timers = [
                threading.Timer(sum(delays[: n + 1]), service.signal) for n in range(len(delays))
            ]
            for timer in timers:
                timer.start()
            code = service.wait()
            for timer in timers:
                timer.join()
            return code

    def all_entered(self) -> bool:
        """Return whether every plugin has begun to initialize."""
        return all("initialize" in self.journal(name) for name in PLUGINS)

    def check(self, code: int) -> None:
        """Check everything that must hold after a stop at whatever moment."""
        print(self.service.output)  # which a failure shows
        journals = {name: self.journal(name) for name in PLUGINS}
        if code == -15:  # it came before the interpreter had got as far as handling signals
            assert not any(journals.values())
            assert not self.service.lines[:-1]
            return
        for name, lines in journals.items():
            entered = [line for line in lines if line in {"initialize", "close"}]
            assert entered == ["initialize", "close"] * (len(entered) // 2), name
            state = self.service.receipt_of(name)["state"]
            assert state == "stopped", name
        receipt = self.service.receipt
        assert receipt["reason"] == "received SIGTERM"
        assert receipt["exit_code"] == code
        lost = 0
        for name in EVENT_PLUGINS:
            points = self.service.receipt_of(name)["points"]
            dropped = sum(points["dropped"].values())
            assert points["accepted"] == points["delivered"] + points["rejected"] + dropped, name
            assert points["queued"] == points["in_flight"] == 0, name
            assert points["delivered"] == handled(journals[name]), name
            lost += dropped
        assert code == (4 if lost else 0)
        counter = self.service.receipt_of("counter")["points"]
        if not counter["dropped"]:
            words = {word for line in journals["counter"] for word in line.split()[2:]}
            assert self.traffic.answers.keys() <= words


def handled(lines: list[str]) -> int:
    """Return how many points a journal says were handled."""
    return sum(int(line.split()[1]) for line in lines if line.startswith("handled"))


@pytest.mark.soak
@pytest.mark.parametrize("number", range(MOMENTS))
def test_sigterm_at_any_moment_after_the_process_was_made(tmp_path: Path, number: int) -> None:
    storm = Storm(tmp_path)
    storm.check(storm.run(moment("SIGTERM", "the process was made", number, 1.2)))


@pytest.mark.soak
@pytest.mark.parametrize("number", range(MOMENTS))
def test_sigterm_at_any_moment_after_every_plugin_began(tmp_path: Path, number: int) -> None:
    storm = Storm(tmp_path)
    storm.check(
        storm.run(moment("SIGTERM", "every plugin began", number, 0.5), ready=storm.all_entered)
    )


@pytest.mark.soak
@pytest.mark.parametrize("number", range(MOMENTS // 2))
def test_a_second_sigterm_at_any_moment_of_the_stop(tmp_path: Path, number: int) -> None:
    """It cuts the stop short or comes too late; either way one receipt tells the truth."""
    storm = Storm(tmp_path)
    again = 0.05 + moment("SIGTERM", "the first SIGTERM and 0.05 s", number, 0.3)
    code = storm.run(0.1, again, ready=storm.all_entered)
    assert code in {0, 4}
    assert storm.service.receipt["exit_code"] == code
    for name in EVENT_PLUGINS:
        points = storm.service.receipt_of(name)["points"]
        known = sum(points[key] for key in ("delivered", "rejected", "queued", "in_flight"))
        assert points["accepted"] == known + sum(points["dropped"].values()), name


def test_the_storm_is_one(tmp_path: Path) -> None:
    """What the storm relies on does happen: restarts, retries, rejections, requests, points."""
    storm = Storm(tmp_path)

    def enough() -> bool:
        return len(storm.journal("crashing")) > 8 and len(storm.journal("picky")) > 20

    storm.check(storm.run(0.0, ready=enough))
    parts = {name: storm.service.receipt_of(name) for name in PLUGINS}
    assert parts["crashing"]["restarts"] >= 3
    assert parts["fragile"]["restarts"] >= 1
    assert parts["picky"]["points"]["retries"] >= 1
    assert parts["picky"]["points"]["rejected"] >= 1
    assert parts["counter"]["points"]["delivered"] > 200
    assert len(storm.traffic.answers) > 5
