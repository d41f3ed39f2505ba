"""Shows pictures of a test's own to an analytics plugin, in this very process."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from lva.contract import AnalyticsEvent, AnalyticsStream
from lva.errors import ConfigurationError
from lva.testing.subject import Source, subject_of


def look_at(
    source: Source,
    pictures: Iterable[Any],
    parameters: Mapping[str, Any] | None = None,
    *,
    rate: float = 10.0,
) -> list[AnalyticsEvent]:
    """Have pictures looked at by an analytics plugin, and return the events.

    It is loaded as the service does it, opened, and closed; its log is that of the test.

    Args:
        source: The path of a file or package, a plugin's name, or the text of a plugin.
        pictures: NumPy arrays of unsigned bytes, of the shape (height, width) for shades of gray or
            (height, width, 3) for RGB.
        parameters: A stream's parameters.
        rate: Pictures a second.

    Raises:
        ValueError: The parameters are wrong.
        TypeError: It returns what is no event.
        Exception: It cannot be loaded, or is no analytics plugin; and whatever it raises itself.
    """
    import av

    from lva.video.frame import Frame
    from lva.video.worker.analysis import events_in

    with subject_of(source) as subject:
        info = subject.load(subject.settings(None, None)).analytics
        if info is None:
            raise ConfigurationError([f"{subject.name} is no analytics plugin"])
        values = info.parameters(parameters or {})
        config = values if info.cls.Config is None else info.cls.Config(**values)
        plugin = info.cls(config, logging.getLogger(f"lva.analytics.{info.name}"))
        found = []
        try:
            plugin.open(AnalyticsStream("test", "test"))
            for number, picture in enumerate(pictures):
                pixels = "gray" if picture.ndim == 2 else "rgb24"
                decoded = av.VideoFrame.from_ndarray(picture, format=pixels)
                frame = Frame(decoded, number + 1, number / rate, number == 0)
                found += events_in(plugin.handleFrame(frame))
        finally:
            plugin.close()
        return found
