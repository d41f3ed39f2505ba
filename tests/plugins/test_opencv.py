"""`faces`, `people` and `codes` on drawn pictures: no photograph, no download."""

from __future__ import annotations

import numpy as np
import pytest

from lva.video.geometry import Region
from tests.plugins.pictures import frame, noisy, seen, types

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'lva[opencv]'")

from lva.plugins.codes import Codes  # noqa: E402 - they need OpenCV
from lva.plugins.faces import Faces  # noqa: E402
from lva.plugins.people import People  # noqa: E402

SIZE = (320, 240)


def wall():
    return np.full((SIZE[1], SIZE[0]), 150, np.uint8)


def drawn(ellipses, at, scale, picture=None):
    """Draw ellipses (x, y, width, height, angle, brightness), as shares of a scale, around a place."""
    picture = wall() if picture is None else picture
    for x, y, across, down, angle, brightness in ellipses:
        centre = int(at[0] + x * scale), int(at[1] + y * scale)
        axes = max(1, int(across * scale)), max(1, int(down * scale))
        cv2.ellipse(picture, centre, axes, angle, 0, 360, brightness, -1, cv2.LINE_AA)
    return cv2.GaussianBlur(picture, (0, 0), 1.2)


#: Hair, skin, the shadows of the eyes, eyes, brows, nose, its shadow, mouth.
FACE = [
    (0, -0.15, 0.85, 1.05, 0, 60), (0, 0.05, 0.72, 0.95, 0, 190),
    *((x, -0.12, 0.2, 0.11, 0, 110) for x in (-0.3, 0.3)),
    *((x, -0.1, 0.13, 0.07, 0, 40) for x in (-0.3, 0.3)),
    *((x, -0.3, 0.2, 0.05, 0, 70) for x in (-0.3, 0.3)),
    (0, 0.1, 0.07, 0.28, 0, 215), (0, 0.36, 0.16, 0.05, 0, 130), (0, 0.6, 0.27, 0.07, 0, 90),
]  # fmt: skip
#: Head, body, arms, legs, feet.
PERSON = [
    (0, 0.07, 0.055, 0.075, 0, 60), (0, 0.3, 0.115, 0.19, 0, 40),
    *((x, 0.33, 0.04, 0.17, -67 * x, 40) for x in (-0.12, 0.12)),
    *((x, 0.68, 0.05, 0.27, -60 * x, 40) for x in (-0.05, 0.05)),
    *((x, 0.95, 0.05, 0.03, 0, 40) for x in (-0.07, 0.07)),
]  # fmt: skip


def face(x=160, y=120, scale=40, picture=None):
    return drawn(FACE, (x, y), scale, picture)


def person(x=160, y=30, height=170, picture=None):
    return drawn(PERSON, (x, y), height, picture)


def code(text, x=40, y=40, picture=None):
    picture = wall() if picture is None else picture
    cells = cv2.QRCodeEncoder.create().encode(text)
    drawing = cv2.resize(cells, None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    picture[y : y + drawing.shape[0], x : x + drawing.shape[1]] = drawing
    return picture


def holds(box, x, y):
    region = Region(**box)
    return region.holds(Region(x, y, 1, 1))


@pytest.mark.parametrize(
    ("cls", "kind", "picture", "place"),
    [(Faces, "faces", face(), (160, 120)), (People, "people", person(), (160, 100))],
)
@pytest.mark.slow("detectors look at many pictures")
def test_what_comes_and_goes(cls, kind, picture, place):
    """Two looks with it start it, three seconds without it end it, once."""
    shown = [wall()] * 2 + [noisy(picture, 3, n) for n in range(4)] + [wall()] * 7
    (at, start), (end_at, end) = seen(cls, shown, 2)
    assert (start.event_type, end.event_type) == (f"{kind}_start", f"{kind}_end")
    assert (at, end_at) == (1.5, 5.5)
    assert start.data["count"] == 1
    assert holds(start.data["boxes"][0], *place)
    assert start.image.startswith(b"\xff\xd8")
    assert end.data == {"seconds": 1.5, "most": 1}


def test_several_faces_are_counted():
    two = face(240, picture=face(80))
    assert types(seen(Faces, [face(80)] * 3, 2, min_count=2)) == []
    ((_, event),) = seen(Faces, [two] * 3, 2, min_count=2)
    assert event.data["count"] == 2
    assert {holds(box, 80, 120) for box in event.data["boxes"]} == {True, False}


@pytest.mark.parametrize(
    ("view", "count"),
    [
        ((None, Region(0, 0, 160, 240)), 1),
        ((None, Region(0, 0, 75, 240)), 0),
        ((Region(160, 0, 160, 240), None), 1),
        ((Region(160, 0, 160, 240), Region(160, 0, 160, 60)), 0),
    ],
    ids=["results", "half of it", "the stream's", "both"],
)
def test_only_the_stream_s_regions_count(view, count):
    two = face(240, picture=face(80))
    found = seen(Faces, [two] * 3, 2, view, image=False)
    assert [event.data["count"] for _, event in found] == [1] * count
    for _, event in found:  # in pixels of the whole picture
        assert holds(event.data["boxes"][0], 240 if view[0] else 80, 120)


def test_large_pictures_are_reduced():
    large = cv2.resize(face(), None, fx=6, fy=6)
    ((_, event),) = seen(Faces, [large] * 3, 2, image=False)
    assert holds(event.data["boxes"][0], 960, 720)


@pytest.mark.parametrize("cls", [Faces, People, Codes])
@pytest.mark.parametrize("shape", [(1, 1), (8, 300), (48, 64), (240, 320)])
def test_nothing_is_seen_where_nothing_is(cls, shape):
    """The kind is a picture that is too small for a detector, or empty."""
    assert seen(cls, [np.full(shape, 90, np.uint8)] * 3, 1) == []


@pytest.mark.slow("real pictures are read")
def test_codes_are_read_once_while_they_are_there():
    both = code("LVA gate 7", 200, picture=code("https://example.org/ä"))
    shown = [wall()] * 2 + [both] * 3 + [code("LVA gate 7", 200)] * 8 + [both] * 2
    found = seen(Codes, shown, 2)
    texts = [(at, event.event_type, event.data["text"]) for at, event in found]
    assert sorted(texts) == [
        (1, "code_start", "LVA gate 7"),
        (1, "code_start", "https://example.org/ä"),
        (5, "code_end", "https://example.org/ä"),
        (6.5, "code_start", "https://example.org/ä"),
    ]
    gate = next(event for _, event in found if event.data["text"] == "LVA gate 7")
    assert holds(gate.data["box"], 240, 80)
    assert gate.image.startswith(b"\xff\xd8")


@pytest.mark.slow("real pictures are read")
def test_codes_outside_of_the_region_are_not_told():
    view = (None, Region(0, 0, 160, 240))
    both = code("right", 200, picture=code("left"))
    assert [event.data["text"] for _, event in seen(Codes, [both], 2, view)] == ["left"]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", "x" * 500, "\u0434\u0432\u0435\u0440\u044c"])
def test_what_a_code_holds_is_text(content, monkeypatch):
    """The kind is a code whose content is none: it is shown as far as it is, and nothing raises."""

    class Detector:
        def detectAndDecodeBytesMulti(self, gray):
            whole = content if isinstance(content, bytes) else content.encode()
            return True, [whole, b""], np.zeros((2, 4, 2)), None

    codes = Codes(Codes.Config(), None)
    codes.open(None)
    codes._detector = Detector()
    ((event),) = codes.handleFrame(frame(wall(), 0.0))
    event.data["text"].encode()
