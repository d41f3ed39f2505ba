import numpy as np

from lva.testing import check_analytics, look_at


def test_it_keeps_the_contract():
    check_analytics("plugins/darkness.py")


def test_it_sees_darkness():
    night, day = np.full((2, 90, 160), [[[10]], [[90]]], np.uint8)
    (event,) = look_at("plugins/darkness.py", [day, day, night])
    assert event.event_type == "dark"
    assert event.data == {"brightness": 10}
