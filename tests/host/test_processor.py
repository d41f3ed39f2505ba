"""What the system tells of threads and processors."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from lva.host.processor import schedule_of


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_waiting_for_a_processor_is_told():
    """Two threads that share one processor wait for it half of the time."""
    before = schedule_of(threading.get_native_id())
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usable)})
    try:
        rival = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                pass
        finally:
            rival.kill()
            rival.wait()
    finally:
        os.sched_setaffinity(0, usable)
    after = schedule_of(threading.get_native_id())
    assert before is not None
    assert after is not None
    assert 0.03 < after.queued - before.queued < 10
    assert 0 < after.used - before.used < 10
    assert after.turns > before.turns
    assert schedule_of(2**22 + 1) is None
