"""What the system tells of a thread, and what follows from it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest

from lva.host.watch.readings import ThreadReader, own_processor_clock, own_reader


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_waiting_for_a_processor_is_told():
    """Two threads that share one processor wait for it half of the time."""
    usable = os.sched_getaffinity(0)
    with closing(own_reader()) as reader:
        before = reader.read()
        os.sched_setaffinity(0, {min(usable)})
        try:
            rival = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            try:
                while reader.read().queued - before.queued < 0.03:
                    pass
            finally:
                rival.kill()
                rival.wait()
        finally:
            os.sched_setaffinity(0, usable)
        after = reader.read()
    assert 0 < after.used - before.used <= after.at - before.at
    assert after.turns > before.turns
    assert after.own_since(before) <= after.at - before.at - 0.03
    assert not after.runnable


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_of_another_thread_it_is_told_whether_it_may_wait_for_a_processor_now():
    over, ready = threading.Event(), threading.Event()

    def spin():
        ready.set()
        while not over.is_set():
            pass

    idle = threading.Thread(target=over.wait)
    busy = threading.Thread(target=spin)
    idle.start()
    busy.start()
    ready.wait()
    with (
        closing(ThreadReader(idle.native_id, None)) as of_idle,
        closing(ThreadReader(busy.native_id, None)) as of_busy,
    ):
        while of_idle.read_from_outside().runnable:
            time.sleep(0)  # it has just begun
        # Now and then it waits for its turn with the interpreter.
        while not of_busy.read_from_outside().runnable:
            time.sleep(0)
        over.set()
        idle.join()
        busy.join()
        with pytest.raises(OSError):
            while True:  # the system lets go of it a little later than Python
                of_busy.read_from_outside()


def test_without_what_the_kernel_tells_processor_times_are_left():
    with closing(ThreadReader(2**22 + 1, own_processor_clock())) as reader:
        now = reader.read()
    assert (now.queued, now.turns, now.runnable) == (0.0, None, False)
    assert now.used > 0
