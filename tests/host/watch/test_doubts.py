"""What is known of the waits of other threads; what follows from it is in `test_loop_watch`."""

from __future__ import annotations

import os
import threading
import time
from contextlib import closing

from lva.host.watch.doubts import OthersWaits


def test_threads_come_and_go():
    go = threading.Event()
    with closing(OthersWaits(threading.get_native_id())) as waits:
        thread = threading.Thread(target=go.wait)
        thread.start()
        waits.look()
        assert thread.native_id in waits._readers
        assert threading.get_native_id() not in waits._readers, "it is none of the others"
        go.set()
        thread.join()
        waits.look()
        assert thread.native_id not in waits._readers
    assert not waits._readers


def test_a_descriptor_that_somebody_closed_ends_no_look():
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    with closing(OthersWaits(threading.get_native_id())) as waits:
        os.close(waits._readers[thread.native_id]._file)
        waits.look()
        waits.look()
        assert thread.native_id in waits._readers, "it was opened anew"
        go.set()
        thread.join()


def test_a_time_that_was_not_looked_at_yet_is_looked_at():
    with closing(OthersWaits(threading.get_native_id())) as waits:
        begun = time.perf_counter()
        assert waits.between(begun, time.perf_counter()) >= 0.0
        assert waits._sums[-1][0] > begun


def test_more_is_taken_for_a_wait_in_a_time_than_may_have_been_one():
    """Looks are not at the moments that are asked for: those around them count."""
    with closing(OthersWaits(threading.get_native_id())) as waits:
        waits._sums.clear()
        waits._sums += [(1.0, 0.5), (2.0, 0.75), (3.0, 1.0), (4.0, 2.0)]
        assert waits.between(2.5, 2.75) == 0.25
        assert waits.between(2.5, 3.5) == 1.25
        assert waits.between(0.5, 1.5) == 0.25, "what was before the first look is not known"
