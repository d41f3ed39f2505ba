import random

import pytest

from lva.video.worker.selection import Selection


def taken(rate, times, keys=frozenset()):
    selection = Selection(rate)
    return [
        number for number, time in enumerate(times) if selection.skips(time, number in keys) is None
    ]


def at(fps, seconds=10, jitter=0.0):
    rng = random.Random(7)
    return [n / fps + rng.uniform(-jitter, jitter) / fps for n in range(int(fps * seconds))]


def test_all_frames_pass_without_a_rate():
    assert taken(None, at(25)) == list(range(250))


@pytest.mark.parametrize("jitter", [0.0, 0.09, 0.4])
def test_a_camera_as_fast_as_the_rate_loses_nothing(jitter):
    """The kind is a rate that meets the camera's own: rounding must not cost every second frame."""
    assert len(taken({"unit": "fps", "value": 10}, at(10, jitter=jitter))) >= 98


def test_a_camera_slower_than_it_says_loses_nothing():
    assert len(taken({"unit": "fps", "value": 25}, at(21))) == 210


@pytest.mark.parametrize("wanted", [1, 5, 7, 12.5])
def test_a_rate_is_met_by_time_and_not_by_counting(wanted):
    assert len(taken({"unit": "fps", "value": wanted}, at(25))) == pytest.approx(wanted * 10, abs=2)


def test_a_gap_is_not_made_up_for():
    times = [*at(25, 1), *(100 + time for time in at(25, 1))]
    assert len(taken({"unit": "fps", "value": 5}, times)) == pytest.approx(10, abs=2)


def test_a_time_that_goes_back_begins_anew():
    times = [*(50 + time for time in at(25, 1)), *at(25, 1)]
    assert len(taken({"unit": "fps", "value": 5}, times)) == pytest.approx(10, abs=2)


def test_every_nth_and_key_frames():
    assert taken({"unit": "frame", "value": 10}, at(25, 1)) == [0, 10, 20]
    assert taken({"unit": "key"}, at(25, 1), {3, 9}) == [3, 9]
    assert Selection({"unit": "key"}).skips(0.0, key=False) == "not_key"
