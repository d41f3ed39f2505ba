"""What all deliveries of a host have in common."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import trio

from lva.host.delivery.tap import Taps


class Shared(NamedTuple):
    """What deliveries use of the host.

    Attributes:
        rng: Source of the jitter.
        taps: Those who look at points as they pass.
        start: Starts a task of the host's, given its work and its name; does nothing at the end of the host.
        stopping: Set when the service stops: from then on it is in order that plugins take no more.
        over: Set when nothing more is to be told of losses.
    """

    rng: random.Random
    taps: Taps
    start: Callable[[Callable[[], Awaitable[None]], str], None]
    stopping: trio.Event
    over: trio.Event
