"""What the tests share: plugin files from text, the real service in a process, points by number."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self

import httpx
import hypothesis
import psutil
import trio
import trio.testing

from lva import MonitoringPoint
from lva.host.delivery.shared import Shared
from lva.host.delivery.tap import Taps
from lva.host.host import Host
from lva.host.life.life import PluginLife
from lva.host.life.states import State
from lva.host.loading.load import LoadedPlugin, load_plugins
from lva.host.receipt import PluginReceipt, Receipt
from lva.host.runtimes.patience import Patience
from lva.settings import PluginSettings, Settings
from tests.process.moments import LONG
from tests.warm import WarmProcess, starts_alike, warm_environment

#: Seconds that another process may take to do something, on a machine that is busy with other tests.
PATIENCE = 40.0
PREAMBLE = "import time\nimport threading\nimport trio\nfrom lva import *\n"


def write_plugin(directory: Path, name: str, source: str, preamble: str = PREAMBLE) -> Path:
    """Write a plugin file; its usual imports are added."""
    directory.mkdir(exist_ok=True)
    path = directory / f"{name}.py"
    path.write_text(preamble + textwrap.dedent(source))
    path.chmod(0o644)
    return path


def copy_examples(tmp_path: Path, *names: str) -> None:
    """Copy examples of the documentation to a plugin directory: who owns the source tree does not matter."""
    (tmp_path / "plugins").mkdir(exist_ok=True)
    for name in names:
        source = Path(__file__).parent.parent / "docs" / "examples" / f"{name}.py"
        target = tmp_path / "plugins" / source.name
        shutil.copyfile(source, target)
        target.chmod(0o644)


def numbered(count: int, start: int = 0) -> list[MonitoringPoint]:
    """Return points that can be told apart by their field ``n``."""
    return [MonitoringPoint("numbers", 1.0, {}, {"n": n}) for n in range(start, start + count)]


def numbers(points: Iterable[MonitoringPoint]) -> list[int]:
    """Return the fields ``n`` of points."""
    return [point.fields["n"] for point in points]


def clean_environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without settings of the service, and with `extra`."""
    kept = {key: value for key, value in os.environ.items() if "LUNA_VIDEO_AGENT" not in key}
    return {**kept, "PYTHONUNBUFFERED": "1", **extra}


def examples(count: int) -> hypothesis.settings:
    """Let a property be tried with so many examples, with ten times as many in the long form of the tests."""
    return hypothesis.settings(max_examples=count * (10 if LONG else 1), deadline=None)


@contextmanager
def no_room_beyond(size: int) -> Iterator[None]:
    """Let no file of this process grow past so many bytes, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def has_ended(pid: int) -> bool:
    """Return whether a process has ended; what is left may be an exit code that nobody asks for."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def free_port() -> int:
    """Return a port of the loopback interface that nobody has, for what begins to listen there later.

    The system gives those of its own range to whoever asks for any, also between two starts of a server; this
    one is outside of it.
    """
    least, most = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    outside = [port for port in range(10_000, 65_536) if not least <= port <= most]
    while True:
        port = random.SystemRandom().choice(outside)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class ServiceProcess:
    """`lva run` in a process of its own, on a free port of the loopback interface.

    Use as a context manager; what is still running at its end is killed. Its log is JSON, so that
    tests can look at records.

    Args:
        tmp_path: Its state directory, current directory and plugin directory (``plugins``) are here.
        active: The plugins to run; with their sources, those are written to plugin files.
        toml: The text of `lva.toml`.
        env: More environment variables.
        arguments: More arguments of `lva run`.
        command: What to run in place of `lva run`; what it starts is killed with it. Without it, the service
            is forked from an interpreter that has imported it, where that makes no difference.
    """

    def __init__(
        self,
        tmp_path: Path,
        active: Iterable[str] | Mapping[str, str] = (),
        toml: str = "",
        env: Mapping[str, str] | None = None,
        arguments: Iterable[str] = (),
        command: Iterable[str] | None = None,
    ) -> None:
        (tmp_path / "plugins").mkdir(exist_ok=True)
        if isinstance(active, Mapping):
            for name, source in active.items():
                write_plugin(tmp_path / "plugins", name, source)
        config = tmp_path / "lva.toml"
        config.write_text(textwrap.dedent(toml))
        config.chmod(0o644)
        settings = {
            "LUNA_VIDEO_AGENT_ACTIVE_PLUGINS": json.dumps(list(active)),
            "LUNA_VIDEO_AGENT_PLUGINS_DIR": json.dumps([str(tmp_path / "plugins")]),
            "LUNA_VIDEO_AGENT_STATE_DIR": str(tmp_path / "state"),
            "LUNA_VIDEO_AGENT_BIND": "127.0.0.1:0",
            "LUNA_VIDEO_AGENT_LOG_FORMAT": "json",
        }
        self._command = None if command is None else [*command]
        self._arguments = ["run", *arguments]
        self._tmp_path = tmp_path
        self._env = clean_environment(**{**settings, **(env or {})})
        self.lines: list[str] = []
        self._news = threading.Condition()

    def __enter__(self) -> Self:
        self.process = self._start()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _start(self) -> subprocess.Popen[str] | WarmProcess:
        if self._command is None and starts_alike(self._env, warm_environment()):
            return WarmProcess(self._arguments, self._tmp_path, self._env)
        return subprocess.Popen(
            self._command or [sys.executable, "-m", "lva", *self._arguments],
            cwd=self._tmp_path,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            with suppress(ProcessLookupError):  # it has just ended
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self.lines.append("")  # the end: wakes those who wait for a line that never comes
            self._news.notify_all()

    @property
    def output(self) -> str:
        """Everything the process has printed."""
        return "\n".join(self.lines)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The log records so far."""
        return [json.loads(line) for line in list(self.lines) if line.startswith("{")]

    def wait_for(self, pattern: str, timeout: float = 20.0) -> re.Match[str]:
        """Wait until a line matches the pattern and return the match."""
        deadline = time.monotonic() + timeout
        seen = 0
        with self._news:
            while True:
                for line in self.lines[seen:]:
                    if match := re.search(pattern, line):
                        return match
                seen = len(self.lines)
                left = deadline - time.monotonic()
                if left <= 0 or self.process.poll() is not None and not self._reader.is_alive():
                    raise AssertionError(f"no line matches {pattern!r} in:\n{self.output}")
                self._news.wait(min(left, 0.5))

    @property
    def url(self) -> str:
        """The service's address; waits until it listens."""
        return self.wait_for(r"listening on (http://[^\"\s]+)")[1]

    def wait_until_ready(self, timeout: float = PATIENCE) -> ServiceProcess:
        """Wait until `/readyz` answers 200."""
        return self.wait_until(lambda: self.get("/readyz").status_code == 200, timeout)

    def wait_until(self, condition: Any, timeout: float = PATIENCE) -> ServiceProcess:
        """Wait until the condition holds, looking again and again: another process decides."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"waited {timeout} s in vain:\n{self.output}"
            time.sleep(0.02)
        return self

    def get(self, path: str, timeout: float = 5.0, **options: Any) -> httpx.Response:
        """Send a GET request."""
        return self.request("GET", path, timeout=timeout, **options)

    def request(
        self, method: str, path: str, timeout: float = 5.0, **options: Any
    ) -> httpx.Response:
        """Send a request over a connection of its own."""
        bind = self._env.get("LUNA_VIDEO_AGENT_BIND", "")
        path_of_socket = bind.removeprefix("unix:") if bind.startswith("unix:") else None
        url = self.url if path_of_socket is None else "http://lva"
        transport = httpx.HTTPTransport(uds=path_of_socket, verify=False, trust_env=False)
        with httpx.Client(transport=transport, timeout=timeout) as client:
            return client.request(method, url + path, **options)

    @contextmanager
    def stream(self, path: str, **options: Any) -> Iterator[httpx.Response]:
        """Send a GET request for a response that is read as it comes."""
        with (
            httpx.Client(trust_env=False, verify=False, timeout=10) as client,
            client.stream("GET", self.url + path, **options) as response,
        ):
            yield response

    def connect(self, timeout: float = 20.0, receive_buffer: int | None = None) -> socket.socket:
        """Return a connection to it.

        Args:
            timeout: Of what is done with it, in seconds.
            receive_buffer: How many bytes this side takes that nobody has read.
        """
        host, port = self.url.removeprefix("http://").split(":")
        client = socket.socket()
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(timeout)
        client.connect((host, int(port)))
        return client

    def plugin(self, name: str) -> dict[str, Any]:
        """Return what `/plugins/NAME` says."""
        status: dict[str, Any] = self.get(f"/plugins/{name}").json()
        return status

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self, timeout: float = 40.0) -> int:
        """Wait for the end; return the exit code."""
        code = self.process.wait(timeout)
        self._reader.join(5)
        return code

    def stop(self, timeout: float = 40.0) -> int:
        """Send SIGTERM and wait for the end; return the exit code."""
        self.signal()
        return self.wait(timeout)

    @property
    def receipt(self) -> dict[str, Any]:
        """The receipt; there must be exactly one."""
        found = [record["receipt"] for record in self.records if "receipt" in record]
        assert len(found) == 1, f"{len(found)} receipts in:\n{self.output}"
        receipt: dict[str, Any] = found[0]
        return receipt

    def receipt_of(self, name: str) -> dict[str, Any]:
        """Return one plugin's part of the receipt."""
        return next(item for item in self.receipt["plugins"] if item["name"] == name)


async def until(condition: Callable[[], object], within: float = 30.0) -> None:
    """Wait until a condition holds, looking again and again: a thread or another process decides."""
    with trio.fail_after(within):
        while not condition():
            await trio.sleep(0.01)


# Servers in threads


class HttpHandler(BaseHTTPRequestHandler):
    """Keeps connections open, and is quiet."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving_http(
    handler: type[HttpHandler], port: int = 0, certificate: Path | None = None
) -> Iterator[ThreadingHTTPServer]:
    """Serve on the loopback interface, in threads; with TLS if there is a certificate."""
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# The host in this very process

#: What the plugins of a test write down, in order; `running_host` begins with an empty one.
journal: list[Any] = []

JOURNALLED: Final = PREAMBLE + "from tests.support import journal\n"


class RunningHost:
    """A host that runs, and short ways to what tests ask of it."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def life(self, name: str) -> PluginLife:
        """Return the life of a plugin."""
        return self.host.lives[name]

    def module(self, name: str) -> Any:
        """Return the module that was made from a plugin's file."""
        return sys.modules[f"lva_plugins.{name}"]

    def plugin(self, name: str) -> Any:
        """Return the one instance of the plugin's first class."""
        return next(iter(self.life(name)._instances.members.values()))

    def states(self, name: str) -> list[str]:
        """Return the states that the plugin has been in, oldest first."""
        return [step.state.value for step in self.life(name).record.history]

    async def wait_for(self, name: str, state: State, within: float = 1000.0) -> None:
        """Wait until the plugin is in a state."""
        with trio.fail_after(within):
            await self.life(name).state.wait_value(state)

    async def wait_until_running(self, within: float = 1000.0) -> RunningHost:
        """Wait until every plugin runs."""
        for name in self.host.lives:
            await self.wait_for(name, State.RUNNING, within)
        return self

    def publish(self, points: Iterable[MonitoringPoint]) -> None:
        """Publish points as the service does."""
        self.host.publisher.publish("monitoring_event", points)

    async def stop(self, reason: str = "the test is over") -> Receipt:
        """Stop the plugins; return the receipt."""
        self.host.stop.request(reason)
        with trio.fail_after(1000):
            await self.host.stopped.wait()
        assert self.host.receipt is not None
        return self.host.receipt

    async def receipt_of(self, name: str) -> PluginReceipt:
        """Stop the plugins; return one plugin's part of the receipt."""
        return next(part for part in (await self.stop()).plugins if part.name == name)


def host_settings(
    tmp_path: Path, active: Iterable[str], tables: Mapping[str, Any] | None = None, **settings: Any
) -> Settings:
    """Return settings for plugin files below `tmp_path`."""
    (tmp_path / "plugins").mkdir(exist_ok=True)
    (tmp_path / "state").mkdir(exist_ok=True)
    return Settings(
        active_plugins=tuple(active),
        plugins_dir=(tmp_path / "plugins",),
        state_dir=tmp_path / "state",
        plugins=dict(tables or {}),
        **settings,
    )


@asynccontextmanager
async def running_host(
    tmp_path: Path,
    sources: Mapping[str, str | None],
    tables: Mapping[str, Any] | None = None,
    rng: random.Random | None = None,
    wait: bool = True,
    **settings: Any,
) -> AsyncIterator[RunningHost]:
    """Write plugin files, load them and run them; stop them at the end.

    Args:
        sources: The plugins' sources by name, in activation order; None for a shipped one.
        tables: Their `[plugins.NAME]` tables.
        rng: Source of the jitter; a seeded one if left out.
        wait: Whether to wait until every plugin runs.
        **settings: Other settings.
    """
    for name, source in sources.items():
        if source is not None:
            write_plugin(tmp_path / "plugins", name, source, JOURNALLED)
    chosen = host_settings(tmp_path, sources, tables, **settings)
    async with running(load_plugins(chosen, installed=()), chosen, rng) as host:
        if wait:
            await host.wait_until_running()
        yield host


@asynccontextmanager
async def running(
    loaded: Iterable[LoadedPlugin],
    settings: Settings | None = None,
    rng: random.Random | None = None,
) -> AsyncIterator[RunningHost]:
    """Run plugins that are loaded already; stop them at the end."""
    journal.clear()
    chosen = settings or Settings(active_plugins=())
    host = Host(chosen, list(loaded), rng or random.Random(0))
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        handle = RunningHost(host)
        try:
            yield handle
        except Exception as error:  # raised below, outside of the nursery, which would wrap it
            failure = error
        await handle.stop()
    if failure is not None:
        raise failure


def loaded_plugin(name: str, *classes: Any, **settings: Any) -> LoadedPlugin:
    """Return classes of a test as a loaded plugin, without a file."""
    return LoadedPlugin(
        name,
        Path(f"/nowhere/{name}.py"),
        "0" * 64,
        classes,
        PluginSettings(**settings),
        {cls: {} for cls in classes},
    )


def run_virtual(main: Callable[[], Awaitable[None]]) -> None:
    """Run an async function in virtual time, each time with a clock and event loop of its own.

    Virtual time does not wait for the threads in which constructors run, so the host does, longer than
    usual: on a busy machine an hour may pass before a thread has its first turn.
    """
    usual, Patience.BRIEFLY = Patience.BRIEFLY, 10.0
    try:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        Patience.BRIEFLY = usual


class Number(int):
    """Stands for a point where only order and number matter: it has no size."""

    size = 0


class StubRandom(random.Random):
    """Draws a fixed share of each range, and keeps the upper bounds that it was asked for."""

    def __init__(self, share: float = 1.0) -> None:
        super().__init__(0)
        self.share = share
        self.bounds: list[float] = []

    def uniform(self, a: float, b: float) -> float:
        assert a == 0
        self.bounds.append(b)
        return b * self.share


def without_a_host(rng: random.Random | None = None) -> Shared:
    """Return what deliveries have in common where no host tells of their losses."""

    def start(work: Callable[[], Awaitable[None]], name: str) -> None:
        pass

    return Shared(rng or StubRandom(), Taps(), start, trio.Event(), trio.Event())
