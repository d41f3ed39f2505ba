import logging

import av
import numpy as np
import pytest

from lva import AnalyticsStream
from lva.plugins.motion import Config, Motion
from lva.video.frame import Frame
from lva.video.geometry import Region


def frame(number, square=None, size=(320, 240), roi=None):
    array = np.full((size[1], size[0], 3), 60, np.uint8)
    if square is not None:
        x, y = square
        array[y : y + 40, x : x + 40] = 250
    picture = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(format="yuv420p")
    return Frame(picture, number, number / 10, True, roi)


def seen(frames, **config):
    motion = Motion(Config(**config), logging.getLogger("lva.test"))
    motion.open(AnalyticsStream("1", "door"))
    found = [event for each in frames for event in motion.handleFrame(each)]
    motion.close()
    return found


def test_a_still_picture_is_no_motion():
    assert seen(frame(n) for n in range(30)) == []


def test_motion_starts_and_ends():
    frames = [frame(n) for n in range(5)]
    frames += [frame(n, (20 + 8 * (n - 5), 60)) for n in range(5, 15)]
    frames += [frame(n) for n in range(15, 60)]
    start, end = seen(frames)
    assert (start.event_type, end.event_type) == ("motion_start", "motion_end")
    box = start.data["box"]
    assert box["x"] <= 28 <= box["x"] + box["width"] <= 100
    assert box["y"] <= 60 <= box["y"] + box["height"] <= 110
    assert start.image.startswith(b"\xff\xd8")
    assert 0.5 < end.data["seconds"] < 3


def test_a_single_frame_is_not_enough():
    frames = [frame(n, (20, 60) if n == 10 else None) for n in range(30)]
    assert seen(frames, start_frames=3, learning_rate=0.01) == []


def test_only_the_region_counts():
    roi = Region(160, 0, 160, 240)
    moving = [frame(n, (8 * (n % 10), 60), roi=roi) for n in range(20)]
    assert seen(moving) == []


def test_another_size_begins_anew():
    frames = [frame(n) for n in range(5)] + [frame(n, size=(160, 120)) for n in range(5, 15)]
    assert seen(frames) == []


@pytest.mark.parametrize("format", ["rgb24", "yuv420p", "gray", "nv12", "rgb565le"])
def test_brightness_is_the_same_whatever_the_picture_s_format(format):  # noqa: A002
    array = np.full((48, 62, 3), 128, np.uint8)
    picture = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(format=format)
    gray = Frame(picture, 1, 0.0, True).gray()
    assert gray.shape == (48, 62)
    assert abs(float(gray.mean()) - 128) < 16
