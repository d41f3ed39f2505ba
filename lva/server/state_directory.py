"""The state directory: private to the service's user, and used by one service at a time.

Its owner holds a lock on a file in it. The operating system releases that with the process, however it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from lva import locks
from lva.errors import ConfigurationError
from lva.host.process.state import note_own, own_descriptors

#: The file with the lock, and with what its owner says of itself.
LOCK_FILE: Final = "service.lock"
_MOST_TEXT: Final = 4096


@contextlib.contextmanager
def owned(path: Path, bind: str = "an unknown address") -> Iterator[None]:
    """Make the directory, keep it private, and own it while inside.

    Resources: a lock on a file in it, which the system takes back should the process be killed.

    Args:
        path: The state directory.
        bind: Where the service listens, for whoever else wants the directory.

    Raises:
        ConfigurationError: It cannot be made, does not belong to this user, or has an owner already.
    """
    _make_private(path)
    descriptor = _lock(path)
    own = note_own(descriptor)
    try:
        _introduce(descriptor, bind)
        yield
    finally:
        own_descriptors.discard(own)
        with contextlib.suppress(OSError):  # a plugin may have closed it
            locks.close(descriptor)


def _make_private(path: Path) -> None:
    todo = "set state_dir, or LUNA_VIDEO_AGENT_STATE_DIR, to a directory of the service's own"
    if not path.is_absolute():
        why = f"user {os.geteuid()} has no home directory for {path}"
        raise ConfigurationError([f"state_dir: {why}; {todo}"])
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        if status.st_mode & stat.S_ISVTX or status.st_uid != os.geteuid():
            why = "is shared, or belongs to somebody else"
            raise ConfigurationError([f"state_dir: {path}: {why}; {todo}"])
        if status.st_mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        why = f"cannot be made private to the service ({error.strerror})"
        raise ConfigurationError([f"state_dir: {path}: {why}; {todo}"]) from error


def _lock(path: Path) -> int:
    """Return the descriptor of the locked file."""
    file = path / LOCK_FILE
    descriptor = -1
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        locks.take(descriptor)
    except BlockingIOError as error:
        owner = _owner(descriptor)
        os.close(descriptor)
        todo = "stop it, or set another state_dir"
        raise ConfigurationError([f"state_dir: {path}: is used by {owner}; {todo}"]) from error
    except OSError as error:
        if descriptor != -1:
            os.close(descriptor)
        raise ConfigurationError(
            [f"state_dir: {path}: {LOCK_FILE} in it cannot be locked: {error.strerror}"]
        ) from error
    return descriptor


def _introduce(descriptor: int, bind: str) -> None:
    """Write down who has the lock. On a full disk the lock holds all the same."""
    values = {"pid": os.getpid(), "host": socket.gethostname(), "bind": bind, "since": time.time()}
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{json.dumps(values)}\n".encode(), 0)


def _owner(descriptor: int) -> str:
    """Return who has the lock, as far as it is written down."""
    try:
        values: Any = json.loads(os.pread(descriptor, _MOST_TEXT, 0))
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(values["since"]))
        pid, host, bind = values["pid"], values["host"], values["bind"]
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return "another service"
    return f"another service: process {pid} on {host}, which listens at {bind}, since {since}"
