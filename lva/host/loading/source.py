"""A plugin's file, read once and trusted."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from lva.errors import Problem
from lva.trust import untrusted

_MAX_SOURCE: Final = 10 * 1024 * 1024


class PluginFileError(Exception):
    """One plugin cannot be used.

    Args:
        *problems: What is wrong, for people.
    """

    def __init__(self, *problems: Problem | str) -> None:
        self.problems: list[Problem] = [
            Problem(item) if isinstance(item, str) else item for item in problems
        ]
        super().__init__("\n".join(map(str, self.problems)))


def read_checked(path: Path, directory: Path, refuse: Callable[[Problem], object]) -> bytes:
    """Check a plugin's file and everything from it up to its plugin directory, and read it once.

    The file is opened first, so that what is checked is what is read. Paths are strings here, which cost
    a fraction of `Path` objects, since this is done for each plugin at the start.

    Args:
        path: The file.
        directory: What it must not lead out of.
        refuse: Told of what others may write; raises, or lets it pass.

    Raises:
        PluginFileError: It is refused, or cannot be read.
    """
    try:
        real, top = _real_paths(str(path), str(directory))
        if os.path.commonpath((real, top)) != top:
            link = f"is a link to {real}, outside {directory}; copy the file here instead"
            raise PluginFileError(Problem(link, path))
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - there is a descriptor, not a path
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise PluginFileError(Problem("is not a regular file", path))
            if (why := untrusted(real, status)) is not None:
                refuse(Problem(why, Path(real), code="trust"))
            for step in _up_to(real, top):
                if (why := untrusted(step)) is not None:
                    refuse(Problem(why, Path(step), code="trust"))
            if status.st_size > _MAX_SOURCE:
                raise PluginFileError(
                    Problem(f"too large for a plugin ({status.st_size} bytes)", path)
                )
            return file.read()
    except OSError as error:
        raise PluginFileError(Problem(f"cannot be read: {error.strerror}", path)) from error


def _real_paths(path: str, directory: str) -> tuple[str, str]:
    """Return where a file and its plugin directory really are.

    What is no link, and stands in the directory itself, cannot lead out of it.
    """
    if os.path.dirname(path) == directory and not os.path.islink(path):  # noqa: PTH114, PTH120 - as in `read_checked`
        return path, directory
    return os.path.realpath(path, strict=True), os.path.realpath(directory, strict=True)


def _up_to(path: str, directory: str) -> Iterator[str]:
    """Yield the directories above a path, up to and with the given one."""
    while path != directory:
        path = os.path.dirname(path)  # noqa: PTH120 - as in `read_checked`
        yield path
