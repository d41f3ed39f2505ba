"""Keeps the pictures of what cameras see, a file for each, and warns of streams that have failed."""

import logging
from pathlib import Path

import trio
from pydantic import BaseModel

from lva import BaseEventPlugin, StreamAnalyticsEvent, StreamEvent


class Config(BaseModel):
    """`[plugins.album.config]`."""

    directory: Path


class Album(BaseEventPlugin):
    eventName = "analytics_event"
    otherEvents = ("stream_event",)
    host_settings = {"events": ["analytics_event", "stream_event"]}
    Config = Config

    async def initialize(self) -> None:
        await trio.Path(self.config.directory).mkdir(parents=True, exist_ok=True)

    async def handleEvent(
        self, events: list[StreamAnalyticsEvent | StreamEvent], logger: logging.Logger
    ) -> None:
        for event in events:
            if isinstance(event, StreamEvent):
                if event.status == "failure":
                    logger.error("stream %s has failed: %s", event.stream, event.reason)
            elif event.image:
                name = f"{event.stream_id}-{event.number}-{event.event_type}.jpg"
                await trio.Path(self.config.directory, name).write_bytes(event.image)
