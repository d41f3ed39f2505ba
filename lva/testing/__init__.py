"""For those who write plugins: tests that make sure.

`check_plugin` and `check_event_contract` are called from plain test functions; the fixture `lva_host`, which
is `running_plugin`, is for async ones. `lva.testing.contract` has the two checks without assertions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lva.contract import Published
from lva.testing import contract
from lva.testing.blocks import BLOCK_LIMIT
from lva.testing.captured import CapturedLog
from lva.testing.delivery_check import numbered_points
from lva.testing.hosting import LvaHost, running_plugin
from lva.testing.pictures import look_at
from lva.testing.report import Report, Step
from lva.testing.runs import Config
from lva.testing.server_world import ServerWorld
from lva.testing.subject import Source
from lva.testing.world import Behaviour, HttpWorld, World, WorldError, WorldRequest, WorldResponse

__all__ = [
    "Behaviour",
    "CapturedLog",
    "HttpWorld",
    "LvaHost",
    "Report",
    "ServerWorld",
    "Step",
    "World",
    "WorldError",
    "WorldRequest",
    "WorldResponse",
    "check_analytics",
    "check_event_contract",
    "check_plugin",
    "look_at",
    "numbered_points",
    "running_plugin",
]


def check_plugin(
    source: Source,
    config: Config = None,
    settings: Mapping[str, Any] | None = None,
    *,
    world: Callable[[], World] | None = None,
    block_limit: float = BLOCK_LIMIT,
) -> Report:
    """Assert that a plugin keeps the life-cycle contract; see `lva.testing.contract.check_plugin`.

    Raises:
        AssertionError: It does not; the message names each guarantee that is broken, the step at which, and
            the plugin's own line.
    """
    __tracebackhide__ = True
    report = contract.check_plugin(source, config, settings, world=world, block_limit=block_limit)
    return report.raise_if_failed()


def check_event_contract(
    source: Source,
    points: Sequence[Published] | None = None,
    config: Config = None,
    settings: Mapping[str, Any] | None = None,
    *,
    world: Callable[[], World] | None = None,
    ordered: bool = False,
    block_limit: float = BLOCK_LIMIT,
) -> Report:
    """Assert that an event plugin accounts for points; see `lva.testing.contract.check_event_contract`.

    Raises:
        AssertionError: It does not; the message is as that of `check_plugin`.
    """
    __tracebackhide__ = True
    report = contract.check_event_contract(
        source, points, config, settings, world=world, ordered=ordered, block_limit=block_limit
    )
    return report.raise_if_failed()


def check_analytics(
    source: Source,
    parameters: Mapping[str, Any] | None = None,
    *,
    source_of_frames: str | None = None,
    call_limit: float = 10.0,
) -> Report:
    """Assert that an analytics plugin keeps its contract; see `lva.testing.analytics.check_analytics`.

    It needs the extra ``video``.

    Raises:
        AssertionError: It does not; the message is as that of `check_plugin`.
    """
    __tracebackhide__ = True
    from lva.testing import analytics

    report = analytics.check_analytics(
        source, parameters, source_of_frames=source_of_frames, call_limit=call_limit
    )
    return report.raise_if_failed()
