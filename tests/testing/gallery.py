"""Plugins with one fault each, and unusual ones without any. The faulty line ends with ``# !``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from lva.testing import World

PREAMBLE = """
import asyncio
import contextlib
import functools
import logging
import socket
import sys
import threading
import time
from pathlib import Path

import httpx
import trio
from pydantic import BaseModel, SecretStr

from lva import *

"""
SINK = '''
class Sink(BaseEventPlugin):
    eventName = "monitoring_event"

    async def post(self, points):
        """Send points; raise if they were not taken."""
        await trio.sleep(0.01)
        await take(points)  # of the world: see `Near`

'''
#: A sink that sends its points over HTTP.
CLIENT = """
class Sink(BaseEventPlugin):
    eventName = "monitoring_event"
    client = None

    async def initialize(self):
        self.client = httpx.AsyncClient(trust_env=False, verify=False)

    async def post(self, points):
        documents = [{"tags": point.tags, "fields": point.fields} for point in points]
        return await self.client.post(self.config["url"], json=documents)

    async def close(self):
        if self.client is not None:
            await self.client.aclose()
            self.client = None

"""
HTTP = {"config": lambda world: {"url": world.url}}


class Near(World):
    """A world without a network: `SINK` calls its `take`. A run takes a third of what HTTP takes."""

    def prepare(self, module: ModuleType) -> None:
        module.take = self.take  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Plugin:
    """One plugin of the gallery.

    Attributes:
        name: What is wrong with it, or unusual.
        source: Its text.
        guarantee: What it breaks.
        says: What the message has to contain.
        event: Whether the contract of event plugins shows it, and not that of life.
        options: More arguments of the check.
    """

    name: str
    source: str
    guarantee: str = ""
    says: str = ""
    event: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lines(self) -> set[int]:
        """The faulty lines."""
        return {n for n, line in enumerate(self.source.splitlines(), 1) if line.endswith("# !")}


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" if line else "\n" for line in text.strip("\n").splitlines())


def background(name: str, body: str, guarantee: str = "", says: str = "", **options: Any) -> Plugin:
    source = f"{PREAMBLE}class P(BaseBackgroundPlugin):\n{_indented(body)}"
    return Plugin(name, source, guarantee, says, options=options)


def on_asyncio(name: str, body: str, guarantee: str = "", says: str = "", **options: Any) -> Plugin:
    head = f'{PREAMBLE}class P(BaseBackgroundPlugin):\n    runtime = "asyncio"\n\n'
    return Plugin(name, head + _indented(body), guarantee, says, options=options)


def sink(name: str, body: str, guarantee: str = "", says: str = "", **options: Any) -> Plugin:
    """Return a plugin whose `handleEvent`, or what else differs from `SINK`, is given."""
    source = f"{PREAMBLE}{SINK}{_indented(body)}"
    return Plugin(name, source, guarantee, says, event=True, options={"world": Near, **options})


def client(name: str, body: str, guarantee: str = "", says: str = "") -> Plugin:
    """Return a plugin whose `handleEvent`, or what else differs from `CLIENT`, is given."""
    return Plugin(
        name, f"{PREAMBLE}{CLIENT}{_indented(body)}", guarantee, says, event=True, options=HTTP
    )


def event(name: str, body: str, guarantee: str = "", says: str = "", **options: Any) -> Plugin:
    """Return an event plugin without an outside world."""
    head = f'{PREAMBLE}class P(BaseEventPlugin):\n    eventName = "monitoring_event"\n\n'
    return Plugin(name, head + _indented(body), guarantee, says, event=True, options=options)


SECRET = {"config": {"token": "hunter2-hunter2"}}

WRONG = [
    background(
        "forgets_to_await",
        """
client = None

async def initialize(self):
    self.client = httpx.AsyncClient(verify=False)

async def close(self):
    if self.client is not None:
        self.client.aclose()  # !
""",
        "await",
        "coroutine 'AsyncClient.aclose' was never awaited",
    ),
    on_asyncio(
        "asyncio_forgets_to_await",
        """
async def start(self):
    self.work()  # !

async def work(self):
    pass
""",
        "await",
        "coroutine 'P.work' was never awaited",
    ),
    background(
        "crashes_after_minutes",
        """
async def start(self):
    for interval in (3, 30, 300):
        await trio.sleep(interval)
    await self.wrok()  # !
""",
        "start",
        "AttributeError",
    ),
    background(
        "crashes_minutes_after_a_restart",
        """
starts = 0

async def start(self):
    self.starts += 1
    await trio.sleep(300)
    assert self.starts == 1  # !
    await trio.sleep_forever()
""",
        "start",
        "AssertionError",
    ),
    on_asyncio(
        "asyncio_crashes_after_minutes",
        """
job = None

async def start(self):
    self.job = asyncio.create_task(self.work())

async def work(self):
    await asyncio.sleep(300)
    self.done.append(1)  # !

async def close(self):
    if self.job is not None:
        self.job.cancel()
""",
        "start",
        "AttributeError",
    ),
    event(
        "crashes_over_points_that_gathered_for_a_minute",
        """
async def initialize(self):
    self.gathered = []
    self.nursery.start_soon(self.work)

async def work(self):
    while True:
        await trio.sleep(60)
        for point in self.gathered:
            point.tag  # !

async def handleEvent(self, points, logger):
    self.gathered += points
""",
        "start",
        "AttributeError",
    ),
    # G1: closed exactly once
    background(
        "close_needs_what_initialize_makes",
        """
async def initialize(self):
    self.session = httpx.AsyncClient(verify=False)

async def close(self):
    await self.session.aclose()  # !
""",
        "G1",
        "P.close() raised AttributeError",
    ),
    background(
        "close_needs_all_of_initialize",
        """
async def initialize(self):
    self.first = []
    await trio.sleep(1)
    self.second = []

async def close(self):
    if hasattr(self, "first"):
        self.second.clear()  # !
""",
        "G1",
        "P.close() raised AttributeError",
    ),
    background(
        "close_raises",
        """
async def close(self):
    raise ValueError("who would close this?")  # !
""",
        "G1",
        "P.close() raised ValueError: who would close this?",
    ),
    background(
        "close_is_not_async",
        """
def close(self):
    pass
""",
        "load",
        "write `async def close`",
    ),
    background(
        "close_is_not_async_which_the_text_does_not_tell",
        """
def close(self):
    return time.time()
""",
        "G1",
        "write it as `async def`",
    ),
    background(
        "close_works_once_only",
        """
closed = False

async def close(self):
    if self.closed:
        raise RuntimeError("closed twice")  # !
    self.closed = True
""",
        "G1",
        "P.close() raised RuntimeError: closed twice",
    ),
    # G4: bounded stop
    background(
        "calls_its_close_by_itself",
        """
async def start(self):
    try:
        await trio.sleep_forever()
    finally:
        await self.close()  # !

async def close(self):
    self.closed = True
""",
        "G1",
        "P.close() was called by the plugin itself",
    ),
    background(
        "close_hangs",
        """
async def close(self):
    await trio.sleep_forever()  # !
""",
        "G4",
        "P.close() took longer than",
    ),
    background(
        "close_ignores_its_cancellation",
        """
async def close(self):
    while True:
        try:
            await trio.sleep(1)
        except BaseException:
            pass
""",
        "G4",
        "ignored its cancellation",
    ),
    background(
        "initialize_ignores_its_cancellation",
        """
async def initialize(self):
    done = False
    while not done:
        try:
            await trio.sleep(1)
            done = True
        except BaseException:
            pass
""",
        "G4",
        "ignored its cancellation",
    ),
    background(
        "start_ignores_its_cancellation",
        """
async def start(self):
    while True:
        try:
            await trio.sleep(1)
        except BaseException:
            pass
""",
        "G4",
        "ignored its cancellation",
    ),
    background(
        "start_is_shielded",
        """
async def start(self):
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()  # !
""",
        "G4",
        "ignored its cancellation",
    ),
    background(
        "a_child_is_shielded",
        """
async def start(self):
    self.nursery.start_soon(self.child)

async def child(self):
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()  # !
""",
        "G4",
        "ignored its cancellation",
    ),
    background(
        "cleaning_up_takes_for_ever",
        """
async def start(self):
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(3600)  # !
""",
        "G4",
        "ignored its cancellation",
    ),
    background(
        "a_thread_keeps_its_task",
        """
async def start(self):
    await trio.to_thread.run_sync(time.sleep, 1.0)
    await trio.sleep_forever()
""",
        "G4",
        "ignored its cancellation",
    ),
    # G7: nothing left
    background(
        "leaves_a_system_task",
        """
async def initialize(self):
    trio.lowlevel.spawn_system_task(self.work)

async def work(self):
    await trio.sleep_forever()  # !
""",
        "G7",
        "task lva_plugins",
    ),
    background(
        "leaves_a_thread",
        """
async def initialize(self):
    threading.Thread(target=time.sleep, args=(1.5,), name="pump", daemon=True).start()  # !
""",
        "G7",
        "leaked thread pump",
    ),
    background(
        "leaves_an_abandoned_thread",
        """
async def start(self):
    await trio.to_thread.run_sync(self.pump, abandon_on_cancel=True)

def pump(self):
    time.sleep(1.5)  # !
""",
        "G7",
        "thread",
    ),
    background(
        "leaves_a_socket",
        """
async def initialize(self):
    self.socket = socket.socket()  # !
""",
        "G7",
        "leaked: the socket",
    ),
    background(
        "leaves_a_listener",
        """
async def initialize(self):
    (self.listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")  # !
""",
        "G7",
        "leaked: the socket",
    ),
    background(
        "leaves_a_file",
        """
async def initialize(self):
    self.file = open(Path(self.app.settings["state_dir"]) / "notes", "w")  # !
""",
        "G7",
        "leaked: the file",
    ),
    background(
        "leaves_a_socket_when_it_is_stopped_early",
        """
made = []

async def initialize(self):
    self.made.append(socket.socket())  # !
    await trio.sleep(1)
    self.sockets = self.made[:]

async def close(self):
    for item in getattr(self, "sockets", ()):
        item.close()
""",
        "G7",
        "leaked: the socket",
    ),
    background(
        "leaves_a_file_when_its_close_is_cut_short",
        """
file = None

async def initialize(self):
    self.file = open(Path(self.app.settings["state_dir"]) / "notes", "w")  # !

async def close(self):
    await trio.sleep(0.1)
    if self.file is not None:
        self.file.close()
""",
        "G7",
        "leaked: the file",
    ),
    background(
        "opens_a_file_in_each_attempt",
        """
files = []

async def initialize(self):
    self.files.append(open(Path(self.app.settings["state_dir"]) / "notes", "a"))  # !

async def close(self):
    if self.files:
        self.files[0].close()
""",
        "G7",
        "leaked: the file",
    ),
    client(
        "leaves_the_connections_of_its_client",
        """
async def handleEvent(self, points, logger):
    (await self.post(points)).raise_for_status()

async def close(self):
    pass
""",
        "G7",
        "leaked: the socket",
    ),
    # A plugin that starts, and starts again
    background(
        "initialize_raises",
        """
async def initialize(self):
    raise OSError("the camera is gone")  # !
""",
        "start",
        "OSError: the camera is gone",
    ),
    background(
        "initialize_waits_for_ever",
        """
async def initialize(self):
    await trio.Event().wait()  # !
""",
        "start",
        "took longer than 30 s",
    ),
    background(
        "initialize_is_not_async",
        """
def initialize(self):
    self.ready = True
""",
        "load",
        "write `async def initialize`",
    ),
    background(
        "initialize_is_not_async_which_the_text_does_not_tell",
        """
def initialize(self):
    return print(end="")
""",
        "start",
        "P.initialize() returned NoneType; write it as `async def`",
    ),
    background(
        "init_raises",
        """
def __init__(self, app):
    super().__init__(app)
    raise OSError("no such device")
""",
        "start",
        "OSError: no such device",
    ),
    background(
        "init_forgets_its_base",
        """
def __init__(self, app):
    self.ready = False
""",
        "load",
        "must call `super().__init__(app)`",
    ),
    background(
        "init_forgets_its_base_which_the_text_does_not_tell",
        """
def __init__(self, app):
    app or super().__init__(app)
""",
        "start",
        "must call super().__init__(app)",
    ),
    background(
        "asyncio_in_trio_style",
        """
async def initialize(self):
    await asyncio.sleep(1)  # !
""",
        "start",
        "no running event loop",
    ),
    background(
        "start_fails_after_a_while",
        """
async def start(self):
    await trio.sleep(0.5)
    self.missing()  # !
""",
        "start",
        "it crashed without anybody's doing: P.start() raised AttributeError",
    ),
    background(
        "a_child_fails_after_a_while",
        """
async def start(self):
    self.nursery.start_soon(self.child)

async def child(self):
    await trio.sleep(1.5)
    raise KeyError("camera")
""",
        "start",
        "KeyError: 'camera'",
    ),
    background(
        "cancels_itself",
        """
async def start(self):
    self.nursery.cancel_scope.cancel()
""",
        "start",
        "cancelled by the plugin's own code",
    ),
    background(
        "exits_the_process",
        """
async def start(self):
    sys.exit("nothing to do")  # !
""",
        "start",
        "SystemExit",
    ),
    background(
        "takes_a_path_of_the_service",
        """
async def initialize(self):
    self.addRoute("/plugins/mine", self.get)  # !

async def get(self, request):
    return "mine"
""",
        "start",
        "belongs to the service",
    ),
    background(
        "adds_a_path_twice",
        """
async def initialize(self):
    self.addRoute("/mine", self.get)
    self.addRoute("/mine", self.get)  # !

async def get(self, request):
    return "mine"
""",
        "start",
        "/mine",
    ),
    background(
        "publishes_what_is_no_point",
        """
async def start(self):
    self.app.publish("monitoring_event", [{"series": "cpu"}])  # !
""",
        "start",
        "MonitoringPoint objects, not dict",
    ),
    background(
        "publishes_an_unknown_event",
        """
async def start(self):
    self.app.publish("monitoring_events", [])  # !
""",
        "start",
        "did you mean 'monitoring_event'?",
    ),
    background(
        "does_not_start_again",
        """
ready = False

async def initialize(self):
    if self.ready:
        raise RuntimeError("initialized twice")  # !
    self.ready = True
""",
        "start",
        "it does not start a second time",
    ),
    background(
        "adds_its_route_only_once",
        """
added = False

async def initialize(self):
    if not self.added:
        self.addRoute("/mine", self.get)
    self.added = True

async def get(self, request):
    return "mine"
""",
        "G8",
        "after a restart the route /mine is gone",
    ),
    # The event loop
    background(
        "initialize_and_close_block",
        """
async def initialize(self):
    time.sleep(0.08)  # !

async def close(self):
    time.sleep(0.08)  # !
""",
        "loop",
        "one step blocked the event loop of the whole service",
    ),
    # Secrets
    background(
        "logs_a_secret_in_each_way",
        """
async def initialize(self):
    token = self.config["token"]
    self.logger.info("connecting with token %s", token)  # !
    self.logger.debug("configuration: %r", self.config)  # !
    logging.getLogger(__name__).debug("token: %s", token)  # !
    self.logger.info("connecting", extra={"how": {"token": token}})  # !
    try:
        raise OSError(f"cannot log in with {token}")
    except OSError:
        self.logger.exception("no login")  # !
""",
        "secret",
        "to the log, at level",
        **SECRET,
    ),
    background(
        "prints_a_secret",
        """
async def start(self):
    print("my token is", self.config["token"])
""",
        "secret",
        "the plugin printed a secret",
        **SECRET,
    ),
    # On asyncio
    on_asyncio(
        "asyncio_leaves_a_task",
        """
async def start(self):
    self.task = asyncio.create_task(asyncio.sleep(3600))  # !
""",
        "G7",
        "leaked, now ended",
    ),
    on_asyncio(
        "asyncio_leaves_a_server",
        """
async def initialize(self):
    self.server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
""",
        "G7",
        "a server",
    ),
    on_asyncio(
        "asyncio_ignores_its_cancellation",
        """
async def start(self):
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
""",
        "G4",
        "not ended, although cancelled",
    ),
    on_asyncio(
        "asyncio_task_fails_unseen",
        """
async def start(self):
    self.task = asyncio.create_task(self.work())

async def work(self):
    await asyncio.sleep(1)
    raise KeyError("camera")
""",
        "start",
        "KeyError: 'camera'",
    ),
    on_asyncio(
        "asyncio_close_needs_what_start_makes",
        """
async def start(self):
    self.task = asyncio.create_task(asyncio.sleep(3600))

async def close(self):
    self.task.cancel()  # !
""",
        "G1",
        "P.close() raised AttributeError",
    ),
    on_asyncio(
        "asyncio_blocks",
        """
async def start(self):
    time.sleep(0.05)  # !
""",
        "loop",
        "one step blocked its own event loop",
        block_limit=0.02,
    ),
    on_asyncio(
        "asyncio_close_hangs",
        """
async def close(self):
    await asyncio.Event().wait()  # !
""",
        "G4",
        "P.close() took longer than",
    ),
    on_asyncio(
        "trio_in_asyncio_style",
        """
async def initialize(self):
    await trio.sleep(1)  # !
""",
        "start",
        "P.initialize() raised",
    ),
    # G5: conservation
    sink(
        "swallows_errors",
        """
async def handleEvent(self, points, logger):  # !
    try:
        await self.post(points)
    except OSError:
        logger.warning("the sink is down")
""",
        "G5",
        "arrived",
    ),
    client(
        "does_not_look_at_the_status",
        """
async def handleEvent(self, points, logger):  # !
    await self.post(points)
""",
        "G5",
        "arrived",
    ),
    sink(
        "returns_before_it_has_sent",
        """
waiting = []

async def handleEvent(self, points, logger):  # !
    self.waiting += points
    if len(self.waiting) >= 1000:
        await self.post(self.waiting)
""",
        "G5",
        "returned for 24 points, but only 0 arrived",
    ),
    sink(
        "keeps_points_until_there_are_ten",
        """
waiting = []

async def handleEvent(self, points, logger):  # !
    self.waiting = [*self.waiting, *points]
    if len(self.waiting) >= 10:
        await self.post(self.waiting)
        self.waiting = []
""",
        "G5",
        "returned for 24 points, but only 20 arrived",
    ),
    sink(
        "fires_and_forgets",
        """
async def handleEvent(self, points, logger):  # !
    self.nursery.start_soon(self.try_to_post, points)

async def try_to_post(self, points):
    with contextlib.suppress(OSError):
        await self.post(points)
""",
        "G5",
        "arrived",
    ),
    sink(
        "forgets_the_last_point",
        """
async def handleEvent(self, points, logger):  # !
    await self.post(points[:-1])
""",
        "G5",
        "arrived",
    ),
    sink(
        "takes_a_cancellation_for_success",
        """
async def handleEvent(self, points, logger):  # !
    with trio.move_on_after(2):
        await self.post(points)
""",
        "G5",
        "arrived",
    ),
    sink(
        "gives_points_up_for_a_failure_that_passes",
        """
async def handleEvent(self, points, logger):  # !
    try:
        await self.post(points)
    except OSError as error:
        raise PermanentDeliveryError("the sink does not want them") from error
""",
        "G5",
        "rejected for ever for a failure that passes",
    ),
    sink(
        "says_that_nothing_has_failed",
        """
async def handleEvent(self, points, logger):  # !
    try:
        await self.post(points)
    except OSError as error:
        raise PartialDeliveryError("some failed") from error
""",
        "G5",
        "arrived",
    ),
    sink(
        "names_copies_of_failed_points",
        """
async def handleEvent(self, points, logger):  # !
    try:
        await self.post(points)
    except OSError as error:
        copies = [MonitoringPoint(p.series, p.time, p.tags, p.fields) for p in points]
        raise PartialDeliveryError("all failed", failed=copies) from error
""",
        "G5",
        "not the very objects",
    ),
    sink(
        "sends_in_any_order",
        """
async def handleEvent(self, points, logger):  # !
    await self.post(points[::-1])
""",
        "G3",
        "arrived after one that was published later",
        ordered=True,
    ),
    sink(
        "leaves_points_in_a_shielded_call",
        """
async def handleEvent(self, points, logger):
    with trio.CancelScope(shield=True):
        await self.post(points)
""",
        "G4",
        "ignored its cancellation",
    ),
    event(
        "changes_points",
        """
async def handleEvent(self, points, logger):  # !
    for point in points:
        dict.__setitem__(point.tags, "site", "north")
""",
        "G2",
        "it changed a point that all plugins share",
    ),
    event(
        "wants_a_tag_that_not_all_points_have",
        """
async def handleEvent(self, points, logger):  # !
    for point in points:
        logger.info("camera %s", point.tags["camera"])
""",
        "G5",
        "KeyError: 'camera'",
    ),
    event(
        "handle_event_is_not_async",
        """
def handleEvent(self, points, logger):  # !
    logger.info("%d points", len(points))
""",
        "load",
        "write `async def handleEvent`",
    ),
    event(
        "handle_event_is_not_async_which_the_text_does_not_tell",
        """
def handleEvent(self, points, logger):  # !
    return logger.info("%d points", len(points))
""",
        "G5",
        "write it as `async def`",
    ),
    event(
        "handle_event_takes_too_few_arguments",
        """
async def handleEvent(self, points):  # !
    self.count = len(points)
""",
        "load",
        "takes 1 argument besides `self`",
    ),
    event(
        "handle_event_takes_too_few_arguments_which_the_text_does_not_tell",
        """
async def handle(self, points):
    self.count = len(points)
handleEvent = functools.partialmethod(handle)
""",
        "G5",
        "TypeError",
    ),
    event(
        "is_never_ready",
        """
async def handleEvent(self, points, logger):  # !
    raise RetryLaterError("not now")
""",
        "G5",
        "RetryLaterError: not now",
    ),
    event(
        "rejects_everything",
        """
async def handleEvent(self, points, logger):  # !
    raise PermanentDeliveryError("I do not like them")
""",
        "G5",
        "points rejected although all is well",
    ),
    event(
        "handle_event_hangs",
        """
async def handleEvent(self, points, logger):  # !
    await trio.sleep_forever()
""",
        "G5",
        "took longer than 10 s",
    ),
    event(
        "handle_event_ignores_its_cancellation",
        """
async def handleEvent(self, points, logger):
    while True:
        try:
            await trio.sleep(1)
        except BaseException:
            pass
""",
        "G4",
        "ignored its cancellation",
    ),
    event(
        "handle_event_computes",
        """
end = 0.0

async def handleEvent(self, points, logger):
    self.end = self.end or time.thread_time() + 0.04
    while time.thread_time() < self.end: pass  # !
""",
        "loop",
        "one step blocked the event loop of the whole service",
        block_limit=0.02,
    ),
]

RIGHT = [
    background("nothing_at_all", "pass"),
    background(
        "start_returns_and_children_work",
        """
async def start(self):
    for _ in range(3):
        self.nursery.start_soon(self.child)

async def child(self):
    while True:
        await trio.sleep(0.3)
""",
    ),
    background(
        "ends_by_itself_and_is_started_again",
        """
host_settings = {"restart": "always", "backoff_initial": 0.1}

async def start(self):
    await trio.sleep(0.5)
""",
    ),
    background(
        "is_never_restarted",
        """
host_settings = {"restart": "never"}

async def start(self):
    await trio.sleep_forever()
""",
    ),
    background(
        "takes_long_to_start_and_to_close",
        """
async def initialize(self):
    await trio.sleep(25)

async def close(self):
    await trio.sleep(4.5)
""",
    ),
    background(
        "joins_its_thread",
        """
thread = None

async def initialize(self):
    self.over = threading.Event()
    self.thread = threading.Thread(target=self.over.wait, args=(10,), daemon=True)
    self.thread.start()

async def close(self):
    if self.thread is not None:
        self.over.set()
        self.thread.join()
        self.thread = None
""",
    ),
    background(
        "its_thread_looks_for_the_stop",
        """
async def start(self):
    await trio.to_thread.run_sync(self.pump)

def pump(self):
    while True:
        trio.from_thread.check_cancelled()
        time.sleep(0.002)
""",
    ),
    background(
        "cleans_up_in_a_shield_with_a_deadline",
        """
async def start(self):
    try:
        await trio.sleep_forever()
    finally:
        with trio.move_on_after(1, shield=True):
            await trio.sleep_forever()
""",
    ),
    background(
        "looks_at_its_cancellation_and_passes_it_on",
        """
async def start(self):
    try:
        await trio.sleep_forever()
    except BaseException as error:
        self.why = type(error).__name__
        raise
""",
    ),
    background(
        "opens_in_a_stack",
        """
stack = None

async def initialize(self):
    async with contextlib.AsyncExitStack() as stack:
        path = Path(self.app.settings["state_dir"]) / "notes"
        await stack.enter_async_context(await trio.open_file(path, "w"))
        await trio.sleep(0.1)
        self.stack = stack.pop_all()

async def close(self):
    if self.stack is not None:
        stack, self.stack = self.stack, None
        await stack.aclose()
""",
    ),
    background(
        "serves_routes_of_every_kind",
        """
async def initialize(self):
    self.addRoute("/mine/<int:n>", self.get, methods={"get", "post"})
    self.addRoute("/plain", lambda request: "plain")

async def get(self, request, n):
    return pluginHTTPResponse(body={"n": n})
""",
    ),
    background(
        "uses_its_secret_and_keeps_it",
        """
class Config(BaseModel):
    token: SecretStr

async def initialize(self):
    self.logger.info("my configuration is %r", self.config)
    self.length = len(self.config.token.get_secret_value())
""",
        config={"token": "hunter2-hunter2"},
    ),
    background(
        "publishes_points_of_its_own",
        """
async def start(self):
    while True:
        self.app.publish("monitoring_event", [MonitoringPoint("cpu", time.time(), {}, {"n": 1})])
        await trio.sleep(0.2)
""",
    ),
    background(
        "has_nurseries_and_deadlines_of_its_own",
        """
async def start(self):
    while True:
        with trio.move_on_after(0.4):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(trio.sleep, 0.1)
""",
    ),
    background(
        "runs_a_subprocess",
        """
async def start(self):
    await trio.run_process(["sleep", "30"])
""",
    ),
    Plugin(
        "two_classes_that_work_together",
        PREAMBLE
        + """
send, receive = trio.open_memory_channel(100)

class Collector(BaseEventPlugin):
    eventName = "monitoring_event"

    async def handleEvent(self, points, logger):
        for point in points:
            send.send_nowait(point)

class Counter(BaseBackgroundPlugin):
    count = 0

    async def start(self):
        async for _ in receive:
            self.count += 1
""",
        event=True,
    ),
    Plugin(
        "one_class_derives_from_the_other",
        PREAMBLE
        + """
class First(BaseEventPlugin):
    eventName = "monitoring_event"

    async def initialize(self):
        self.first = []

    async def handleEvent(self, points, logger):
        self.first += points

    async def close(self):
        self.first = []

class Second(First):
    async def initialize(self):
        self.first, self.second = [], []

    async def handleEvent(self, points, logger):
        await super().handleEvent(points, logger)
        self.second += points

    async def close(self):
        await super().close()
        self.second = []
""",
        event=True,
    ),
    Plugin(
        "an_abstract_base_of_its_own",
        PREAMBLE
        + """
from abc import abstractmethod

class Base(BaseEventPlugin):
    eventName = "monitoring_event"

    @abstractmethod
    async def send(self, point): ...

    async def handleEvent(self, points, logger):
        for point in points:
            await self.send(point)

class P(Base):
    async def send(self, point):
        self.last = point
""",
        event=True,
    ),
    on_asyncio(
        "asyncio_close_does_not_await_its_task",
        """
task = None

async def start(self):
    self.task = asyncio.create_task(self.work())

async def work(self):
    while True:
        await asyncio.sleep(0.5)

async def close(self):
    if self.task is not None:
        self.task.cancel()
""",
    ),
    on_asyncio(
        "asyncio_group_in_start",
        """
async def start(self):
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(3600))
        group.create_task(asyncio.sleep(3600))
""",
    ),
    on_asyncio(
        "asyncio_uses_threads",
        """
async def initialize(self):
    await asyncio.to_thread(time.sleep, 0.01)

async def start(self):
    while True:
        async with asyncio.timeout(5):
            await asyncio.to_thread(time.sleep, 0.002)
        await asyncio.sleep(1)
""",
    ),
    on_asyncio(
        "asyncio_retrieves_its_errors",
        """
async def start(self):
    while True:
        task = asyncio.create_task(self.work())
        with contextlib.suppress(KeyError):
            await task

async def work(self):
    await asyncio.sleep(1)
    raise KeyError("camera")
""",
    ),
    Plugin(
        "of_the_original_service",
        """
import asyncio
from luna_plugins.base.plugins_meta.base_plugins import BaseBackgroundPlugin, pluginHTTPResponse

class P(BaseBackgroundPlugin):
    temperature = 0

    async def initialize(self):
        self.addRoute("/temperature", lambda request: pluginHTTPResponse(body=str(self.temperature)))

    async def usefulJob(self):
        while True:
            self.temperature += 1
            await asyncio.sleep(1)

    async def start(self):
        self.job = asyncio.create_task(self.usefulJob())

    async def close(self):
        if getattr(self, "job", None):
            self.job.cancel()
""",
    ),
    sink(
        "sends_one_by_one",
        """
async def handleEvent(self, points, logger):
    failed = []
    for point in points:
        try:
            await self.post([point])
        except OSError:
            failed.append(point)
    if failed:
        raise PartialDeliveryError("some failed", failed=failed)
""",
        ordered=False,
    ),
    sink(
        "asks_for_patience",
        """
async def handleEvent(self, points, logger):
    try:
        await self.post(points)
    except OSError as error:
        raise RetryLaterError("the sink is down", after=3) from error
""",
        ordered=True,
    ),
    sink(
        "sends_four_batches_at_once",
        """
host_settings = {"concurrency": 4, "batch_size": 3}

async def handleEvent(self, points, logger):
    await self.post(points)
""",
    ),
    client(
        "connects_for_each_batch",
        """
async def handleEvent(self, points, logger):
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=2) as client:
        documents = [{"tags": point.tags} for point in points]
        (await client.post(self.config["url"], json=documents)).raise_for_status()
""",
    ),
    sink(
        "keeps_points_on_disk",
        """
host_settings = {"spool": "disk"}

async def handleEvent(self, points, logger):
    await self.post(points)
""",
    ),
    event(
        "takes_only_what_it_knows",
        """
async def handleEvent(self, points, logger):
    self.last = [point for point in points if "camera" in point.tags][-1:]
""",
    ),
]
