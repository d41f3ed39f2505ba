"""What the surroundings of a service do to it, in the real process: variables, files, clock, receivers."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from tests.plugins.metric_servers import Answer, standing_in
from tests.support import ServiceProcess, clean_environment, write_plugin

pytestmark = [pytest.mark.process, pytest.mark.soak]

PREFIX = "LUNA_VIDEO_AGENT_PLUGINS__"
PAGE: Answer = (400, {"Content-Type": "text/html"}, b"<html><h1>400 Bad request</h1></html>")
TLS: Answer = (
    400,
    {"Content-Type": "text/plain"},
    b"Client sent an HTTP request to an HTTPS server.\n",
)
FAST = """
    [plugins.{name}]
    max_attempts = 2
    flush_interval = 0.05
    retry_initial = 0.05
    retry_max = 0.05
    backoff_initial = 0.05
    backoff_max = 0.05
    circuit_failures = 1000
    {more}

    [plugins.{name}.config]
    url = "{url}"
"""
SOURCE = """
    class Source(BaseBackgroundPlugin):
        async def start(self):
            self.app.publish("monitoring_event", [MonitoringPoint("s", time.time(), {}, {"n": n}) for n in range(5)])
            await trio.sleep_forever()
"""  # noqa: E501 - the text of a plugin
#: Makes the wall clock one of long ago, as a machine without NTP has it.
WRONG_CLOCK = """
    import time
    real = time.time
    behind = real() - 946_684_800
    time.time = lambda: real() - behind
"""


def test_a_variable_of_digits_stays_text(tmp_path: Path) -> None:
    """Kind: what a variable holds is text until the field's type says otherwise, at every depth."""
    write_plugin(tmp_path / "plugins", "source", SOURCE)
    with standing_in() as receiver:
        env = {
            f"{PREFIX}WEBHOOK__CONFIG__HEADERS__X-API-KEY": "0012345",
            f"{PREFIX}WEBHOOK__CONFIG__HEADERS__X-LABEL": "12e4",
        }
        toml = FAST.format(name="webhook", url=receiver.url, more="")
        with ServiceProcess(tmp_path, ["webhook", "source"], toml, env) as service:
            service.wait_until(lambda: receiver.requests)
            assert service.stop() == 0
    headers = receiver.requests[0].headers
    assert (headers["X-Api-Key"], headers["X-Label"]) == ("0012345", "12e4")


@pytest.mark.parametrize("answer", [PAGE, TLS], ids=["page", "tls"])
@pytest.mark.parametrize("name", ["influx", "otlp", "webhook"])
def test_who_answers_in_a_receiver_s_place_costs_no_point(
    tmp_path: Path, name: str, answer: Answer
) -> None:
    """Kind: a reply that says nothing of the points. Each attempt is one request."""
    write_plugin(tmp_path / "plugins", "source", SOURCE)
    with standing_in() as receiver:
        receiver.answer = lambda _: answer
        toml = FAST.format(name=name, url=receiver.url, more="")
        toml += '    bucket = "b"\n' if name == "influx" else ""
        with ServiceProcess(tmp_path, [name, "source"], toml) as service:
            service.wait_until(lambda: len(receiver.requests) > 5)
            receiver.answer = lambda _: (204 if name == "influx" else 200, {}, b"")
            service.wait_until(lambda: delivered(service, name) >= 5)
            assert service.stop() == 0
    points = service.receipt_of(name)["points"]
    assert (points["rejected"], points["dropped"]) == (0, {})


def delivered(service: ServiceProcess, name: str) -> int:
    return int(service.plugin(name)["ledger"]["delivered"])


def test_points_of_a_wrong_clock_are_not_too_old_after_a_restart(tmp_path: Path) -> None:
    """Kind: an age is known from when the clock is; NTP sets it after the service has begun."""
    write_plugin(tmp_path / "plugins", "source", SOURCE)
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "sitecustomize.py").write_text(textwrap.dedent(WRONG_CLOCK))
    with standing_in() as receiver:
        more = 'spool = "disk"\n    max_age = 3600'
        toml = FAST.format(name="webhook", url=receiver.url, more=more)
        receiver.answer = lambda _: (503, {}, b"")
        path = f"{wrong}:{clean_environment().get('PYTHONPATH', '')}"
        toml = f"shutdown_timeout = 3\n{textwrap.dedent(toml)}"
        with ServiceProcess(tmp_path, ["webhook", "source"], toml, {"PYTHONPATH": path}) as service:
            service.wait_until(lambda: len(receiver.requests) > 1)
            assert service.stop() == 0
        assert service.receipt_of("webhook")["points"]["kept"] >= 5
        receiver.answer = lambda _: (200, {}, b"")
        receiver.requests.clear()
        with ServiceProcess(tmp_path, ["webhook"], toml) as service:
            service.wait_until(lambda: delivered(service, "webhook") >= 5)
            assert service.stop() == 0
    assert service.receipt_of("webhook")["points"]["dropped"] == {}


FILLER = """
    from pathlib import Path

    class Filler(BaseBackgroundPlugin):
        async def initialize(self):
            self.path = Path(self.app.settings["state_dir"], "filler")
            self.addRoute("/full", self.full)
            self.addRoute("/free", self.free)

        async def full(self, request):
            with open(self.path, "wb", buffering=0) as file:
                try:
                    while file.write(b"x" * 4096):
                        pass
                except OSError as error:
                    return str(error)

        async def free(self, request):
            self.path.unlink()
            return "freed"
"""


def test_history_goes_on_after_a_full_disk(tmp_path: Path) -> None:
    """Kind: a file of the service's that cannot be written now. Points wait; none is lost."""
    write_plugin(tmp_path / "plugins", "filler", FILLER)
    (tmp_path / "state").mkdir(mode=0o700)
    mounted = f"mount -t tmpfs -o size=1m,mode=700 tmpfs {tmp_path}/state"
    run = f"{mounted} && exec {sys.executable} -m lva run"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", run]
    toml = "[plugins.history]\nflush_interval = 0\nretry_initial = 0.05\nretry_max = 0.05\n"
    with ServiceProcess(
        tmp_path, ["history", "filler"], toml + "circuit_failures = 100000\n", command=command
    ) as service:
        service.wait_until_ready()
        assert "No space left" in service.get("/full").text

        def waits() -> bool:
            service.get("/livez")
            return "full" in (service.plugin("history")["last_error"] or "")

        service.wait_until(waits)
        assert service.get("/free").text == "freed"
        service.wait_until(lambda: service.plugin("history")["ledger"]["queued"] == 0)
        assert service.stop() == 0
    points = service.receipt_of("history")["points"]
    assert (points["dropped"], points["rejected"]) == ({}, 0)
