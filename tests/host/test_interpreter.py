"""An alarm that goes off while nothing else can run, and the garbage collector's times."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from lva.host.interpreter import Collections, StarvationAlarm


@pytest.fixture
def alarm():
    alarm = StarvationAlarm(lambda frame: frame.f_code.co_name)
    before = signal.getsignal(signal.SIGPROF)
    alarm.install()
    yield alarm
    alarm.remove()
    signal.signal(signal.SIGPROF, before)


def compute(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def keep_the_lock():
    """Be in one call of a C function that lets no other thread run, for long enough."""
    numbers = 1_000_000
    while True:
        begun = time.thread_time()
        sum(range(numbers))
        if time.thread_time() - begun > 0.1:
            return
        numbers *= 2


def test_it_sees_what_keeps_the_lock(alarm):
    alarm.set(0.05, 0.02)
    keep_the_lock()
    assert "keep_the_lock" in alarm.take()
    assert alarm.take() == []


def test_it_goes_off_again_and_again(alarm):
    alarm.set(0.02, 0.02)
    compute(0.2)
    assert len(alarm.take()) >= 3


def test_whoever_can_run_keeps_it_from_going_off(alarm):
    for _ in range(5):
        alarm.set(0.1, 0.1)
        compute(0.03)
    assert alarm.take() == []


def test_once_removed_it_never_goes_off(alarm):
    alarm.set(0.02, 0.02)
    alarm.remove()
    alarm.set(0.02, 0.02)
    compute(0.1)
    assert alarm.take() == []


def test_what_is_kept_is_bounded(alarm):
    for _ in range(3000):
        alarm._handle(signal.SIGPROF, sys._getframe())
    assert len(alarm.take()) == 1000


def test_a_program_that_handles_the_signal_keeps_it():
    def handler(*_):
        pass

    before = signal.signal(signal.SIGPROF, handler)
    try:
        alarm = StarvationAlarm(lambda frame: None)
        alarm.install()
        alarm.set(0.01, 0.01)
        alarm.remove()
        assert signal.getsignal(signal.SIGPROF) is handler
        assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)
    finally:
        signal.signal(signal.SIGPROF, before)


def test_a_program_that_takes_the_signal_later_keeps_it_and_its_timer(alarm):
    """A profiler that a plugin starts, for instance."""
    rings = []
    alarm.set(0.05, 0.02)
    signal.signal(signal.SIGPROF, lambda *_: rings.append("profile"))
    signal.setitimer(signal.ITIMER_PROF, 50, 50)
    alarm.set(0.01, 0.01)
    assert signal.getitimer(signal.ITIMER_PROF)[1] == pytest.approx(50, abs=0.1)
    alarm.remove()
    assert signal.getitimer(signal.ITIMER_PROF)[1] == pytest.approx(50, abs=0.1)
    os.kill(os.getpid(), signal.SIGPROF)
    assert rings == ["profile"]
    signal.setitimer(signal.ITIMER_PROF, 0)


def test_a_program_that_sets_the_default_back_is_not_ended_by_it():
    code = """if True:
        import signal, time
        from lva.host.interpreter import StarvationAlarm
        alarm = StarvationAlarm(lambda frame: None)
        alarm.install()
        alarm.set(0.2, 0.02)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        for _ in range(10):
            alarm.set(0.02, 0.02)
            end = time.process_time() + 0.05
            while time.process_time() < end:
                pass
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_another_thread_has_no_alarm():
    before = signal.getsignal(signal.SIGPROF)
    alarm = StarvationAlarm(lambda frame: None)
    thread = threading.Thread(target=alarm.install)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGPROF) == before


def test_long_collections_are_noted():
    collections = Collections()
    collections.install()
    try:
        garbage = [[[]] for _ in range(200_000)]
        begun = time.monotonic()
        gc.collect()
        ended = time.monotonic()
        del garbage
    finally:
        collections.remove()
    ((since, until), *_) = collections.recent_since(begun)
    assert begun <= since < until <= ended
    assert collections.seconds_between(begun, ended) >= until - since
    assert collections.seconds_between(until - 0.001, until) == pytest.approx(0.001)
    assert collections.seconds_between(since, since + 0.001) == pytest.approx(0.001)
    assert collections.seconds_between(ended, ended + 1) == 0
    assert collections._note not in gc.callbacks


def test_a_collection_whose_end_is_not_yet_told_counts():
    collections = Collections()
    collections._note("start", {})
    now = time.monotonic()
    assert collections.seconds_between(now, now + 1) == pytest.approx(1, abs=0.1)
    collections._note("stop", {})
    assert collections.seconds_between(now, now + 1) < 0.1


def test_a_process_that_ends_with_an_alarm_set_is_not_killed_by_it():
    code = """
import sys, time
from lva.host.interpreter import StarvationAlarm

class Late:
    time = time.thread_time

    def __del__(self):  # while the interpreter ends, and its modules are empty already
        end = self.time() + 0.1
        while self.time() < end:
            pass

sys.late = Late()
alarm = StarvationAlarm(lambda frame: None)
alarm.install()
alarm.set(0.01, 0.01)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
