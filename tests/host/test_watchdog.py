"""The watchdog in real time, since it watches threads: each test has an event loop of its own."""

from __future__ import annotations

import contextvars
import gc
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing

import pytest
import trio

from lva.host import watchdog
from lva.host.holds import Culprit
from lva.host.loop_use import LoopUses
from lva.host.loops import LoopThread
from lva.host.processor import Schedule, ScheduleReader
from lva.host.stacks import Line
from lva.host.steps import enter_plugin, leave_plugin
from lva.host.waits import Look
from lva.host.watchdog import LoopWatchdog, Sighting, Step

LIMIT = 0.05
HOLD = 0.15
SWITCH_INTERVAL = 0.005


@pytest.fixture(autouse=True)
def known_switch_interval() -> Iterator[None]:
    """Whatever service ran in this process before: it makes the interval shorter, for good."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    yield
    sys.setswitchinterval(before)


def watched(work: Callable[[], Awaitable[object]], b: LoopThread | None = None) -> LoopUses:
    """Run a function under the watchdog; return what was noted of plugins "a" and "b"."""
    uses = LoopUses()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(LoopWatchdog(LIMIT, uses, lambda: {"a": None, "b": b}).run)
            await trio.sleep(2 * LIMIT)
            await work()
            await trio.sleep(2 * LIMIT)
            nursery.cancel_scope.cancel()

    trio.run(main)
    return uses


def holds(uses: LoopUses) -> dict[str, int]:
    return {name: uses.of(name).holds for name in ("a", "b")}


def test_a_task_of_a_plugin_is_named(caplog):
    async def work():
        enter_plugin("a")
        time.sleep(HOLD)

    uses = watched(work)
    assert holds(uses) == {"a": 1, "b": 0}
    hold = uses.of("a").last_hold
    assert HOLD - 0.03 < hold.seconds < HOLD + 0.5
    assert abs(hold.at - (time.time() - hold.seconds - 2 * LIMIT)) < 1
    assert hold.where.endswith(" in work")
    assert uses.share("a") > 0.1
    assert [record.name for record in caplog.records] == ["lva.plugin.a"] * 2


def test_a_handler_in_a_task_of_the_service_is_named():
    async def work():
        token = enter_plugin("b")
        time.sleep(HOLD)
        leave_plugin(token)

    assert holds(watched(work)) == {"a": 0, "b": 1}


def test_two_holds_are_two():
    async def work():
        enter_plugin("a")
        time.sleep(HOLD)
        await trio.lowlevel.checkpoint()
        time.sleep(HOLD)

    assert holds(watched(work)) == {"a": 2, "b": 0}


def test_the_service_is_no_plugin(caplog):
    async def work():
        token = enter_plugin("a")
        await trio.lowlevel.checkpoint()
        leave_plugin(token)
        time.sleep(HOLD)

    assert holds(watched(work)) == {"a": 0, "b": 0}
    assert caplog.records[0].message.startswith("the service itself holds the event loop")


def test_waiting_holds_nothing(caplog):
    async def work():
        enter_plugin("a")
        for _ in range(10):
            await trio.sleep(LIMIT / 2)
        await trio.sleep(HOLD)

    assert holds(watched(work)) == {"a": 0, "b": 0}
    assert not caplog.records


def test_many_short_steps_hold_nothing():
    async def work():
        enter_plugin("a")
        end = time.monotonic() + 2 * HOLD
        while time.monotonic() < end:
            await trio.lowlevel.checkpoint()

    uses = watched(work)
    assert holds(uses) == {"a": 0, "b": 0}


class SlowToStart(threading.Thread):
    """Has its first turn late, as on a busy machine."""

    def _bootstrap(self):
        time.sleep(3 * HOLD)
        super()._bootstrap()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_who_waits_for_a_thread_to_start_holds_nothing(caplog):
    async def work():
        enter_plugin("a")
        SlowToStart(target=int, daemon=True).start()

    assert holds(watched(work)) == {"a": 0, "b": 0}
    assert not caplog.records


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_the_thread_that_computes_is_to_blame_and_not_who_waits_for_a_turn(caplog):
    """On a busy machine, it may not get enough of a processor to be to blame, at first."""
    over = threading.Event()

    def spin():
        while not over.is_set():
            pass

    async def work():
        enter_plugin("a")
        end = time.monotonic() + 20
        while not any(record.name == "lva.plugin.b" for record in caplog.records):
            assert time.monotonic() < end
            for _ in range(60):
                time.sleep(0.0002)  # takes 5 ms where another thread wants the interpreter
            await trio.lowlevel.checkpoint()

    spinning = LoopThread("b", contextvars.copy_context(), False, print, over.set)
    spinning.loop.call_soon_threadsafe(spin)
    try:
        uses = watched(work, b=spinning)
    finally:
        over.set()
        spinning.loop.call_soon_threadsafe(spinning.loop.create_task, spinning.end())
        spinning.thread.join()
    assert holds(uses)["a"] == 0
    assert holds(uses)["b"] > 0
    assert {record.message[:20] for record in caplog.records} == {"held the interpreter"}


def test_a_garbage_collection_is_nobody_s(caplog):
    heap = [[[]] for _ in range(500_000)]

    async def work():
        enter_plugin("a")
        begun = time.monotonic()
        while time.monotonic() < begun + LIMIT:  # however fast this machine is
            gc.collect()
            await trio.lowlevel.checkpoint()

    uses = watched(work)
    del heap
    assert holds(uses) == {"a": 0, "b": 0}
    assert {record.message[:20] for record in caplog.records} == {"a garbage collection"}


def test_nothing_is_left_of_it():
    callbacks = len(gc.callbacks)
    watched(trio.lowlevel.checkpoint)
    assert len(gc.callbacks) == callbacks
    assert signal.getitimer(signal.ITIMER_PROF)[0] == 0
    for thread in threading.enumerate():
        if thread.name == "lva-watchdog":
            thread.join(1)
            assert not thread.is_alive()


# What it makes of what it has seen, without threads


class Watch:
    """A watchdog that is told what it sees, at times from 0."""

    def __init__(self) -> None:
        self.uses = LoopUses()
        self.dog = LoopWatchdog(0.1, self.uses, lambda: {"a": None, "b": None})
        self.dog._last = Sighting(0.0, 0.0, None)
        self.seen: list[Sighting] = []
        self.dog._sight = lambda _: self.now  # type: ignore[method-assign]

    def sighting(self, at: float, used: float, plugin: str | None, number: int = 1) -> Sighting:
        stack = [Line(f"/{plugin}.py", 1, "f", plugin)]
        step = None if plugin is None else Step(plugin, number)  # type: ignore[arg-type]
        return Sighting(at, used, step, Culprit(plugin, stack))

    def sees(self, now: Sighting, began: float) -> None:
        self.now = now
        self.dog._advance(now._replace(culprit=None), began)

    def starved(self, now: Sighting, rival: tuple[str, float] = ("", 0.0)) -> dict[str, int]:
        name, used = rival
        self.dog._used_by = {"a": (1, 0.0), "b": (2, 0.0)}
        self.now = now
        used_by = {name: (1 if name == "a" else 2, used)}
        self.dog._starved(now._replace(culprit=None), used_by, self.seen)
        return holds(self.uses)


def test_what_the_alarm_saw_is_to_blame_and_not_what_runs_now():
    watch = Watch()
    watch.seen = [watch.sighting(0.15, 0.14, "a")]
    assert watch.starved(watch.sighting(0.16, 0.15, "b")) == {"a": 1, "b": 0}


def test_without_an_alarm_what_runs_now_is_to_blame():
    watch = Watch()
    assert watch.starved(watch.sighting(0.16, 0.15, "b")) == {"a": 0, "b": 1}


def test_the_line_it_was_at_for_the_longest_is_to_blame_and_not_the_one_it_is_at_by_now():
    watch = Watch()
    watch.sees(watch.sighting(0.01, 0.0, "a"), 0.0)
    watch.seen = [watch.sighting(0.09, 0.09, "a")]
    after = Culprit("a", [Line("/a.py", 2, "f", "a")])
    watch.starved(watch.sighting(0.11, 0.11, "a")._replace(culprit=after))
    last_hold = watch.uses.of("a").last_hold
    assert last_hold is not None
    assert last_hold.where == "/a.py:1 in f"


def test_a_step_that_a_plugin_was_seen_at_is_the_plugin_s_though_the_service_goes_on_with_it():
    watch = Watch()
    watch.sees(watch.sighting(0.01, 0.0, "a"), 0.0)
    watch.seen = [watch.sighting(0.02, 0.02, "a")]
    by_now = Culprit(None, [Line("/service.py", 2, "f", None)])
    watch.starved(watch.sighting(0.2, 0.2, "a")._replace(culprit=by_now))
    assert holds(watch.uses) == {"a": 1, "b": 0}


def test_what_the_alarm_sees_while_a_look_waits_for_the_interpreter_is_for_the_next_look(
    monkeypatch,
):
    watch = Watch()
    glances = [watch.sighting(0.05, 0.05, None), watch.sighting(0.3, 0.3, None)]
    alarms = [[watch.sighting(0.04, 0.04, "b")], [watch.sighting(0.24, 0.24, "a", 2)]]

    def glance() -> Sighting:
        watch.dog._alarm._seen.extend(alarms.pop(0) if alarms else [])
        return glances.pop(0)._replace(culprit=None)

    monkeypatch.setattr(watch.dog, "_glance", glance)
    with closing(ScheduleReader(0)) as nothing_told:
        watch.dog._alarm._seen.extend(alarms.pop(0))
        watch.dog._look(nothing_told, nothing_told)
        watch.dog._look(nothing_told, nothing_told)
    assert holds(watch.uses) == {"a": 1, "b": 0}


def test_a_process_that_stood_still_is_nobody_s_fault():
    watch = Watch()
    assert watch.starved(watch.sighting(9.0, 0.0, "a")) == {"a": 0, "b": 0}


def test_a_step_that_is_seen_again_after_a_standstill_has_waited():
    watch = Watch()
    watch.sees(watch.sighting(0.01, 0.0, "a"), 0.0)
    assert watch.starved(watch.sighting(0.2, 0.0, "a")) == {"a": 0, "b": 0}
    watch.sees(watch.sighting(0.22, 0.0, "a"), 0.21)
    assert holds(watch.uses) == {"a": 1, "b": 0}


@pytest.mark.parametrize(("late", "blamed"), [(0.15, 1), (0.05, 0)])
def test_a_step_that_sleeps_while_the_watching_thread_has_no_processor_is_to_blame(late, blamed):
    watch = Watch()
    watch.sees(watch.sighting(0.01, 0.0, "a"), 0.0)
    watch.dog._itself_queued = late
    assert watch.starved(watch.sighting(0.2, 0.0, "a")) == {"a": blamed, "b": 0}


@pytest.mark.parametrize(("queued", "blamed"), [(0.0, 1), (0.04, 1), (0.15, 0)])
def test_waiting_for_a_processor_does_not_count(queued, blamed):
    watch = Watch()
    for part in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        at = 0.15 * part
        used = (0.15 - queued) * part
        seen = watch.sighting(at, used, "a")._replace(told=Schedule(used, queued * part, 1))
        watch.sees(seen, at)
    assert holds(watch.uses) == {"a": blamed, "b": 0}


def test_who_computes_for_too_long_is_to_blame_however_long_it_waited_for_a_processor():
    watch = Watch()
    watch.seen = [
        watch.sighting(10 * used, used, "a")._replace(all_used=used)
        for used in (0.05, 0.075, 0.1, 0.125, 0.15, 0.175)
    ]
    assert watch.starved(
        watch.sighting(2.0, 0.18, None)._replace(told=Schedule(0.18, 1.82, 1))
    ) == {"a": 1, "b": 0}


def test_short_steps_on_a_busy_machine_are_nobody_s_hold():
    """The watching thread had no turn, and the alarm has seen one of many steps."""
    watch = Watch()
    watch.seen = [watch.sighting(0.3, 0.05, "a")._replace(all_used=0.05)]
    assert watch.starved(
        watch.sighting(0.31, 0.05, "b")._replace(told=Schedule(0.05, 0.26, 1))
    ) == {"a": 0, "b": 0}


@pytest.mark.parametrize("used", [0.0, 0.14])
def test_who_waits_for_a_turn_is_innocent_and_the_thread_that_has_them_is_to_blame(
    monkeypatch, used
):
    watch = Watch()
    looks = iter(
        Look(0.03 * n, Schedule(0.0, 0.0, 9 * n), 0.0, {7: 0.03 * n}) for n in range(1, 10)
    )
    monkeypatch.setattr(watchdog, "look_closely_at", lambda *_: next(looks))
    times = {"b": (1, 0.0)}
    monkeypatch.setattr(watchdog, "processor_times", lambda _: times)
    watch.dog._used_by = {"b": (1, 0.0)}
    for at in (0.0, 0.03, 0.06, 0.09, 0.12, 0.15):
        times["b"] = (1, used)
        watch.sees(watch.sighting(at, 0.0, "a"), at)
    assert holds(watch.uses) == {"a": 0, "b": 1 if used else 0}


def test_a_plugin_whose_thread_was_busy_meanwhile_is_to_blame_and_not_who_waited():
    watch = Watch()
    watch.sees(watch.sighting(0.01, 0.0, "a"), 0.0)
    assert watch.starved(watch.sighting(0.2, 0.0, "a"), rival=("b", 0.18)) == {"a": 0, "b": 1}
    watch.sees(watch.sighting(0.22, 0.0, "a"), 0.21)
    assert holds(watch.uses) == {"a": 0, "b": 1}


def test_a_busy_thread_is_no_excuse_for_a_hold_unless_it_held_the_interpreter_itself():
    watch = Watch()
    watch.sees(watch.sighting(0.01, 0.0, "a"), 0.0)
    assert watch.starved(watch.sighting(0.09, 0.0, "a"), rival=("b", 0.07)) == {"a": 0, "b": 0}
    watch.sees(watch.sighting(0.11, 0.0, "a"), 0.1)
    assert holds(watch.uses) == {"a": 1, "b": 0}


def test_the_loop_s_own_thread_goes_before_a_busy_one():
    watch = Watch()
    watch.seen = [watch.sighting(0.15, 0.14, "a")]
    assert watch.starved(watch.sighting(0.16, 0.15, None), rival=("b", 0.14)) == {"a": 1, "b": 0}


def test_short_times_of_many_steps_are_nobody_s_hold():
    watch = Watch()
    watch.seen = [watch.sighting(0.03 * n, 0.02 * n, "ab"[n % 2], n) for n in range(1, 6)]
    assert watch.starved(watch.sighting(0.17, 0.12, None)) == {"a": 0, "b": 0}


@pytest.mark.parametrize(
    ("limit", "interval"),
    [(0.001, 0.005), (0.1, 0.05), (10.0, 0.1)],
    ids=["least", "usual", "most"],
)
def test_it_looks_twice_within_the_limit(limit, interval):
    assert LoopWatchdog(limit, LoopUses(), dict)._pause == pytest.approx(interval)


@pytest.mark.parametrize(
    ("again", "lasted", "pause"),
    [(False, 0.05, 0.05), (True, 0.05, 0.01), (True, 0.3, 0.03), (True, 9.0, 0.05)],
    ids=["new", "again", "long", "longest"],
)
def test_a_step_seen_again_is_looked_at_more_often_and_the_less_the_longer_it_lasts(
    again, lasted, pause
):
    watch = Watch()
    watch.dog._begun, watch.dog._again = 1.0, again
    pauses = [watch.dog._next_pause(watch.sighting(1.0 + lasted, 0.0, "a")) for _ in range(200)]
    assert 0.9 * pause <= min(pauses) < 0.95 * pause
    assert 1.05 * pause < max(pauses) <= 1.1 * pause


def test_however_short_the_limit_it_does_not_look_all_the_time():
    dog = LoopWatchdog(0.001, LoopUses(), dict)
    dog._again = True
    assert dog._next_pause(Sighting(0.0, 0.0, None)) >= 0.9 * 0.005


def test_between_two_sightings_everything_went_on_evenly():
    step = Step("task", 1)  # type: ignore[arg-type]
    before = Sighting(1.0, 2.0, step, None, 3.0, Schedule(2.0, 4.0, 10))
    after = Sighting(1.4, 2.2, None, None, 3.4, Schedule(2.2, 4.1, 50))
    seen = watchdog._between(before, after, 0.1)
    assert (seen.at, seen.used, seen.all_used) == pytest.approx((1.1, 2.05, 3.1))
    assert seen.told == pytest.approx((2.05, 4.025, 20))
    assert seen.step == step
    assert watchdog._between(before, after, -1.0) == before
    late = watchdog._between(before, after, 9.0)
    assert (late.at, late.used, late.all_used) == pytest.approx((1.4, 2.2, 3.4))
    assert watchdog._between(before, after._replace(told=None), 0.1).told == before.told
    assert watchdog._between(before, before, 0.1).at == 1.0


@pytest.mark.parametrize(("runnable", "blamed"), [(True, 0), (False, 1)])
def test_a_wait_for_a_processor_that_is_not_over_is_not_taken_for_a_sleep(
    monkeypatch, runnable, blamed
):
    """The kernel counts it only once it is over."""
    monkeypatch.setattr(watchdog, "is_runnable", lambda _: runnable)
    watch = Watch()
    looks = iter(
        [Look(0.05, Schedule(0.05, 0, 1), 0.05, {}), Look(0.15, Schedule(0.05, 0, 1), 0.05, {})]
    )
    monkeypatch.setattr(watchdog, "look_closely_at", lambda *_: next(looks))
    for at, used in ((0.0, 0.0), (0.05, 0.05), (0.15, 0.05)):
        watch.sees(watch.sighting(at, used, "a"), at)
    assert holds(watch.uses) == {"a": blamed, "b": 0}


def test_a_bug_of_its_own_is_logged_once_and_stops_nothing(caplog, monkeypatch):
    monkeypatch.setattr(LoopWatchdog, "_look", lambda *_: 1 / 0)

    async def work():
        enter_plugin("a")
        time.sleep(HOLD)

    assert holds(watched(work)) == {"a": 0, "b": 0}
    assert [record.message for record in caplog.records] == [
        "bug in the service: the event loop is not watched any more"
    ]
    assert signal.getitimer(signal.ITIMER_PROF)[0] == 0
