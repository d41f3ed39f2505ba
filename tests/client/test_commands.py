"""`lva status`, `lva tap` and the actions, against the real service."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import click
import pytest
from click.testing import Result

from lva import __version__
from lva.client.commands import COMMANDS
from lva.settings import ENV_PREFIX
from tests.client import running
from tests.client.running import TOKEN
from tests.client.tmux import Terminal
from tests.support import ServiceProcess, clean_environment, free_port, write_plugin
from tests.warm import WarmProcess

pytestmark = pytest.mark.usefixtures("clean_slate")

SOURCE = """
class Source(BaseBackgroundPlugin):
    async def initialize(self):
        self.addRoute("/burst/<int:count>", self.burst)

    async def burst(self, request, count):
        self.app.publish(
            "monitoring_event",
            [MonitoringPoint("burst", 1.0, {"n": n}, {"esc": "\\x1b[31m"}) for n in range(count)],
        )
        return {}
"""
BROKEN = """
class Broken(BaseBackgroundPlugin):
    async def initialize(self):
        raise OSError("no \\x1b[2J camera")
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    tmp_path = tmp_path_factory.mktemp("commands")
    write_plugin(tmp_path / "plugins", "source", SOURCE)
    env = {f"{ENV_PREFIX}ADMIN_TOKEN": TOKEN}
    with ServiceProcess(tmp_path, ["history", "source"], env=env) as process:
        process.wait_until_ready()
        yield process


@pytest.fixture(scope="module")
def unready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    tmp_path = tmp_path_factory.mktemp("unready")
    write_plugin(tmp_path / "plugins", "broken", BROKEN)
    with ServiceProcess(tmp_path, ["broken"]) as process:
        process.wait_until(lambda: process.plugin("broken")["state"] == "backoff")
        yield process


def lva(*arguments: object, token: str | None = TOKEN) -> Result:
    return running.lva(*arguments, token=token)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_no_command_takes_the_token_where_others_could_read_it(command: click.Command) -> None:
    names = {option for item in command.params for option in item.opts}
    assert {name for name in names if "token" in name} == {"--token-file"}


# Nothing there


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["stop", "x"], ["tap"], ["top"]],
    ids=lambda value: value[0],
)
def test_where_nothing_listens_the_commands_say_so(arguments: list[str]) -> None:
    port = free_port()
    done = lva(*arguments, "--address", f"127.0.0.1:{port}")
    assert done.exit_code == 3
    expected = (
        f"lva: no service responds at http://127.0.0.1:{port} (connection refused); start it with"
    )
    assert done.stderr.startswith(expected)
    assert done.stdout == ""


def test_a_socket_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = lva("status", "--address", f"unix:{tmp_path}/lva.sock")
    assert done.exit_code == 3
    assert f"no service responds at unix:{tmp_path}/lva.sock (no such file" in done.stderr


def test_what_is_no_service_is_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

        thread = threading.Thread(target=answer)
        thread.start()
        done = lva("status", "--address", f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert done.exit_code == 1
    assert "is no LVA service" in done.stderr


# Status


@pytest.mark.process
def test_status_of_a_service_that_is_ready(service: ServiceProcess) -> None:
    done = lva("status", "--address", service.url)
    assert done.exit_code == 0
    first, _, header, *rows = done.stdout.splitlines()
    assert re.fullmatch(rf"ready  lva \S+ at {service.url}", first)
    assert header.split() == ["PLUGIN", "STATE", "FOR", "RESTARTS", "DELIVERED", "QUEUE", "DROPPED"]
    assert [row.split()[:2] for row in rows] == [["history", "running"], ["source", "running"]]
    assert "\x1b" not in done.stdout


@pytest.mark.process
def test_status_of_a_service_that_is_not_ready(unready: ServiceProcess) -> None:
    done = lva("status", "--address", unready.url, token=None)
    assert done.exit_code == 1
    first, reason, *_ = done.stdout.splitlines()
    assert first.startswith("not ready")
    assert re.match(r"  broken: (backoff|initializing): .*OSError: no .\[2J camera", reason)
    assert "\x1b" not in done.stdout


@pytest.mark.process
def test_status_for_programs(service: ServiceProcess, unready: ServiceProcess) -> None:
    found = json.loads(lva("status", "--address", service.url, "--json").stdout)
    assert (found["ready"], found["reasons"], found["address"]) == (True, {}, service.url)
    assert [plugin["name"] for plugin in found["plugins"]] == ["history", "source"]
    done = lva("status", "--address", unready.url, "--json", token=None)
    assert done.exit_code == 1
    assert json.loads(done.stdout)["reasons"].keys() == {"broken"}


@pytest.mark.process
def test_status_over_a_unix_socket_that_the_settings_name(tmp_path: Path) -> None:
    bind = f"unix:{tmp_path}/s"
    with ServiceProcess(tmp_path, [], env={f"{ENV_PREFIX}BIND": bind}) as process:
        process.wait_for("listening on unix:")
        config = tmp_path / "client.toml"
        config.write_text(f'bind = "{bind}"\n')
        config.chmod(0o644)
        done = lva("status", "--config", config, token=None)
        assert (done.exit_code, done.stdout) == (0, f"ready  lva {__version__} at {bind}\n")


@pytest.mark.process
def test_colours_are_for_terminals_that_want_them(service: ServiceProcess, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lva", "status", "--address", service.url]
    with Terminal(tmp_path, command, clean_environment(TERM="xterm-256color")) as terminal:
        terminal.wait_for("ended with 0")
        assert "\x1b[32mrunning" in terminal.coloured
    with Terminal(tmp_path, command, clean_environment(NO_COLOR="1")) as terminal:
        terminal.wait_for("ended with 0")
        assert "\x1b[32m" not in terminal.coloured
        assert "running" in terminal.text


# Actions


@pytest.mark.process
def test_a_plugin_is_stopped_started_restarted_and_reloaded(service: ServiceProcess) -> None:
    for verb, state in (
        ("stop", "stopped"),
        ("start", "running"),
        ("restart", "running"),
        ("reload", "running"),
    ):
        done = lva(verb, "source", "--address", service.url)
        assert (done.exit_code, done.stderr) == (0, "")
        assert done.stdout.startswith(f"source: {state}")
        assert service.plugin("source")["state"] == state


@pytest.mark.process
def test_an_action_that_is_refused_says_why(service: ServiceProcess) -> None:
    done = lva("start", "source", "--address", service.url)
    assert done.exit_code == 1
    assert done.stderr.startswith("lva: ")
    assert "running" in done.stderr
    done = lva("stop", "../sauce", "--address", service.url)
    assert done.exit_code == 1
    done = lva("stop", "sauce", "--address", service.url)
    assert "did you mean 'source'?" in done.stderr


@pytest.mark.process
def test_a_broken_file_is_not_reloaded_and_all_problems_are_listed(
    service: ServiceProcess, tmp_path: Path
) -> None:
    path = Path(service.get("/plugins/source", headers=bearer()).json()["file"])
    whole = path.read_text()
    path.write_text("class Source(:\n")
    done = lva("reload", "source", "--address", service.url)
    path.write_text(whole)
    assert done.exit_code == 1
    first, problem, *_ = done.stderr.splitlines()
    assert first == "lva: refused with 1 problem:"
    assert problem.startswith("  - ")
    assert "source.py" in problem
    assert done.stderr.splitlines()[2:] == ["        class Source(:"]
    assert service.plugin("source")["state"] == "running"


@pytest.mark.process
@pytest.mark.parametrize("arguments", [["restart", "source"], ["tap"]], ids=["restart", "tap"])
def test_without_the_token_it_says_where_to_put_it(
    service: ServiceProcess, arguments: list[str], tmp_path: Path
) -> None:
    for token in (None, "not-the-token-of-this"):
        done = lva(*arguments, "--address", service.url, token=token)
        assert done.exit_code == 1
        assert "LUNA_VIDEO_AGENT_ADMIN_TOKEN" in done.stderr
        assert "--token-file" in done.stderr
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    options = ["--address", service.url, "--token-file", path]
    assert lva("restart", "source", *options, token=None).exit_code == 0


def bearer() -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKEN}"}


# Tap


@pytest.mark.process
def test_tap_shows_points_and_says_what_it_leaves_out(service: ServiceProcess) -> None:
    with Tapping(service, "--series", "burst", "--rate", "5") as process:
        with asking(service, "/burst/40"):
            out = [process.stdout.readline().rstrip("\n") for _ in range(11)]
        err = process.end()
    assert all(
        re.match(r"\d\d:\d\d:\d\d\.\d{3} published source burst  n=\d+  esc=", line) for line in out
    )
    assert "\x1b" not in "".join(out)
    assert re.search(r"\d+ points left out \(more than --rate 5\)", err)
    assert err.startswith("lva: waiting for points; a line has: time, step, plugin, series, tags")


@pytest.mark.process
def test_tap_of_a_plugin_filtered_and_counted_for_programs(service: ServiceProcess) -> None:
    options = ["history", "--tag", "n:3", "--json", "--count", "2"]
    with Tapping(service, *options) as process:
        with asking(service, "/burst/5"):
            out = process.stdout.read()
        assert process.wait() == 0
    found = [json.loads(line) for line in out.splitlines()]
    assert [item["tags"] for item in found] == [{"n": 3}, {"n": 3}]
    assert {(item["step"], item["plugin"]) for item in found} == {("delivered", "history")}


@pytest.mark.process
def test_tap_ends_when_the_service_does(tmp_path: Path) -> None:
    with ServiceProcess(tmp_path, []) as service:
        service.wait_until_ready()
        with Tapping(service, "--series", "requests") as process:
            with asking(service, "/livez"):
                process.stdout.readline()
            assert service.stop() == 0
            assert process.stderr.read().endswith("lva: the service is stopping\n")
            assert process.wait() == 0


@pytest.mark.process
def test_tap_ends_when_its_reader_does(service: ServiceProcess) -> None:
    with Tapping(service, "--json") as process, asking(service, "/livez"):
        assert json.loads(process.stdout.readline())["series"] == "requests"
        process.stdout.close()
        process.wait()
        assert process.stderr.read() == ""


@pytest.mark.process
@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["histori"], "did you mean 'history'?"),
        (["--tag", "n"], "a tag is NAME:VALUE"),
    ],
)
def test_what_cannot_be_tapped_is_refused(
    service: ServiceProcess, options: list[str], why: str
) -> None:
    done = lva("tap", *options, "--address", service.url)
    assert done.exit_code == 1
    assert why in done.stderr


class Tapping(WarmProcess):
    """`lva tap`, with its output in pipes; ended with the block."""

    def __init__(self, service: ServiceProcess, *options: str) -> None:
        environment = clean_environment(**{f"{ENV_PREFIX}ADMIN_TOKEN": TOKEN})
        arguments = ["tap", *options, "--address", service.url]
        super().__init__(arguments, Path.cwd(), environment, apart=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.wait()
        for stream in (self.stdout, self.stderr):
            stream.close()

    def end(self) -> str:
        """End it, if it does not by itself; return what it has printed to standard error."""
        self.send_signal(signal.SIGTERM)
        return self.stderr.read()


@contextlib.contextmanager
def asking(service: ServiceProcess, path: str) -> Iterator[None]:
    """Send requests meanwhile."""
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.05):
            service.get(path, timeout=30)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
