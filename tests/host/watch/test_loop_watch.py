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

from lva.host.watch.clock import StepClock, Stretch, enter_plugin
from lva.host.watch.doubts import OthersWaits
from lva.host.watch.garbage import Collection
from lva.host.watch.loop_watch import LoopWatch, Sighting
from lva.host.watch.pulse import Pulse, Watched
from lva.host.watch.readings import Reading, own_reader
from lva.host.watch.reports import UNSEEN
from lva.host.watch.stacks import Line
from lva.host.watch.uses import LoopUses

LIMIT = 0.1
#: What is known of the loop's thread before the stretch.
BEFORE = Reading(1.0, 5.0, 3.0, 100, 7.0)
IDENT = threading.get_ident()
PULSE = Pulse(print, (lambda: None).__code__)
PLUGINS = {"a": Watched("lva_plugins.a", None), "b": Watched("lva_plugins.b", PULSE)}
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
        self.watch._others_waits._sums = deque([(1.0, 0.0), (10.0, seconds)])

    def goes_on(self, lasted: float, now: Reading) -> None:
        self.watch._goes_on(Stretch(1.0, 1.0 + lasted, False, "a", BEFORE, now))

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


NOBODY = "the event loop was blocked for {:.2f} s; it is not known by what: "
NAMED = "blocked the event loop for {:.2f} s at " + UNSEEN
HAD = NOBODY + "other threads had the interpreter"
MAY_HAVE_HAD = NOBODY + "other threads may have had the interpreter"


#: What is told of a stretch, how long it lasted, and what the kernel tells of it.
KINDS = {
    "waits for a processor": (None, 0.3, {"used": 0.05, "queued": 0.25}),
    "computes for longer than the limit": (NAMED.format(0.12), 0.3, {"used": 0.12, "queued": 0.18}),
    "sleeps while others compute": (NAMED.format(0.19), 0.2, {"others": 0.2, "turns": 5}),
    "sleeps for short times": (NAMED.format(0.3), 0.3, {"used": 0.02, "turns": 140}),
    "others compute": (HAD.format(0.28), 0.3, {"used": 0.02, "others": 0.28, "turns": 280}),
    "who has the interpreter waits for a processor": (MAY_HAVE_HAD.format(0.3), 0.3, {"turns": 250}),
    "turns are not told": (HAD.format(0.28), 0.3, {"used": 0.02, "others": 0.28, "turns": None}),
    "turns are not told, others compute little": (NAMED.format(0.25), 0.3, {"others": 0.05, "turns": None}),
    "two causes below the limit": (None, 0.15, {"used": 0.07, "others": 0.08, "turns": 80}),
    "waits for events": (None, 30.0, {"others": 20.0, "turns": 3, "waits": True}),
}  # fmt: skip


@pytest.mark.parametrize(("told", "lasted", "known"), KINDS.values(), ids=KINDS)
def test_who_did_it_by_what_the_kernel_tells(told, lasted, known, caplog):
    blocks = Watch().ended(lasted, "a", **known)
    assert caplog.messages == ([] if told is None else [told])
    assert blocks == ({"a": 1} if told and told.startswith("blocked") else {})


#: Seen asleep at 0.08 s, without a wake-up before; and after some.
ASLEEP = BEFORE._replace(at=1.08)
ASLEEP_AGAIN = ASLEEP._replace(turns=103)


#: Who is named, how long the stretch lasted, how often the loop's thread was woken, how long it computed,
#: how long others have waited for a processor, and what was seen meanwhile.
SLEEPS = {
    "all of it may be that wait": (False, 0.3, 1, 0.0, 0.3, None),
    "less than half of the limit is not": (False, 0.2, 1, 0.0, 0.16, None),
    "half of the limit is not": (True, 0.2, 1, 0.0, 0.14, None),
    "it computed for half of the limit": (True, 0.3, 2, 0.06, 0.3, None),
    "it was seen in its only sleep": (True, 0.25, 1, 0.0, 0.3, ASLEEP),
    "it slept on since it was seen": (True, 0.14, 4, 0.0, 0.3, ASLEEP_AGAIN),
    "it may have waited before it was seen": (False, 0.12, 4, 0.0, 0.3, ASLEEP_AGAIN),
    "it may have waited since": (False, 0.25, 2, 0.0, 0.3, ASLEEP._replace(at=1.04)),
    "what it computed since counts once": (False, 0.12, 4, 0.02, 0.3, ASLEEP_AGAIN),
    "it did not sleep then": (False, 0.25, 1, 0.0, 0.3, ASLEEP._replace(runnable=True)),
}


@pytest.mark.parametrize(
    ("named", "lasted", "turns", "used", "waited", "seen"), SLEEPS.values(), ids=SLEEPS
)
def test_a_sleep_may_be_a_wait_until_a_thread_without_a_processor_takes_the_interpreter(
    named, lasted, turns, used, waited, seen, caplog
):
    """The kind is CPython's: who gives the interpreter away sleeps in one piece until it is taken."""
    watch = Watch()
    watch.others_waited(waited)
    if seen is not None:
        watch.saw_asleep(seen)
    blocks = watch.ended(lasted, "a", used=used, turns=turns)
    (told,) = caplog.messages
    assert told == (NAMED if named else MAY_HAVE_HAD).format(lasted)
    assert blocks == ({"a": 1} if named else {})


def test_a_wait_for_a_processor_since_it_was_seen_asleep_is_no_sleep():
    watch = Watch()
    watch.others_waited(0.3)
    watch.saw_asleep(ASLEEP_AGAIN)
    assert watch.ended(0.3, "a", queued=0.19, turns=4) == {}


@pytest.mark.parametrize(("turns", "waited"), [(250, 0.0), (2, 0.3)])
def test_a_stack_that_was_seen_is_no_proof(turns, waited):
    """Who looked had the interpreter: another thread had it in between, or it was waited for."""
    watch = Watch()
    watch.others_waited(waited)
    watch.saw(0.06, A)
    watch.saw(0.2, A)
    assert watch.ended(0.3, "a", used=0.001, turns=turns, others=0.001) == {}


def test_who_was_seen_asleep_slept_although_the_system_takes_it_for_a_wait():
    """The kind is a busy machine whose kernel moves a thread that sleeps to another processor."""
    watch = Watch()
    known = {"used": 0.003, "queued": 0.2, "turns": 9, "others": 0.06}
    assert watch.ended(0.2, "a", **known) == {}
    watch.saw_asleep(ASLEEP._replace(at=1.12))
    assert watch.ended(0.2, "a", **known) == {"a": 1}


def test_a_plugin_that_has_just_begun_is_named(caplog):
    """Which plugins there are is looked at once a second, and at once for a name that is none of theirs."""
    found: dict[str, Watched] = {}
    watch = Watch()
    watch.watch._find_plugins = lambda: {**found}
    watch.watch._refresh()
    found["a"] = PLUGINS["a"]
    assert watch.ended(0.15, "a", used=0.15) == {"a": 1}
    assert caplog.messages == [f"blocked the event loop for 0.15 s at {UNSEEN}"]


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


#: When it was seen, and at what.
SIGHTINGS = {
    "once": [(0.06, A, SERVICE)],
    "not where it was last": [(0.1, A, SERVICE), (0.12, A_LATER, SERVICE), (0.13, SERVICE)],
    "not in what runs once the step has ended": [(0.02, A, SERVICE), (0.14, SERVICE)],
}


@pytest.mark.parametrize("sightings", SIGHTINGS.values(), ids=SIGHTINGS)
def test_the_line_of_the_plugin_that_it_was_at_for_the_longest_is_told(sightings, caplog):
    watch = Watch()
    for at, *stack in sightings:
        watch.saw(at, *stack)
    assert watch.ended(0.15, "a", used=0.15) == {"a": 1}
    assert watch.uses.of("a").last_block.where == "/a.py:1 in f"
    assert caplog.messages == ["blocked the event loop for 0.15 s at /a.py:1 in f"]


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
    for lasted in (1.2, 1.4):
        watch.goes_on(lasted, BEFORE._replace(at=1.0 + lasted, turns=101))
        assert watch.uses.longest_open("a").seconds == pytest.approx(lasted)
    assert watch.ended(2.0, "a") == {"a": 1}
    assert watch.uses.longest_open("a") is None
    assert [message.partition(" at ")[0] for message in caplog.messages] == [
        "has blocked the event loop for 1.20 s so far",
        "blocked the event loop for 2.00 s in all",
    ]


def test_while_it_may_wait_for_a_processor_only_what_it_computed_counts():
    seen = BEFORE._replace(at=2.2, used=5.05, turns=101, runnable=True)
    watch = Watch()
    watch.saw(0.1, A)
    watch.goes_on(1.2, seen)
    assert watch.uses.of("a").blocks == 0
    watch.goes_on(1.2, seen._replace(used=5.5))
    assert watch.uses.of("a").blocks == 1


# In real time, since it watches threads


def watched(work: Callable[[], Awaitable[object]], kind: type[LoopWatch] = LoopWatch) -> None:
    """Run a function under the watch, and wait until all of it was judged."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kind(LIMIT, 10.0, LoopUses(), lambda: PLUGINS).run)
            await trio.testing.wait_all_tasks_blocked()
            await work()
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    trio.run(main)
    for thread in threading.enumerate():
        if thread.name == "lva-watch":
            thread.join()


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


def test_nothing_is_left_of_it():
    callbacks = len(gc.callbacks)
    watched(trio.lowlevel.checkpoint)
    assert len(gc.callbacks) == callbacks
    assert signal.getitimer(signal.ITIMER_PROF)[0] == 0
    assert "lva-watch" not in {thread.name for thread in threading.enumerate()}
