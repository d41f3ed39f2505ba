"""Whose block it was is told only where that is beyond doubt, from what was stamped and what was seen."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio

from lva.host.watch.clock import StepClock, Stretch, enter_plugin, leave_plugin
from lva.host.watch.doubts import OthersWaits
from lva.host.watch.garbage import Collection
from lva.host.watch.loop_watch import LoopWatch, Sighting
from lva.host.watch.pulse import PluginLoop, Pulse, Watched
from lva.host.watch.readings import Reading, own_reader
from lva.host.watch.reports import UNSEEN
from lva.host.watch.stacks import Line
from lva.host.watch.uses import LoopUses

LIMIT = 0.1
#: What is known of the loop's thread before the stretch.
BEFORE = Reading(1.0, 5.0, 3.0, 100, 7.0)
IDENT = threading.get_ident()
CODE = (lambda: None).__code__
LOOP = PluginLoop(1, 2, None, Pulse(print, CODE))
PLUGINS = {"a": Watched("lva_plugins.a", None), "b": Watched("lva_plugins.b", LOOP)}
A = Line("/a.py", 1, "f", "a")
A_LATER = Line("/a.py", 2, "g", "a")
B = Line("/b.py", 1, "f", "b")
SERVICE = Line("/lva/x.py", 1, "x", None)


@pytest.fixture(autouse=True)
def known_switch_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.001)
    yield
    sys.setswitchinterval(before)


# What it makes of stretches


class Watch:
    """A watch that is told what was stamped and seen, in a stretch that begins at 1."""

    def __init__(self) -> None:
        self.uses = LoopUses()
        self.watch = LoopWatch(LIMIT, 10.0, self.uses, lambda: PLUGINS)
        self.watch._others_waits = OthersWaits(threading.get_native_id())
        self.watch._refresh()
        self.watch._ident = IDENT

    def saw(self, at: float, *stack: Line) -> None:
        self.watch._sightings.append(Sighting(1.0, 1.0 + at, stack))

    def saw_asleep(self, now: Reading) -> None:
        self.watch._asleep.note(1.0, BEFORE, now)

    def others_waited(self, seconds: float) -> None:
        self.watch._others_waits._sums = deque([(1.0, 0.0), (1.0 + seconds, seconds)])

    def ended(
        self,
        lasted: float,
        plugin: str | None,
        *,
        used: float = 0.0,
        queued: float = 0.0,
        turns: int | None = 2,
        others: float = 0.0,
        waits: bool = False,
    ) -> dict[str, int]:
        """End the stretch; return the blocks by plugin."""
        before = BEFORE._replace(turns=None if turns is None else BEFORE.turns)
        now = None if turns is None else 100 + turns
        after = Reading(1.0 + lasted, 5.0 + used, 3.0 + queued, now, 7.0 + others)
        self.watch._judge(Stretch(1.0, 1.0 + lasted, waits, plugin, before, after))
        return {name: use.blocks for name, use in self.uses._uses.items() if use.blocks}


def test_who_computes_blocks(caplog):
    watch = Watch()
    watch.saw(0.06, A, SERVICE)
    assert watch.ended(0.15, "a", used=0.15) == {"a": 1}
    assert watch.uses.of("a").last_block.where == "/a.py:1 in f"
    assert caplog.messages == ["blocked the event loop for 0.15 s at /a.py:1 in f"]


def test_a_plugin_that_has_just_begun_is_named(caplog):
    """Which plugins there are is looked at once a second, and at once for a name that is none of theirs."""
    found: dict[str, Watched] = {}
    watch = Watch()
    watch.watch._find_plugins = lambda: {**found}
    watch.watch._refresh()
    found["a"] = PLUGINS["a"]
    assert watch.ended(0.15, "a", used=0.15) == {"a": 1}
    assert caplog.messages == [f"blocked the event loop for 0.15 s at {UNSEEN}"]


def test_who_sleeps_blocks_although_others_compute():
    watch = Watch()
    watch.saw(0.06, A)
    assert watch.ended(0.2, "a", used=0.001, others=0.2, turns=5) == {"a": 1}


def test_a_wait_for_a_processor_is_no_block():
    assert Watch().ended(0.3, "a", used=0.05, queued=0.25) == {}
    assert Watch().ended(0.3, "a", used=0.12, queued=0.18) == {"a": 1}


def test_who_was_seen_asleep_slept_although_the_system_takes_it_for_a_wait():
    """The kind is a busy machine whose kernel moves a thread that sleeps to another processor."""
    watch = Watch()
    assert watch.ended(0.2, "a", used=0.003, queued=0.2, turns=9, others=0.06) == {}
    watch.saw_asleep(Reading(1.12, 5.003, 3.0, 100, 7.0))
    assert watch.ended(0.2, "a", used=0.003, queued=0.2, turns=9, others=0.06) == {"a": 1}


@pytest.mark.slow("the event loop is blocked in real time")
@pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells")
def test_the_thread_sees_that_what_runs_is_asleep():
    seen = []

    class Seeing(LoopWatch):
        def _judge(self, stretch: Stretch) -> None:
            seen.append(self._asleep.own(stretch.begun))
            super()._judge(stretch)

    async def work():
        enter_plugin("a")
        time.sleep(5 * LIMIT)

    watched(work, Seeing)
    assert any(own > 0 for own in seen)


def test_a_wait_for_the_interpreter_is_no_block_of_who_waits(caplog):
    assert Watch().ended(0.3, "a", used=0.02, turns=280, others=0.28) == {}
    assert caplog.messages == [
        "the event loop was blocked for 0.28 s; it is not known by what: other threads had the interpreter"
    ]


def test_a_wait_for_the_interpreter_of_a_thread_that_had_no_processor_is_no_block_either(caplog):
    """The kind is a machine with more to do than it can: meanwhile no thread of the process computes."""
    assert Watch().ended(0.3, "a", used=0.001, turns=250, others=0.001) == {}
    assert caplog.messages == [
        (
            "the event loop was blocked for 0.30 s; it is not known by what:"
            " other threads may have had the interpreter"
        )
    ]
    watch = Watch()
    watch.saw(0.06, A)
    watch.saw(0.2, A)
    assert watch.ended(0.3, "a", used=0.001, turns=250, others=0.001) == {}, (
        "who looked had the interpreter, and the other thread had it in between"
    )


def test_a_wait_until_a_thread_without_a_processor_takes_the_interpreter_is_no_block(caplog):
    """The kind is CPython's: who gives the interpreter away sleeps in one piece until it is taken."""
    watch = Watch()
    watch.others_waited(0.3)
    assert watch.ended(0.3, "a", used=0.002, turns=1) == {}
    assert caplog.messages == [
        (
            "the event loop was blocked for 0.30 s; it is not known by what:"
            " other threads may have had the interpreter"
        )
    ]
    watch.others_waited(0.3)
    watch.saw(0.1, A)  # which took the interpreter, and so was what it had waited for
    assert watch.ended(0.3, "a", used=0.002, turns=2) == {}


def test_what_others_waited_is_no_doubt_about_what_is_beyond_it():
    watch = Watch()
    watch.others_waited(0.16)
    assert watch.ended(0.2, "a", used=0.002, turns=1) == {}
    watch.others_waited(0.14)
    assert watch.ended(0.2, "a", used=0.002, turns=1) == {"a": 1}, "it slept for longer"
    watch.others_waited(0.3)
    assert watch.ended(0.3, "a", used=0.06, turns=2) == {"a": 2}, "it computed"
    watch.others_waited(0.3)
    watch.saw_asleep(Reading(1.1, 5.001, 3.0, 100, 7.0))
    assert watch.ended(0.2, "a", used=0.002, turns=1) == {"a": 3}, "it was seen in its only sleep"
    watch.others_waited(0.3)
    watch.saw_asleep(Reading(1.1, 5.001, 3.0, 103, 7.0))
    assert watch.ended(0.25, "a", used=0.002, turns=4) == {"a": 4}, "it slept on since it was seen"


def test_what_was_seen_of_a_sleep_does_not_tell_of_a_wait_before_or_after_it():
    def seen(lasted: float, turns: int, now: Reading) -> dict[str, int]:
        watch = Watch()
        watch.others_waited(0.3)
        watch.saw_asleep(now)
        return watch.ended(lasted, "a", used=0.002, turns=turns)

    asleep = Reading(1.08, 5.001, 3.0, 100, 7.0)
    assert seen(0.25, 1, asleep) == {"a": 1}
    assert seen(0.12, 4, asleep._replace(turns=103)) == {}, "it may have waited before"
    assert seen(0.14, 4, asleep._replace(turns=103)) == {"a": 1}, "half of the limit is enough"
    assert seen(0.25, 3, asleep._replace(at=1.04)) == {}, "it may have waited after"
    assert seen(0.25, 1, asleep._replace(runnable=True)) == {}, "it did not sleep then"


def test_where_the_kernel_does_not_tell_what_others_computed_may_be_that_wait():
    assert Watch().ended(0.3, "a", used=0.02, turns=None, others=0.28) == {}
    assert Watch().ended(0.3, "a", used=0.02, turns=None, others=0.05) == {"a": 1}


def test_two_causes_below_the_limit_are_no_block_of_either(caplog):
    assert Watch().ended(0.15, "a", used=0.07, turns=80, others=0.08) == {}
    assert not caplog.messages


def test_short_sleeps_one_after_the_other_are_a_block():
    assert Watch().ended(0.3, "a", used=0.02, turns=140, others=0.0) == {"a": 1}


def test_a_plugin_s_thread_that_had_the_interpreter_is_named_if_no_other_can_have_had_it(caplog):
    def with_rival(used: float, others: float) -> dict[str, int]:
        watch = Watch()
        watch.watch._used += [(0.99, {"b": (7, 1.0)}), (1.3, {"b": (7, 1.0 + used)})]
        return watch.ended(0.25, None, turns=250, others=others, waits=True)

    assert with_rival(used=0.3, others=0.25) == {"b": 1}
    assert caplog.messages == [
        "blocked the event loop for 0.25 s: its own thread kept the interpreter"
    ]
    assert with_rival(used=0.3, others=0.6) == {}, "another thread may have been it"
    assert with_rival(used=0.15, others=0.2) == {}, "it may have computed before and after"


def test_a_loop_that_waits_for_events_blocks_nothing(caplog):
    assert Watch().ended(30.0, None, turns=3, others=20.0, waits=True) == {}
    assert not caplog.messages


def test_a_garbage_collection_is_nobody_s(caplog):
    watch = Watch()
    watch.watch._collections._recent.append(Collection(1.02, 1.16, IDENT))
    assert watch.ended(0.2, "a", used=0.2) == {}
    assert caplog.messages == ["a garbage collection blocked the event loop for 0.14 s"]


def test_a_process_that_stood_still_blocks_nothing():
    watch = Watch()
    watch.watch._stood_still.append((1.01, 5.0))
    assert watch.ended(4.05, "a", used=0.02) == {}
    watch.watch._stood_still.append((1.01, 5.0))
    assert watch.ended(4.05, "a", used=0.2) == {"a": 1}, "it computed apart from that"


def test_the_thread_notices_that_the_process_stood_still():
    watch = Watch().watch
    before = Reading(1.0, 0.0, 0.0, 0, 0.0)
    late = Reading(3.0, 0.0, 0.0, 1, 0.0)
    watch._note_standstill(before, late._replace(queued=1.95))
    watch._note_standstill(before, late._replace(turns=1900, others=1.9))
    watch._note_standstill(before, late._replace(turns=1900))
    assert not watch._stood_still, "it waited for a processor, or for the interpreter"
    watch._note_standstill(before, late)
    assert list(watch._stood_still) == [(1.0, 3.0)]


def test_the_line_it_was_at_for_the_longest_is_told_and_not_the_one_it_was_at_last():
    watch = Watch()
    watch.saw(0.1, A, SERVICE)
    watch.saw(0.12, A_LATER, SERVICE)
    watch.saw(0.13, SERVICE)
    assert watch.ended(0.14, "a", used=0.14) == {"a": 1}
    assert watch.uses.of("a").last_block.where == "/a.py:1 in f"


def test_the_plugin_s_own_line_goes_before_that_of_what_runs_once_its_step_has_ended():
    watch = Watch()
    watch.saw(0.02, A, SERVICE)
    watch.saw(0.2, SERVICE)
    assert watch.ended(0.2, "a", used=0.2) == {"a": 1}
    assert watch.uses.of("a").last_block.where == "/a.py:1 in f"


def test_what_is_seen_in_another_stretch_is_not_taken_for_this_one_s():
    watch = Watch()
    watch.watch._sightings.append(Sighting(0.5, 0.6, [B]))
    watch.watch._sightings.append(Sighting(2.0, 2.1, [B]))
    assert watch.ended(0.2, "a", used=0.2) == {"a": 1}
    assert watch.uses.of("a").last_block.where == UNSEEN
    assert [seen.begun for seen in watch.watch._sightings] == [2.0]


def test_a_step_in_nobody_s_name_is_whose_code_it_was_seen_in(caplog):
    watch = Watch()
    watch.saw(0.1, B, SERVICE)
    assert watch.ended(0.2, None, used=0.2) == {"b": 1}
    watch.saw(0.1, SERVICE)
    assert watch.ended(0.2, "gone", used=0.2) == {"b": 1}
    watch.ended(0.2, None, used=0.2)
    assert caplog.messages[1:] == [
        "the service itself blocked the event loop for 0.20 s at /lva/x.py:1 in x",
        "the event loop was blocked for 0.20 s; it is not known by what: no plugin's task, and not seen",
    ]


def test_a_block_that_goes_on_is_told_and_counted_once(caplog):
    watch = Watch()
    watch.saw(0.1, A)
    before = Reading(1.0, 5.0, 3.0, 100, 7.0)
    for lasted in (1.2, 1.4):
        now = Reading(1.0 + lasted, 5.0, 3.0, 101, 7.0)
        watch.watch._goes_on(Stretch(1.0, 1.0 + lasted, False, "a", before, now))
        assert watch.uses.longest_open("a").seconds == pytest.approx(lasted)
    assert watch.ended(2.0, "a") == {"a": 1}
    assert watch.uses.longest_open("a") is None
    assert [message.partition(" at ")[0] for message in caplog.messages] == [
        "has blocked the event loop for 1.20 s so far",
        "blocked the event loop for 2.00 s in all",
    ]


def test_while_it_may_wait_for_a_processor_only_what_it_computed_counts():
    before = Reading(1.0, 5.0, 3.0, 100, 7.0)
    seen = Reading(2.2, 5.05, 3.0, 101, 7.0, runnable=True)
    watch = Watch()
    watch.saw(0.1, A)
    watch.watch._goes_on(Stretch(1.0, 2.2, False, "a", before, seen))
    assert watch.uses.of("a").blocks == 0
    watch.watch._goes_on(Stretch(1.0, 2.2, False, "a", before, seen._replace(used=5.5)))
    assert watch.uses.of("a").blocks == 1


# In real time, since it watches threads


def watched(work: Callable[[], Awaitable[object]], kind: type[LoopWatch] = LoopWatch) -> LoopUses:
    """Run a function under the watch, and wait until all of it was judged."""
    uses = LoopUses()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kind(LIMIT, 10.0, uses, lambda: PLUGINS).run)
            await trio.testing.wait_all_tasks_blocked()
            await work()
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    trio.run(main)
    for thread in threading.enumerate():
        if thread.name == "lva-watch":
            thread.join()
    return uses


@pytest.mark.slow("the event loop is blocked in real time")
def test_a_task_and_a_handler_of_a_plugin_are_named_with_their_lines():
    async def work():
        token = enter_plugin("a")
        time.sleep(3 * LIMIT)
        leave_plugin(token)
        await trio.lowlevel.checkpoint()
        enter_plugin("b")
        time.sleep(3 * LIMIT)
        await trio.lowlevel.checkpoint()
        time.sleep(3 * LIMIT)

    uses = watched(work)
    assert (uses.of("a").blocks, uses.of("b").blocks) == (1, 2)
    assert uses.of("a").last_block.where.endswith(" in work")
    assert uses.share("b") > uses.share("a") > 0


@pytest.mark.slow("the interpreter is kept in real time")
def test_the_line_inside_a_c_function_that_keeps_the_interpreter_is_seen():
    numbers = 1_000_000
    while True:
        begun = time.thread_time()
        sum(range(numbers))
        if time.thread_time() - begun > 3 * LIMIT:
            break
        numbers *= 2

    def c_function():
        sum(range(numbers))

    async def work():
        enter_plugin("a")
        c_function()

    uses = watched(work)
    assert uses.of("a").blocks == 1
    assert uses.of("a").last_block.stack[-1].endswith(" in c_function")


async def test_the_alarm_wakes_who_sleeps_once_and_who_computes_again_and_again():
    watch = LoopWatch(LIMIT, 10.0, LoopUses(), lambda: PLUGINS)
    watch._clock = StepClock(LIMIT, own_reader().read, lambda: None)
    long_ago = (time.perf_counter() - LIMIT, trio.lowlevel.current_task())
    watch._clock.running = long_ago
    frame = sys._getframe()
    assert not watch._look_by_alarm(frame)
    assert [seen.begun for seen in watch._sightings] == [long_ago[0]]
    end = time.thread_time() + LIMIT / 2
    while time.thread_time() < end:
        pass
    assert watch._look_by_alarm(frame)
    assert len(watch._sightings) == 2
    watch._clock.running = (time.perf_counter(), long_ago[1])
    assert watch._look_by_alarm(frame), "another step has begun"
    watch._clock.running = (long_ago[0], None)
    assert not watch._look_by_alarm(frame), "the loop waits for events"
    assert len(watch._sightings) == 2


@pytest.mark.slow("as many steps as take a while")
def test_many_short_steps_block_nothing(caplog):
    async def work():
        enter_plugin("a")
        end = time.thread_time() + 2 * LIMIT
        while time.thread_time() < end:
            await trio.lowlevel.checkpoint()

    assert watched(work).of("a").blocks == 0


def test_nothing_is_left_of_it():
    callbacks = len(gc.callbacks)
    watched(trio.lowlevel.checkpoint)
    assert len(gc.callbacks) == callbacks
    assert signal.getitimer(signal.ITIMER_PROF)[0] == 0
    assert "lva-watch" not in {thread.name for thread in threading.enumerate()}
