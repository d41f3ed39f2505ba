"""When garbage was collected, and in which thread."""

from __future__ import annotations

import gc
import threading
from time import perf_counter

import pytest

from lva.host.watch.garbage import Collection, Collections


@pytest.mark.slow("a collection takes its time")
def test_long_collections_are_noted():
    collections = Collections()
    collections.install()
    try:
        garbage = [[[]] for _ in range(200_000)]
        begun = perf_counter()
        gc.collect()
        ended = perf_counter()
        del garbage
    finally:
        collections.remove()
    took = collections.seconds_between(begun, ended)
    assert 0 < took <= ended - begun
    assert collections.seconds_between(begun, ended, threading.get_ident()) == took
    assert collections.seconds_between(begun, ended, 1) == 0
    assert collections._note not in gc.callbacks


def test_what_is_in_a_time_counts():
    collections = Collections()
    collections._recent += [Collection(1.0, 2.0, 7), Collection(3.0, 4.0, 8)]
    assert collections.seconds_between(1.5, 3.25) == pytest.approx(0.75)
    assert collections.seconds_between(1.5, 3.25, 8) == pytest.approx(0.25)
    assert collections.seconds_between(2.0, 3.0) == 0


def test_short_ones_are_not_worth_keeping():
    collections = Collections()
    collections._note("start", {})
    collections._note("stop", {})
    assert not collections._recent
