"""`motion` on generated pictures: what moves fires, and what only looks like it does not."""

import logging

import av
import numpy as np
import pytest

from lva.plugins.motion import Config, Motion
from lva.video.frame import Frame
from lva.video.geometry import Region
from tests.plugins.pictures import HEIGHT, WIDTH, frame, noisy, scene, seen, types


def square(x, y=40, size=24, picture=None):
    """Return the scene, and a bright square in it."""
    shown = (scene() if picture is None else picture).copy()
    shown[y : y + size, max(x, 0) : max(x + size, 0)] = 250
    return shown


def passing(still=10, moving=10, after=30, step=8):
    """Yield pictures in which a square comes, moves and goes."""
    yield from [scene()] * still
    yield from (square(20 + step * n) for n in range(moving))
    yield from [scene()] * after


def test_motion_starts_and_ends():
    (at, start), (end_at, end) = seen(Motion, passing())
    assert (start.event_type, end.event_type) == ("motion_start", "motion_end")
    box = start.data["box"]
    assert 20 <= box["x"] <= 48 <= box["x"] + box["width"] <= 60
    assert 40 <= box["y"] <= 52 <= box["y"] + box["height"] <= 64
    assert start.image.startswith(b"\xff\xd8")
    assert at == pytest.approx(1.2)
    assert end_at - at >= 2
    assert 0.8 < end.data["seconds"] < 4


@pytest.mark.parametrize(
    "pictures_of",
    [
        lambda n: scene(),
        lambda n: noisy(scene(), 12, n),
        lambda n: noisy(scene() * 0.2, 12, n),
        lambda n: noisy(scene() * (1 + 0.4 * np.sin(n / 5)), 3, n),
        lambda n: noisy(scene() * (0.4 if n % 20 < 10 else 1), 3, n),
        lambda n: noisy(scene() + (40 if n % 20 < 10 else 0), 3, n),
        lambda n: noisy(scene() * lamp(n >= 15), 3, n),
        lambda n: scene() * 0 + (0 if n < 15 else 200),
        lambda n: square(40, size=4) if n == 15 else scene(),
        lambda n: square(40) if n == 15 else scene(),
    ],
    ids=[
        "still", "noise", "noise in the dark", "exposure", "light switch", "fog", "lamp", "flat", "speck",
        "one frame",
    ],
)  # fmt: skip
def test_what_is_no_motion_does_not_fire(pictures_of):
    """The kind is everything that changes pixels while nothing moves."""
    assert seen(Motion, map(pictures_of, range(30))) == []


def lamp(on):
    """Return the light of a lamp in the left of the picture, as a factor for each pixel."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    spot = np.exp(-((x - WIDTH / 3) ** 2 + (y - HEIGHT / 2) ** 2) / (0.15 * WIDTH) ** 2)
    return 0.7 + 0.8 * spot if on else 1.0


@pytest.mark.parametrize(
    ("rate", "size"), [(0.2, (64, 48)), (1, (1280, 720)), (4, (320, 240)), (30, (64, 48))]
)
@pytest.mark.slow("many pictures are computed")
def test_any_rate_and_size_of_frames(rate, size):
    """The kind is counting frames or pixels: the same walk of eight seconds fires once."""
    picture = scene(*size)
    width, height = size

    def at(seconds):
        x = int(width * (seconds - 20) / 10)
        return square(x, height // 3, height // 4, picture) if 20 <= seconds < 28 else picture

    times = [n / rate for n in range(int(15 * rate), int(60 * rate))]
    found = seen(Motion, [frame(at(t), t) for t in times], image=False)
    assert types(found) == ["motion_start", "motion_end"]


def test_how_easily_it_fires_is_set():
    """A square that is 14 brighter than what is behind it."""
    wall = np.full((HEIGHT, WIDTH), 90.0)
    faint = [wall] * 10
    faint += [np.where(square(20 + 8 * n) == 250, 104, wall) for n in range(10)]
    assert seen(Motion, faint) == []
    assert types(seen(Motion, faint, sensitivity=75)) == ["motion_start"]
    assert types(seen(Motion, faint, threshold=10)) == ["motion_start"]
    assert seen(Motion, passing(), sensitivity=50, min_area=0.2) == []


@pytest.mark.slow("many pictures are computed")
def test_how_long_it_takes_is_set():
    assert types(seen(Motion, passing(moving=3), adapt_seconds=0.1, start_seconds=0.5)) == []
    one = seen(Motion, passing(moving=1), start_seconds=0)
    assert types(one)[:1] == ["motion_start"]
    twice = [*passing(after=30), *passing()]
    assert types(seen(Motion, twice, end_seconds=1)) == ["motion_start", "motion_end"] * 2
    cold = seen(Motion, twice, end_seconds=1, cooldown_seconds=20)
    assert types(cold) == ["motion_start", "motion_end"]


LEFT = {"name": "left", "shape": {"x": 0, "width": 30, "height": 100, "mode": "percent"}}
TRIANGLE = {"name": "right", "shape": {"points": [[100, 0], [159, 0], [159, 119]]}}


def test_each_region_is_watched_by_itself():
    found = seen(Motion, passing(moving=16), regions=[LEFT, TRIANGLE], end_seconds=0.5)
    told = [(event.data["region"], event.event_type) for _, event in found]
    assert sorted(told) == [
        (name, f"motion_{end}") for name in ("left", "right") for end in ("end", "start")
    ]
    left, right = (event for _, event in found if event.event_type == "motion_start")
    assert left.data["box"]["x"] + left.data["box"]["width"] <= 48
    assert right.data["box"]["x"] >= 100


def test_what_is_ignored_never_counts():
    clock = {"points": [[0, 30], [100, 30], [100, 60], [0, 60]], "mode": "percent"}
    assert seen(Motion, passing(), ignore=[clock]) == []


def test_only_the_stream_s_regions_count():
    moving = [square(8 * (n % 10), size=16) for n in range(20)]
    right = Region(100, 0, 60, HEIGHT)
    assert seen(Motion, moving, view=(right, None)) == []
    assert seen(Motion, moving, view=(None, right)) == []
    left = Region(8, 8, 60, 100)
    ((_, event),) = seen(Motion, moving, view=(None, left))
    box = Region(**event.data["box"])
    assert left.holds(box)


def test_another_size_or_connection_begins_anew():
    """The kind is a background that is not this picture's."""
    frames = [frame(scene(), n / 10) for n in range(5)]
    frames += [frame(scene(64, 48), n / 10) for n in range(5, 15)]
    frames += [frame(square(40, picture=scene(64, 48)), n / 10) for n in range(5)]
    assert seen(Motion, frames) == []


def test_a_connection_s_end_ends_motion():
    frames = [frame(square(20 + 8 * n if n > 4 else -50), n / 10) for n in range(15)]
    frames += [frame(scene(), n / 10) for n in range(5)]
    assert types(seen(Motion, frames)) == ["motion_start", "motion_end"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"regions": [LEFT, LEFT]}, "a name of its own"),
        ({"ignore": [{"points": [[0, 0], [1, 1]]}]}, "at least 3"),
        ({"ignore": [{"x": 90, "width": 20, "height": 1, "mode": "percent"}]}, "at most 100"),
        ({"treshold": 1}, "Extra inputs"),
    ],
)
def test_wrong_parameters_are_refused(config, said):
    with pytest.raises(ValueError, match=said):
        Config(**config)


def test_a_region_outside_of_the_picture_is_told(caplog):
    far = {"name": "far", "shape": {"x": 1000, "width": 30, "height": 30}}
    with caplog.at_level(logging.WARNING):
        assert seen(Motion, passing(), regions=[far]) == []
    assert caplog.text.count("region far is outside of") == 1


@pytest.mark.parametrize("format", ["rgb24", "yuv420p", "gray", "nv12", "rgb565le"])
def test_brightness_is_the_same_whatever_the_picture_s_format(format):  # noqa: A002
    array = np.full((48, 62, 3), 128, np.uint8)
    picture = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(format=format)
    gray = Frame(picture, 1, 0.0, True).gray()
    assert gray.shape == (48, 62)
    assert abs(float(gray.mean()) - 128) < 16
