"""The process while it serves: signals, the drain window, Hypercorn, exit codes."""

from __future__ import annotations

import gc
import logging
import signal
import socket
import threading
from functools import partial
from typing import Final

import trio
from hypercorn.config import Config, Sockets
from hypercorn.trio import serve as hypercorn_serve
from trio_util import wait_any

from lva.app import Service
from lva.host.process.forks import hide
from lva.host.process.pieces import Piece
from lva.host.process.state import closed_descriptors
from lva.host.receipt import EXIT_KILLED, EXIT_UNCLEAN
from lva.host.terminator import Terminator
from lva.logs.loggers import service_logger
from lva.server.connections import our_connections
from lva.server.listening import BACKLOG, address_of
from lva.server.signals import Signals
from lva.settings import Settings

LOGGER: Final = service_logger("lva.service")

#: Part of `shutdown_timeout`, the drain window apart, that requests in flight get to finish.
_REQUESTS_SHARE: Final = 0.3
#: How long, in seconds, what is logged last may take to be written.
_LAST_WORDS: Final = 0.2


#: A request leaves about a hundred short-lived objects; Python's default would look through the young
#: ones several times for each.
GC_THRESHOLDS: Final = (10_000, 20, 50)


def watch_loading(service: Service, settings: Settings, signals: Signals) -> None:
    """Start the terminator, and let signals reach it while plugin files are imported.

    The stop that a signal asks for then comes after the import, or the terminator if that takes too long.
    """
    service.served = True
    service.terminator.start()
    signals.on_first = lambda _number: _arm(service.terminator, settings)
    signals.on_second = partial(_exit_at_once, service.terminator)


def run(service: Service, settings: Settings, listener: socket.socket, signals: Signals) -> int:
    """Serve until a signal or a critical failure, after `watch_loading`; return the exit code.

    Resources: the process may end inside: the terminator ends it past the deadline, at a second signal, or
    when abandoned tasks keep the event loop from ending.
    """
    service.address = address_of(listener)
    # What is loaded by now stays until the end: the garbage collector need not look at it again.
    gc.collect()
    gc.freeze()
    closed = Piece(
        "file descriptors of the service, which are closed",
        closed_descriptors,
        _reopen,
        shown=False,
    )
    service.own_state = (signals.state, closed)
    try:
        with signals.left_to_trio():
            trio.run(_serve, service, settings, listener, signals)
    except Exception:
        code = service.start_failure
        if code is None:
            code = EXIT_KILLED
            LOGGER.critical("the HTTP server failed", exc_info=True)
        service.tell_failure(code)
        # Not by Python's own end: threads that are cut off in the midst of a write make it abort.
        service.terminator.exit_after(_LAST_WORDS, code)
        threading.Event().wait()
    if service.host is None or service.host.receipt is None:
        return EXIT_KILLED  # the lifespan failed in a way that is a bug; it has been logged
    return service.host.receipt.exit_code


def _reopen(_: object) -> None:
    raise OSError("nothing is known of what they were")


async def _serve(
    service: Service, settings: Settings, listener: socket.socket, signals: Signals
) -> None:
    token = trio.lowlevel.current_trio_token()
    signalled = trio.Event()

    def stop(number: int) -> None:
        _arm(service.terminator, settings)
        service.shutdown.reason = f"received {signal.Signals(number).name}"
        token.run_sync_soon(signalled.set)

    signals.on_first = stop
    if signals.received is not None:
        stop(signals.received)
    own = settings.http_connections == "lva"
    limit, patience = settings.keep_alive_timeout, settings.half_closed_timeout
    with (
        our_connections(service.connection_errors, limit, patience, own),
        signals.heard_beside_trio(),
    ):
        await hypercorn_serve(
            service,  # type: ignore[arg-type] # Hypercorn's types name each ASGI message
            hypercorn_config(settings, listener),
            shutdown_trigger=partial(_shutdown, service, settings, signals, signalled),
            mode="asgi",
        )


async def _shutdown(
    service: Service, settings: Settings, signals: Signals, signalled: trio.Event
) -> None:
    """Wait for a stop, and for the drain window after it; Hypercorn stops listening when this returns."""
    await wait_any(signalled.wait, service.stop_wanted.wait)
    service.shutdown.draining.set()
    service.deadline = trio.current_time() + settings.shutdown_timeout
    if signals.received is None:  # a critical plugin failed
        _arm(service.terminator, settings)
    LOGGER.info("stopping: %s", service.shutdown.reason)
    if settings.drain_window:
        LOGGER.info("/readyz responds with 503; listening for another %g s", settings.drain_window)
        await trio.sleep(settings.drain_window)
    service.shutdown.closing.set()


def _arm(terminator: Terminator, settings: Settings) -> None:
    terminator.kill_after(
        settings.shutdown_timeout, EXIT_KILLED, "the stop took longer than shutdown_timeout"
    )


def _exit_at_once(terminator: Terminator, number: int) -> None:
    name = signal.Signals(number).name
    terminator.exit_after(0, EXIT_UNCLEAN, f"a second {name} ends the service at once")


class _OurSocket(Config):
    """Hypercorn's configuration, for a socket that is there already.

    Hypercorn's own makes it inheritable, for workers that there are none of here; then every program that a
    plugin starts would have it, and keep the port when the service has ended.
    """

    def __init__(self, listener: socket.socket) -> None:
        super().__init__()
        self._listener = listener

    def create_sockets(self) -> Sockets:
        self._listener.setblocking(False)
        hide(self._listener)
        return Sockets([], [self._listener], [])


def hypercorn_config(settings: Settings, listener: socket.socket) -> Config:
    """Return Hypercorn's configuration: our socket, our limits, our logging."""
    config = _OurSocket(listener)
    config.backlog = BACKLOG
    config.errorlog = service_logger("hypercorn.error")
    config.errorlog.setLevel(logging.WARNING)
    config.accesslog = None
    config.include_server_header = False
    config.keep_alive_timeout = settings.keep_alive_timeout
    config.graceful_timeout = _REQUESTS_SHARE * (settings.shutdown_timeout - settings.drain_window)
    # The terminator bounds both; Hypercorn's own limits must not be the first to run out.
    config.startup_timeout = config.shutdown_timeout = settings.shutdown_timeout + 60
    return config
