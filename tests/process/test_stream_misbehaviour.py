"""Whatever an analytics plugin does costs its own stream alone, and is named: one service, many streams."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from tests.process.streams import logs, unaccounted, until
from tests.support import ServiceProcess, write_plugin

pytestmark = [
    pytest.mark.process,
    pytest.mark.soak,
    pytest.mark.timeout(180),
]

#: Says when it misses a frame.
WITNESS = """
from lva import AnalyticsEvent, BaseAnalyticsPlugin

class Witness(BaseAnalyticsPlugin):
    def open(self, stream):
        self.number = 0
    def handleFrame(self, frame):
        self.number += 1
        if frame.number != self.number:
            yield AnalyticsEvent("gap", {"before": self.number, "frame": frame.number})
            self.number = frame.number
        elif frame.number % 10 == 0:
            yield AnalyticsEvent("well")
"""
CULPRIT = r"""
import ctypes, os, signal, sys, time
from lva import AnalyticsEvent, BaseAnalyticsPlugin

class Culprit(BaseAnalyticsPlugin):
    def open(self, stream):
        self.kept = []
        if self.config["act"] == "ignore":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def handleFrame(self, frame):
        getattr(self, f"do_{self.config['act']}")(frame)
        return self.found if hasattr(self, "found") else None

    def close(self):
        if self.config["act"] == "close":
            raise OSError("cannot be closed")
        if self.config["act"] == "ignore":
            time.sleep(600)

    def do_raise(self, frame):
        raise ValueError("a bad frame")
    def do_hang(self, frame):
        time.sleep(600)
    def do_compute(self, frame):
        while True:
            pass
    def do_leak(self, frame):
        self.kept.append(bytearray(os.urandom(1)) * 30_000_000)
    def do_null(self, frame):
        ctypes.memset(0, 0, 1)
    def do_fork(self, frame):
        if not os.fork():
            print("a child goes on")
    def do_fill(self, frame):
        for number in range(3000):
            print("x" * 200)
            try:
                os.write(2, b"y" * 200 + b"\n")
            except BlockingIOError:
                pass
    def do_end(self, frame):
        os._exit(9)
    def do_exit(self, frame):
        sys.exit("enough")
    def do_ignore(self, frame):
        pass
    def do_close(self, frame):
        pass
    def do_large(self, frame):
        self.found = AnalyticsEvent("large", {"text": "x" * 3_000_000})
    def do_many(self, frame):
        self.found = (AnalyticsEvent("again") for _ in iter(int, 1))
    def do_change(self, frame):
        frame.gray()[:] = 0
    def do_deep(self, frame):
        data = {}
        for _ in range(100_000):
            data = {"a": data}
        self.found = AnalyticsEvent("deep", data)
"""
#: What is said of each: in the stream's log or the plugin's, with the frame's number where there is one.
SET_ASIDE = {
    "raise": r"failed in handleFrame\(\) at frame \d+: ValueError: a bad frame",
    "hang": r"culprit, handleFrame\(\) at frame \d+ took longer than 0.5 s",
    "compute": r"culprit, handleFrame\(\) at frame \d+ took longer than 0.5 s",
    "leak": r"MiB of memory, more than 128 MiB",
    "null": r"the worker died \(SIGSEGV\) in culprit, handleFrame\(\) at frame \d+",
    "end": r"the worker died \(exit code 9\) in culprit, handleFrame\(\) at frame \d+",
    "exit": r"failed in handleFrame\(\) at frame \d+: SystemExit: enough",
    "large": r"failed in handleFrame\(\) at frame \d+: ValueError: data is too large",
    "many": r"(culprit, handleFrame\(\) at frame \d+ took longer than 0.5 s|more than 128 MiB)",
    "change": r"failed in handleFrame\(\) at frame \d+: ValueError: .*read-only",
    "deep": r"failed in handleFrame\(\) at frame \d+: ValueError: .* is nested too deeply",
}
#: These do not return: only they have a limit that others may need on a busy machine.
NOT_BACK, ENDLESS = ("hang", "compute", "many"), {"analytics_timeout": 0.5}
#: These cost nobody anything while they run.
GO_ON = ("fork", "fill", "ignore", "close")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A service in which a witness watches one stream, and culprits each have one."""
    path = tmp_path_factory.mktemp("scene")
    # What fills its log has one of its own, in which there is nothing else to look for.
    for name, source in (("witness", WITNESS), ("culprit", CULPRIT), ("filler", CULPRIT)):
        write_plugin(path / "plugins", name, source, preamble="")
    with ServiceProcess(path, ["streams", "witness", "culprit", "filler"]) as service:
        service.wait_until_ready()
        ids = {"witness": post(service, "witness", [{"name": "witness"}], rate=4)}
        until(service, ids["witness"], lambda status: status["events"])
        for act in (*SET_ASIDE, *GO_ON):
            name = "filler" if act == "fill" else "culprit"
            used = [{"name": "witness"}, {"name": name, "parameters": {"act": act}}]
            limits = {"memory_limit": 128 * 2**20, **(ENDLESS if act in NOT_BACK else {})}
            quick = {"decode_error_retry": {"delay": 0.1}}
            ids[act] = post(service, act, used, rate=10, **limits, **quick)
        yield service, ids, path


def missed(service: ServiceProcess, status: dict[str, Any]) -> int:
    """Return how many frames a witness has missed, which has been there from the first on."""
    events = service.get(f"/streams/{status['stream_id']}/events?limit=200").json()["events"]
    assert {event["event_type"] for event in events} <= {"well", "gap"}
    gaps = [event["data"] for event in events if event["event_type"] == "gap"]
    return sum(gap["frame"] - gap["before"] for gap in gaps)


def said_of(service: ServiceProcess, stream: str) -> list[str]:
    """Return what the culprit's log says of a stream."""
    return [
        record["message"]
        for record in service.records
        if record.get("plugin") in {"culprit", "filler"}
        and f"stream {stream}: " in record["message"]
    ]


def post(service: ServiceProcess, name: str, analytics: Any, rate: int, **more: Any) -> str:
    source = f"test:?size=160x120&rate={rate}"
    body = {"name": name, "source": source, "analytics": analytics, **more}
    response = service.request("POST", "/streams", json=body)
    assert response.status_code == 201, response.text
    return str(response.json()["stream_id"])


def aside(status: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["set_aside"] for each in status["analytics"] if each["set_aside"]}


@pytest.mark.parametrize("act", SET_ASIDE)
def test_the_culprit_is_named_and_set_aside_and_its_stream_goes_on(scene: Any, act: str) -> None:
    service, ids, _ = scene
    status = until(service, ids[act], lambda status: aside(status))
    assert [*aside(status)] == ["culprit"]
    told = "\n".join(entry["reason"] for entry in logs(service, ids[act]))
    told = "\n".join([told, *said_of(service, act)])
    assert re.search(SET_ASIDE[act], told), told
    before = status["frames"]["analysed"]
    until(
        service,
        ids[act],
        lambda status: (
            status["status"] == "in_progress" and status["frames"]["analysed"] > before + 2
        ),
    )


@pytest.mark.parametrize("act", GO_ON)
def test_what_does_no_harm_goes_on(scene: Any, act: str) -> None:
    service, ids, _ = scene
    status = until(service, ids[act], lambda status: status["frames"]["analysed"] > 10)
    assert aside(status) == {}
    assert status["input"]["reconnects"] == {}
    begun = time.monotonic()
    assert service.request("DELETE", f"/streams/{ids[act]}").status_code == 204
    assert time.monotonic() - begun < 5
    heard = {
        "close": "culprit failed in close(): OSError: cannot be closed",
        "fork": "a child goes on",
        "fill": "yyyy",
    }
    if act in heard:
        service.wait_until(lambda: any(heard[act] in text for text in said_of(service, act)))
    # Of some hundred thousand lines, as many as a plugin may log while the others are looked at.
    assert len(said_of(service, act)) < 20_000


def test_no_other_stream_is_touched(scene: Any) -> None:
    """Once all of them have been named: the witness's worker is the one that it began with."""
    service, ids, _ = scene
    for act in SET_ASIDE:
        until(service, ids[act], lambda status: aside(status))
    status = service.get(f"/streams/{ids['witness']}").json()
    assert status["frames"]["decoded"] > 20
    assert (status["frames"]["failed"], status["input"]["reconnects"]) == (0, {})
    assert unaccounted(status) == 0
    # A machine that has more to do than it can lets live frames give way to newer ones: no other is missed.
    dropped = status["frames"]["dropped"]
    assert dropped["busy"] < status["frames"]["analysed"]
    assert (dropped["stale"], dropped["stop"]) == (0, 0)
    until(
        service,
        ids["witness"],
        lambda status: status["frames"]["dropped"]["busy"] == missed(service, status),
    )


def test_a_reload_is_in_the_workers(scene: Any) -> None:
    """The kind is code that is old in some places: workers that use the plugin begin anew."""
    service, ids, directory = scene
    path = directory / "plugins" / "witness.py"
    pid = service.get(f"/streams/{ids['witness']}").json()["worker"]["pid"]
    path.write_text(path.read_text().replace('"well"', '"better"'))
    assert service.request("POST", "/plugins/witness/reload").status_code == 200
    until(service, ids["witness"], lambda status: (status["worker"] or {"pid": pid})["pid"] != pid)
    service.wait_until(
        lambda: (
            service.get(f"/streams/{ids['witness']}/events").json()["events"][0]["event_type"]
            == "better"
        )
    )
    reasons = [entry["reason"] for entry in logs(service, ids["witness"])]
    assert "analytics plugin witness was reloaded" in reasons


def test_a_plugin_that_is_stopped_is_set_aside_until_it_runs_again(scene: Any) -> None:
    service, ids, _ = scene
    both = post(
        service,
        "both",
        [{"name": "witness"}, {"name": "culprit", "parameters": {"act": "close"}}],
        10,
    )
    until(service, both, lambda status: status["frames"]["analysed"])
    service.request("POST", "/plugins/culprit/stop")
    status = until(service, both, lambda status: aside(status))
    assert aside(status) == {"culprit": "the plugin is not running"}
    until(service, both, lambda status: status["status"] == "in_progress")
    service.request("POST", "/plugins/culprit/start")
    until(service, both, lambda status: not aside(status))
    until(service, both, lambda status: status["status"] == "in_progress")
