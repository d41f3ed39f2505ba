"""What a refusal tells of the size that a receiver takes."""

from __future__ import annotations

from lva.request_sizes import RequestSizes
from tests.support import numbered


def test_a_size_is_learnt_once_all_of_its_points_were_taken() -> None:
    points, sizes = numbered(4), RequestSizes()
    assert sizes.refused(points, 400) == 200
    sizes.taken(points[:2])
    assert sizes.learnt(1000) == 1000
    sizes.taken(points[2:])
    assert sizes.learnt(1000) == 200
    assert sizes.learnt(200) == 200


def test_one_point_that_is_refused_alone_makes_no_others_requests_smaller() -> None:
    """Kind: a refusal that is about a point, not about the size. What was refused without it still tells."""
    points, sizes = numbered(4), RequestSizes()
    sizes.refused(points, 400)
    sizes.refused(points[:2], 200)
    sizes.refused(points[2:], 200)
    sizes.taken(points[3:])  # points[2] is refused alone
    assert sizes.learnt(1000) == 1000
    sizes.taken(points[:2])
    assert sizes.learnt(1000) == 100
