"""An alarm that goes off while nothing else can run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from lva.host.watch import alarm as alarm_module
from lva.host.watch.alarm import Alarm

REAL_TIME = pytest.mark.slow("the interpreter is kept in real time")
EACH_TIMER = pytest.mark.parametrize("alarm", ["thread's timer", "process's timer"], indirect=True)


class Seen(list[str]):
    """What an alarm saw; it looks again until told not to."""

    again = True

    def __call__(self, frame):
        self.append(frame.f_code.co_name)
        return self.again


def refuse(*_):
    raise OSError("the system has none")


@pytest.fixture
def seen():
    return Seen()


@pytest.fixture
def alarm(seen, request, monkeypatch):
    if getattr(request, "param", "") == "process's timer":
        monkeypatch.setattr(alarm_module, "PosixTimer", refuse)
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


@REAL_TIME
@EACH_TIMER
def test_it_sees_what_keeps_the_interpreter(alarm, seen):
    alarm.put_off()
    keep_the_lock()
    assert "keep_the_lock" in seen


@REAL_TIME
def test_it_goes_off_again_and_again_until_nobody_wants_to_look_or_it_is_removed(alarm, seen):
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
    alarm.put_off()
    alarm.remove()
    alarm.put_off()
    compute(0.1)
    assert len(seen) == 1


@REAL_TIME
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


def test_whoever_can_run_puts_it_off(alarm, seen):
    for _ in range(10):
        alarm.put_off()
        compute(0.01)
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


@EACH_TIMER
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


def test_another_thread_has_no_alarm():
    before = signal.getsignal(signal.SIGPROF)
    alarm = Alarm(0.01, 0.01, lambda frame: True)
    thread = threading.Thread(target=alarm.install)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGPROF) == before


SETS_THE_DEFAULT_BACK = """
signal.signal(signal.SIGPROF, signal.SIG_DFL)
for _ in range(10):
    alarm.put_off()
    compute(time.process_time, 0.05)
"""
COMPUTES_WHILE_THE_INTERPRETER_ENDS = """
class Late:
    compute, clock = compute, time.thread_time

    def __del__(self):  # the modules are empty already
        Late.compute(Late.clock, 0.1)

sys.late = Late()
"""


@pytest.mark.slow("starts a process")
@pytest.mark.parametrize(
    "code",
    [SETS_THE_DEFAULT_BACK, COMPUTES_WHILE_THE_INTERPRETER_ENDS],
    ids=["the default is set back", "the interpreter ends"],
)
def test_a_signal_that_is_under_way_ends_no_process(code):
    begin = """
import signal, sys, time
from lva.host.watch.alarm import Alarm

def compute(clock, seconds):
    end = clock() + seconds
    while clock() < end:
        pass

alarm = Alarm(0.02, 0.02, lambda frame: True)
alarm.install()
alarm.put_off()
"""
    command = [sys.executable, "-c", begin + code]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
