"""Every way of asyncio code to misbehave, in every place a plugin has code, in the real process.

The culprits of a group share one process with three neighbours, while requests are made: one that
publishes numbered points, and one on each runtime that writes down what it receives. Each culprit then has
a test of its own for what became of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process.test_misbehaviour import balanced, complaints
from tests.process.traffic import Traffic
from tests.support import ServiceProcess, write_plugin

pytestmark = pytest.mark.process

#: More than all its phases take on a busy machine; past it, the process is killed, with another exit code.
SHUTDOWN_TIMEOUT = 6.0

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

#: Misbehaves in the way and in the place that its configuration names.
CULPRIT = """
class Unheard(BaseException):
    pass


class Culprit(%s):
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

    async def start(self):
        self.kept.append(asyncio.create_task(self.reach("child"), name="child"))
        await self.reach("start")

    async def route(self, request):
        await self.reach("route")
        return pluginHTTPResponse(body="fine")

    async def handleEvent(self, points, logger):
        await self.reach("handleEvent")

    async def close(self):
        self.note("close")
        await self.reach("close")

    def note(self, line):
        with open(self.config["journal"], "a") as journal:
            journal.write(line + "\\n")

    async def reach(self, place):
        if place == self.config["place"]:
            self.note("trouble")
            await getattr(self, self.config["how"])()

    # In an __init__, in a callback or a thread, and below the coroutines

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

    def now_hold_briefly(self):
        time.sleep(0.15)

    def now_spin(self):
        while True:
            pass

    def now_failing_child(self):
        asyncio.create_task(self.error(), name="orphan")

    def now_swallowing_child(self):
        asyncio.create_task(self.swallow(), name="orphan")

    # In a coroutine

    async def error(self):
        self.now_error()

    async def base_exception(self):
        self.now_base_exception()

    async def system_exit(self):
        self.now_system_exit()

    async def keyboard_interrupt(self):
        self.now_keyboard_interrupt()

    async def hang(self):
        await asyncio.Event().wait()

    async def ten_minutes(self):
        await asyncio.sleep(600)

    async def swallow(self):
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                pass

    # Tasks

    async def failing_child(self):
        self.now_failing_child()

    async def swallowing_child(self):
        self.now_swallowing_child()

    async def failing_gather(self):
        self.kept.append(asyncio.gather(self.error(), self.hang()))

    async def waiting_for_a_future(self):
        self.kept.append(asyncio.get_running_loop().create_future())
        asyncio.ensure_future(self.kept[-1])

    async def open_generator(self):
        self.kept.append(self.numbers())
        await anext(self.kept[-1])

    async def numbers(self):
        try:
            yield 1
        finally:
            self.note("finalized")

    async def cancel_everything(self):
        for task in asyncio.all_tasks():
            task.cancel()
        await asyncio.sleep(0)

    # The loop itself

    async def hold(self):
        time.sleep(600)

    async def hold_briefly(self):
        self.now_hold_briefly()

    async def stutter(self):
        while True:
            time.sleep(0.02)
            await asyncio.sleep(0)

    async def spin(self):
        self.now_spin()

    async def stop_loop(self):
        asyncio.get_running_loop().stop()

    async def close_loop(self):
        asyncio.get_running_loop().close()

    async def second_loop(self):
        loop = asyncio.new_event_loop()
        waiting = asyncio.sleep(0)
        try:
            loop.run_until_complete(waiting)
        finally:
            waiting.close()
            loop.close()

    async def failing_callback(self):
        asyncio.get_running_loop().call_soon(self.now_error)

    async def exiting_callback(self):
        asyncio.get_running_loop().call_later(0.01, self.now_system_exit)

    async def deaf_to_errors(self):
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        asyncio.get_running_loop().call_soon(self.now_error)

    async def handle_signal(self):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print)

    async def set_signal(self):
        signal.signal(signal.SIGTERM, print)

    # Threads

    async def executor(self):
        asyncio.get_running_loop().run_in_executor(None, self.now_hang)

    async def awaited_executor(self):
        await asyncio.to_thread(self.now_hang)

    async def brief_loop_in_thread(self):
        self.kept.append(threading.Thread(target=lambda: asyncio.run(asyncio.sleep(0.05))))
        self.kept[-1].start()

    async def endless_loop_in_thread(self):
        threading.Thread(target=lambda: asyncio.run(self.hang()), daemon=True).start()

    async def thread(self):
        threading.Thread(target=self.now_hang, name="worker").start()

    # What has to be closed

    async def subprocess(self):
        self.kept.append(await asyncio.create_subprocess_exec("sleep", "3600"))
        self.note(f"pid {self.kept[-1].pid}")

    async def shell(self):
        process = await asyncio.create_subprocess_shell("exec sleep 3600")
        self.note(f"pid {process.pid}")
        await process.wait()

    async def session(self):
        self.kept.append(aiohttp.ClientSession())
        async with self.kept[-1].get(self.config["url"]) as answer:
            await answer.read()

    async def both_ends(self):
        await self.server()
        address = self.kept[-1].sockets[0].getsockname()
        self.kept.append(await asyncio.open_connection(*address))

    async def server(self):
        def accepted(reader, writer):
            self.kept.append((reader, writer))

        self.kept.append(await asyncio.start_server(accepted, "127.0.0.1", 0))
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
stop_timeout = 0.5
close_timeout = 0.5
handle_timeout = 0.3
max_attempts = 2
retry_initial = 0.05

[plugins.%(name)s.config]
place = "%(place)s"
how = "%(how)s"
journal = "%(journal)s"
url = "%(url)s"
"""


@dataclass(frozen=True)
class Outcome:
    """What must become of a culprit.

    Attributes:
        before: Its state once the trouble has had its effect.
        after: Its state in the receipt.
        restarts: How often it was started again.
        receipt: Patterns that its part of the receipt, as JSON, matches; ``HERE`` is a line of its file.
        problems: Whether the receipt lists problems; None if that depends on the moment.
        log: What its log says at level WARNING or above; None if its trouble needs no such record.
        leaks: Whether a task or a thread of it is still there at the end.
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
    loses: bool | None = False
    held: bool = False

    @property
    def unclean(self) -> bool:
        """Whether it calls for the exit code 4."""
        return self.after == "abandoned" or self.leaks or bool(self.loses)


ERRORS = ("error", "base_exception", "system_exit", "keyboard_interrupt")
SLOW = ("hang", "ten_minutes")

#: A line of the culprit's file.
HERE = r"/\S+/plugins/\w+\.py:\d+"
FAILED = Outcome("failed", "failed", 1, ("trouble on purpose",))
FAILED_CHILD = replace(FAILED, receipt=(rf"task 'orphan' \(made at {HERE}\) raised RuntimeError",))
UNHARMED = Outcome("running", "stopped", log=None)
SLOW_START = Outcome("failed", "failed", 1, (rf"took longer than 0.8 s, waiting at {HERE}",),
                     log="took longer than 0.8 s")  # fmt: skip
UNDELIVERED = Outcome("running", "stopped", loses=True, receipt=(r'"dropped": {"max_attempts": ',))
CLOSED_BADLY = Outcome("running", "stopped", problems=True, receipt=(r"Culprit.close\(\) raised",))
CUT_SHORT = Outcome("running", "abandoned", problems=True, log="was cut short",
                    receipt=(rf"waiting at {HERE} in .*, and was cut short",))  # fmt: skip
#: What close() left, and the host has ended.
ENDED = Outcome("running", "stopped", problems=True, log="left behind",
                receipt=(r"close\(\) left behind, now ended: ",))  # fmt: skip
#: What nothing could end.
STUCK = Outcome("running", "abandoned", problems=True, leaks=True, log="abandoned", receipt=(HERE,))
#: What has the loop and does not give it back.
HELD = replace(STUCK, held=True, receipt=(rf"{HERE} in (hold|now_hang|now_ten_minutes)",))


def crashes(*receipt: str, log: str = "trouble on purpose") -> Outcome:
    """Return what becomes of a culprit that crashes each time."""
    return replace(FAILED, receipt=receipt, log=log)


def ended(what: str) -> Outcome:
    """Return what becomes of a culprit that has left something behind."""
    return replace(ENDED, receipt=(*ENDED.receipt, what))


Case = tuple[str, str]  # how, where

#: Ends with the exit code 0, however much went wrong before.
CLEAN: dict[Case, Outcome] = {
    **{(how, place): FAILED for how in ERRORS for place in ("__init__", "initialize", "start", "child")},
    **{(how, "route"): replace(UNHARMED, log="trouble on purpose") for how in ERRORS},
    **{(how, "close"): CLOSED_BADLY for how in ERRORS},
    **{("failing_child", place): FAILED_CHILD for place in ("initialize", "start", "child")},
    # These make it once: the next attempt is on the same instance, and without a visitor.
    **{("failing_child", place): Outcome("running", "stopped", 1) for place in ("__init__", "route")},
    ("failing_child", "close"): replace(
        CLOSED_BADLY, receipt=(rf"task 'orphan' \(made at {HERE}\) raised RuntimeError",)
    ),
    ("failing_gather", "start"): replace(
        crashes(rf"asyncio.gather\(\) \(called at {HERE}\) raised"), problems=True),
    **{("stop_loop", place): crashes("stopped the event loop", log="stopped the event loop")
       for place in ("initialize", "start", "child")},
    ("stop_loop", "close"): replace(CLOSED_BADLY, receipt=("stopped the event loop",), log="stopped"),
    ("close_loop", "start"): crashes("Cannot close a running event loop", log="Cannot close"),
    ("second_loop", "start"): crashes("while another loop is running", log="another loop"),
    ("failing_callback", "start"): crashes("callback .*now_error.*trouble on purpose"),
    ("failing_callback", "close"): replace(CLOSED_BADLY, receipt=("callback .*now_error",)),
    ("exiting_callback", "start"): crashes("SystemExit: trouble on purpose"),
    ("deaf_to_errors", "start"): crashes("callback .*now_error.*trouble on purpose"),
    ("cancel_everything", "start"): crashes("start.*cancelled by the plugin's code", log="by the plugin"),
    ("cancel_everything", "close"): replace(
        CLOSED_BADLY, receipt=("close.*cancelled by the plugin's code",), log="by the plugin"),
    ("cancel_everything", "route"): replace(UNHARMED, log="cancelled by the plugin's code"),
    ("handle_signal", "initialize"): crashes("signals are the service's", log="define close()"),
    ("set_signal", "initialize"): crashes("signals are the service's", log="define close()"),
}  # fmt: skip

#: As above; these take their time, or leave behind what the host can end.
ENDED_BY_THE_HOST: dict[Case, Outcome] = {
    **{(how, "initialize"): SLOW_START for how in SLOW},
    **{(how, "start"): UNHARMED for how in SLOW},
    **{(how, "child"): ended(rf"child \(made at {HERE}, at {HERE} in {how}") for how in SLOW},
    **{(how, "route"): UNHARMED for how in SLOW},
    ("hold_briefly", "__init__"): UNHARMED,
    **{("hold_briefly", place): UNHARMED for place in ("initialize", "start", "child", "close")},
    ("stutter", "start"): UNHARMED,
    ("stutter", "child"): ended(rf"child \(made at {HERE}"),
    ("open_generator", "start"): UNHARMED,
    ("waiting_for_a_future", "start"): UNHARMED,
    ("cancel_everything", "child"): UNHARMED,
    ("brief_loop_in_thread", "start"): UNHARMED,
    ("subprocess", "start"): ended(r"subprocess \d+"),
    ("shell", "child"): ended(r"subprocess \d+"),
    ("session", "start"): ended(r"a connection to 127\.0\.0\.1:\d+"),
    ("server", "start"): ended("a server"),
    ("both_ends", "start"): ended(r"a connection (to|from) 127\.0\.0\.1:\d+"),
    ("server", "close"): ended("a server"),
}  # fmt: skip

#: Ends with the exit code 4: the points could not be delivered.
HANDLE_EVENT: dict[Case, Outcome] = {
    **{(how, "handleEvent"): UNDELIVERED for how in ERRORS},
    **{(how, "handleEvent"): replace(UNDELIVERED, log="took longer than 0.3 s") for how in SLOW},
    **{(how, "handleEvent"): Outcome(
        "abandoned", "abandoned", log="ignored its cancellation", leaks=True, loses=True,
        receipt=(r'"plugin_failed": ', HERE), held=how == "hold", problems=True)
       for how in ("swallow", "hold")},
    ("failing_child", "handleEvent"): replace(FAILED_CHILD, loses=None, problems=None),
    ("stop_loop", "handleEvent"): replace(
        crashes("stopped the event loop", log="stopped"), loses=None, problems=None),
    ("cancel_everything", "handleEvent"): replace(
        UNDELIVERED, log="cancelled by the plugin's code"),
}  # fmt: skip

#: Ends with the exit code 4: something could not be ended.
STUBBORN: dict[Case, Outcome] = {
    **{(how, "__init__"): replace(HELD, before="abandoned", log="took longer") for how in SLOW},
    ("swallowing_child", "__init__"): STUCK,
    ("swallowing_child", "start"): STUCK,
    ("swallow", "initialize"): replace(STUCK, before="abandoned"),
    **{("swallow", place): STUCK for place in ("start", "child", "route", "close")},
    **{(how, "close"): CUT_SHORT for how in SLOW},
    ("hold", "initialize"): replace(HELD, before="abandoned"),
    **{("hold", place): HELD for place in ("start", "child", "route", "close")},
    ("executor", "start"): replace(STUCK, receipt=(rf"executor from .*{HERE}",)),
    ("awaited_executor", "child"): replace(STUCK, receipt=(rf"executor from .*{HERE}",)),
    ("endless_loop_in_thread", "start"): STUCK,
    ("thread", "start"): replace(STUCK, receipt=(rf"worker \(at {HERE}",)),
}  # fmt: skip

#: The ones of these whose way leads through the loop's own inside.
ON_UVLOOP: dict[Case, Outcome] = {
    **{case: CLEAN[case] for case in [
        ("error", "__init__"), ("error", "initialize"), ("error", "start"), ("error", "child"),
        ("system_exit", "child"), ("base_exception", "child"), ("error", "close"), ("stop_loop", "start"),
        ("close_loop", "start"), ("failing_callback", "start"), ("exiting_callback", "start"),
        ("failing_child", "start"), ("handle_signal", "initialize")]},
    **{case: ENDED_BY_THE_HOST[case] for case in [
        ("hang", "initialize"), ("hang", "child"), ("subprocess", "start"), ("shell", "child"),
        ("session", "start"), ("server", "start"), ("both_ends", "start"), ("open_generator", "start")]},
    **{case: STUBBORN[case] for case in [
        ("swallow", "start"), ("swallow", "child"), ("hold", "child"), ("executor", "start")]},
}  # fmt: skip

GROUPS = {
    "clean": CLEAN,
    "ended": ENDED_BY_THE_HOST,
    "events": HANDLE_EVENT,
    "stubborn": STUBBORN,
    "uvloop": ON_UVLOOP,
}
CASES = [
    pytest.param(group, *case, outcome, id=f"{group}-{case[0]}-in-{case[1]}")
    for group, cases in GROUPS.items()
    for case, outcome in cases.items()
]


class Visitor:
    """A request to a culprit's own route, which may never be answered."""

    def __init__(self, service: ServiceProcess, path: str) -> None:
        self._service = service
        self._path = path
        self.status: int | None = None
        self._thread = threading.Thread(target=self._visit, daemon=True)
        self._thread.start()

    def _visit(self) -> None:
        with contextlib.suppress(httpx.HTTPError):  # the service may stop first
            self.status = self._service.get(self._path, 20).status_code

    def leave(self) -> None:
        """Wait for the end of the request."""
        self._thread.join(25)
        assert not self._thread.is_alive()


def kill(pid: int) -> bool:
    """Kill a process that should have ended; return whether it still ran."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    os.kill(pid, signal.SIGKILL)
    return state != "Z"


def name_of(how: str, place: str) -> str:
    """Return the name of a culprit's plugin."""
    return f"{how}_in_{place.strip('_')}"


@dataclass
class Scene:
    """Culprits and neighbours in one service, which was started, watched and stopped.

    Attributes:
        before: The culprits' status before the stop, by name.
        visitors: Those who ask for the culprits' routes, by name.
        ready: The reasons of `/readyz` before the stop.
        survivors: The culprits whose subprocess outlived the service.
        code: The exit code.
        took: How long the stop took, in seconds.
    """

    directory: Path
    cases: dict[Case, Outcome]
    url: str
    event_loop: str = "asyncio"
    critical: bool = False
    before: dict[str, Any] = field(default_factory=dict)
    visitors: dict[str, Visitor] = field(default_factory=dict)
    ready: dict[str, Any] = field(default_factory=dict)
    survivors: set[str] = field(default_factory=set)
    code: int | None = None
    took: float = 0.0

    def __post_init__(self) -> None:
        toml = f"shutdown_timeout = {SHUTDOWN_TIMEOUT}\nslow_start = 0.1\n"
        plugins = self.directory / "plugins"
        write_plugin(plugins, "numbers", NUMBERS)
        write_plugin(plugins, "trio_neighbour", NEIGHBOUR)
        write_plugin(plugins, "asyncio_neighbour", NEIGHBOUR, ASYNCIO_STYLE)
        for name in ("numbers", *NEIGHBOURS):
            toml += f'[plugins.{name}.config]\njournal = "{self.journal_of(name)}"\n'
        for how, place in self.cases:
            bases = "BaseEventPlugin" if place == "handleEvent" else "BaseBackgroundPlugin"
            name = name_of(how, place)
            write_plugin(plugins, name, CULPRIT % bases, ASYNCIO_STYLE)
            toml += TABLE % {
                "name": name,
                "how": how,
                "place": place,
                "event_loop": self.event_loop,
                "critical": json.dumps(self.critical),
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

    def play(self, answers: int = 20) -> Scene:
        """Let it all happen, and see to it that so many requests are answered meanwhile."""
        with self.service as service:
            service.wait_until(self.all_neighbours_run)
            paths = ["/livez", *(f"/{name}" for name in NEIGHBOURS)]
            with Traffic(service, paths) as self.traffic:
                for how, place in self.cases:
                    if place == "route":
                        path = "/" + name_of(how, place)
                        self.visitors[name_of(how, place)] = Visitor(service, path)
                deadline = time.monotonic() + 10
                while not self.all_settled() and time.monotonic() < deadline:
                    time.sleep(0.05)  # the service is asked again and again: it decides
                self.traffic.wait_for_more(answers)
                self.ready = service.get("/readyz").json().get("reasons", {})
            told = time.monotonic()
            service.signal()
            self.code = service.process.wait(40)
            self.took = time.monotonic() - told
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


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Return the address of a server that keeps connections open."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def played(tmp_path_factory: Any, url: str) -> Callable[[str], Scene]:
    """Return a function that plays a group's scene, once."""
    scenes: dict[str, Scene | BaseException] = {}

    def play(group: str) -> Scene:
        if group not in scenes:
            event_loop = "uvloop" if group == "uvloop" else "asyncio"
            made = Scene(tmp_path_factory.mktemp(group), GROUPS[group], url, event_loop)
            try:
                scenes[group] = made.play()
            except BaseException as error:
                scenes[group] = error
        scene = scenes[group]
        if isinstance(scene, BaseException):
            raise scene
        return scene

    return play


@pytest.fixture
def scene(group: str, played: Callable[[str], Scene]) -> Scene:
    """Return what became of a group of culprits."""
    if group == "uvloop":
        pytest.importorskip("uvloop")
    return played(group)


@pytest.mark.parametrize("group", GROUPS)
def test_the_service_answers_throughout(scene: Scene) -> None:
    assert not scene.traffic.errors
    assert len(scene.traffic.answers) >= 20
    assert {answer.status for answer in scene.traffic.answers.values()} == {200}
    assert max(answer.seconds for answer in scene.traffic.answers.values()) < 2
    failing = {
        name_of(*case) for case, outcome in scene.cases.items() if outcome.before != "running"
    }
    assert set(scene.ready) == failing


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("neighbour", NEIGHBOURS)
def test_the_neighbours_lose_nothing(scene: Scene, neighbour: str) -> None:
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
    assert not complaints_but_slowness(scene.service, neighbour)


@pytest.mark.parametrize("group", GROUPS)
def test_the_stop_is_bounded_and_accounts_for_all(scene: Scene) -> None:
    assert scene.took < SHUTDOWN_TIMEOUT
    receipt = scene.service.receipt  # there is exactly one
    unclean = any(outcome.unclean for outcome in scene.cases.values())
    assert scene.code == receipt["exit_code"] == (4 if unclean else 0)
    names = ["numbers", *scene.names, *NEIGHBOURS]
    assert [item["name"] for item in receipt["plugins"]] == names
    assert "bug in the" not in scene.service.output
    assert not [line for line in scene.service.lines if line and not line.startswith("{")]


@pytest.mark.parametrize(("group", "how", "place", "outcome"), CASES)
def test_a_culprit_harms_only_itself(scene: Scene, how: str, place: str, outcome: Outcome) -> None:
    name = name_of(how, place)
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
    said = complaints(scene.service, name)
    if outcome.log is None:
        assert not complaints_but_slowness(scene.service, name)
    else:
        assert any(outcome.log in record["message"] for record in said), said
    if outcome.log == "trouble on purpose":
        traced = [record["exception"] for record in said if "exception" in record]
        assert traced
        assert all(f"/plugins/{name}.py" in exception for exception in traced)
        assert all(" in now_" in exception for exception in traced), "where it happened"

    if name in scene.visitors and how in {*ERRORS, "cancel_everything"}:
        assert scene.visitors[name].status == 500
    if how in {"subprocess", "shell"}:
        assert any(line.startswith("pid ") for line in scene.journal(name))
        assert name not in scene.survivors
    if how == "open_generator":
        assert scene.journal(name)[-2:] == ["close", "finalized"]


def complaints_but_slowness(service: ServiceProcess, name: str) -> list[dict[str, Any]]:
    """Return the complaints about a plugin, apart from a slow start: the machine may be busy."""
    return [record for record in complaints(service, name) if " is slow" not in record["message"]]


@pytest.mark.parametrize(
    "place", ["__init__", "initialize", "child", "route", "handleEvent", "close"]
)
def test_a_loop_that_computes_for_ever_is_left_behind(tmp_path: Path, place: str, url: str) -> None:
    before = "running" if place in {"child", "route", "close"} else "abandoned"
    outcome = Outcome(before, "abandoned", leaks=True, held=True)
    scene = Scene(tmp_path, {("spin", place): outcome}, url).play(answers=6)
    assert not scene.traffic.errors
    assert {answer.status for answer in scene.traffic.answers.values()} == {200}
    assert max(answer.seconds for answer in scene.traffic.answers.values()) < 4
    assert scene.took < SHUTDOWN_TIMEOUT
    assert scene.code == scene.service.receipt["exit_code"] == 4
    test_the_neighbours_lose_nothing(scene, "trio_neighbour")
    test_the_neighbours_lose_nothing(scene, "asyncio_neighbour")
    receipt = scene.service.receipt_of(name_of("spin", place))
    assert receipt["state"] == "abandoned"
    assert re.search(rf"{HERE} in now_spin", json.dumps(receipt))
    assert receipt["leaked_tasks"] or receipt["leaked_threads"]
    entered = scene.lifecycle(name_of("spin", place))
    assert entered in ([] if place == "__init__" else ["initialize"], ["initialize", "close"])
    assert ("close" in entered) == (place == "close")


@pytest.mark.parametrize(
    ("how", "place"),
    [
        ("error", "child"),
        ("failing_callback", "start"),
        ("stop_loop", "start"),
        ("swallow", "initialize"),
    ],
)
def test_a_critical_culprit_ends_the_service(
    tmp_path: Path, how: str, place: str, url: str
) -> None:
    outcome = (CLEAN | STUBBORN)[how, place]
    scene = Scene(tmp_path, {(how, place): outcome}, url, critical=True)
    with scene.service as service:
        code = service.wait()
    assert code == service.receipt["exit_code"] == 3
    assert name_of(how, place) in service.receipt["reason"]
    assert service.receipt_of(name_of(how, place))["state"] == outcome.before
    entered = scene.lifecycle(name_of(how, place))
    assert entered == ["initialize", "close"] * (1 + outcome.restarts)


@pytest.mark.parametrize(
    "line",
    [
        "signal.signal(signal.SIGTERM, print)",
        "signal.signal(signal.SIGINT, signal.SIG_IGN)",
        "asyncio.new_event_loop().add_signal_handler(signal.SIGTERM, print)",
    ],
)
def test_a_file_that_takes_a_signal_is_refused(tmp_path: Path, line: str) -> None:
    source = f"{line}\n\nclass P(BaseBackgroundPlugin):\n    pass\n"
    write_plugin(tmp_path / "plugins", "culprit", source, ASYNCIO_STYLE)
    with ServiceProcess(tmp_path, ["culprit"]) as service:
        assert service.wait() == 2
    assert "culprit.py: sets a handler for SIG" in service.output
    assert "signals are the service's" in service.output
    assert "define close()" in service.output


@pytest.mark.parametrize("event_loop", ["asyncio", "uvloop"])
def test_a_subprocess_of_an_abandoned_plugin_is_gone_too(tmp_path: Path, event_loop: str) -> None:
    """Its loop never runs again, so that nobody but the service can end what it has started."""
    source = """
        class P(BaseBackgroundPlugin):
            async def initialize(self):
                self.process = await asyncio.create_subprocess_exec("sleep", "3600")
                print("pid", self.process.pid, flush=True)

            async def start(self):
                time.sleep(600)
    """
    write_plugin(tmp_path / "plugins", "culprit", source, ASYNCIO_STYLE)
    pytest.importorskip(event_loop)
    toml = f"""
        shutdown_timeout = 4
        [plugins.culprit]
        event_loop = "{event_loop}"
        close_timeout = 0.3
        stop_timeout = 0.3
    """
    with ServiceProcess(tmp_path, ["culprit"], toml) as service:
        pid = int(service.wait_for(r"^pid (\d+)$")[1])
        service.wait_until_ready()
        assert service.stop() == 4
        assert not kill(pid)
