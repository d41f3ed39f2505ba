"""Whether a plugin's files on disk are still those that its running code was made from."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

#: A file that was written this short a time ago, in seconds, may be written again without its times showing
#: it: clocks of file systems are coarse.
_RECENT: Final = 2.0

_Signature = tuple[int, int, int, int]


class SourceFiles:
    """The files of one plugin. Looking at them costs little while their sizes and times stay the same.

    Args:
        digests: The SHA-256 of each file as it was read, in hexadecimal.
    """

    def __init__(self, digests: Mapping[Path, str]) -> None:
        self._digests = digests
        self._known: dict[Path, tuple[_Signature, bool]] = {}

    @property
    def changed(self) -> bool:
        """Whether a file is no longer the one that was read, or is gone."""
        return any(self._is_changed(path, digest) for path, digest in self._digests.items())

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
            changed = hashlib.sha256(path.read_bytes()).hexdigest() != digest
        except OSError:
            return True
        if abs(time.time() - signature[2] / 1e9) > _RECENT:
            self._known[path] = (signature, changed)
        return changed


def _signature(path: Path) -> _Signature | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - as fast as it can be: this is asked for each plugin at once
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
