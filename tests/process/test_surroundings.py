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


def test_a_byte_order_mark_in_the_settings_is_skipped(tmp_path: Path) -> None:
    service = ServiceProcess(tmp_path, ["history"])
    (tmp_path / "lva.toml").write_bytes("\N{BOM}shutdown_timeout = 7\n".encode())
    with service:
        service.wait_until_ready()
        assert service.stop() == 0


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


def test_a_body_that_is_no_utf_8_is_the_client_s_mistake(tmp_path: Path) -> None:
    source = """
    class Reader(BaseBackgroundPlugin):
        async def initialize(self):
            self.addRoute("/read", self.read, methods={"post"})

        async def read(self, request):
            return {"got": await request.get_json()}
    """
    write_plugin(tmp_path / "plugins", "reader", source)
    with ServiceProcess(tmp_path, ["reader"]) as service:
        service.wait_until_ready()
        headers = {"Content-Type": "application/json"}
        answer = service.request("POST", "/read", content=b'{"a": "\xff"}', headers=headers)
        assert answer.status_code == 400, answer.text
        assert service.stop() == 0
    assert not [record for record in service.records if "exception" in record]


def in_namespace(*command: str) -> list[str]:
    """Return a command that runs in namespaces of its own; that takes no privileges."""
    return ["unshare", *command]


def test_a_user_without_a_name_or_a_home_is_told_to_set_the_state_directory(tmp_path: Path) -> None:
    """Kind: containers that choose the user. What needs no state directory works."""
    without = ["env", "-u", "HOME", "-u", "LUNA_VIDEO_AGENT_STATE_DIR", sys.executable, "-m", "lva"]
    user = in_namespace("--user", "--map-user=54321", *without)
    with ServiceProcess(tmp_path, ["history"], command=[*user, "run"]) as service:
        assert service.wait() == 2
    assert "state_dir" in service.output
    assert "Traceback" not in service.output
    with ServiceProcess(tmp_path, ["history"], command=[*user, "plugins"]) as plugins:
        assert plugins.wait() == 0


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
    command = in_namespace(
        "--user", "--map-root-user", "--mount", "sh", "-c",
        f"{mounted} && exec {sys.executable} -m lva run",
    )  # fmt: skip
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


def test_history_begins_a_new_file_when_its_own_is_removed(tmp_path: Path) -> None:
    """Kind: files of the service's that somebody removes while it runs."""
    with ServiceProcess(
        tmp_path, ["history"], "[plugins.history]\nflush_interval = 0\n"
    ) as service:
        service.wait_until_ready()
        for path in (tmp_path / "state").glob("history.sqlite3*"):
            path.unlink()

        def there() -> bool:
            service.get("/readyz?after")
            return bool(service.get("/history/points?series=requests").json()["points"])

        service.wait_until(there)
        assert (tmp_path / "state" / "history.sqlite3").exists()
        assert service.stop() == 0
