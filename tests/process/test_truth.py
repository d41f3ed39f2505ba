"""Every point that was accepted is in exactly one place at the end, as those who got the points saw it.

A plugin publishes numbered points and writes down which; sinks of all kinds write down which they received
and which they refused. What the service says of itself is compared with that, number by number.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from tests.process.moments import LONG, SEED, moment
from tests.support import ServiceProcess, write_plugin

pytestmark = pytest.mark.process

#: Points per second, roughly, in lists of `LIST`.
LIST = 10
PAUSE = 0.005

PREAMBLE = """
import os
import random
import time
import trio
from lva import *


class Journal:
    \"\"\"Writes each line at once, so that it is there before anything follows, even a SIGKILL.\"\"\"

    def note(self, *words):
        file = os.open(self.config["journal"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(file, (" ".join(map(str, words)) + "\\n").encode())
        os.close(file)


class Sink(Journal):
    eventName = "monitoring_event"

    def __init__(self, app):
        super().__init__(app)
        self.chance = random.Random(f"{self.config['seed']}/{type(self).__name__}")
        self.well = self.config["well"]

    def received(self, points):
        self.note("received", *[point.fields["n"] for point in points])

    def rejected(self, points):
        self.note("rejected", *[point.fields["n"] for point in points])


"""

#: Numbers go on from what an earlier run wrote down, with a gap: it may have been killed before it could.
PUBLISHER = f"""
    class Publisher(Journal, BaseBackgroundPlugin):
        async def start(self):
            n = self.config["first"]
            while not self.config["quiet"]:
                points = [MonitoringPoint("numbers", 1.0, {{}}, {{"n": n + i}}) for i in range({LIST})]
                self.app.publish("monitoring_event", points)
                self.note(n, time.time())
                n += {LIST}
                await trio.sleep({PAUSE})
    """

SINKS = {
    "good": """
        class Good(Sink, BaseEventPlugin):
            async def handleEvent(self, points, logger):
                await trio.sleep(0.001)
                self.received(points)
        """,
    "threaded": """
        import asyncio

        class Threaded(Sink, BaseEventPlugin):
            runtime = "asyncio"

            async def handleEvent(self, points, logger):
                await asyncio.sleep(0.001)
                self.received(points)
        """,
    "moody": """
        class Moody(Sink, BaseEventPlugin):
            async def handleEvent(self, points, logger):
                await trio.sleep(0.001)
                if not self.well and self.chance.random() < 0.4:
                    raise OSError("fails at random")
                self.received(points)
        """,
    "busy": """
        class Busy(Sink, BaseEventPlugin):
            async def handleEvent(self, points, logger):
                await trio.sleep(0.001)
                if not self.well and self.chance.random() < 0.4:
                    raise RetryLaterError("later", after=0.01)
                self.received(points)
        """,
    "dead": """
        class Dead(Sink, BaseEventPlugin):
            async def handleEvent(self, points, logger):
                if not self.well:
                    raise OSError("is down")
                self.received(points)
        """,
    "picky": """
        class Picky(Sink, BaseEventPlugin):
            async def handleEvent(self, points, logger):
                await trio.sleep(0.001)
                wrong = [point for point in points if point.fields["n"] % 7 == 0]
                rest = [point for point in points if point.fields["n"] % 7]
                later = [] if self.well else self.chance.sample(rest, len(rest) // 3)
                self.received([point for point in rest if point not in later])
                self.rejected(wrong)
                if wrong or later:
                    raise PartialDeliveryError("some", failed=later, rejected=wrong)
        """,
    "refusing": """
        class Refusing(Sink, BaseEventPlugin):
            async def handleEvent(self, points, logger):
                await trio.sleep(0.001)
                if points[0].fields["n"] % 3 == 0:
                    self.rejected(points)
                    raise PermanentDeliveryError("no")
                self.received(points)
        """,
    "hanging": """
        class Hanging(Sink, BaseEventPlugin):
            async def handleEvent(self, points, logger):
                if not self.well and self.chance.random() < 0.3:
                    await trio.sleep_forever()
                self.received(points)
        """,
    "stalled": """
        class Stalled(Sink, BaseEventPlugin):
            async def handleEvent(self, points, logger):
                if not self.well:
                    await trio.sleep_forever()
                self.received(points)
        """,
    "crashing": """
        class Crashing(Sink, BaseEventPlugin, BaseBackgroundPlugin):
            async def start(self):
                await trio.sleep(self.chance.uniform(0.05, 0.3))
                if not self.well:
                    raise RuntimeError("crashes while points are delivered")

            async def handleEvent(self, points, logger):
                await trio.sleep(0.01)
                self.received(points)
        """,
    "wide": """
        class Wide(Sink, BaseEventPlugin, BaseBackgroundPlugin):
            async def start(self):
                await trio.sleep(self.chance.uniform(0.1, 0.4))
                if not self.well:
                    raise RuntimeError("crashes while many batches are out")

            async def handleEvent(self, points, logger):
                await trio.sleep(self.chance.uniform(0, 0.02))
                if not self.well and self.chance.random() < 0.2:
                    raise OSError("fails at random")
                self.received(points)
        """,
    "narrow": """
        class Narrow(Sink, BaseEventPlugin):
            async def handleEvent(self, points, logger):
                await trio.sleep(0.001 if self.well else 0.06)
                self.received(points)
        """,
}

TABLE = """
[plugins.{name}]
batch_size = {batch}
max_restarts = 1000000
backoff_initial = 0.02
backoff_max = 0.02
retry_initial = 0.01
retry_max = 0.02
circuit_pause = 0.05
handle_timeout = 0.1
concurrency = {concurrency}
{more}

[plugins.{name}.config]
journal = "{journal}"
seed = "{seed}"
well = {well}
first = {first}
quiet = {quiet}
"""
#: With one call at a time, and without points that are named one by one, first arrivals are in order.
ORDERED = [name for name in SINKS if name not in {"picky", "wide"}]


class Truth:
    """A publisher and all the sinks, run after run over the same files."""

    def __init__(self, directory: Path, more: dict[str, str]) -> None:
        self._directory = directory
        self._more = more
        self._runs = 0
        self.last_words: list[
            tuple[float, int]
        ] = []  # when each run was killed, and what came after
        write_plugin(directory / "plugins", "publisher", PUBLISHER, PREAMBLE)
        for name, source in SINKS.items():
            write_plugin(directory / "plugins", name, source, PREAMBLE)

    def run(self, well: bool = False, quiet: bool = False) -> ServiceProcess:
        """Return the service, to be entered."""
        self._runs += 1
        self._first = max(self.published(), default=-1000) + 1000
        tables = [
            TABLE.format(
                name=name,
                more=self._more.get(name, self._more["all"]),
                journal=self._journal(name),
                batch=5 if name == "narrow" and not well else 40,
                concurrency=4 if name == "wide" else 1,
                seed=f"{SEED}/{self._runs}",
                well=str(well).lower(),
                first=self._first,
                quiet=str(quiet).lower(),
            )
            for name in ["publisher", *SINKS]
        ]
        limit = 120 if well else 8  # time enough to deliver all that is left, or not
        toml = f"shutdown_timeout = {limit}\n" + "".join(tables)
        return ServiceProcess(self._directory, ["publisher", *SINKS], toml)

    def _journal(self, name: str) -> Path:
        return self._directory / f"{name}.journal"

    def _lines(self, name: str) -> list[list[str]]:
        path = self._journal(name)
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def published(self) -> dict[int, float]:
        """Return when each number had been accepted."""
        return {
            int(first) + n: float(at) for first, at in self._lines("publisher") for n in range(LIST)
        }

    def has_begun(self) -> bool:
        """Return whether this run has published something. It asks no question: that would make points."""
        lines = self._lines("publisher")
        return bool(lines) and int(lines[-1][0]) >= self._first

    def said(self, sink: str, *words: str) -> list[int]:
        """Return the numbers that a sink received or rejected, in its order, as often as it did."""
        return [int(n) for line in self._lines(sink) if line[0] in words for n in line[1:]]

    def dead_letters(self, sink: str) -> dict[int, str]:
        """Return the numbers that were given up, with the reasons."""
        found: dict[int, str] = {}
        for path in sorted((self._directory / "state" / "dead_letters").glob(f"{sink}.*.jsonl*")):
            for line in path.read_text().splitlines():
                letter = json.loads(line)
                assert letter["fields"]["n"] not in found, "given up twice"
                found[letter["fields"]["n"]] = letter["reason"]
        return found


@pytest.mark.soak
@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", range(10 if LONG else 1))
def test_in_memory_every_number_is_received_rejected_or_dropped(
    tmp_path: Path, number: int
) -> None:
    usual = (
        "max_attempts = 1000000\ncircuit_failures = 3\nbuffer_limit = 100000\ndead_letters = true"
    )
    truth = Truth(
        tmp_path,
        {
            "all": usual,
            "publisher": "",
            "dead": "max_attempts = 3\ncircuit_failures = 1000000\nbuffer_limit = 500\ndead_letters = true",
            "moody": "max_attempts = 2\nbuffer_limit = 100000\ndead_letters = true",
            "narrow": "buffer_limit = 100\noverflow = 'drop_newest'\nmax_age = 0.05\ndead_letters = true",
            "wide": usual.replace("buffer_limit = 100000", "buffer_limit = 200"),
        },
    )
    with truth.run() as service:
        service.wait_until(lambda: len(truth.said("crashing", "received")) > 500)
        time.sleep(moment("SIGTERM", "the first 500 points", number, 2.0))
        code = service.stop()
    accepted = set(truth.published())
    reasons: Counter[str] = Counter()
    for name in SINKS:
        points = service.receipt_of(name)["points"]
        dropped = Counter(points["dropped"])
        reasons += dropped
        print(name, points)
        received, rejected = truth.said(name, "received"), truth.said(name, "rejected")
        letters = truth.dead_letters(name)
        assert points["accepted"] == len(accepted), name
        assert points["queued"] == points["in_flight"] == points["kept"] == 0, name
        assert points["delivered"] == len(received) == len(set(received)), name
        assert points["rejected"] == len(rejected) == len(set(rejected)), name
        assert {n for n, reason in letters.items() if reason == "rejected"} == set(rejected), name
        given_up = {n: reason for n, reason in letters.items() if reason != "rejected"}
        by_count = {reason: dropped.pop(reason, 0) for reason in ("overflow", "shutdown")}
        assert Counter(given_up.values()) == dropped, name
        known = [*received, *rejected, *given_up]
        assert len(known) == len(set(known)), f"{name}: in two places"
        assert accepted >= set(known), name
        assert len(accepted - set(known)) == sum(by_count.values()), name
        if name in ORDERED:
            assert received == sorted(received), name
    assert code == 4
    assert not service.receipt_of("good")["points"]["dropped"]
    assert reasons.keys() == {"max_attempts", "max_age", "overflow", "shutdown"}


#: How long before a kill, in seconds, a point must have been accepted to be safe: far more than
#: the time between two commits, since the machine may be busy.
SAFE = 1.0


def safe_from(killed: list[float], published: dict[int, float]) -> set[int]:
    """Return which numbers had been accepted long enough before every kill."""
    return {n for n, at in published.items() if not any(0 <= end - at < SAFE for end in killed)}


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_on_disk_a_killed_service_loses_nothing_that_it_had_committed(tmp_path: Path) -> None:
    on_disk = "spool = 'disk'\nmax_attempts = 1000000\ncircuit_failures = 3\nbuffer_limit = 100000"
    truth = Truth(tmp_path, {"all": on_disk, "publisher": ""})
    killed: list[float] = []
    number = 0
    while number < (50 if LONG else 5) or len(safe_from(killed, truth.published())) <= 500:
        with truth.run() as service:
            service.wait_until(truth.has_begun)
            time.sleep(moment("SIGKILL", "the first points", number, 2.0))
            number += 1
            killed.append(time.time())
            service.process.kill()
            service.wait()
            assert not [
                record for record in service.records if "bug in the host" in record["message"]
            ]
    with truth.run(well=True, quiet=True) as service:
        service.wait_for("crashing.*initializing -> running")
        code = service.stop(120)
    published = truth.published()
    safe = safe_from(killed, published)
    assert code == 0
    for name in SINKS:
        points = service.receipt_of(name)["points"]
        assert points["kept"] == 0, name
        assert points["dropped"] == {}, name
        everything = truth.said(name, "received", "rejected")
        arrived = set(everything)
        lost = set(published) - arrived
        ages = [min(end - published[n] for end in killed if end >= published[n]) for n in lost]
        print(
            f"{name:9} {len(published)} accepted, {len(arrived)} arrived,"
            f" {len(everything) - len(arrived)} of them again; {len(lost)} lost, the oldest accepted"
            f" {max(ages, default=0.0):.3f} s before a kill; recovered by the last run:"
            f" {points['recovered']}"
        )
        assert not lost & safe, name
        if name in ORDERED:
            order = list(dict.fromkeys(everything))
            assert all(one < other for one, other in pairwise(order)), name
