"""The two checks, for any caller: pytest is not needed.

Each runs an event loop of its own, in virtual time, so it is called from plain code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import trio

from lva.contract import Published
from lva.testing.blocks import BLOCK_LIMIT
from lva.testing.delivery_check import DeliveryCheck, marked
from lva.testing.lifecycle import check_life
from lva.testing.report import Report
from lva.testing.runs import Config, Runs
from lva.testing.subject import Source, subject_of
from lva.testing.world import HttpWorld, World


def check_plugin(
    source: Source,
    config: Config = None,
    settings: Mapping[str, Any] | None = None,
    *,
    world: Callable[[], World] | None = None,
    block_limit: float = BLOCK_LIMIT,
) -> Report:
    """Put a plugin through the whole life-cycle contract.

    It is started, stopped, cancelled at every checkpoint of `initialize()`, of its tasks and of `close()`,
    crashed and restarted, each in a run of its own with the real host in virtual time; after each run
    nothing of it may be left.

    Args:
        source: The path of a file or package, a plugin's name, or the text of a plugin.
        config: What `[plugins.NAME.config]` holds, or a function that makes it for a `World`.
        settings: The host's keys of `[plugins.NAME]`.
        world: Makes the outside world for each run. Without one, it is an `HttpWorld` if `config` is a
            function: a server that responds to every request with 200.
        block_limit: How long, in real seconds, one step may block an event loop.

    Returns:
        What was found. Nothing that is wrong with the plugin is raised.

    Raises:
        FileNotFoundError: There is no such file.
        RuntimeError: Called from within a running Trio loop.
    """
    _check_outside()
    with subject_of(source) as subject:
        make_world = world if world is not None else HttpWorld if callable(config) else None
        return check_life(Runs(subject, config, settings, block_limit, make_world))


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
    """Send points through an event plugin whose outside world succeeds, fails and hangs.

    Each of these is a run of its own: the outside world succeeds, fails now and then, fails for ever, fails
    partly, and hangs; the service stops meanwhile; points come a few at a time; a batch that has arrived
    comes again; and `handleEvent()` is cancelled at its checkpoints. After each, every point is accounted
    for, no more points are claimed to be delivered than have arrived, none was changed, and the order was
    kept.

    Args:
        source: The path of a file or package, a plugin's name, or the text of a plugin.
        points: What is sent; points like those of requests, and events of each other type that the plugin
            gets, if left out. With a world, they get a tag ``lva_point``, by which they are known again;
            events have it in their data or their reason.
        config: What `[plugins.NAME.config]` holds, or a function that makes it for a `World`.
        settings: The host's keys of `[plugins.NAME]`.
        world: Makes the outside world for each run. Without one, it is an `HttpWorld` if `config` is a
            function; and else the kit disturbs the calls of `handleEvent()` themselves.
        ordered: Whether points have to arrive in the order in which they were published.
        block_limit: How long, in real seconds, one step may block an event loop.

    Returns:
        What was found. Nothing that is wrong with the plugin is raised.

    Raises:
        FileNotFoundError: There is no such file.
        RuntimeError: Called from within a running Trio loop.
        ValueError: There are no points to send.
    """
    _check_outside()
    if points is not None and not points:
        raise ValueError(
            "there are no points to send; leave `points` out for some like those of requests"
        )
    make_world = world if world is not None else HttpWorld if callable(config) else None
    if points is not None and make_world is not None:
        points = marked(points)
    with subject_of(source) as subject:
        runs = Runs(subject, config, settings, block_limit, make_world)
        return DeliveryCheck(runs, points or (), ordered).run()


def _check_outside() -> None:
    """Refuse a call from within an event loop, where no other can run."""
    if trio.lowlevel.in_trio_run():
        raise RuntimeError(
            "this runs an event loop of its own, so call it from a plain `def test_...()`, not from an"
            " async one; for a host inside an async test there is the fixture `lva_host`"
        )
