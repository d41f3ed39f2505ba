"""Every way of asyncio code to misbehave, in every place a plugin has code, in the real process.

The culprits of a group share one process, as `tests.process.scene` has it. Each then has a subtest of its
own for what became of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.process.scene import (
    ASYNCIO_STYLE,
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
from tests.support import HttpHandler, serving_http

pytestmark = pytest.mark.process

#: Misbehaves in the way and in the place that its configuration names.
CULPRIT = (
    MISDEEDS
    + """
class Culprit(Misdeeds, %s):
    async def start(self):
        self.kept.append(asyncio.create_task(self.reach("child"), name="child"))
        await self.reach("start")

    # In an __init__, in a callback or a thread, and below the coroutines

    def now_hold_briefly(self):
        time.sleep(0.15)

    def now_spin(self):
        while True:
            pass

    def now_failing_child(self):
        asyncio.create_task(self.error(), name="orphan")

    def now_swallowing_child(self):
        asyncio.create_task(self.swallow(), name="orphan")

    # In a coroutine

    async def hang(self):
        await asyncio.Event().wait()

    async def ten_minutes(self):
        await asyncio.sleep(600)

    async def swallow(self):
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                pass

    # Tasks

    async def failing_child(self):
        self.now_failing_child()

    async def swallowing_child(self):
        self.now_swallowing_child()

    async def failing_gather(self):
        self.kept.append(asyncio.gather(self.error(), self.hang()))

    async def waiting_for_a_future(self):
        self.kept.append(asyncio.get_running_loop().create_future())
        asyncio.ensure_future(self.kept[-1])

    async def open_generator(self):
        self.kept.append(self.numbers())
        await anext(self.kept[-1])

    async def numbers(self):
        try:
            yield 1
        finally:
            self.note("finalized")

    async def cancel_everything(self):
        for task in asyncio.all_tasks():
            task.cancel()
        await asyncio.sleep(0)

    # The loop itself

    async def hold(self):
        time.sleep(600)

    async def hold_briefly(self):
        self.now_hold_briefly()

    async def stutter(self):
        while True:
            time.sleep(0.02)
            await asyncio.sleep(0)

    async def spin(self):
        self.now_spin()

    async def stop_loop(self):
        asyncio.get_running_loop().stop()

    async def close_loop(self):
        asyncio.get_running_loop().close()

    async def second_loop(self):
        loop = asyncio.new_event_loop()
        waiting = asyncio.sleep(0)
        try:
            loop.run_until_complete(waiting)
        finally:
            waiting.close()
            loop.close()

    async def failing_callback(self):
        asyncio.get_running_loop().call_soon(self.now_error)

    async def exiting_callback(self):
        asyncio.get_running_loop().call_later(0.01, self.now_system_exit)

    async def deaf_to_errors(self):
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        asyncio.get_running_loop().call_soon(self.now_error)

    async def handle_signal(self):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print)

    async def set_signal(self):
        signal.signal(signal.SIGTERM, print)

    # Threads

    async def executor(self):
        asyncio.get_running_loop().run_in_executor(None, self.now_hang)

    async def awaited_executor(self):
        await asyncio.to_thread(self.now_hang)

    async def brief_loop_in_thread(self):
        self.kept.append(threading.Thread(target=lambda: asyncio.run(asyncio.sleep(0.05))))
        self.kept[-1].start()

    async def endless_loop_in_thread(self):
        threading.Thread(target=lambda: asyncio.run(self.hang()), daemon=True).start()

    async def thread(self):
        threading.Thread(target=self.now_hang, name="worker").start()

    # What has to be closed

    async def subprocess(self):
        self.kept.append(await asyncio.create_subprocess_exec("sleep", "3600"))
        self.note(f"pid {self.kept[-1].pid}")

    async def shell(self):
        process = await asyncio.create_subprocess_shell("exec sleep 3600")
        self.note(f"pid {process.pid}")
        await process.wait()

    async def subprocess_and_hold(self):
        await self.subprocess()
        await self.hold()

    async def session(self):
        self.kept.append(aiohttp.ClientSession())
        async with self.kept[-1].get(self.config["url"]) as answer:
            await answer.read()

    async def both_ends(self):
        await self.server()
        address = self.kept[-1].sockets[0].getsockname()
        self.kept.append(await asyncio.open_connection(*address))

    async def server(self):
        def accepted(reader, writer):
            self.kept.append((reader, writer))

        self.kept.append(await asyncio.start_server(accepted, "127.0.0.1", 0))
"""
)

STYLE = Style(CULPRIT, ASYNCIO_STYLE)
ON_UVLOOP_STYLE = Style(CULPRIT, ASYNCIO_STYLE, "uvloop")

#: A line of the culprit's file.
HERE = r"/\S+/plugins/\w+\.py:\d+"
FAILED = Outcome("failed", "failed", 1, ("trouble on purpose",))
FAILED_CHILD = replace(FAILED, receipt=(rf"task 'orphan' \(made at {HERE}\) raised RuntimeError",))
UNHARMED = Outcome("running", "stopped", log=None)
SLOW_START = Outcome("failed", "failed", 1, (rf"took longer than 0.8 s, waiting at {HERE}",),
                     log="took longer than 0.8 s")  # fmt: skip
UNDELIVERED = Outcome("running", "stopped", loses=True, receipt=(r'"dropped": {"max_attempts": ',))
CLOSED_BADLY = Outcome("running", "stopped", problems=True, receipt=(r"Culprit.close\(\) raised",))
CUT_SHORT = Outcome("running", "abandoned", problems=True, log="was cut short",
                    receipt=(rf"waiting at {HERE} in .*, and was cut short",))  # fmt: skip
#: What close() left, and the host has ended.
ENDED = Outcome("running", "stopped", problems=True, log="leaked",
                receipt=(r"close\(\) leaked, now ended: ",))  # fmt: skip
#: What nothing could end.
STUCK = Outcome("running", "abandoned", problems=True, leaks=True, log="abandoned", receipt=(HERE,))
#: What has the loop and does not give it back.
HELD = replace(
    STUCK,
    held=True,
    receipt=(rf"{HERE} in (hold|now_hang|now_ten_minutes).*, which blocks its event loop",),
)


def crashes(*receipt: str, log: str = "trouble on purpose") -> Outcome:
    """Return what becomes of a culprit that crashes each time."""
    return replace(FAILED, receipt=receipt, log=log)


def ended(what: str) -> Outcome:
    """Return what becomes of a culprit that has leaked something."""
    return replace(ENDED, receipt=(*ENDED.receipt, what))


LEFT_A_PROCESS = replace(ended(r"sleep 3600 \(process \d+, ended by SIGTERM\)"), starts=True)

#: Ends with the exit code 0, however much went wrong before.
CLEAN: dict[Case, Outcome] = {
    **{(how, place): FAILED for how in ERRORS for place in ("__init__", "initialize", "start", "child")},
    **{(how, "route"): replace(UNHARMED, log="trouble on purpose") for how in ERRORS},
    **{(how, "close"): CLOSED_BADLY for how in ERRORS},
    **{("failing_child", place): FAILED_CHILD for place in ("initialize", "start", "child")},
    # These make it once: the next attempt is on the same instance, and without a visitor.
    **{("failing_child", place): Outcome("running", "stopped", 1) for place in ("__init__", "route")},
    ("failing_child", "close"): replace(
        CLOSED_BADLY, receipt=(rf"task 'orphan' \(made at {HERE}\) raised RuntimeError",)
    ),
    ("failing_gather", "start"): replace(
        crashes(rf"asyncio.gather\(\) \(called at {HERE}\) raised"), problems=True),
    **{("stop_loop", place): crashes("stopped the event loop", log="stopped the event loop")
       for place in ("initialize", "start", "child")},
    ("stop_loop", "close"): replace(CLOSED_BADLY, receipt=("stopped the event loop",), log="stopped"),
    ("close_loop", "start"): crashes("Cannot close a running event loop", log="Cannot close"),
    ("second_loop", "start"): crashes("while another loop is running", log="another loop"),
    ("failing_callback", "start"): crashes("callback .*now_error.*trouble on purpose"),
    ("failing_callback", "close"): replace(CLOSED_BADLY, receipt=("callback .*now_error",)),
    ("exiting_callback", "start"): crashes("SystemExit: trouble on purpose"),
    ("deaf_to_errors", "start"): crashes("callback .*now_error.*trouble on purpose"),
    ("cancel_everything", "start"): crashes("start.*cancelled by the plugin's code", log="by the plugin"),
    ("cancel_everything", "close"): replace(
        CLOSED_BADLY, receipt=("close.*cancelled by the plugin's code",), log="by the plugin"),
    ("cancel_everything", "route"): replace(UNHARMED, log="cancelled by the plugin's code"),
    ("handle_signal", "initialize"): crashes("signals are the service's", log="define close()"),
    ("set_signal", "initialize"): crashes("signals are the service's", log="define close()"),
}  # fmt: skip

#: As above; these take their time, or leave behind what the host can end.
ENDED_BY_THE_HOST: dict[Case, Outcome] = {
    **{(how, "initialize"): SLOW_START for how in SLOW},
    **{(how, "start"): UNHARMED for how in SLOW},
    **{(how, "child"): ended(rf"child \(made at {HERE}, at {HERE} in {how}") for how in SLOW},
    **{(how, "route"): UNHARMED for how in SLOW},
    ("hold_briefly", "__init__"): UNHARMED,
    **{("hold_briefly", place): UNHARMED for place in ("initialize", "start", "child", "close")},
    ("stutter", "start"): UNHARMED,
    ("stutter", "child"): ended(rf"child \(made at {HERE}"),
    ("open_generator", "start"): UNHARMED,
    ("waiting_for_a_future", "start"): UNHARMED,
    ("cancel_everything", "child"): UNHARMED,
    ("brief_loop_in_thread", "start"): UNHARMED,
    ("subprocess", "start"): LEFT_A_PROCESS,
    ("shell", "child"): LEFT_A_PROCESS,
    ("session", "start"): ended(r"a connection to 127\.0\.0\.1:\d+"),
    ("server", "start"): ended("a server"),
    ("both_ends", "start"): ended(r"a connection (to|from) 127\.0\.0\.1:\d+"),
    ("server", "close"): ended("a server"),
}  # fmt: skip

#: Ends with the exit code 4: the points could not be delivered.
HANDLE_EVENT: dict[Case, Outcome] = {
    **{(how, "handleEvent"): UNDELIVERED for how in ERRORS},
    **{(how, "handleEvent"): replace(UNDELIVERED, log="took longer than 0.3 s") for how in SLOW},
    **{(how, "handleEvent"): Outcome(
        "abandoned", "abandoned", log="ignored its cancellation", leaks=True, loses=True,
        receipt=(r'"plugin_failed": ', HERE), held=how == "hold", problems=True)
       for how in ("swallow", "hold")},
    ("failing_child", "handleEvent"): replace(FAILED_CHILD, loses=None, problems=None),
    ("stop_loop", "handleEvent"): replace(
        crashes("stopped the event loop", log="stopped"), loses=None, problems=None),
    ("cancel_everything", "handleEvent"): replace(
        UNDELIVERED, log="cancelled by the plugin's code"),
}  # fmt: skip

#: Ends with the exit code 4: something could not be ended.
STUBBORN: dict[Case, Outcome] = {
    **{(how, "__init__"): replace(HELD, before="abandoned", log="took longer") for how in SLOW},
    ("swallowing_child", "__init__"): STUCK,
    ("swallowing_child", "start"): STUCK,
    ("swallow", "initialize"): replace(STUCK, before="abandoned"),
    **{("swallow", place): STUCK for place in ("start", "child", "route", "close")},
    **{(how, "close"): CUT_SHORT for how in SLOW},
    ("hold", "initialize"): replace(HELD, before="abandoned"),
    **{("hold", place): HELD for place in ("child", "route", "close")},
    # The loop never runs again, so that nobody but the service can end what it has started.
    ("subprocess_and_hold", "start"): replace(HELD, starts=True),
    ("executor", "start"): replace(STUCK, receipt=(rf"executor from .*{HERE}",)),
    ("awaited_executor", "child"): replace(STUCK, receipt=(rf"executor from .*{HERE}",)),
    ("endless_loop_in_thread", "start"): STUCK,
    ("thread", "start"): replace(STUCK, receipt=(rf"worker \(at {HERE}",)),
}  # fmt: skip

#: The ones of these whose way leads through the loop's own inside.
ON_UVLOOP: dict[Case, Outcome] = {
    **{case: CLEAN[case] for case in [
        ("error", "__init__"), ("error", "initialize"), ("error", "start"), ("error", "child"),
        ("system_exit", "child"), ("base_exception", "child"), ("error", "close"), ("stop_loop", "start"),
        ("close_loop", "start"), ("failing_callback", "start"), ("exiting_callback", "start"),
        ("failing_child", "start"), ("handle_signal", "initialize")]},
    **{case: ENDED_BY_THE_HOST[case] for case in [
        ("hang", "initialize"), ("hang", "child"), ("subprocess", "start"), ("shell", "child"),
        ("session", "start"), ("server", "start"), ("both_ends", "start"), ("open_generator", "start")]},
    **{case: STUBBORN[case] for case in [
        ("swallow", "start"), ("swallow", "child"), ("hold", "child"), ("executor", "start"),
        ("subprocess_and_hold", "start")]},
}  # fmt: skip

GROUPS = {
    "clean": CLEAN,
    "ended": ENDED_BY_THE_HOST,
    "events": HANDLE_EVENT,
    "stubborn": STUBBORN,
    "uvloop": ON_UVLOOP,
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Return the address of a server that keeps connections open."""

    class Handler(HttpHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with serving_http(Handler) as server:
        yield f"http://127.0.0.1:{server.server_address[1]}/"


@pytest.mark.parametrize(
    "group", [*list(GROUPS)[:-1], pytest.param("uvloop", marks=pytest.mark.soak)]
)
def test_culprits_harm_only_themselves(
    tmp_path: Path, url: str, group: str, subtests: pytest.Subtests
) -> None:
    style = STYLE
    if group == "uvloop":
        pytest.importorskip("uvloop")
        style = ON_UVLOOP_STYLE
    # Where all of them end in time, they may take it: a busy machine is no fault of theirs.
    times = {"patience": 1.5, "limit": 8.0} if group in {"clean", "ended"} else {}
    scene = Scene(tmp_path, GROUPS[group], style, url, **times).play()
    check_bystanders(scene, subtests)
    for how, place in scene.cases:
        with subtests.test(how=how, place=place):
            check_culprit(scene, how, place)
            name = name_of(how, place)
            if "subprocess" in how or how == "shell":
                assert any(line.startswith("pid ") for line in scene.journal(name))
                assert name not in scene.survivors
            if how == "open_generator":
                assert scene.journal(name)[-2:] == ["close", "finalized"]


@pytest.mark.parametrize(
    "place",
    [
        "child",
        *(
            pytest.param(place, marks=pytest.mark.soak)
            for place in ("__init__", "initialize", "route", "handleEvent", "close")
        ),
    ],
)
def test_a_loop_that_computes_for_ever_is_left_behind(
    tmp_path: Path, place: str, subtests: pytest.Subtests
) -> None:
    before = "running" if place in {"child", "route", "close"} else "abandoned"
    outcome = Outcome(before, "abandoned", leaks=True, held=True)
    scene = Scene(tmp_path, {("spin", place): outcome}, STYLE, patience=0.2).play(answers=6)
    check_bystanders(scene, subtests, answers=6)
    name = name_of("spin", place)
    receipt = scene.service.receipt_of(name)
    assert receipt["state"] == "abandoned"
    assert re.search(rf"{HERE} in now_spin", json.dumps(receipt))
    assert receipt["leaked_tasks"] or receipt["leaked_threads"]
    entered = scene.lifecycle(name)
    assert entered in ([] if place == "__init__" else ["initialize"], ["initialize", "close"])
    assert ("close" in entered) == (place == "close")


@pytest.mark.parametrize(("how", "place"), [("error", "child"), ("swallow", "initialize")])
def test_a_critical_culprit_ends_the_service(tmp_path: Path, how: str, place: str) -> None:
    outcome = (CLEAN | STUBBORN)[how, place]
    check_critical_end(Scene(tmp_path, {(how, place): outcome}, STYLE, critical=True))
