"""The ASGI application; its lifespan owns the plugin host.

`lva run` serves it with exact control of signals and exit codes; any ASGI server on Trio can serve
``lva.app:app``, as in ``hypercorn -k trio lva.app:app``, within the limits of that server.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import trio

from lva.errors import ConfigurationError
from lva.events.points import MonitoringPoint
from lva.host.host import Host
from lva.host.loading.load import LoadedPlugin, load_plugins
from lva.host.process import starts
from lva.host.process.guard import ProcessGuard
from lva.host.process.pieces import Piece
from lva.host.receipt import EXIT_CONFIGURATION, EXIT_KILLED, Receipt
from lva.host.runtimes.errors import split_cancelled
from lva.host.terminator import Terminator
from lva.host.watching import watch
from lva.logs.loggers import brief, keep_secret, service_logger, set_up
from lva.logs.tail import LogTail
from lva.server import state_directory
from lva.server.connection_errors import ConnectionErrors
from lva.server.terminal import tell_receipt
from lva.settings import Settings, load_settings
from lva.settings.sources import warn_of_service_links
from lva.web.handling.application import web_application
from lva.web.handling.requests import Requests
from lva.web.resources import assets
from lva.web.resources.access import Access
from lva.web.resources.streams import Shutdown
from lva.web.resources.table import Resources

LOGGER: Final = service_logger("lva.service")

#: After how many seconds a thread that computes lets others have the interpreter. Python's default, 5 ms,
#: is paid by the event loop after each system call while a plugin's thread is busy: too much.
SWITCH_INTERVAL: Final = 0.0005
#: Part of `shutdown_timeout` that is kept for writing the receipt and ending the process.
_RESERVE: Final = 0.05
#: Within what time, in seconds, a process must end whose work is done but for abandoned tasks.
_LEFTOVER_GRACE: Final = 0.1
#: How long, in seconds, the terminator waits for a receipt that is just being logged.
_TELLING_GRACE: Final = 0.5
#: How long, in seconds, a foreign server gets to listen before plugins start; ASGI does not tell.
_LISTEN_GRACE: Final = 0.05


class Service:
    """The service as an ASGI application.

    Args:
        settings: Read from the environment and `lva.toml` at startup if left out.
        plugins: Already loaded ones; loaded at startup if left out.

    Attributes:
        plugins: The loaded plugins; None until they are, and once the host has them.
        host: The plugins; there once the lifespan has begun.
        shutdown: How far its stop is, and why it stops.
        stop_wanted: Set when the service should stop by itself, because a critical plugin failed.
        served: Whether `lva.server.serve` runs this process and so decides about signals and stopping.
        watch: Whether plugins are reloaded when their files are saved.
        guard: Watches the state of the process; there once the lifespan has begun.
        own_state: State of the process, besides what every process has, that plugins must leave alone.
        address: Where it listens, as a URL or ``unix:path``; None if another server decides that.
        start_failure: The exit code, if the host could not be started.
        connection_errors: What failed in the server's work for connections.
    """

    def __init__(
        self, settings: Settings | None = None, plugins: Sequence[LoadedPlugin] | None = None
    ) -> None:
        self.settings = settings
        self.host: Host | None = None
        self.shutdown: Shutdown = Shutdown()
        self.stop_wanted: trio.Event = trio.Event()
        self.served = False
        self.watch = False
        self.own_state: Sequence[Piece] = ()
        self.guard: ProcessGuard | None = None
        self.address: str | None = None
        self.terminator: Terminator = Terminator(self.last_words)
        self.deadline: float | None = None
        self.plugins: Sequence[LoadedPlugin] | None = plugins
        self.connection_errors: ConnectionErrors = ConnectionErrors(self._publish)
        self.start_failure: int | None = None
        self._started = False
        self._requests: Requests | None = None
        self._telling = threading.Lock()
        self._told: int | None = None
        self._tail = LogTail()

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Any],
        send: Callable[[Any], Any],
    ) -> None:
        """Be the ASGI application."""
        if scope["type"] == "lifespan":
            try:
                await self._lifespan(receive, send)
            finally:
                # Whatever ended it: a server without its plugins must not go on serving.
                self.stop_wanted.set()
            return
        if self._requests is None:
            raise RuntimeError("the server did not run the application's lifespan, which LVA needs")
        try:
            if scope["type"] == "http":
                await self._requests.handle(scope, receive, send)
            else:
                await _refuse_websocket(receive, send)
        except BaseException as error:  # noqa: BLE001 - it is logged, and a cancellation raised again
            self.connection_errors.contain(error)

    async def _lifespan(self, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        """Be the service from the server's start to its end.

        Resources: the interpreter's switch interval, the tail of the log and, unless it was handed over, the
        state directory; all are given back at the end.

        Cancellation: as that of `_run`.

        Errors: settings and plugins that are wrong, and a start that fails, are logged and told to the
        server; what fails later is raised.
        """
        await receive()
        with contextlib.ExitStack() as held:
            held.callback(sys.setswitchinterval, sys.getswitchinterval())
            sys.setswitchinterval(min(SWITCH_INTERVAL, sys.getswitchinterval()))
            try:
                settings = self._prepare(held)
            except ConfigurationError as error:
                for problem in error.problems:
                    LOGGER.critical("%s", problem)
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            with self._tail.installed():
                try:
                    await self._run(settings, receive, send)
                except BaseException as error:
                    cancelled, own = split_cancelled(error)
                    if self._started or cancelled is not None or own is None:
                        raise
                    self._log_failed_start(own)
                    await send({"type": "lifespan.startup.failed", "message": str(own)})

    def _log_failed_start(self, error: BaseException) -> None:
        if isinstance(error, ConfigurationError):
            self.start_failure = EXIT_CONFIGURATION
            for problem in error.problems:
                LOGGER.critical("%s", problem)
        else:
            self.start_failure = EXIT_KILLED
            LOGGER.critical("the service could not start: %s", brief(error), exc_info=error)

    async def _run(
        self, settings: Settings, receive: Callable[[], Any], send: Callable[[Any], Any]
    ) -> None:
        """Run the host, and what the service has beside it, until the server has stopped.

        Resources: the nursery of all that, requests included. A plugin that was abandoned keeps this from
        returning; then the terminator ends the process.

        Cancellation: the plugins are stopped in order first; once the server knows that the service has
        started, the receipt is told.

        Errors: what the service can do without is `_contained`; all else stops it as a cancellation does, and
        is raised.
        """
        listening = trio.Event()
        self.host = host = Host(settings, self.plugins or (), go=listening)
        self.guard = guard = ProcessGuard(host.watched, self.own_state)
        self.plugins = None  # or the classes of a plugin that is reloaded would stay
        access = Access(settings, self.address)
        own = Resources(host, access, self.shutdown, self._tail, settings.max_event_streams)
        web = web_application(host.routes, settings, access.check_admin, self.shutdown.closing)
        if not self.served:
            self.terminator.start()
        async with trio.open_nursery() as nursery:
            self._requests = Requests(
                web, host.publisher.publish, settings, nursery, own.telemetry.observe
            )
            nursery.start_soon(_contained, own.events.run, name="event streams")
            nursery.start_soon(_contained, own.taps.run, name="taps")
            nursery.start_soon(_contained, assets.prepare, name="console")
            if self.served:  # else the process, and its state, is another's
                host.lives.watchers.append(guard.note_transition)
                nursery.start_soon(_contained, guard.run, name="the state of the process")
            await nursery.start(host.run)
            self._started = True
            await send({"type": "lifespan.startup.complete"})
            if not self.served:
                await trio.sleep(_LISTEN_GRACE)
            listening.set()
            nursery.start_soon(self._watch_critical, host)
            nursery.start_soon(_contained, host.watch_loop, name="the watch over the event loop")
            if self.watch:
                nursery.start_soon(_contained, partial(watch, host), name="watch of plugin files")
            try:
                await receive()
            finally:
                # Also when the server fails: the plugins stop in order, and there is a receipt.
                with trio.CancelScope(shield=True):
                    await self._stop(host, settings)
            await send({"type": "lifespan.shutdown.complete"})
            nursery.cancel_scope.cancel()

    def _publish(self, points: Iterable[MonitoringPoint]) -> None:
        if self.host is not None:
            self.host.publisher.publish("monitoring_event", points)

    def _prepare(self, held: contextlib.ExitStack) -> Settings:
        """Load what was not handed over, as under a foreign ASGI server, and own the state directory."""
        if self.settings is None:
            self.settings = load_settings()
            set_up(self.settings.log_level, self.settings.log_format)
            warn_of_service_links()
        if self.plugins is None:
            held.enter_context(state_directory.owned(self.settings.state_dir))
            self.plugins = load_plugins(self.settings)
        for plugin in self.plugins:
            for config in plugin.configs.values():
                keep_secret(config)
        if self.settings.admin_token is not None:
            keep_secret({"token": self.settings.admin_token})
        return self.settings

    async def _watch_critical(self, host: Host) -> None:
        await host.stop.gave_up.wait()
        if host.stop.requested.is_set() and not host.stop.failed:
            return  # it failed while it was being stopped
        self.shutdown.reason = (
            f"critical plugin {host.stop.critical!r} failed"
            if host.stop.critical is not None
            else "the plugin host failed"
        )
        self.shutdown.draining.set()
        self.stop_wanted.set()
        if not self.served and self.settings is not None:
            # A foreign server cannot be told to stop, so the process is ended from here.
            await self._stop(host, self.settings, force=True)

    async def _stop(self, host: Host, settings: Settings, force: bool = False) -> None:
        """Stop the plugins, log the receipt, and see to it that the process can end."""
        self.shutdown.draining.set()
        self.shutdown.closing.set()
        now = trio.current_time()
        deadline = self.deadline
        if deadline is None and self.served and not self.stop_wanted.is_set():
            host.stop.failed = True  # nobody asked for this stop: the server has failed
            self.shutdown.reason = "the HTTP server failed"
        if deadline is None:
            deadline = now + settings.shutdown_timeout
            self.terminator.kill_after(
                settings.shutdown_timeout, EXIT_KILLED, "the stop took longer than shutdown_timeout"
            )
        if self._requests is not None:
            self._requests.publish_points()  # those who take them are about to stop
        host.stop.request(self.shutdown.reason, deadline - settings.shutdown_timeout * _RESERVE)
        await host.stopped.wait()
        receipt = host.receipt
        assert receipt is not None
        self._tell(receipt)
        leftovers = any(item.leaked_tasks or item.leaked_threads for item in receipt.plugins)
        if leftovers or force:
            self.terminator.exit_after(_LEFTOVER_GRACE, receipt.exit_code)
        elif not self.served:
            self.terminator.stand_down()

    def _tell(self, receipt: Receipt) -> None:
        """Write the receipt, once; after that, nothing changes the exit code that it states."""
        with self._telling:
            if self._told is not None:
                return
            tell_receipt(receipt)
            self._told = receipt.exit_code

    def tell_failure(self, code: int) -> None:
        """Once the event loop has failed: say what was done to the process, and log the receipt."""
        if self.guard is not None:
            self.guard.look()
        if self.host is not None and self._told is None:
            failed = "event loop" if self.start_failure is None else "start of the service"
            self._tell(self.host.account(f"the {failed} failed", code))

    def last_words(self, code: int, why: str, seconds: float) -> str | int:
        """Kill what plugins started, and return the receipt, for a terminator that ends the process.

        Once a receipt has been told, its exit code is returned instead: there is only one.
        """
        starts.kill_all()
        free = self._telling.acquire(timeout=_TELLING_GRACE)
        try:
            if self._told is not None:
                return self._told
        finally:
            if free:
                self._telling.release()
        if self.host is None:
            return json.dumps(
                {
                    "receipt": {
                        "reason": f"ended before the plugins started: {why}",
                        "exit_code": code,
                    }
                }
            )
        receipt = self.host.account(f"ended by the watchdog: {why}", code)
        return json.dumps({"receipt": replace(receipt, seconds=seconds).as_dict()})


async def _contained(work: Callable[[], Any]) -> None:
    """Run what the service can do without: its end is said, and ends nothing else."""
    try:
        await work()
    except Exception as error:
        task = trio.lowlevel.current_task().name
        LOGGER.error("%s: ended by %s; the service goes on", task, brief(error), exc_info=error)


async def _refuse_websocket(receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    await receive()
    try:
        await send({"type": "websocket.close", "code": 1000})
    except Exception as error:  # noqa: BLE001 - of a client that goes on sending, whose connection is closed
        LOGGER.debug("a WebSocket could not be refused: %s", type(error).__name__)


def create_app(
    settings: Settings | None = None, plugins: Sequence[LoadedPlugin] | None = None
) -> Service:
    """Return a new service; see `Service`."""
    return Service(settings, plugins)


#: What an ASGI server is pointed at: settings come from the environment.
app: Final = create_app()
