"""The service's log under what plugins, readers and closed descriptors do to it, in the real process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.support import ServiceProcess, clean_environment, write_plugin

pytestmark = pytest.mark.process

MEDDLER = """
    import logging
    import logging.config
    import os
    import sys
    import warnings

    logging.config.dictConfig({"version": 1, "root": {"level": "DEBUG", "handlers": []}})


    class Raising(logging.Handler):
        def handle(self, record):
            raise RuntimeError("handler")


    def raising(*args, **options):
        raise RuntimeError("factory")


    class Meddler(BaseBackgroundPlugin):
        async def initialize(self):
            logging.basicConfig(force=True, level="CRITICAL")
            self.addRoute("/act/<name>", self.act)
            print("ready to talk")

        async def act(self, request, name):
            if fail := request.args.get("fail"):
                raise type(fail, (Exception,), {})
            getattr(self, name)()
            return "done"

        def handlers(self):
            logging.root.addHandler(Raising())
            logging.getLogger().handlers[0].addFilter(raising)

        def factory(self):
            logging.setLogRecordFactory(raising)

        def disable(self):
            logging.disable()

        def shutdown(self):
            logging.shutdown()

        def no_streams(self):
            sys.stderr = sys.stdout = sys.__stderr__ = None

        def no_descriptor(self):
            os.close(2)

        def handler_that_fails(self):
            raise ValueError("always")

        def flood(self):
            for number in range(5000):
                self.app.ctx.logger.info("flood %d", number)
                print("printed", number)
"""


def test_no_act_of_a_plugin_silences_or_ends_the_service(tmp_path: Path) -> None:
    """The kind: the process's logging and standard streams are anybody's; the service depends on neither."""
    write_plugin(tmp_path / "plugins", "meddler", MEDDLER)
    with ServiceProcess(tmp_path, ["meddler"]) as service:
        service.wait_until_ready()
        changes = [item["message"] for item in service.records if "root logger" in item["message"]]
        assert len(changes) >= 2
        acts = ("handlers", "factory", "disable", "shutdown", "no_streams", "no_descriptor")
        for act in acts:
            assert service.get(f"/act/{act}").text == "done"
            # What the service logs of the plugin comes at once, each time.
            assert service.get(f"/act/{act}?fail=After_{act}").status_code == 500
            service.wait_for(f"raised After_{act}")
        for _ in range(20):
            assert service.get("/act/handler_that_fails").status_code == 500
        assert service.stop() == 0
    assert all(item["time"] for item in service.records)
    assert service.receipt["exit_code"] == 0
    failures = [item for item in service.records if "raised ValueError" in item["message"]]
    assert len(failures) == 1
    assert "exception" in failures[0]


def test_the_receipt_is_written_at_every_level_and_a_flood_is_cut_short(tmp_path: Path) -> None:
    """Kind: what the service must say depends neither on the level nor on how much a plugin logs."""
    write_plugin(tmp_path / "plugins", "meddler", MEDDLER)
    with ServiceProcess(tmp_path, ["meddler"], arguments=["--log-level", "INFO"]) as service:
        service.wait_until_ready()
        service.get("/act/flood")
        assert service.stop() == 0
    floods = [item for item in service.records if item["message"].startswith("flood")]
    assert 100 < len(floods) <= 500
    service.wait_for(r"more log records suppressed")
    with ServiceProcess(tmp_path, ["meddler"], arguments=["--log-level", "ERROR"]) as quiet:
        quiet.wait_for("ready to talk")
        quiet.stop()
    assert quiet.receipt["reason"] == "received SIGTERM"


TALKER = """
    import sys

    class Talker(BaseBackgroundPlugin):
        async def initialize(self):
            self.addRoute("/talk", self.talk)

        async def talk(self, request):
            for number in range(400):
                self.app.ctx.logger.warning("%d %s", number, "x" * 5000)
                print("printed", "x" * 5000)
                print("printed", "x" * 5000, file=sys.stderr)
            return "talked"
"""


def _command(tmp_path: Path, redirect: str) -> list[str]:
    return ["sh", "-c", f'exec "$0" -m lva run {redirect}', sys.executable]


def _environment(tmp_path: Path, port_file: Path) -> dict[str, str]:
    return clean_environment(
        LUNA_VIDEO_AGENT_ACTIVE_PLUGINS='["talker"]',
        LUNA_VIDEO_AGENT_PLUGINS_DIR=json.dumps([str(tmp_path / "plugins")]),
        LUNA_VIDEO_AGENT_STATE_DIR=str(tmp_path / "state"),
        LUNA_VIDEO_AGENT_BIND=f"unix:{port_file}",
    )


def test_nobody_waits_for_a_log_that_nobody_reads(tmp_path: Path) -> None:
    """The kind: standard streams that are full. What is logged and printed may be dropped; nothing waits."""
    write_plugin(tmp_path / "plugins", "talker", TALKER)
    path = tmp_path / "lva.sock"
    reader, writer = os.pipe()
    process = subprocess.Popen(
        _command(tmp_path, ">&2"), cwd=tmp_path, env=_environment(tmp_path, path), stderr=writer
    )
    os.close(writer)
    try:
        _wait_for(path, process)
        with _client(path) as client:
            for _ in range(3):
                assert client.get("/talk").text == "talked"
            assert client.get("/livez").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(reader)


@pytest.mark.parametrize("redirect", ["0>&- 1>&- 2>&-", ">/dev/full 2>&-", "2>/dev/full"])
def test_closed_and_full_standard_streams_change_nothing(tmp_path: Path, redirect: str) -> None:
    """The kind: descriptors that take nothing, and closed ones, whose numbers other files would get."""
    write_plugin(tmp_path / "plugins", "talker", TALKER)
    path = tmp_path / "lva.sock"
    process = subprocess.Popen(
        _command(tmp_path, redirect), cwd=tmp_path, env=_environment(tmp_path, path)
    )
    try:
        _wait_for(path, process)
        for number in (0, 1, 2):
            target = Path(f"/proc/{process.pid}/fd/{number}").readlink()
            assert "socket" not in str(target)
            assert str(tmp_path) not in str(target)
        with _client(path) as client:
            assert client.get("/talk").text == "talked"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def _client(path: Path) -> httpx.Client:
    return httpx.Client(
        transport=httpx.HTTPTransport(uds=str(path), verify=False),
        base_url="http://lva",
        timeout=20,
    )


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the service is ready."""
    deadline = time.monotonic() + 20
    while not _is_ready(path):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_ready(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(path)):
            return False
    with _client(path) as client:
        return client.get("/readyz").status_code == 200
