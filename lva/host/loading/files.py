"""Whether a plugin's files on disk are still those that its running code was made from.

A file system may take its time, or never answer. So it is asked in a thread, and elsewhere what was seen last
counts.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from contextvars import Context
from functools import partial
from pathlib import Path
from typing import Final

import trio

from lva.host.process.threads import AbandonableThread

#: A file that was written this short a time ago, in seconds, may be written again without its times showing
#: it: clocks of file systems are coarse.
_RECENT: Final = 2.0
#: For how long, in seconds, whoever wants to know waits for a file system.
PATIENCE: Final = 0.5
_THREAD: Final = "lva-files"

_Signature = tuple[int, int, int, int]


class SourceFiles:
    """The files of one plugin. Looking at them costs little while their sizes and times stay the same.

    Args:
        digests: The SHA-256 of each file as it was read, in hexadecimal.
    """

    def __init__(self, digests: Mapping[Path, str]) -> None:
        self._digests = digests
        self._known: dict[Path, tuple[_Signature, bool]] = {}
        self._looking = threading.Lock()
        self._changed = False

    @property
    def changed(self) -> bool:
        """Whether a file was no longer the one that was read, or was gone, when that was last looked at."""
        return self._changed

    def look(self) -> bool:
        """Look whether a file is no longer the one that was read, or is gone. Not on an event loop.

        While another thread does not come back from it, return what was seen last.
        """
        if self._looking.acquire(timeout=PATIENCE):
            try:
                self._changed = any(self._is_changed(*file) for file in self._digests.items())
            finally:
                self._looking.release()
        return self._changed

    def signature(self) -> tuple[_Signature | None, ...]:
        """Return what changes when a file is written; None for each that is not there."""
        return tuple(_signature(path) for path in self._digests)

    def _is_changed(self, path: Path, digest: str) -> bool:
        signature = _signature(path)
        if signature is None:
            return True
        known = self._known.get(path)
        if known is not None and known[0] == signature:
            return known[1]
        try:
            with path.open("rb") as file:
                changed = hashlib.file_digest(file, "sha256").hexdigest() != digest
        except OSError:
            return True
        if abs(time.time() - signature[2] / 1e9) > _RECENT:
            self._known[path] = signature, changed
        return changed


async def look_at(files: Iterable[SourceFiles]) -> None:
    """Look at the files of plugins in a thread; return once that is done, and after `PATIENCE` in any case.

    Resources: a thread that a file system does not let go is abandoned. Without one, nothing is looked at.

    Cancellation: ends the wait.
    """
    # Threads that a file system does not let go must not be missing where others wait for a thread.
    own = trio.CapacityLimiter(1)
    with suppress(RuntimeError), trio.move_on_after(PATIENCE):
        await trio.to_thread.run_sync(
            _look, [*files], abandon_on_cancel=True, limiter=own, thread_name=_THREAD
        )


def begin_to_look_at(files: Iterable[SourceFiles]) -> None:
    """Begin what `look_at` waits for."""
    with suppress(RuntimeError):  # it is the host's work, whoever has asked
        Context().run(AbandonableThread, partial(_look, [*files]), _THREAD)


def _look(files: Iterable[SourceFiles]) -> None:
    for each in files:
        each.look()


def _signature(path: Path) -> _Signature | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
