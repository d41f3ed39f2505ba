"""How code on other threads tells a test on the Trio loop what happens, so that it can wait for it.

Plugin files call `tell`; a test that uses the fixture `told` awaits what they say. The service on the
loopback interface, in this very process, is here too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final

import httpx
import trio
from hypercorn.trio import serve

from lva.server.listening import address_of, listen
from lva.server.serve import hypercorn_config
from lva.settings import Settings
from lva.web.handling.application import web_application
from lva.web.handling.requests import Requests
from tests.support import RunningHost

#: What asyncio-style plugin files of tests begin with; the classes are those of the documented modules.
ASYNCIO_STYLE: Final = """
import asyncio
import contextlib
import threading
import time

from lva import *
from luna_plugins.base.plugins_meta.base_plugins import (
    BaseBackgroundHandler,
    BaseBackgroundPlugin,
    BaseEventPlugin,
    pluginHTTPResponse,
)
from tests.support import journal
from tests.telling import tell
"""

#: How long, in seconds, a test waits for what should happen at once.
PATIENCE: Final = 10.0


class Told(logging.Handler):
    """What was told, in order, and the log records meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[Any] = []
        self.records: list[logging.LogRecord] = []
        self._news: trio.Event | None = None
        self._token: trio.lowlevel.TrioToken | None = None

    def tell(self, item: Any) -> None:
        """Take what somebody tells, on whatever thread."""
        self.items.append(item)
        self._wake()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a log record."""
        self.records.append(record)
        self._wake()

    def _wake(self) -> None:
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._set, idempotent=True)

    def _set(self) -> None:
        assert self._news is not None
        self._news.set()

    async def until(self, condition: Callable[[], Any], within: float = PATIENCE) -> Any:
        """Wait until a condition holds, asked whenever there is news; return what it is."""
        self._token = trio.lowlevel.current_trio_token()
        with trio.fail_after(within):
            while True:
                self._news = trio.Event()
                if held := condition():
                    return held
                await self._news.wait()

    async def wait_for(self, *items: Any, within: float = PATIENCE) -> None:
        """Wait until all this was told."""
        try:
            await self.until(lambda: all(item in self.items for item in items), within)
        except trio.TooSlowError:
            missing = [item for item in items if item not in self.items]
            raise AssertionError(f"nobody told {missing}, only {self.items}") from None

    async def logged(self, text: str, within: float = PATIENCE) -> logging.LogRecord:
        """Wait until a record with this text is logged; return it."""
        found: logging.LogRecord = await self.until(
            lambda: next((item for item in list(self.records) if text in item.getMessage()), None),
            within,
        )
        return found

    def complaints(self, name: str) -> list[str]:
        """Return what was logged of a plugin at level WARNING or above."""
        return [
            record.getMessage()
            for record in self.records
            if record.name == f"lva.plugin.{name}" and record.levelno >= logging.WARNING
        ]


_listeners: list[Told] = []


def tell(item: Any) -> None:
    """Tell the test something."""
    for listener in _listeners:
        listener.tell(item)


@contextmanager
def listening() -> Iterator[Told]:
    """Listen to what is told and logged inside."""
    told = Told()
    root = logging.getLogger()
    level = root.level
    _listeners.append(told)
    root.addHandler(told)
    root.setLevel(logging.DEBUG)
    try:
        yield told
    finally:
        root.setLevel(level)
        root.removeHandler(told)
        _listeners.remove(told)


@asynccontextmanager
async def serving(host: RunningHost) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the host's routes over HTTP; yield a client."""
    settings = Settings(active_plugins=())
    listener = listen("127.0.0.1:0")
    url = address_of(listener)
    over, ended = trio.Event(), trio.Event()
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        web = web_application(host.host.routes, settings, lambda _request: None, over)
        requests = Requests(web, host.host.publisher.publish, settings, nursery)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                await requests.handle(scope, receive, send)
                return
            for stage in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{stage}.complete"})

        async def serve_until_over() -> None:
            config = hypercorn_config(settings, listener)
            await serve(app, config, shutdown_trigger=over.wait, mode="asgi")  # type: ignore[arg-type]
            ended.set()

        nursery.start_soon(serve_until_over)
        try:
            async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False) as client:
                yield client
        except Exception as error:  # raised below, outside of the nursery, which would wrap it
            failure = error
        over.set()
        await ended.wait()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def threads_of(name: str) -> list[str]:
    """Return the names of the live threads that belong to a plugin."""
    return sorted(thread.name for thread in _threads(name))


def threads_left_of(name: str) -> list[str]:
    """Return the names of those threads that are not just about to end."""
    for thread in _threads(name):
        thread.join(1)
    return threads_of(name)


def _threads(name: str) -> list[threading.Thread]:
    begins = (f"{name} (", f"executor from {name}.")
    return [thread for thread in threading.enumerate() if thread.name.startswith(begins)]
