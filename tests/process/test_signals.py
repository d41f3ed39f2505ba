"""How the process begins and ends: signals, the drain window, exit codes."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lva.server.signals import SIGNALS
from tests.support import ServiceProcess, clean_environment, free_port, write_plugin

pytestmark = pytest.mark.process

#: Answers at once, after a while, with a body that it waits for, with more than a client reads, and never.
ROUTES = """
class Routes(BaseBackgroundPlugin):
    async def initialize(self):
        self.addRoute("/quick", self.quick)
        self.addRoute("/slow", self.slow)
        self.addRoute("/upload", self.upload, {"post"})
        self.addRoute("/flood", self.flood)
        self.addRoute("/never", self.never)

    async def quick(self, request):
        return pluginHTTPResponse(body="quick")

    async def slow(self, request):
        print("slow has begun", flush=True)
        await trio.sleep(0.7)
        return pluginHTTPResponse(body="slow")

    async def upload(self, request):
        print("upload has begun", flush=True)
        return pluginHTTPResponse(body=str(len(await request.get_data())))

    async def flood(self, request):
        print("flood has begun", flush=True)
        return pluginHTTPResponse(body=b"x" * 15_000_000)

    async def never(self, request):
        print("never has begun", flush=True)
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()
"""


def routes(tmp_path: Path, toml: str = "shutdown_timeout = 5") -> ServiceProcess:
    """Return the service with the routes above."""
    return ServiceProcess(tmp_path, {"routes": ROUTES}, toml)


@pytest.mark.parametrize("number", SIGNALS)
def test_one_signal_stops_the_service_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with routes(tmp_path) as service:
        service.wait_until_ready()
        service.signal(number)
        assert service.wait() == 0
    assert service.receipt["reason"] == f"received {number.name}"
    assert service.receipt["exit_code"] == 0
    assert service.receipt_of("routes")["state"] == "stopped"
    assert "Traceback" not in service.output


def test_what_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    command = ["nohup", sys.executable, "-m", "lva", "run"]
    with ServiceProcess(tmp_path, {"routes": ROUTES}, command=command) as service:
        service.wait_until_ready()
        service.signal(signal.SIGHUP)
        assert service.get("/quick").text == "quick"
        assert service.stop() == 0
    assert service.receipt["reason"] == "received SIGTERM"


def test_a_terminal_that_is_closed_is_a_stop_in_order(tmp_path: Path) -> None:
    """SIGHUP comes, and nothing can be written any more: neither changes how the service ends."""
    source = """
        from pathlib import Path
        class Last(BaseBackgroundPlugin):
            async def start(self):
                Path("started").touch()
            async def close(self):
                Path("closed").touch()
    """
    write_plugin(tmp_path / "plugins", "last", source)
    arguments = ["--plugins-dir", "plugins", "--active", "last", "--bind", "127.0.0.1:0"]
    environment = clean_environment(LUNA_VIDEO_AGENT_STATE_DIR=str(tmp_path / "state"))
    child, terminal = pty.fork()
    if child == 0:  # the leader of a session with this terminal
        os.chdir(tmp_path)
        os.execve(sys.executable, [sys.executable, "-m", "lva", "run", *arguments], environment)
    printed = b""
    while not (tmp_path / "started").exists():
        if select.select([terminal], [], [], 0.05)[0]:
            printed += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, printed
    assert (tmp_path / "closed").exists()


#: What of the process a plugin may change without keeping the service from hearing of a stop.
DEAF = {
    "a timeout of sockets, another handler, a signal mask": (
        "socket.setdefaulttimeout(0.05)",
        "signal.signal(15, print); signal.pthread_sigmask(signal.SIG_BLOCK, [15])",
    ),
    "no wake-up descriptor": ("", "signal.set_wakeup_fd(-1)"),
}


@pytest.mark.parametrize(("on_import", "when_asked"), DEAF.values(), ids=DEAF)
def test_a_signal_is_heard_whatever_a_plugin_does_to_its_process(
    tmp_path: Path, on_import: str, when_asked: str
) -> None:
    """A stop that hangs has an end: the watchdog is told of the signal by a thread of its own.

    Kind: threads and sockets of the service's own, which process-wide defaults must not reach.
    """
    source = f"""
        import signal
        import socket
        {on_import}

        class Deaf(BaseBackgroundPlugin):
            async def start(self):
                {when_asked}
                print("deaf", flush=True)
                while True:
                    time.sleep(0.01)  # the event loop is blocked for good, and no handler helps
    """
    with ServiceProcess(tmp_path, {"deaf": source}, "shutdown_timeout = 1") as service:
        service.wait_for("^deaf$")
        told = time.monotonic()
        service.wait_until(lambda: time.monotonic() > told + 0.2)  # past the timeout that was set
        assert service.stop(10) == 70
    assert "shutdown_timeout" in service.output


def test_an_idle_service_stops_long_before_its_limit(tmp_path: Path) -> None:
    with routes(tmp_path, "shutdown_timeout = 300") as service:
        service.wait_until_ready()
        with httpx.Client(base_url=service.url, trust_env=False, verify=False) as idle:
            idle.get("/quick")  # a connection that stays open and asks for nothing more
            assert service.stop(timeout=20) == 0


def test_the_drain_window_turns_readiness_off_and_goes_on_serving(tmp_path: Path) -> None:
    with routes(tmp_path, "shutdown_timeout = 60\ndrain_window = 1.5") as service:
        service.wait_until_ready()
        told = time.monotonic()
        service.signal()
        service.wait_until(lambda: service.get("/readyz").status_code == 503)
        assert service.get("/readyz").json()["reasons"] == {"service": "stopping"}
        assert service.get("/livez").status_code == 200
        assert service.get("/quick").text == "quick"
        assert service.plugin("routes")["state"] == "running"
        assert service.wait(timeout=20) == 0
        assert time.monotonic() - told >= 1.5


def test_a_request_in_flight_is_finished(tmp_path: Path) -> None:
    with routes(tmp_path) as service:
        service.wait_until_ready()
        with in_background(service, "/slow") as answers:
            service.wait_for("^slow has begun$")
            assert service.stop() == 0
        assert [answer.text for answer in answers] == ["slow"]


def test_a_request_that_cannot_be_ended_fits_into_the_shortest_stop(tmp_path: Path) -> None:
    with routes(tmp_path, "shutdown_timeout = 1") as service:
        service.wait_until_ready()
        with in_background(service, "/never"):
            service.wait_for("^never has begun$")
            assert service.stop() == 4, "abandoned, rather than killed by the watchdog"
    assert service.receipt_of("routes")["state"] == "abandoned"


@contextlib.contextmanager
def in_background(service: ServiceProcess, path: str) -> Iterator[list[httpx.Response]]:
    """Make a request meanwhile; its answer, if it gets one, is in the list afterwards."""
    answers: list[httpx.Response] = []

    def ask() -> None:
        with contextlib.suppress(httpx.HTTPError):
            answers.append(service.get(path, timeout=20))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    yield answers
    thread.join(25)
    assert not thread.is_alive()


def test_a_second_signal_ends_the_service_at_once(tmp_path: Path) -> None:
    source = """
        class Lingering(BaseBackgroundPlugin):
            async def close(self):
                print("closing", flush=True)
                await trio.sleep(600)
    """
    toml = "shutdown_timeout = 60\n[plugins.lingering]\nclose_timeout = 50"
    with ServiceProcess(tmp_path, {"lingering": source}, toml) as service:
        service.wait_until_ready()
        service.signal()
        service.wait_for("^closing$")
        # Two signals within a twentieth of a second are one wish.
        apart = time.monotonic() + 0.1
        service.wait_until(lambda: time.monotonic() > apart)
        service.signal(signal.SIGINT)
        assert service.wait(timeout=20) == 4
    assert "SIGINT" in service.output
    assert service.receipt["exit_code"] == 4
    assert service.receipt_of("lingering")["state"] == "stopping"


def test_two_signals_at_the_same_time_are_one_wish(tmp_path: Path) -> None:
    with routes(tmp_path) as service:
        service.wait_until_ready()
        with in_background(service, "/slow"):  # so that the stop takes a while
            service.wait_for("^slow has begun$")
            service.signal(signal.SIGINT)
            service.signal(signal.SIGTERM)
            assert service.wait() == 0
    assert service.receipt["exit_code"] == 0


#: Clients that do not let a request come to its end.
CLIENTS = {
    "trickles a body": b"POST /upload HTTP/1.1\r\nHost: lva\r\nContent-Length: 1000\r\n\r\n12345",
    "sends half a body": b"POST /upload HTTP/1.1\r\nHost: lva\r\nContent-Length: 1000\r\n\r\n12345",
    "does not read": b"GET /flood HTTP/1.1\r\nHost: lva\r\n\r\n",
    "trickles a head": b"GET /quick HTTP/1.1\r\nHost:",
    "sends half a head": b"GET /quick HT",
    "sends nothing": b"",
}


def test_clients_that_drag_do_not_hold_up_the_stop(tmp_path: Path) -> None:
    with routes(tmp_path) as service, contextlib.ExitStack() as stack:
        service.wait_until_ready()
        for client, data in CLIENTS.items():
            connection = stack.enter_context(service.connect())
            connection.sendall(data)
            if "trickles" in client:
                stack.enter_context(trickling(connection))
        begun = ["flood has begun", "upload has begun", "upload has begun"]
        service.wait_until(
            lambda: sorted(line for line in service.lines if "begun" in line) == begun
        )
        code = service.stop()
    assert code == service.receipt["exit_code"] == 0
    assert service.receipt_of("routes")["state"] == "stopped"
    assert service.receipt_of("routes")["problems"] == []


@contextlib.contextmanager
def trickling(connection: socket.socket) -> Iterator[None]:
    """Send a byte now and then meanwhile."""
    over = threading.Event()

    def trickle() -> None:
        with contextlib.suppress(OSError):
            while not over.wait(0.1):
                connection.send(b"6")

    thread = threading.Thread(target=trickle, daemon=True)
    thread.start()
    yield
    over.set()
    thread.join(5)


def test_a_signal_before_anything_is_loaded_still_ends_with_a_receipt(tmp_path: Path) -> None:
    """While a plugin file takes its time to import, say."""
    source = """
        print("importing", flush=True)
        time.sleep(0.5)

        class Heavy(BaseBackgroundPlugin):
            async def initialize(self):
                print("initialized", flush=True)

            async def close(self):
                print("closed", flush=True)
    """
    with ServiceProcess(tmp_path, {"heavy": source}, "shutdown_timeout = 5") as service:
        service.wait_for("^importing$")
        assert service.stop() == 0
    assert service.receipt["reason"] == "received SIGTERM"
    assert service.receipt_of("heavy")["state"] == "stopped"
    assert service.lines.count("initialized") == service.lines.count("closed")


def test_an_import_that_hangs_does_not_outlast_the_deadline(tmp_path: Path) -> None:
    write_plugin(
        tmp_path / "plugins", "stuck", "print('importing', flush=True)\ntime.sleep(1000)\n"
    )
    with ServiceProcess(tmp_path, ["stuck"], "shutdown_timeout = 1") as service:
        service.wait_for("^importing$")
        assert service.stop() == 70
    assert "shutdown_timeout" in service.output


def test_a_server_that_fails_is_told_by_the_exit_code_and_the_receipt(tmp_path: Path) -> None:
    source = """
        class Saboteur(BaseBackgroundPlugin):
            async def initialize(self):
                self.addRoute("/sabotage", self.sabotage)

            async def sabotage(self, request):
                async def fail():
                    raise ValueError("in a system task")

                trio.lowlevel.spawn_system_task(fail)
                await trio.sleep_forever()
    """
    with ServiceProcess(tmp_path, {"saboteur": source}, "shutdown_timeout = 5") as service:
        service.wait_until_ready()
        with contextlib.suppress(httpx.HTTPError):
            service.get("/sabotage")
        assert service.wait() == 70
    assert service.receipt["exit_code"] == 70


# Another server than `lva run`


def test_a_critical_plugin_abandoned_in_the_stop_under_hypercorn_makes_one_receipt(
    tmp_path: Path,
) -> None:
    source = """
        class Vital(BaseBackgroundPlugin):
            async def start(self):
                print("started", flush=True)
                while True:
                    try:
                        await trio.sleep_forever()
                    except trio.Cancelled:
                        pass
    """
    toml = """
    shutdown_timeout = 6

    [plugins.vital]
    critical = true
    stop_timeout = 0.3
    close_timeout = 0.3
    """
    address = f"127.0.0.1:{free_port()}"
    module = ["hypercorn", "-k", "trio", "lva.app:app", "--bind", address]
    command = [sys.executable, "-m", *module]
    with ServiceProcess(tmp_path, {"vital": source}, toml, command=command) as service:
        service.wait_for("^started$")
        # Where it listens is the server's affair, and not known here: so nobody acts without a token.
        act = httpx.post(f"http://{address}/plugins/vital/stop", trust_env=False, verify=False)
        assert (act.status_code, act.json()["error_code"]) == (403, "admin_token_not_set")
        service.stop(timeout=20)
    assert service.receipt["exit_code"] == 4, "not that of the deadline"
    assert service.receipt["reason"] == "the server stopped"
    part = service.receipt_of("vital")
    assert part["state"] == "abandoned"
    assert "start()" in part["reason"]
    assert part["leaked_tasks"]
