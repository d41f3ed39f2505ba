"""Which frames are looked at by a plugin that looks now and then."""

from __future__ import annotations

import pytest

from lva.video.looking import Looks


@pytest.mark.parametrize(
    ("times", "looked_at"),
    [
        ([0.0, 0.2, 0.4, 0.6, 1.1], [0.0, 0.6, 1.1]),
        ([9.0, 9.1, 0.0, 0.1], [9.0, 0.0]),  # a new connection begins anew
    ],
)
def test_a_frame_is_looked_at_when_the_interval_is_over(times, looked_at):
    looks = Looks(0.5)
    assert [pts for pts in times if looks.is_due(pts)] == looked_at
