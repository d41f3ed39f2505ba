"""What the console lives on besides the status pages: the event streams, the plugins' logs, its own files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from quart import Response

from lva.host.host import Host
from lva.host.routing import Gate, Owner
from lva.log_tail import LogTail
from lva.web import assets
from lva.web.access import Access
from lva.web.event_stream import EventStreams
from lva.web.exchange import SCOPE_KEY, Exchange
from lva.web.pages import json_response, life_of
from lva.web.paths import OBSERVING

#: The routes of these serve the console, and would tell of themselves in its plots.
UNOBSERVED: Final = ("/events", "/console/<path:part>")


class Observing:
    """Answers these paths.

    Args:
        host: The plugins.
        access: Decides who may see plugins' details.
        streams: The event streams.
        tail: The plugins' newest log records.
    """

    def __init__(self, host: Host, access: Access, streams: EventStreams, tail: LogTail) -> None:
        self._host = host
        self._access = access
        self._streams = streams
        self._tail = tail
        owner = Owner(None, Gate.OPEN)
        handlers: tuple[Callable[..., Any], ...] = (self.log, self.events, assets.part)
        for path, handler in zip(OBSERVING, handlers, strict=True):
            host.routes.add(owner, path, handler)

    async def log(self, request: Any, name: str) -> Response:
        """Show the newest log records of one plugin."""
        self._access.check_details(request)
        life_of(self._host, name)
        failure = self._tail.failure(name)
        return json_response(
            {
                "plugin": name,
                "records": [record.as_dict() for record in self._tail.records(name)],
                "last_failure": None if failure is None else failure.as_dict(),
            }
        )

    async def events(self, request: Any) -> Response:
        """Stream how the service is."""
        exchange: Exchange = request.scope[SCOPE_KEY]
        exchange.endless = True
        return await self._streams.open(request, exchange.done.is_set)
