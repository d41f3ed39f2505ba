"""Every way to misbehave, in every place a plugin has code, in the real process.

Each case runs a culprit and a neighbour while requests are made, and checks that the culprit harmed
nobody but itself, was closed as often as it was initialized, and is named in the receipt.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.process.traffic import Traffic
from tests.support import ServiceProcess, write_plugin

pytestmark = pytest.mark.process

SHUTDOWN_TIMEOUT = 4.0

#: Misbehaves in the way and in the place that its configuration names.
CULPRIT = """
import sys


class Unheard(BaseException):
    pass


class Culprit(%s):
    eventName = "monitoring_event"

    def __init__(self, app):
        super().__init__(app)
        if self.config["place"] == "__init__":
            self.note("trouble")
            getattr(self, "now_" + self.config["how"])()

    async def initialize(self):
        self.note("initialize")
        if isinstance(self, BaseBackgroundPlugin):
            self.addRoute("/culprit", self.route)
        await self.reach("initialize")

    async def start(self):
        self.nursery.start_soon(self.reach, "child")
        await self.reach("start")

    async def route(self, request):
        await self.reach("route")
        return pluginHTTPResponse(body="fine")

    async def handleEvent(self, points, logger):
        await self.reach("handleEvent")

    async def close(self):
        self.note("close")
        await self.reach("close")

    def note(self, line):
        with open(self.config["journal"], "a") as journal:
            journal.write(line + "\\n")

    async def reach(self, place):
        if place == self.config["place"]:
            self.note("trouble")
            await getattr(self, self.config["how"])()

    # In an __init__

    def now_error(self):
        raise RuntimeError("trouble on purpose")

    def now_base_exception(self):
        raise Unheard("trouble on purpose")

    def now_system_exit(self):
        sys.exit("trouble on purpose")

    def now_keyboard_interrupt(self):
        raise KeyboardInterrupt("trouble on purpose")

    def now_hang(self):
        while True:
            time.sleep(3600)

    def now_ten_minutes(self):
        time.sleep(600)

    # In a coroutine

    async def error(self):
        self.now_error()

    async def base_exception(self):
        self.now_base_exception()

    async def system_exit(self):
        self.now_system_exit()

    async def keyboard_interrupt(self):
        self.now_keyboard_interrupt()

    async def hang(self):
        await trio.sleep_forever()

    async def ten_minutes(self):
        await trio.sleep(600)

    async def swallow(self):
        while True:
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                pass

    async def shield(self):
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()

    async def failing_child(self):
        self.nursery.start_soon(self.error)
"""

#: Does its work next to the culprit and keeps a record of it.
NEIGHBOUR = """
class Neighbour(BaseEventPlugin, BaseBackgroundPlugin):
    eventName = "monitoring_event"

    async def initialize(self):
        self.note("initialize")
        self.addRoute("/neighbour", self.answer)

    async def answer(self, request):
        return pluginHTTPResponse(body="here")

    async def handleEvent(self, points, logger):
        for point in points:
            if point.series == "requests":
                self.note("point " + point.fields["request_id"])

    async def close(self):
        self.note("close")

    def note(self, line):
        with open(self.config["journal"], "a") as journal:
            journal.write(line + "\\n")
"""

TOML = """
shutdown_timeout = %(shutdown_timeout)s
slow_start = 0.1

[plugins.culprit]
critical = %(critical)s
startup_error_behavior = "error"
max_restarts = 1
backoff_initial = 0.05
initialize_timeout = 0.3
stop_timeout = 0.3
close_timeout = 0.3
handle_timeout = 0.2
max_attempts = 2
retry_initial = 0.05

[plugins.culprit.config]
place = "%(place)s"
how = "%(how)s"
journal = "%(directory)s/culprit.journal"

[plugins.neighbour.config]
journal = "%(directory)s/neighbour.journal"
"""


@dataclass(frozen=True)
class Outcome:
    """What must become of the culprit.

    Attributes:
        before: Its state once the trouble has had its effect.
        after: Its state in the receipt.
        code: The exit code; None for the one that the receipt's lost points call for.
        restarts: How often it was started again.
        receipt: What its part of the receipt says, as JSON.
        log: What its log says at level WARNING or above; None if its trouble needs no such record.
    """

    before: str
    after: str
    code: int | None
    restarts: int = 0
    receipt: str = ""
    log: str | None = "trouble on purpose"


ERRORS = ("error", "base_exception", "system_exit", "keyboard_interrupt")
SLOW = ("hang", "ten_minutes")
STUBBORN = ("swallow", "shield")

#: A plugin that failed by itself and was closed is not unclean; one that had to be left behind is.
FAILED = Outcome("failed", "failed", 0, 1, "trouble on purpose")
TOO_LONG = Outcome("failed", "failed", 0, 1, "took longer than 0.3 s", "took longer than 0.3 s")
UNHARMED = Outcome("running", "stopped", 0, 0, '"problems": []')
CANCELLED = Outcome("running", "stopped", 0, 0, '"problems": []', None)
UNDELIVERED = Outcome("running", "stopped", 4, 0, '"dropped": {"max_attempts": ')
LEFT_BEHIND = Outcome(
    "running", "abandoned", 4, 0, "ignored its cancellation", "ignored its cancellation"
)

EXPECTED: dict[tuple[str, str], Outcome] = {
    **{
        (place, how): FAILED
        for place in ("__init__", "initialize", "start", "child")
        for how in ERRORS
    },
    **{("route", how): UNHARMED for how in ERRORS},
    **{("handleEvent", how): UNDELIVERED for how in ERRORS},
    **{
        ("close", how): Outcome("running", "stopped", 0, 0, "Culprit.close() raised")
        for how in ERRORS
    },
    **{
        ("__init__", how): Outcome("abandoned", "abandoned", 4, 0, "Culprit.__init__()", "took longer")
        for how in SLOW
    },
    **{("initialize", how): TOO_LONG for how in SLOW},
    **{(place, "ten_minutes"): CANCELLED for place in ("start", "child")},
    **{("route", how): CANCELLED for how in SLOW},
    **{
        ("handleEvent", how): Outcome(
            "running", "stopped", 4, 0, '"dropped": {"max_attempts": ', "took longer than 0.2 s"
        )
        for how in SLOW
    },
    **{
        ("close", how): Outcome("running", "abandoned", 4, 0, "was cut short", "was cut short")
        for how in SLOW
    },
    **{
        ("initialize", how): Outcome("abandoned", "abandoned", 4, 0, "(at ", "ignored its cancellation")
        for how in STUBBORN
    },
    **{
        (place, how): LEFT_BEHIND
        for place in ("start", "child", "route", "close")
        for how in STUBBORN
    },
    **{
        ("handleEvent", how): Outcome(
            "abandoned", "abandoned", 4, 0, '"plugin_failed": ', "ignored its cancellation"
        )
        for how in STUBBORN
    },
    ("initialize", "failing_child"): FAILED,
    ("start", "failing_child"): FAILED,
    ("child", "failing_child"): FAILED,
    ("route", "failing_child"): Outcome("running", "stopped", 0, 1, '"problems": []'),
    ("handleEvent", "failing_child"): Outcome("failed", "failed", None, 1, "trouble on purpose"),
    ("close", "failing_child"): Outcome(
        "running", "stopped", 0, 0, "Culprit.close() raised", "Culprit.close() raised"
    ),
}  # fmt: skip


class Scene:
    """The service with a culprit and a neighbour, and what they wrote down."""

    def __init__(self, directory: Path, place: str, how: str, critical: bool = False) -> None:
        bases = "BaseEventPlugin" if place == "handleEvent" else "BaseBackgroundPlugin"
        write_plugin(directory / "plugins", "culprit", CULPRIT % bases)
        write_plugin(directory / "plugins", "neighbour", NEIGHBOUR)
        values = {
            "place": place,
            "how": how,
            "directory": directory,
            "critical": json.dumps(critical),
            "shutdown_timeout": SHUTDOWN_TIMEOUT,
        }
        self._directory = directory
        self.service = ServiceProcess(directory, ["culprit", "neighbour"], TOML % values)

    def journal(self, name: str) -> list[str]:
        """Return the lines that a plugin has written."""
        path = self._directory / f"{name}.journal"
        return path.read_text().splitlines() if path.exists() else []

    def lifecycle(self, name: str) -> list[str]:
        """Return which of `initialize` and `close` were entered, in order."""
        return [line for line in self.journal(name) if line in {"initialize", "close"}]

    def neighbour_runs(self) -> bool:
        """Return whether the neighbour has started."""
        return bool(self.service.plugin("neighbour")["state"] == "running")

    def culprit_is(self, outcome: Outcome) -> bool:
        """Return whether the trouble has had all the effect that it has before the stop."""
        status = self.service.plugin("culprit")
        settled = status["state"] == outcome.before and status["restarts"] == outcome.restarts
        if '"max_attempts"' in outcome.receipt:
            return settled and bool(status["ledger"]["dropped"])
        return settled


class Visitor:
    """A request to the culprit's own route, which may never be answered."""

    request_id = "1,visitor"

    def __init__(self, service: ServiceProcess) -> None:
        self._service = service
        self.status: int | None = None
        self._thread = threading.Thread(target=self._visit, daemon=True)
        self._thread.start()

    def _visit(self) -> None:
        try:
            response = self._service.get(
                "/culprit", 20, headers={"Luna-Request-Id": self.request_id}
            )
            self.status = response.status_code
        except httpx.HTTPError:
            pass  # the service stopped first

    def leave(self) -> None:
        """Wait for the end of the request."""
        self._thread.join(25)
        assert not self._thread.is_alive()


@pytest.mark.parametrize(
    ("place", "how", "outcome"),
    [
        pytest.param(*case, outcome, id=f"{case[1]}-in-{case[0]}")
        for case, outcome in EXPECTED.items()
    ],
)
def test_a_culprit_harms_only_itself(
    tmp_path: Path, place: str, how: str, outcome: Outcome
) -> None:
    scene = Scene(tmp_path, place, how)
    visitor = None
    with scene.service as service:
        service.wait_until(scene.neighbour_runs)
        with Traffic(service, ["/livez", "/neighbour"]) as traffic:
            if place == "route":
                service.wait_until(lambda: service.plugin("culprit")["state"] == "running")
                visitor = Visitor(service)
            if place != "close":
                service.wait_until(lambda: "trouble" in scene.journal("culprit"))
            service.wait_until(lambda: scene.culprit_is(outcome))
            traffic.wait_for_more(6)
            ready = service.get("/readyz")
        told = time.monotonic()
        code = service.stop()
        took = time.monotonic() - told
        if visitor is not None:
            visitor.leave()

    # The service answered, and told the truth about the culprit.
    assert not traffic.errors
    assert {answer.status for answer in traffic.answers.values()} == {200}
    assert max(answer.seconds for answer in traffic.answers.values()) < 2
    assert ready.status_code == (200 if outcome.before == "running" else 503)
    assert ("culprit" in ready.json().get("reasons", {})) == (outcome.before != "running")
    if visitor is not None and how in ERRORS:
        assert visitor.status == 500

    # The neighbour lost nothing.
    asked = set(traffic.answers)
    if visitor is not None and how not in STUBBORN:  # a request that never ends has no point
        asked.add(visitor.request_id)
    received = [line.removeprefix("point ") for line in scene.journal("neighbour") if " " in line]
    assert asked <= set(received)
    assert len(received) == len(set(received))
    points = service.receipt_of("neighbour")["points"]
    assert points["accepted"] == points["delivered"] >= len(received)
    assert not points["dropped"]
    assert scene.lifecycle("neighbour") == ["initialize", "close"]

    # The culprit was closed as often as it was initialized, and no attempt overlapped another.
    attempts = 0 if place == "__init__" else 1 + outcome.restarts
    assert scene.lifecycle("culprit") == ["initialize", "close"] * attempts

    # The stop was bounded and accounts for the culprit.
    assert took < SHUTDOWN_TIMEOUT
    receipt = service.receipt_of("culprit")
    assert receipt["state"] == outcome.after
    assert receipt["restarts"] == outcome.restarts
    assert outcome.receipt in json.dumps(receipt)
    assert bool(receipt["leaked_tasks"]) == (how in STUBBORN)
    assert bool(receipt["leaked_threads"]) == (place == "__init__" and how in SLOW)
    assert balanced(receipt["points"])
    lost = sum(receipt["points"]["dropped"].values())
    expected = outcome.code if outcome.code is not None else (4 if lost else 0)
    assert code == service.receipt["exit_code"] == expected
    others = [item for item in service.receipt["plugins"] if item["name"] != "culprit"]
    assert [item["state"] for item in others] == ["stopped"]

    # Nothing happened in silence.
    if outcome.log is not None:
        assert any(outcome.log in json.dumps(record) for record in complaints(service, "culprit"))
    assert not complaints(service, "neighbour")


def balanced(points: dict) -> bool:
    """Return whether every accepted point is accounted for, with none left waiting."""
    settled = points["delivered"] + points["rejected"] + sum(points["dropped"].values())
    return points["accepted"] == settled and points["queued"] == points["in_flight"] == 0


def complaints(service: ServiceProcess, plugin: str) -> list[dict]:
    """Return the records at level WARNING or above about one plugin."""
    levels = {"WARNING", "ERROR", "CRITICAL"}
    return [
        record
        for record in service.records
        if record.get("plugin") == plugin and record.get("level") in levels
    ]


@pytest.mark.parametrize(
    ("place", "how"),
    [
        ("__init__", "error"),
        ("initialize", "error"),
        ("child", "error"),
        ("close", "error"),
        *((place, how) for place in ("start", "handleEvent", "route") for how in ERRORS),
    ],
)
def test_an_error_is_logged_once_for_each_time_with_its_traceback(
    tmp_path: Path, place: str, how: str
) -> None:
    scene = Scene(tmp_path, place, how)
    with scene.service as service:
        service.wait_until(scene.neighbour_runs)
        if place == "route":
            service.wait_until(lambda: service.get("/culprit").status_code == 500)
        outcome = EXPECTED[place, how]
        service.wait_until(lambda: scene.culprit_is(outcome))
        service.stop()
    traced = [record for record in complaints(service, "culprit") if "exception" in record]
    assert all("trouble on purpose" in record["exception"] for record in traced)
    assert all("now_" in record["exception"] for record in traced)  # where it happened
    assert all(record["phase"] for record in traced)
    troubles = scene.journal("culprit").count("trouble")
    if place == "handleEvent":  # a repeated attempt at the same batch is logged without it
        assert 1 <= len(traced) <= troubles / 2
    else:
        assert len(traced) == troubles


@pytest.mark.parametrize(
    ("place", "how"),
    [("initialize", "error"), ("start", "system_exit"), ("child", "error"), ("__init__", "hang"),
     ("initialize", "swallow"), ("handleEvent", "swallow"), ("handleEvent", "failing_child")],
)  # fmt: skip
def test_a_critical_culprit_ends_the_service(tmp_path: Path, place: str, how: str) -> None:
    scene = Scene(tmp_path, place, how, critical=True)
    with scene.service as service:
        if place == "handleEvent":
            service.wait_until(scene.neighbour_runs)
            service.wait_until(lambda: has_given_up(service))
        code = service.wait()
    assert code == service.receipt["exit_code"] == 3
    assert "culprit" in service.receipt["reason"]
    assert service.receipt_of("culprit")["state"] == EXPECTED[place, how].before
    assert service.receipt_of("neighbour")["state"] == "stopped"
    assert scene.lifecycle("neighbour") in ([], ["initialize", "close"])
    entered = scene.lifecycle("culprit")
    assert entered == ["initialize", "close"] * (len(entered) // 2)


def has_given_up(service: ServiceProcess) -> bool:
    """Ask for something, so that there are points, and return whether the service has stopped."""
    try:
        service.get("/livez")
    except httpx.HTTPError:
        return True
    return service.process.poll() is not None


def test_an_initialize_that_fails_for_ever_is_tried_for_ever_and_closed_each_time(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, "initialize", "error")
    env = {"LUNA_VIDEO_AGENT_PLUGINS__CULPRIT__STARTUP_ERROR_BEHAVIOR": "retry"}
    service = ServiceProcess(
        tmp_path, ["culprit", "neighbour"], (tmp_path / "lva.toml").read_text(), env
    )
    with service:
        service.wait_until(lambda: len(scene.lifecycle("culprit")) >= 8)
        assert service.get("/readyz").json()["reasons"].keys() == {"culprit"}
        assert service.stop() == 0
    entered = scene.lifecycle("culprit")
    assert entered == ["initialize", "close"] * (len(entered) // 2)
    assert service.receipt_of("culprit")["state"] == "stopped"
    assert service.receipt_of("culprit")["restarts"] >= 3


#: Ways to keep the event loop from ever running again.
BLOCKERS = {
    "sleep": "time.sleep(3600)",
    "spin": "while True: pass",
    # Blocks inside of a C function that never looks for signals, though other threads run.
    "query": (
        "sqlite3.connect(':memory:').execute("
        "'WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n').fetchone()"
    ),
}


@pytest.mark.parametrize("blocker", BLOCKERS)
def test_a_blocked_event_loop_is_killed_past_the_deadline(tmp_path: Path, blocker: str) -> None:
    write_plugin(
        tmp_path / "plugins",
        "culprit",
        f"""
        import sqlite3

        class Culprit(BaseBackgroundPlugin):
            async def start(self):
                await trio.sleep(0.1)
                {BLOCKERS[blocker]}
        """,
    )
    with ServiceProcess(tmp_path, ["culprit"], "shutdown_timeout = 1") as service:
        service.wait_until(lambda: is_deaf(service))
        told = time.monotonic()
        assert service.stop(timeout=15) == 70
        took = time.monotonic() - told
    assert took < 3
    assert service.receipt["exit_code"] == 70
    assert service.receipt_of("culprit")["state"] == "running"
    assert "most recent call first" in service.output
    assert 'culprit.py", line' in service.output


def is_deaf(service: ServiceProcess) -> bool:
    """Return whether the service has ceased to answer."""
    try:
        service.get("/livez", timeout=0.5)
    except httpx.TimeoutException:
        return True
    return False
