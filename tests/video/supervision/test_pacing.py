"""Events of a worker are taken at a rate: what yields more waits."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from lva.video.supervision.pacing import Pacing


async def taken(pacing: Pacing, sizes: list[int]) -> float:
    """Take events of these sizes; return how many seconds that took."""
    begun = trio.current_time()
    for size in sizes:
        await trio.sleep(pacing.spend(size))
    return trio.current_time() - begun


@pytest.mark.parametrize(
    ("sizes", "seconds"),
    [
        ([1] * 20, 0.0),  # two seconds' worth at once
        ([1] * 50, 3.0),
        ([2000], 0.0),
        ([2500] * 4, 8.0),  # by their bytes
        ([0] * 21 + [3000], 1.1),
    ],
)
async def test_what_comes_faster_waits(
    sizes: list[int], seconds: float, autojump_clock: Any
) -> None:
    pacing = Pacing(10, 1000)
    assert await taken(pacing, sizes) == pytest.approx(seconds, abs=0.15)
    await trio.sleep(60)
    assert await taken(pacing, [1] * 20) == 0.0
