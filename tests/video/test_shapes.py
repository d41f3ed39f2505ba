import pytest

from lva.video.geometry import Region
from lva.video.shapes import Polygon, Rectangle, mask


@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        (Rectangle(x=2, y=1, width=2, height=1), ["....", "..##", "....", "...."]),
        (Rectangle(x=50, width=50, height=25, mode="percent"), ["..##", "....", "....", "...."]),
        (Polygon(points=[(0, 0), (4.2, 0), (0, 4.2)]), ["####", "###.", "##..", "#..."]),
        (Polygon(points=[(0, 100), (0, 0), (100, 100)], mode="percent"), ["....", "#...", "##..", "###."]),
        (Polygon(points=[(0, 0), (4, 4.2), (4, 0), (0, 4.2)]), ["....", "#..#", "####", "#..#"]),
        (Polygon(points=[(-0.0, 0), (900, 0), (900, 900), (0, 900)]), ["####"] * 4),
    ],
    ids=["pixels", "percent", "triangle", "other triangle", "crossed", "beyond"],
)  # fmt: skip
def test_which_cells_are_within(shape, rows):
    found = mask(shape, 4, 4, (4, 4))
    assert ["".join(".#"[int(cell)] for cell in row) for row in found] == rows


def test_a_grid_over_a_part():
    found = mask(Rectangle(x=10, y=10, width=4, height=4), 100, 100, (2, 2), (8, 8), (4, 4))
    assert found.tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize(
    ("values", "region"),
    [
        ({"x": 10, "y": 20, "width": 30, "height": 40}, Region(10, 20, 30, 40)),
        ({"x": 600, "width": 100, "height": 999}, Region(600, 0, 40, 360)),
        ({"x": 25, "y": 50, "width": 50, "height": 50, "mode": "percent"}, Region(160, 180, 320, 180)),
        ({"width": 0.01, "height": 0.01, "mode": "percent"}, Region(0, 0, 1, 1)),
        ({"x": 99.99, "width": 0.01, "height": 100, "mode": "percent"}, Region(639, 0, 1, 360)),
    ],
)  # fmt: skip
def test_where_a_rectangle_is(values, region):
    assert Rectangle(**values).region(640, 360) == region


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"x": 1.5, "width": 1, "height": 1}, "whole numbers"),
        ({"width": 0, "height": 1}, "greater than 0"),
        ({"x": -1, "width": 5, "height": 1}, "greater than or equal to 0"),
        ({"x": 60, "width": 50, "height": 1, "mode": "percent"}, "at most 100"),
        ({"width": 5, "height": 1, "mode": "relative"}, "'abs' or 'percent'"),
        ({"width": float("nan"), "height": 1}, "finite|greater|whole"),
        ({"width": float("inf"), "height": 1}, "finite|whole"),
    ],
)
def test_a_rectangle_that_is_none(values, said):
    with pytest.raises(ValueError, match=said):
        Rectangle(**values)


def test_a_rectangle_outside_of_the_picture():
    with pytest.raises(ValueError, match="outside of the picture of 640x360"):
        Rectangle(x=640, width=10, height=10).region(640, 360)


def test_regions_of_regions():
    large, small = Region(0, 0, 10, 10), Region(2, 3, 4, 5)
    assert large.holds(small)
    assert large.holds(large)
    assert not small.holds(large)
    assert large.overlap(Region(8, 8, 10, 10)) == Region(8, 8, 2, 2)
    assert large.overlap(Region(10, 0, 5, 5)) is None
