"""Streams follow their analytics plugins: a reload, a stop, a start are theirs too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import trio

from lva.contract import AnalyticsInfo
from lva.video.codes import ENDED
from lva.video.supervision.stream import Stream

#: Seconds between two looks at the plugins; a plugin that is gone for one look alone is being reloaded.
LOOK: Final = 0.5
#: Why a plugin that was stopped is set aside.
NOT_RUNNING: Final = "the plugin is not running"


async def follow(
    analytics: Callable[[], Sequence[AnalyticsInfo]], streams: Callable[[], Iterable[Stream]]
) -> None:
    """Start workers anew when a plugin that they use has changed, until cancelled.

    Args:
        analytics: Returns the plugins that are active.
        streams: Returns all streams.
    """
    known = _by_name(analytics())
    gone_before: set[str] = set()
    while True:
        await trio.sleep(LOOK)
        now = _by_name(analytics())
        gone = known.keys() - now.keys()
        changed = {name for name, info in now.items() if known.get(name, info) is not info}
        for stream in streams():
            _renew(stream, changed, now.keys() - known.keys(), gone & gone_before)
        known = {**{name: known[name] for name in gone - gone_before}, **now}
        gone_before = set(gone)


def _by_name(analytics: Sequence[AnalyticsInfo]) -> Mapping[str, AnalyticsInfo]:
    return {info.name: info for info in analytics}


def _renew(
    stream: Stream, changed: Iterable[str], come: Iterable[str], gone: Iterable[str]
) -> None:
    if (
        stream.state in ENDED
    ):  # why it has ended is not for its plugins to say; it begins with all of them
        return
    for name in stream.definition.analytics_names:
        if name in gone:
            stream.put_aside(name, NOT_RUNNING)
            stream.renew(f"analytics plugin {name} was stopped")
        elif name in come:
            stream.take_back(name)
            stream.renew(f"analytics plugin {name} runs again")
        elif name in changed:
            stream.take_back(name)
            stream.renew(f"analytics plugin {name} was reloaded")
