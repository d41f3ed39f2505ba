"""The socket that the service listens on, and why there is none."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import Final

from lva.errors import ConfigurationError
from lva.settings import parse_bind

#: How many connections may wait to be accepted.
BACKLOG: Final = 1024


def listen(bind: str) -> socket.socket:
    """Return a socket that listens at the address.

    Resources: the socket is the caller's. The file of a Unix socket stays; the next start there removes it.

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
            listener.listen(BACKLOG)
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
        listener.listen(BACKLOG)
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
