"""The process: listening sockets, signals, the drain window, Hypercorn, exit codes."""

from __future__ import annotations

import errno
import gc
import logging
import signal
import socket
import threading
from functools import partial
from pathlib import Path
from typing import Final

import trio
from hypercorn.config import Config, Sockets
from hypercorn.trio import serve as hypercorn_serve

from lva.app import Service
from lva.errors import ConfigurationError
from lva.host.process.forks import hide
from lva.host.process.pieces import Piece
from lva.host.process.state import closed_descriptors
from lva.host.receipt import EXIT_KILLED, EXIT_UNCLEAN
from lva.host.terminator import Terminator
from lva.logs.loggers import service_logger
from lva.server.connections import our_connections
from lva.server.signals import Signals
from lva.settings import Settings, parse_bind

LOGGER: Final = service_logger("lva.service")

_BACKLOG: Final = 1024
#: Part of `shutdown_timeout`, the drain window apart, that requests in flight get to finish.
_REQUESTS_SHARE: Final = 0.3
#: How long, in seconds, what is logged last may take to be written.
_LAST_WORDS: Final = 0.2


#: A request leaves about a hundred short-lived objects; Python's default would look through the young
#: ones several times for each.
GC_THRESHOLDS: Final = (10_000, 20, 50)


def listen(bind: str) -> socket.socket:
    """Return a socket that listens at the address.

    Raises:
        ConfigurationError: The address cannot be had; the message says why and what to do.
    """
    address = parse_bind(bind)
    try:
        if isinstance(address, str):
            return _listen_unix(address)
        host, port = address
        family, _, _, _, target = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listener.bind(target)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        return listener
    except (OSError, ValueError) as error:  # ValueError: a name that no resolver would take
        why = _no_socket(Path(address), error) if isinstance(address, str) else _why_not(error)
        problem = f"bind: cannot listen on {bind}: {why}"
        raise ConfigurationError([problem]) from error


def _why_not(error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return f"not an address ({error})"
    if error.errno == errno.EADDRINUSE:
        return "another program listens there; stop it, or choose another address with --bind"
    if error.errno == errno.EACCES:
        return "not permitted; choose a port above 1023 with --bind"
    return error.strerror or str(error)


def _no_socket(path: Path, error: OSError | ValueError) -> str:
    """Say why no socket can be made at a path."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ENOENT:
        return f"there is no directory {path.parent}; make it, or choose another path with --bind"
    if number in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"this user may not make a file in {path.parent}; choose another path with --bind"
    if number is None or number == errno.ENAMETOOLONG:
        return "the path is too long for a socket; choose one of at most 107 bytes with --bind"
    return _why_not(error)


def _listen_unix(path: str) -> socket.socket:
    _make_way(Path(path))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        Path(path).chmod(0o600)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _make_way(path: Path) -> None:
    """Remove a socket that nobody listens on any more; whatever else stands there is somebody's.

    Raises:
        ConfigurationError: Something stands there that is no socket.
    """
    if path.is_dir():
        why = f"is a directory; give a file in it, as in --bind unix:{path / 'lva.sock'}"
    elif path.is_symlink() and not path.exists():
        why = "is a link that leads nowhere; remove it, or choose another path with --bind"
    elif path.exists() and not path.is_socket():
        why = "is a file, and no socket; choose another path with --bind"
    else:
        if path.is_socket() and _is_deserted(path):
            path.unlink()
        return
    raise ConfigurationError([f"bind: cannot listen on unix:{path}: {why}"])


def _is_deserted(path: Path) -> bool:
    """Return whether nobody listens on a Unix socket any more. Never waits for who does not accept."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False  # its queue is full, or it is not for us
    return False


def address_of(listener: socket.socket) -> str:
    """Return where a socket listens, as a URL."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"


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
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_forward, service.stop_wanted, signalled)

        async def shutdown_trigger() -> None:
            await signalled.wait()
            service.shutdown.draining.set()
            service.deadline = trio.current_time() + settings.shutdown_timeout
            if signals.received is None:  # a critical plugin failed
                _arm(service.terminator, settings)
            LOGGER.info("stopping: %s", service.shutdown.reason)
            if settings.drain_window:
                LOGGER.info(
                    "/readyz responds with 503; listening for another %g s", settings.drain_window
                )
                await trio.sleep(settings.drain_window)
            service.shutdown.closing.set()

        own = settings.http_connections == "lva"
        limit = settings.keep_alive_timeout
        with our_connections(service.connection_errors, limit, own), signals.heard_beside_trio():
            await hypercorn_serve(
                service,  # type: ignore[arg-type] # Hypercorn's types name each ASGI message
                hypercorn_config(settings, listener),
                shutdown_trigger=shutdown_trigger,
                mode="asgi",
            )
        nursery.cancel_scope.cancel()


def _arm(terminator: Terminator, settings: Settings) -> None:
    terminator.kill_after(
        settings.shutdown_timeout, EXIT_KILLED, "the stop took longer than shutdown_timeout"
    )


def _exit_at_once(terminator: Terminator, number: int) -> None:
    name = signal.Signals(number).name
    terminator.exit_after(0, EXIT_UNCLEAN, f"a second {name} ends the service at once")


async def _forward(source: trio.Event, target: trio.Event) -> None:
    await source.wait()
    target.set()


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
    config.backlog = _BACKLOG
    config.errorlog = service_logger("hypercorn.error")
    config.errorlog.setLevel(logging.WARNING)
    config.accesslog = None
    config.include_server_header = False
    config.keep_alive_timeout = settings.keep_alive_timeout
    config.graceful_timeout = _REQUESTS_SHARE * (settings.shutdown_timeout - settings.drain_window)
    # The terminator bounds both; Hypercorn's own limits must not be the first to run out.
    config.startup_timeout = config.shutdown_timeout = settings.shutdown_timeout + 60
    return config
