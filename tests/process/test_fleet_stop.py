"""A planned stop of an agent: its streams miss hardly a picture."""

from __future__ import annotations

from collections import defaultdict

import pytest

from tests.process.fleet_scene import scene
from tests.process.moments import LONG

pytestmark = [pytest.mark.process, pytest.mark.soak, pytest.mark.timeout(120)]

STREAMS = 6
#: Seconds without pictures. Where other tests use the processors too, a worker may be late.
MOST = 1.0 if LONG else 2.5


def test_streams_of_an_agent_that_ends_miss_hardly_a_picture(tmp_path) -> None:
    """The kind is an end of which the others hear too late, or a holder that ends before they are ready."""
    with scene(tmp_path, 10.0) as fleet:
        fleet.add("one", "two", "three")
        fleet.post(STREAMS)
        one, _, three = fleet.agents
        fleet.until(lambda: [each["streams"] for each in one.fleet["agents"]] == [STREAMS // 3] * 3)
        assert three.service.stop() == 0
        fleet.until(lambda: len(fleet.workers.streams()) == STREAMS)
        before = len(fleet.history().events)
        fleet.until(lambda: len(fleet.history().events) > before + 5 * STREAMS)
    seen: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for event in fleet.history().events:
        seen[event.stream].append((event.time, event.epoch))
    assert len(seen) == STREAMS
    gaps = [gap(sorted(times)) for times in seen.values()]
    assert sum(each > 0 for each in gaps) >= STREAMS // 3  # those that have another holder
    assert max(gaps) < MOST, gaps


def gap(seen: list[tuple[float, int]]) -> float:
    """Return the longest time without pictures between two holders."""
    pairs = zip(seen, seen[1:], strict=False)
    return max((after - before for (before, old), (after, new) in pairs if old != new), default=0.0)
