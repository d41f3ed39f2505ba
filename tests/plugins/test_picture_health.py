"""`picture_health` on generated pictures, those at the border of each state included."""

import numpy as np
import pytest

from lva.plugins.picture_health import PictureHealth
from tests.plugins.pictures import HEIGHT, WIDTH, blurred, frame, noisy, scene, seen, types

#: The scene in the size in which edges are measured, once in focus and once more and more out of it.
LARGE = scene(640, 480)


def judged(*pictures, rate=1.0, **config):
    """Return the types of events as a picture is shown for ten seconds; several are shown in turn."""
    shown = [pictures[n % len(pictures)] for n in range(int(10 * rate))]
    return types(seen(PictureHealth, shown, rate, image=False, **config))


def grains(picture, sigma=1):
    """Return two pictures that differ by noise, so that they are not frozen."""
    return noisy(picture, sigma, 1), noisy(picture, sigma, 2)


SLOPE = np.linspace(0, 1, WIDTH)[np.newaxis] * np.ones((HEIGHT, 1))


@pytest.mark.parametrize(
    ("picture", "states"),
    [
        (scene(), []),
        (scene() * 0 + 16, ["black"]),
        (scene() * 0.1, ["black"]),
        (np.where(SLOPE > 0.985, 200, 16), ["black"]),
        (np.where(SLOPE > 0.96, 200, 16), ["dark"]),
        (scene() * 0.35, ["dark"]),
        (scene() * 0.5, []),
        (120 + 20 * SLOPE, ["covered"]),
        (120 + 40 * SLOPE, ["blurred"]),
        (np.where(SLOPE > 0.5, 200, 100), []),
        (scene() * 0 + 250, ["covered"]),
    ],
    ids=[
        "well", "black", "nearly black", "black with a clock", "dark with a lamp", "night", "evening", "hand",
        "no edges", "two walls", "white",
    ],
)  # fmt: skip
def test_states(picture, states):
    assert judged(*grains(picture)) == [f"{state}_start" for state in states]


@pytest.mark.parametrize("sigma", [0, 3, 8])
@pytest.mark.parametrize(("blur", "is_blurred"), [(0, False), (2, False), (6, True), (10, True)])
def test_blur_is_told_from_noise(blur, is_blurred, sigma):
    """The kind is a camera's noise, whose grains are sharp however blurred the picture is."""
    picture = BLURRED[blur]
    found = judged(*grains(picture, sigma), start_seconds=1, rate=0.4)
    assert found == (["blurred_start"] if is_blurred else [])


BLURRED = {sigma: LARGE if not sigma else blurred(LARGE, sigma) for sigma in (0, 2, 6, 10)}


def test_a_state_starts_and_ends_after_its_time_and_once():
    """The kind is flapping: what crosses the limit for a moment, or is just at it."""
    dark, light = scene() * 0.3, scene()
    pictures = [light] * 5 + [dark] * 2 + [light] * 5 + [dark] * 10 + [light] * 2 + [dark] * 5
    found = seen(PictureHealth, [noisy(p, 2, n) for n, p in enumerate(pictures + [light] * 9)], 1)
    assert types(found) == ["dark_start", "dark_end"]
    (at, start), (end_at, end) = found
    assert (at, end_at) == (15, 31)
    assert start.image.startswith(b"\xff\xd8")
    assert start.data["measure"] < 45
    assert end.data == {"seconds": 16.0}


def test_a_measure_just_over_its_limit_does_not_end_a_state():
    mean = scene().mean()
    pictures = (
        [scene() * (43 / mean)] * 6 + [scene() * (48 / mean)] * 6 + [scene() * (56 / mean)] * 6
    )
    found = seen(PictureHealth, [noisy(p, 2, n) for n, p in enumerate(pictures)], 1)
    assert [(at, event.event_type) for at, event in found] == [(3, "dark_start"), (14, "dark_end")]


def test_a_picture_that_stays_the_same_is_frozen():
    changed = scene()
    changed[50:60, 50:60] += 50
    same = [scene()] * 35
    found = seen(PictureHealth, [*same, changed, *same], 1)
    assert [(at, event.event_type) for at, event in found] == [
        (31, "frozen_start"), (35, "frozen_end"), (67, "frozen_start"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "pictures",
    [[noisy(scene(), 0.6, n) for n in range(3)], [scene(), np.where(SLOPE > 0.99, 99, scene())]],
    ids=["little noise", "a clock"],
)
def test_little_change_is_not_frozen(pictures):
    assert judged(*pictures, frozen_seconds=5) == []


def test_frames_between_two_looks_are_left_out():
    plugin_looked = []

    class Watched(PictureHealth):
        def _states(self, frame):
            plugin_looked.append(frame.pts)
            return super()._states(frame)

    seen(Watched, [scene()] * 60, 30)
    assert plugin_looked == [0, 0.5, 1, 1.5]


def test_another_size_or_connection_is_no_change():
    frames = [frame(noisy(scene(64, 48), 2, n), n) for n in range(6)]
    frames += [frame(noisy(scene(), 2, n), n) for n in range(6)]
    frames += [frame(scene(8, 8), 6 + n) for n in range(2)]
    assert seen(PictureHealth, frames) == []
