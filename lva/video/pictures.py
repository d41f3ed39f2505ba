"""JPEGs as one source: the files of a directory, one after the other. The worker's side."""

from __future__ import annotations

import os
import stat
from collections import deque
from pathlib import Path
from typing import IO, Final

#: Endings of pictures.
PICTURES: Final = (".jpg", ".jpeg")


class Pictures:
    """The JPEGs of a directory, in the order of their names, one after the other.

    Those that are there now; later ones are not. Links are left out: they may lead outside.

    Args:
        path: The directory; or one JPEG, whose name FFmpeg might take for a pattern.

    Raises:
        OSError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        inside = path.iterdir() if path.is_dir() else (path,)
        found = (each for each in inside if each.suffix.lower() in PICTURES)
        self._paths = deque(sorted(found))
        self._file: IO[bytes] | None = None

    def read(self, count: int) -> bytes:
        """Return up to so many bytes; none at the end."""
        while True:
            if self._file is None:
                if not self._paths:
                    return b""
                self._file = open_regular(self._paths.popleft())
            if self._file is not None:
                if part := self._file.read(count):
                    return part
                self._file.close()
                self._file = None

    def close(self) -> None:
        """Close the file that is open."""
        if self._file is not None:
            self._file.close()


def open_regular(path: Path) -> IO[bytes] | None:
    """Open a file that is neither a link nor a pipe nor a device; None if it is, or cannot be opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return os.fdopen(descriptor, "rb")
