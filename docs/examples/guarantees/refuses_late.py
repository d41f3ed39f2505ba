"""G13: this plugin refuses events of an agent that does not have the stream any more."""

from collections import defaultdict
from logging import Logger

from lva import BaseEventPlugin, StreamAnalyticsEvent


class RefusesLate(BaseEventPlugin):
    eventName = "analytics_event"

    async def initialize(self) -> None:
        self.highest: defaultdict[str, int] = defaultdict(int)
        self.taken: list[StreamAnalyticsEvent] = []

    async def handleEvent(self, events: list[StreamAnalyticsEvent], logger: Logger) -> None:
        for event in events:
            epoch = event.epoch or 0
            if epoch < self.highest[event.stream_id]:
                logger.warning("%s: an event of epoch %d is late", event.stream, epoch)
            else:
                self.highest[event.stream_id] = epoch
                self.taken.append(event)
