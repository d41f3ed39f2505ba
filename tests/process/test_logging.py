"""The service's log under what plugins, readers and closed descriptors do to it, in the real process."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from tests.support import ServiceProcess

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
    with ServiceProcess(tmp_path, {"meddler": MEDDLER}) as service:
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
    with ServiceProcess(
        tmp_path, {"meddler": MEDDLER}, arguments=["--log-level", "INFO"]
    ) as service:
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


@pytest.mark.parametrize(
    "redirect", ["0>&- 1>&- 2>&-", ">/dev/full 2>&-", "2>/dev/full", ">pipe 2>&1"]
)
def test_standard_streams_that_take_nothing_change_nothing(tmp_path: Path, redirect: str) -> None:
    """Kind: descriptors that are full, have no reader, or are closed, so that others get their numbers."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)  # which nobody reads
    command = ["sh", "-c", f'exec "$0" -m lva run {redirect}', sys.executable]
    env = {"LUNA_VIDEO_AGENT_BIND": f"unix:{tmp_path}/lva.sock"}
    with ServiceProcess(tmp_path, {"talker": TALKER}, env=env, command=command) as service:
        service.wait_until(lambda: listens(tmp_path / "lva.sock")).wait_until_ready()
        for number in (0, 1, 2):
            target = str(Path(f"/proc/{service.process.pid}/fd/{number}").readlink())
            assert "socket" not in target
            assert target == f"{tmp_path}/pipe" or str(tmp_path) not in target
        assert service.get("/talk", timeout=20).text == "talked"
        assert service.get("/livez").status_code == 200
        assert service.stop() == 0
    os.close(reader)


def listens(path: Path) -> bool:
    """Return whether a service listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return not probe.connect_ex(str(path))
