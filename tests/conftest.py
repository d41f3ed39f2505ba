"""What holds for every test."""

from __future__ import annotations

import pytest

from lva.host import runtimes


#: Begun first, one for each of two workers, which then do not take tests of them from one another: what their
#: fixtures have played takes seconds, and would be played twice.
LONG_SCENES = ("process/test_misbehaviour.py", "process/test_asyncio_misbehaviour.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long scenes to the beginning of each worker's share, which is half of the tests."""
    first, second = (
        [item for item in items if str(item.path).endswith(name)] for name in LONG_SCENES
    )
    scenes = {*first, *second}
    others = [item for item in items if item not in scenes]
    half = max(0, (len(items) + 1) // 2 - len(first))
    items[:] = [*first, *others[:half], *second, *others[half:]]


@pytest.fixture(autouse=True)
def constructors_are_waited_for(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the host wait for constructors where time is virtual: that does not wait for their threads.

    On a busy machine, an hour of it may pass before a thread has its first turn.
    """
    if "autojump_clock" in request.fixturenames:
        monkeypatch.setattr(runtimes, "_BRIEFLY", 10.0)
