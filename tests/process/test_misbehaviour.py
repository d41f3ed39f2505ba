"""Every way to misbehave, in every place a plugin has code, in the real process.

The culprits of a group share one process, as `tests.process.scene` has it. Each then has a subtest of its
own for what became of it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.process.scene import (
    ERRORS,
    MISDEEDS,
    SLOW,
    Case,
    Outcome,
    Scene,
    Style,
    check_bystanders,
    check_critical_end,
    check_culprit,
    name_of,
)
from tests.support import ServiceProcess

pytestmark = pytest.mark.process

#: Misbehaves in the way and in the place that its configuration names.
CULPRIT = (
    MISDEEDS
    + """
class Culprit(Misdeeds, %s):
    async def start(self):
        self.nursery.start_soon(self.reach, "child")
        await self.reach("start")

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
)

STYLE = Style(CULPRIT)
STUBBORN = ("swallow", "shield")

#: A plugin that failed by itself and was closed is not unclean; one that had to be abandoned is.
FAILED = Outcome("failed", "failed", 1, ("trouble on purpose",))
TOO_LONG = Outcome("failed", "failed", 1, ("took longer than 0.8 s",), log="took longer than 0.8 s")
UNHARMED = Outcome("running", "stopped")
CANCELLED = replace(UNHARMED, log=None)
CLOSED_BADLY = replace(UNHARMED, problems=True, receipt=(r"Culprit.close\(\) raised",))
UNDELIVERED = replace(UNHARMED, loses=True, receipt=(r'"dropped": {"max_attempts": ',))
CUT_SHORT = Outcome(
    "running", "abandoned", problems=True, log="was cut short", receipt=("was cut short",)
)
LEFT_BEHIND = Outcome("running", "abandoned", problems=True, leaks=True, log="ignored its cancellation",
                      receipt=("ignored its cancellation",))  # fmt: skip

#: Ends with the exit code 0, however much went wrong before.
CLEAN: dict[Case, Outcome] = {
    **{(how, place): FAILED for how in ERRORS for place in ("__init__", "initialize", "start", "child")},
    **{(how, "route"): UNHARMED for how in ERRORS},
    **{(how, "close"): CLOSED_BADLY for how in ERRORS},
    **{(how, "initialize"): TOO_LONG for how in SLOW},
    **{(how, place): CANCELLED for how in SLOW for place in ("start", "child", "route")},
    **{("failing_child", place): FAILED for place in ("initialize", "start", "child")},
    ("failing_child", "route"): replace(UNHARMED, restarts=1),  # the next attempt has no visitor
    ("failing_child", "close"): replace(CLOSED_BADLY, log="close() raised"),
}  # fmt: skip

#: Ends with the exit code 4: the points could not be delivered.
HANDLE_EVENT: dict[Case, Outcome] = {
    **{(how, "handleEvent"): UNDELIVERED for how in ERRORS},
    **{(how, "handleEvent"): replace(UNDELIVERED, log="took longer than 0.3 s") for how in SLOW},
    **{(how, "handleEvent"): replace(
        LEFT_BEHIND, before="abandoned", problems=False, loses=True, receipt=(r'"plugin_failed": ',))
       for how in STUBBORN},
    ("failing_child", "handleEvent"): replace(FAILED, loses=None),
}  # fmt: skip

#: Ends with the exit code 4: something could not be ended.
LEFT: dict[Case, Outcome] = {
    **{(how, "__init__"): replace(
        LEFT_BEHIND, before="abandoned", problems=False, log="took longer",
        receipt=(r"Culprit.__init__\(\)",))
       for how in SLOW},
    **{(how, "close"): CUT_SHORT for how in SLOW},
    **{(how, "initialize"): replace(LEFT_BEHIND, before="abandoned", receipt=(r"\(at ",))
       for how in STUBBORN},
    **{(how, place): LEFT_BEHIND for how in STUBBORN for place in ("start", "child", "route", "close")},
}  # fmt: skip

GROUPS = {"clean": CLEAN, "events": HANDLE_EVENT, "left": LEFT}


@pytest.mark.parametrize("group", GROUPS)
def test_culprits_harm_only_themselves(
    tmp_path: Path, group: str, subtests: pytest.Subtests
) -> None:
    # Where all of them end in time, they may take it: a busy machine is no fault of theirs.
    times = {"patience": 1.0, "limit": 6.0} if group == "clean" else {"patience": 0.3}
    scene = Scene(tmp_path, GROUPS[group], STYLE, **times).play()
    check_bystanders(scene, subtests)
    for how, place in scene.cases:
        with subtests.test(how=how, place=place):
            check_culprit(scene, how, place)
            receipt = scene.service.receipt_of(name_of(how, place))
            assert bool(receipt["leaked_tasks"]) == (how in STUBBORN)
            assert bool(receipt["leaked_threads"]) == (place == "__init__" and how in SLOW)
            if how in ERRORS:
                check_tracebacks(scene, how, place)


def check_tracebacks(scene: Scene, how: str, place: str) -> None:
    """An error is logged once for each time, with its traceback."""
    name = name_of(how, place)
    traced = [record for record in scene.complaints(name) if "exception" in record]
    assert all("trouble on purpose" in record["exception"] for record in traced)
    assert all(record["phase"] for record in traced)
    troubles = scene.journal(name).count("trouble")
    if place == "handleEvent":  # a repeated attempt at the same batch is logged without it
        assert 1 <= len(traced) <= troubles / 2
    else:
        assert len(traced) == troubles


@pytest.mark.parametrize(
    ("how", "place"),
    [
        ("error", "child"),
        ("hang", "__init__"),
        ("swallow", "initialize"),
        ("swallow", "handleEvent"),
    ],
)
def test_a_critical_culprit_ends_the_service(tmp_path: Path, how: str, place: str) -> None:
    outcome = (CLEAN | HANDLE_EVENT | LEFT)[how, place]
    check_critical_end(Scene(tmp_path, {(how, place): outcome}, STYLE, critical=True))


def test_a_blocked_event_loop_is_killed_past_the_deadline(tmp_path: Path) -> None:
    """Inside of a C function that never looks for signals, though other threads run."""
    endless = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    )
    source = f"""
        import sqlite3

        class Culprit(BaseBackgroundPlugin):
            async def start(self):
                print("blocks", flush=True)
                sqlite3.connect(":memory:").execute({endless!r}).fetchone()
    """
    with ServiceProcess(tmp_path, {"culprit": source}, "shutdown_timeout = 1") as service:
        service.wait_for("^blocks$")
        assert service.stop(timeout=15) == 70
    assert service.receipt["exit_code"] == 70
    assert service.receipt_of("culprit")["state"] == "running"
    assert "most recent call first" in service.output
    assert 'culprit.py", line' in service.output
