"""Culprits and their neighbours in one real service, from its start to its receipt, and what must hold then.

A scene is one test, in which each culprit has a subtest of its own for what became of it.

The culprits of a scene share one process with three neighbours, while requests are made: one that publishes
numbered points, and one on each runtime that writes down what it receives.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process.traffic import Traffic
from tests.support import PREAMBLE, ServiceProcess, has_ended, write_plugin

ASYNCIO_STYLE = """
import asyncio
import os
import signal
import sys
import threading
import time

import aiohttp
from luna_plugins.base.plugins_meta.base_plugins import (
    BaseBackgroundPlugin,
    BaseEventPlugin,
    pluginHTTPResponse,
)
"""

#: What culprits of either style do, and can do; `how` they misbehave is the name of a method.
MISDEEDS = """
import sys


class Unheard(BaseException):
    pass


class Misdeeds:
    eventName = "monitoring_event"

    def __init__(self, app):
        super().__init__(app)
        self.kept = []
        if self.config["place"] == "__init__":
            self.note("trouble")
            getattr(self, "now_" + self.config["how"])()

    async def initialize(self):
        self.note("initialize")
        if isinstance(self, BaseBackgroundPlugin):
            self.addRoute("/" + __name__.rpartition(".")[2], self.route)
        await self.reach("initialize")

    async def route(self, request):
        await self.reach("route")
        return pluginHTTPResponse(body="fine")

    async def handleEvent(self, points, logger):
        await self.reach("handleEvent")

    async def close(self):
        self.note("close")
        await self.reach("close")

    async def reach(self, place):
        if place == self.config["place"]:
            self.note("trouble")
            await getattr(self, self.config["how"])()

    def note(self, line):
        with open(self.config["journal"], "a") as journal:
            journal.write(line + "\\n")

    # In an __init__, and below the coroutines

    def now_error(self):
        raise RuntimeError("trouble on purpose")

    def now_base_exception(self):
        raise Unheard("trouble on purpose")

    def now_system_exit(self):
        sys.exit("trouble on purpose")

    def now_keyboard_interrupt(self):
        raise KeyboardInterrupt("trouble on purpose")

    def now_hang(self):
        while True:
            time.sleep(3600)

    def now_ten_minutes(self):
        time.sleep(600)

    # In a coroutine

    async def error(self):
        self.now_error()

    async def base_exception(self):
        self.now_base_exception()

    async def system_exit(self):
        self.now_system_exit()

    async def keyboard_interrupt(self):
        self.now_keyboard_interrupt()
"""

#: Publishes points numbered from 0 on, and stops after the culprits.
NUMBERS = """
class Numbers(BaseBackgroundPlugin):
    async def start(self):
        count = 0
        try:
            while True:
                point = MonitoringPoint("numbers", 1.0, {}, {"n": count})
                self.app.publish("monitoring_event", [point])
                count += 1
                await trio.sleep(0.005)
        finally:
            with open(self.config["journal"], "a") as journal:
                journal.write(f"published {count}\\n")
"""

#: Does its work next to the culprits, on either runtime, and keeps a record of it.
NEIGHBOUR = """
class Neighbour(BaseEventPlugin, BaseBackgroundPlugin):
    eventName = "monitoring_event"

    async def initialize(self):
        self.note("initialize")
        self.addRoute("/" + __name__.rpartition(".")[2], self.answer)

    async def answer(self, request):
        return pluginHTTPResponse(body="here")

    async def handleEvent(self, points, logger):
        for point in points:
            if point.series == "numbers":
                self.note(f"number {point.fields['n']}")
            if point.series == "requests":
                self.note("request " + point.fields["request_id"])

    async def close(self):
        self.note("close")

    def note(self, line):
        with open(self.config["journal"], "a") as journal:
            journal.write(line + "\\n")
"""

NEIGHBOURS = ("trio_neighbour", "asyncio_neighbour")

TABLE = """
[plugins.%(name)s]
critical = %(critical)s
event_loop = "%(event_loop)s"
startup_error_behavior = "error"
max_restarts = 1
backoff_initial = 0.05
initialize_timeout = 0.8
stop_timeout = %(patience)s
close_timeout = %(patience)s
handle_timeout = 0.3
max_attempts = 2
retry_initial = 0.05

[plugins.%(name)s.config]
place = "%(place)s"
how = "%(how)s"
journal = "%(journal)s"
url = "%(url)s"
"""

Case = tuple[str, str]  # how, where

ERRORS = ("error", "base_exception", "system_exit", "keyboard_interrupt")
SLOW = ("hang", "ten_minutes")


@dataclass(frozen=True)
class Outcome:
    """What must become of a culprit.

    Attributes:
        before: Its state once the trouble has had its effect.
        after: Its state in the receipt.
        restarts: How often it was started again.
        receipt: Patterns that its part of the receipt, as JSON, matches.
        problems: Whether the receipt lists problems; None if that depends on the moment.
        log: What its log says at level WARNING or above; None if its trouble needs no such record.
        leaks: Whether a task or a thread of it is still there at the end.
        starts: Whether it has left a process, which was ended for it.
        loses: Whether points were not delivered to it; None if that depends on the moment.
        held: Whether its loop never runs again, so that `close()` cannot be entered any more.
    """

    before: str
    after: str
    restarts: int = 0
    receipt: tuple[str, ...] = ()
    problems: bool | None = False
    log: str | None = "trouble on purpose"
    leaks: bool = False
    starts: bool = False
    loses: bool | None = False
    held: bool = False

    @property
    def unclean(self) -> bool:
        """Whether it calls for the exit code 4."""
        return self.after == "abandoned" or self.leaks or self.starts or bool(self.loses)


@dataclass(frozen=True)
class Style:
    """How the culprits of a scene are written.

    Attributes:
        culprit: The source of one, with a place for its base class.
        preamble: What its file begins with.
        event_loop: The setting of that name.
    """

    culprit: str
    preamble: str = PREAMBLE
    event_loop: str = "asyncio"


class Visitor:
    """A request to a culprit's own route, which may never be answered."""

    def __init__(self, service: ServiceProcess, name: str) -> None:
        self.request_id = f"1,visitor-of-{name}"
        self.status: int | None = None
        self._service = service
        self._path = f"/{name}"
        self._thread = threading.Thread(target=self._visit, daemon=True)
        self._thread.start()

    def _visit(self) -> None:
        headers = {"Luna-Request-Id": self.request_id}
        with contextlib.suppress(httpx.HTTPError):  # the service may stop first
            self.status = self._service.get(self._path, 20, headers=headers).status_code

    def leave(self) -> None:
        """Wait for the end of the request."""
        self._thread.join(25)
        assert not self._thread.is_alive()


@dataclass
class Scene:
    """Culprits and neighbours in one service, which was started, watched and stopped.

    Attributes:
        directory: Where everything of it is.
        cases: The culprits, and what must become of them.
        style: How they are written.
        url: Of a server that they may ask.
        critical: Whether the service cannot do without them.
        patience: Their `stop_timeout` and `close_timeout`, in seconds.
        limit: The `shutdown_timeout`: enough for all its phases; past it, the process is killed, with another
            exit code.
        before: The culprits' status before the stop, by name.
        visitors: Those who ask for the culprits' routes, by name.
        ready: The reasons of `/readyz` before the stop.
        survivors: The culprits whose subprocess outlived the service.
        code: The exit code.
    """

    directory: Path
    cases: Mapping[Case, Outcome]
    style: Style
    url: str = ""
    critical: bool = False
    patience: float = 0.5
    limit: float = 4.0
    before: dict[str, Any] = field(default_factory=dict)
    visitors: dict[str, Visitor] = field(default_factory=dict)
    ready: dict[str, Any] = field(default_factory=dict)
    survivors: set[str] = field(default_factory=set)
    code: int | None = None

    def __post_init__(self) -> None:
        toml = f"shutdown_timeout = {self.limit}\nslow_start = 0.1\n"
        plugins = self.directory / "plugins"
        write_plugin(plugins, "numbers", NUMBERS)
        write_plugin(plugins, "trio_neighbour", NEIGHBOUR)
        write_plugin(plugins, "asyncio_neighbour", NEIGHBOUR, ASYNCIO_STYLE)
        for name in ("numbers", *NEIGHBOURS):
            toml += f'[plugins.{name}.config]\njournal = "{self.journal_of(name)}"\n'
        for how, place in self.cases:
            bases = "BaseEventPlugin" if place == "handleEvent" else "BaseBackgroundPlugin"
            name = name_of(how, place)
            write_plugin(plugins, name, self.style.culprit % bases, self.style.preamble)
            toml += TABLE % {
                "name": name,
                "how": how,
                "place": place,
                "event_loop": self.style.event_loop,
                "critical": json.dumps(self.critical),
                "patience": self.patience,
                "journal": self.journal_of(name),
                "url": self.url,
            }
        self.names = [name_of(*case) for case in self.cases]
        active = ["numbers", *self.names, *NEIGHBOURS]
        self.service = ServiceProcess(self.directory, active, toml)

    def journal_of(self, name: str) -> Path:
        """Return the file that a plugin writes to."""
        return self.directory / f"{name}.journal"

    def journal(self, name: str) -> list[str]:
        """Return the lines that a plugin has written."""
        path = self.journal_of(name)
        return path.read_text().splitlines() if path.exists() else []

    def lifecycle(self, name: str) -> list[str]:
        """Return which of `initialize` and `close` were entered, in order."""
        return [line for line in self.journal(name) if line in {"initialize", "close"}]

    def complaints(self, name: str) -> list[dict[str, Any]]:
        """Return the records at level WARNING or above about one plugin."""
        levels = {"WARNING", "ERROR", "CRITICAL"}
        return [
            record
            for record in self.service.records
            if record.get("plugin") == name and record.get("level") in levels
        ]

    def complaints_but_slowness(self, name: str) -> list[dict[str, Any]]:
        """Return the complaints about a plugin, apart from those of its pace: the machine may be busy."""
        pace = re.compile(r" is slow|^blocked (the|its own) event loop for ")
        return [item for item in self.complaints(name) if not pace.search(item["message"])]

    def play(self, answers: int = 20) -> Scene:
        """Let it all happen, and see to it that so many requests are answered meanwhile."""
        with self.service as service:
            service.wait_until(self.all_neighbours_run)
            paths = ["/livez", *(f"/{name}" for name in NEIGHBOURS)]
            with Traffic(service, paths) as self.traffic:
                for how, place in self.cases:
                    if place == "route":
                        name = name_of(how, place)
                        self.visitors[name] = Visitor(service, name)
                deadline = time.monotonic() + 10
                while not self.all_settled() and time.monotonic() < deadline:
                    time.sleep(0.05)  # the service is asked again and again: it decides
                self.traffic.wait_for_more(answers)
                service.wait_until(lambda: "number 50" in self.journal(NEIGHBOURS[0]))
                self.ready = service.get("/readyz").json().get("reasons", {})
            service.signal()
            self.code = service.process.wait(40)
            self.survivors = {name for name in self.names if self.kill_subprocess(name)}
        for visitor in self.visitors.values():
            visitor.leave()
        return self

    def kill_subprocess(self, name: str) -> bool:
        """End the subprocess that a culprit has noted, if it is still there; return whether it was."""
        for line in self.journal(name):
            if line.startswith("pid ") and kill(int(line.removeprefix("pid "))):
                return True
        return False

    def all_neighbours_run(self) -> bool:
        """Return whether the neighbours have started; they do so after the culprits."""
        plugins = self.status()
        return all(plugins[name]["state"] == "running" for name in NEIGHBOURS)

    def all_settled(self) -> bool:
        """Return whether every trouble has had all the effect that it has before the stop."""
        self.before = self.status()
        return all(self.has_settled(*case) for case in self.cases)

    def has_settled(self, how: str, place: str) -> bool:
        """Return whether one culprit is where it should be before the stop."""
        name, outcome = name_of(how, place), self.cases[how, place]
        status = self.before[name]
        there = status["state"] == outcome.before and status["restarts"] == outcome.restarts
        if any("max_attempts" in pattern for pattern in outcome.receipt):
            there = there and bool(status["ledger"]["dropped"])
        return there and (place == "close" or "trouble" in self.journal(name))

    def status(self) -> dict[str, Any]:
        """Return the status of all plugins, by name."""
        return {item["name"]: item for item in self.service.get("/plugins").json()["plugins"]}


def kill(pid: int) -> bool:
    """Kill a process that should have ended; return whether it still ran."""
    if has_ended(pid):
        return False
    os.kill(pid, signal.SIGKILL)
    return True


def name_of(how: str, place: str) -> str:
    """Return the name of a culprit's plugin."""
    return f"{how}_in_{place.strip('_')}"


def balanced(points: Mapping[str, Any]) -> bool:
    """Return whether every accepted point is accounted for, with none left waiting."""
    settled = points["delivered"] + points["rejected"] + sum(points["dropped"].values())
    return bool(points["accepted"] == settled and points["queued"] == points["in_flight"] == 0)


# What must hold of a scene that was played


def check_bystanders(scene: Scene, subtests: pytest.Subtests, answers: int = 20) -> None:
    """The culprits harmed nobody but themselves."""
    with subtests.test("the service answers throughout"):
        check_answers(scene, answers)
    for neighbour in NEIGHBOURS:
        with subtests.test("a neighbour loses nothing", neighbour=neighbour):
            check_neighbour(scene, neighbour)
    with subtests.test("the stop is bounded and accounts for all"):
        check_stop(scene)


def check_answers(scene: Scene, count: int = 20) -> None:
    """The service answered throughout, and told the truth about the culprits."""
    assert not scene.traffic.errors
    assert len(scene.traffic.answers) >= count
    assert {answer.status for answer in scene.traffic.answers.values()} == {200}
    assert max(answer.seconds for answer in scene.traffic.answers.values()) < 2
    failing = {
        name_of(*case) for case, outcome in scene.cases.items() if outcome.before != "running"
    }
    assert set(scene.ready) == failing


def check_neighbour(scene: Scene, neighbour: str) -> None:
    """A neighbour lost nothing."""
    lines = scene.journal(neighbour)
    (published,) = [int(line.removeprefix("published ")) for line in scene.journal("numbers")]
    numbers = [int(line.removeprefix("number ")) for line in lines if line.startswith("number ")]
    assert published > 50
    assert numbers == list(range(published)), "each once and in order"
    requests = [line.removeprefix("request ") for line in lines if line.startswith("request ")]
    assert set(scene.traffic.answers) <= set(requests)
    assert len(requests) == len(set(requests))
    receipt = scene.service.receipt_of(neighbour)
    assert receipt["state"] == "stopped"
    assert receipt["points"]["accepted"] == receipt["points"]["delivered"]
    assert balanced(receipt["points"])
    assert scene.lifecycle(neighbour) == ["initialize", "close"]
    assert not scene.complaints_but_slowness(neighbour)


def check_stop(scene: Scene) -> None:
    """The stop was bounded, or its exit code were that of the deadline, and accounts for everybody."""
    receipt = scene.service.receipt  # there is exactly one
    unclean = any(outcome.unclean for outcome in scene.cases.values())
    assert scene.code == receipt["exit_code"] == (4 if unclean else 0)
    names = ["numbers", *scene.names, *NEIGHBOURS]
    assert [item["name"] for item in receipt["plugins"]] == names
    assert "bug in the" not in scene.service.output
    assert not [line for line in scene.service.lines if line and not line.startswith("{")]


def check_critical_end(scene: Scene) -> None:
    """Play a scene of one critical culprit: it ends the service, in order."""
    with scene.service as service:
        code = service.wait()
    ((case, outcome),) = scene.cases.items()
    name = name_of(*case)
    assert code == service.receipt["exit_code"] == 3
    assert name in service.receipt["reason"]
    assert service.receipt_of(name)["state"] == outcome.before
    for neighbour in NEIGHBOURS:
        assert service.receipt_of(neighbour)["state"] == "stopped"
        assert scene.lifecycle(neighbour) in ([], ["initialize", "close"])
    attempts = 0 if case[1] == "__init__" else 1 + outcome.restarts
    assert scene.lifecycle(name) == ["initialize", "close"] * attempts


def check_culprit(scene: Scene, how: str, place: str) -> None:
    """A culprit became what it had to, was closed as often as initialized, and is named."""
    name, outcome = name_of(how, place), scene.cases[how, place]
    before = scene.before[name]
    assert (before["state"], before["restarts"]) == (outcome.before, outcome.restarts)

    # The receipt names it, and what it did.
    receipt = scene.service.receipt_of(name)
    text = json.dumps(receipt)
    assert (receipt["state"], receipt["restarts"]) == (outcome.after, outcome.restarts)
    for pattern in outcome.receipt:
        assert re.search(pattern, text), f"no {pattern} in {text}"
    if outcome.problems is not None:
        assert bool(receipt["problems"]) == outcome.problems, text
    assert bool(receipt["leaked_tasks"] or receipt["leaked_threads"]) == outcome.leaks, text
    assert balanced(receipt["points"])
    if outcome.loses is not None:
        assert bool(receipt["points"]["dropped"]) == outcome.loses

    # It was closed as often as it was initialized, and no attempt overlapped another.
    attempts = 1 + outcome.restarts
    if place == "__init__" and outcome.before != "running":
        attempts = 0
    expected = ["initialize", "close"] * attempts
    entered = scene.lifecycle(name)
    assert entered == expected or outcome.held and entered == expected[:-1]

    # Nothing happened in silence, and nothing is said of who did nothing wrong.
    said = scene.complaints(name)
    if outcome.log is None:
        assert not scene.complaints_but_slowness(name)
    else:
        assert any(outcome.log in record["message"] for record in said), said
    if outcome.log == "trouble on purpose":
        traced = [record["exception"] for record in said if "exception" in record]
        assert traced
        assert all(f"/plugins/{name}.py" in exception for exception in traced)
        assert all(" in now_" in exception for exception in traced), "where it happened"

    # Whoever asked for its route was answered, and counted unless the request never ended.
    if (visitor := scene.visitors.get(name)) is not None:
        if how in {*ERRORS, "cancel_everything"}:
            assert visitor.status == 500
        counted = f"request {visitor.request_id}" in scene.journal("trio_neighbour")
        assert counted or outcome.leaks
