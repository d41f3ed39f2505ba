"""An alarm that goes off while nothing else can run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from lva.host.watch.alarm import Alarm
from lva.host.watch.thread_timer import ProcessTimer


class Seen(list[str]):
    """What an alarm saw; it looks again until told not to."""

    again = True

    def __call__(self, frame):
        self.append(frame.f_code.co_name)
        return self.again


@pytest.fixture
def seen():
    return Seen()


@pytest.fixture
def alarm(seen):
    alarm = Alarm(0.03, 0.02, seen)
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


@pytest.mark.slow("the interpreter is kept in real time")
def test_it_sees_what_keeps_the_interpreter(alarm, seen):
    alarm.put_off()
    keep_the_lock()
    assert "keep_the_lock" in seen


@pytest.mark.slow("the interpreter is kept in real time")
def test_it_goes_off_again_and_again_until_nobody_wants_to_look(alarm, seen):
    alarm.put_off()
    compute(0.2)
    assert len(seen) >= 3
    seen.again = False
    compute(0.05)
    seen.clear()
    compute(0.1)
    assert seen == []
    alarm.put_off()
    compute(0.1)
    assert len(seen) == 1


@pytest.mark.slow("the interpreter is kept in real time")
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have the process's timer alone")
def test_it_does_not_wake_a_thread_that_sleeps_while_others_compute(alarm, seen):
    """The kind is a sleep that looks like a wait: who is woken waits for a processor in the midst of it."""
    alarm.put_off()
    before = time.thread_time()
    thread = threading.Thread(target=compute, args=(0.15,))
    thread.start()
    thread.join()
    assert time.thread_time() - before < 0.03
    assert seen == []


@pytest.mark.slow("the interpreter is kept in real time")
def test_where_a_thread_has_no_timer_the_one_of_the_process_sees_it_and_leaves_another_s_alone(
    monkeypatch, alarm, seen
):
    """The kind is another system than Linux."""
    alarm.remove()
    monkeypatch.setattr("lva.host.watch.alarm.new_timer", ProcessTimer)
    alarm.install()
    alarm.put_off()
    keep_the_lock()
    assert "keep_the_lock" in seen
    signal.setitimer(signal.ITIMER_PROF, 50, 50)
    alarm.remove()
    assert signal.getitimer(signal.ITIMER_PROF)[1] == pytest.approx(50, abs=0.1)
    signal.setitimer(signal.ITIMER_PROF, 0)


def test_whoever_can_run_puts_it_off(alarm, seen):
    for _ in range(10):
        alarm.put_off()
        compute(0.01)
    assert seen == []


@pytest.mark.slow("computes for longer than the limit")
def test_once_removed_it_never_goes_off(alarm, seen):
    alarm.put_off()
    alarm.remove()
    alarm.put_off()
    compute(0.1)
    assert seen == []


def test_a_program_that_handles_the_signal_keeps_it():
    def handler(*_):
        pass

    before = signal.signal(signal.SIGPROF, handler)
    try:
        alarm = Alarm(0.01, 0.01, lambda frame: True)
        alarm.install()
        alarm.put_off()
        alarm.remove()
        assert signal.getsignal(signal.SIGPROF) is handler
        assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)
    finally:
        signal.signal(signal.SIGPROF, before)


def test_a_program_that_takes_the_signal_later_keeps_it_and_its_timer(alarm):
    """A profiler that a plugin starts, for instance."""
    rings = []
    alarm.put_off()
    signal.signal(signal.SIGPROF, lambda *_: rings.append("profile"))
    signal.setitimer(signal.ITIMER_PROF, 50, 50)
    alarm.put_off()
    assert signal.getitimer(signal.ITIMER_PROF)[1] == pytest.approx(50, abs=0.1)
    alarm.remove()
    assert signal.getitimer(signal.ITIMER_PROF)[1] == pytest.approx(50, abs=0.1)
    os.kill(os.getpid(), signal.SIGPROF)
    assert rings == ["profile"]
    signal.setitimer(signal.ITIMER_PROF, 0)


@pytest.mark.slow("the interpreter is kept in real time")
def test_a_program_that_sets_the_default_back_is_not_ended_by_it():
    code = """if True:
        import signal, time
        from lva.host.watch.alarm import Alarm
        alarm = Alarm(0.02, 0.02, lambda frame: True)
        alarm.install()
        alarm.put_off()
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        for _ in range(10):
            alarm.put_off()
            end = time.process_time() + 0.05
            while time.process_time() < end:
                pass
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_another_thread_has_no_alarm():
    before = signal.getsignal(signal.SIGPROF)
    alarm = Alarm(0.01, 0.01, lambda frame: True)
    thread = threading.Thread(target=alarm.install)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGPROF) == before


@pytest.mark.slow("starts a process")
def test_a_process_that_ends_with_an_alarm_set_is_not_killed_by_it():
    code = """
import sys, time
from lva.host.watch.alarm import Alarm

class Late:
    time = time.thread_time

    def __del__(self):  # while the interpreter ends, and its modules are empty already
        end = self.time() + 0.1
        while self.time() < end:
            pass

sys.late = Late()
alarm = Alarm(0.01, 0.01, lambda frame: True)
alarm.install()
alarm.put_off()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
