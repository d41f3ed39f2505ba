"""The ASGI application's lifespan: how a start fails, one receipt, and what it leaves as it was."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from lva import BaseEventPlugin, MonitoringPoint
from lva.app import Service
from lva.errors import ConfigurationError
from lva.host.receipt import EXIT_CONFIGURATION, EXIT_KILLED
from tests.support import ServiceProcess, host_settings, loaded_plugin


async def started(service: Service) -> list[dict[str, Any]]:
    """Run the lifespan as a server does, for a moment; return what it sent."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if sent:
            await trio.lowlevel.checkpoint()
            return {"type": "lifespan.shutdown"}
        return {"type": "lifespan.startup"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    service.served = True
    service.deadline = trio.current_time() + 10
    service.stop_wanted.set()
    await service({"type": "lifespan"}, receive, send)
    return sent


async def test_the_switch_interval_is_put_back(tmp_path: Path) -> None:
    """What the service changes in the process is its embedder's when it has ended."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.004)
    try:
        sent = await started(Service(host_settings(tmp_path, []), []))
        assert [message["type"] for message in sent] == [
            "lifespan.startup.complete",
            "lifespan.shutdown.complete",
        ]
        assert sys.getswitchinterval() == pytest.approx(0.004)
    finally:
        sys.setswitchinterval(before)


async def test_the_points_of_the_last_requests_are_delivered(
    tmp_path: Path, autojump_clock: Any
) -> None:
    """Kind: what waits for company when the service stops."""
    got: list[str] = []

    class Sink(BaseEventPlugin):
        eventName = "monitoring_event"

        async def handleEvent(self, points: list[MonitoringPoint], logger: Any) -> None:
            got.extend(point.tags["route"] for point in points)

    service = Service(host_settings(tmp_path, []), [loaded_plugin("sink", Sink)])
    service.served, service.deadline = True, trio.current_time() + 10
    service.stop_wanted.set()
    lifespan = iter(["startup", "shutdown"])

    async def receive() -> dict[str, Any]:
        message = next(lifespan)
        if message == "shutdown":
            nursery.start_soon(ask, "/readyz", [(b"content-length", b"1")])  # which does not come
            await trio.testing.wait_all_tasks_blocked()
            await ask("/livez", [])
        return {"type": f"lifespan.{message}"}

    async def ask(path: str, headers: list[tuple[bytes, bytes]]) -> None:
        answered = trio.Event()

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.body" and not headers:
                answered.set()

        async def receive() -> dict[str, Any]:
            await answered.wait()
            return {"type": "http.disconnect"}

        await service(
            {
                "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "headers": headers,
                "query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": "",
                "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {}, "extensions": {},
            },
            receive,
            send,
        )  # fmt: skip

    async def send(message: dict[str, Any]) -> None:
        pass

    async with trio.open_nursery() as nursery:
        await service({"type": "lifespan"}, receive, send)
        nursery.cancel_scope.cancel()
    assert "GET:/livez" in got


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError("no descriptor of the host"), EXIT_KILLED),
        (ConfigurationError(["the spool of the host is in use"]), EXIT_CONFIGURATION),
    ],
)
async def test_the_cause_of_a_failed_start_is_logged_and_decides_the_exit_code(
    error: Exception,
    code: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever fails before the service is up is said: the server would only say that it goes on without."""

    class Fails:
        """A loaded plugin for which the host cannot make what it needs."""

        name = "fails"
        configs: dict[Any, Any] = {}

        @property
        def runtime(self) -> str:
            raise error

    service = Service(host_settings(tmp_path, []), [Fails()])  # type: ignore[list-item]
    (message,) = await started(service)
    assert message["type"] == "lifespan.startup.failed"
    assert service.start_failure == code
    (record,) = [item for item in caplog.records if item.levelno == logging.CRITICAL]
    assert "of the host" in record.getMessage()


SPOOLS = """
class Spools(BaseEventPlugin):
    eventName = "monitoring_event"

    async def handleEvent(self, points, logger):
        pass
"""
TAKES = """
from pathlib import Path

spool = Path("state/spool/spools.Spools.sqlite3")
spool.unlink()
spool.mkdir()

class Takes(BaseBackgroundPlugin):
    pass
"""


@pytest.mark.process
def test_a_spool_that_is_lost_after_its_check_ends_the_start_as_a_wrong_setting_does(
    tmp_path: Path,
) -> None:
    toml = "[plugins.spools]\nspool = 'disk'\n"
    with ServiceProcess(tmp_path, {"spools": SPOOLS, "takes": TAKES}, toml) as service:
        assert service.wait() == EXIT_CONFIGURATION
    assert "spools.Spools.sqlite3: cannot be opened" in service.output
    assert service.receipt["exit_code"] == EXIT_CONFIGURATION


SLOW = """
class Slow(BaseBackgroundPlugin):
    async def close(self):
        await trio.sleep(0.5)
"""
FAILS = """
class Fails(BaseBackgroundPlugin):
    async def start(self):
        raise RuntimeError("it fails")
"""


@pytest.mark.process
def test_a_critical_failure_and_a_signal_make_one_receipt(tmp_path: Path) -> None:
    """Under another server both end in a stop; there is one account of it."""
    toml = "[plugins.fails]\ncritical = true\nrestart = 'never'\n"
    command = [sys.executable, "-m", "hypercorn", "-k", "trio", "-b", "127.0.0.1:0", "lva.app:app"]
    env = {"LUNA_VIDEO_AGENT_CONFIG": str(tmp_path / "lva.toml")}
    with ServiceProcess(
        tmp_path, {"slow": SLOW, "fails": FAILS}, toml, env=env, command=command
    ) as service:
        service.wait_for("running -> stopping")
        service.signal()
        service.wait()  # with a code of that server's own
    assert service.receipt["exit_code"] == 3
