"""Appends points to a file, or to standard output, as JSON: one line for each point, or event of a stream.

A line is ASCII whatever the point holds, so that all readers agree where it ends.

* A full file becomes `NAME.1`, what was `NAME.1` becomes `NAME.2`, and so on: at no time do the files
  have more than ``max_bytes * (backups + 1)`` bytes.
* A batch is one write, unless the end of a file comes in between. When a write fails, as on a full
  disk, the file is cut back to what it was, so that a line is there as a whole or not at all.
* Half a line that a killed process left is cut away before anything is added.
* A file that was moved away or removed, by logrotate perhaps, is noticed before the next batch.
"""

import errno
import json
import logging
import math
import os
import select
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Annotated, Any, ClassVar

import trio
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import to_json

from lva import (
    BaseEventPlugin,
    PartialDeliveryError,
    PermanentDeliveryError,
    PluginApp,
    RetryLaterError,
    locks,
)
from lva.contract import Published
from lva.errors import counted
from lva.settings.user_paths import absolute

TOO_LONG = "a line of more than max_bytes fits into no file"
#: How a line begins: that of a point, and that of an event.
STARTS = (b'{"series":', b'{"event_name":')
#: How much of a file's end is searched first for the last line's end.
BLOCK = 64 * 1024
#: How often a reader is waited for that lets standard output fill up, and for how many seconds each.
POLLS, POLL_SECONDS = 50, 0.1


def output_path(value: Any) -> Any:
    """Return a path that is absolute but for ``-``, which ``./-`` is not."""
    return value if str(value) == "-" else absolute(value)


class Config(BaseModel):
    """`[plugins.file.config]`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    path: Annotated[Path | None, BeforeValidator(output_path)] = Field(
        None, description="The file; points.jsonl in state_dir if left out; - for standard output."
    )
    max_bytes: int = Field(
        64 * 1024 * 1024, ge=0, description="Bound on the file's size; with 0, it has none."
    )
    backups: int = Field(5, ge=0, le=1000, description="Number of full files that are not deleted.")
    fsync: bool = Field(
        False, description="Whether points only count as delivered once they are on the disk."
    )


class File(BaseEventPlugin):
    """Makes lines and writes them in a worker thread, a batch at a time."""

    eventName = "monitoring_event"
    otherEvents: ClassVar[Sequence[str]] = ("stream_event", "analytics_event")
    Config: ClassVar[type[BaseModel] | None] = Config
    # A write costs about the same for one point as for thousands, so points gather for a moment.
    host_settings: ClassVar[Mapping[str, Any]] = {
        "flush_interval": 0.5,
        "batch_size": 5000,
        "buffer_limit": 50_000,
    }

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        self._output: RotatedFile | StandardOutput | None = None

    async def initialize(self) -> None:
        self._one_thread = trio.CapacityLimiter(1)
        path = self.config.path or self.app.settings["state_dir"] / default_name(self.app.name)
        to_file = str(path) != "-"
        self._output = output = (
            RotatedFile(path, self.config, self.logger) if to_file else StandardOutput()
        )
        await trio.to_thread.run_sync(output.open, limiter=self._one_thread)
        self.logger.info("writing points to %s", output.name)

    async def handleEvent(self, points: list[Published], logger: logging.Logger) -> None:
        await trio.to_thread.run_sync(self._write, points, limiter=self._one_thread)

    async def close(self) -> None:
        if self._output is not None:
            await trio.to_thread.run_sync(self._output.close, limiter=self._one_thread)
            self._output = None

    def _write(self, points: Sequence[Published]) -> None:
        """Write a batch, in the worker thread; tell the host what could not be written."""
        output = self._output
        assert output is not None
        lines = [(point, to_line(point)) for point in points]
        rejected = [point for point, line in lines if len(line) > output.longest]
        lines = [(point, line) for point, line in lines if len(line) <= output.longest]
        written, cause = 0, None
        try:
            for count in output.write([line for _, line in lines]):
                written += count
        except OSError as error:
            if not written:
                raise RetryLaterError(f"{output.name}: {error}") from error
            cause = error
        if len(rejected) == len(points):
            raise PermanentDeliveryError(f"{output.name}: {TOO_LONG}")
        if rejected or cause is not None:
            raise PartialDeliveryError(
                f"{output.name}: {cause or TOO_LONG}; {counted(len(rejected), 'point')} rejected,"
                f" {len(lines) - written} to be written again",
                failed=[point for point, _ in lines[written:]],
                rejected=rejected,
            ) from cause


class RotatedFile:
    """A file that makes room for another when it is full. Its methods raise OSError.

    Resources: the file is open, and locked for other processes, from `open` to `close`. If either `open` or a
    write raises it may be closed; the next write opens it.
    """

    def __init__(self, path: Path, config: Config, logger: logging.Logger) -> None:
        self.name: str = str(path)
        self._limit = config.max_bytes or math.inf
        self.longest: float = self._limit
        self._path = path
        self._backups = config.backups
        self._fsync = config.fsync
        self._logger = logger
        self._fd = -1

    def open(self) -> None:
        """Open the file, making it if there is none, and mend its end."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._fd = os.open(self._path, flags, mode=0o600)
        except OSError as error:
            if self._path.is_symlink():
                message = f"{self.name} is a symbolic link; set path to where it leads"
                raise UnusableError(message) from error
            raise
        try:
            self._claim()
            if cut := mend(self._fd):
                self._logger.warning("%s: cut %d bytes of an unfinished line", self.name, cut)
            if self._fsync:
                sync_directory(self._path.parent)
        except BaseException:
            self.close()
            raise

    def _claim(self) -> None:
        """Make sure that this is a file to write to, and that nobody else does."""
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            raise UnusableError(f"{self.name} is no file; for standard output, set path to -")
        try:
            locks.take(self._fd)
        except BlockingIOError as error:
            raise UnusableError(f"{self.name} is being written by another process") from error
        if not any(start.startswith(os.pread(self._fd, len(start), 0)) for start in STARTS):
            raise UnusableError(f"{self.name} holds something else; move it away, or change path")

    def write(self, lines: Sequence[bytes]) -> Iterator[int]:
        """Write lines; yield how many, each time that some are written."""
        while lines:
            self._follow()
            room = self._limit - os.fstat(self._fd).st_size
            if count := how_many(lines, room):
                self._append(b"".join(lines[:count]))
                lines = lines[count:]
                yield count
            else:
                self._rotate()

    def _follow(self) -> None:
        """Open the file if it is not open, or if its name leads elsewhere by now."""
        if self._fd != -1:
            try:
                if os.path.samestat(os.fstat(self._fd), self._path.lstat()):
                    return
            except FileNotFoundError:
                pass
            self._logger.info("%s was moved away: beginning a new file", self.name)
            self.close()
        self.open()

    def _append(self, data: bytes) -> None:
        """Write all of the data, or nothing."""
        before = os.fstat(self._fd).st_size
        try:
            while data:
                data = data[os.write(self._fd, data) :]  # the end of a disk makes it write less
            if self._fsync:
                os.fsync(self._fd)
        except OSError:
            try:
                os.ftruncate(self._fd, min(before, os.fstat(self._fd).st_size))
            finally:
                self.close()  # opening it again mends what could not be cut
            raise

    def _rotate(self) -> None:
        """Move the full files up by a number, as far as there is one free; the last may go."""
        self.close()
        if not self._backups:
            self._path.unlink()
        names = [self._path, *(Path(f"{self.name}.{n}") for n in range(1, self._backups + 1))]
        free = (at for at, name in enumerate(names) if at and not os.path.lexists(name))
        for at in range(next(free, self._backups), 0, -1):
            names[at - 1].replace(names[at])

    def close(self) -> None:
        """Close the file; it can be opened again."""
        if self._fd != -1:
            fd, self._fd = self._fd, -1
            locks.close(fd)


class StandardOutput:
    """A pipe, a terminal or a file that the service was started with. Its methods raise OSError.

    Resources: a duplicate of standard output, from `open` to `close`.
    """

    name = "standard output"
    longest: float = math.inf

    def __init__(self) -> None:
        self._fd = -1
        self._rest = b""  # what is still to come of a line that has begun

    def open(self) -> None:
        """Take standard output as it was when the process began."""
        if sys.__stdout__ is None:
            raise UnusableError("standard output is closed")
        self._fd = os.dup(sys.__stdout__.fileno())

    def write(self, lines: Sequence[bytes]) -> Iterator[int]:
        """Write lines; yield how many, each time that some are written.

        Raises:
            trio.Cancelled: The call was cancelled while it waited for the reader.
        """
        self._put(self._rest)
        while lines:
            # What fits into PIPE_BUF goes through a pipe as a whole, and at once if that is ready.
            count = how_many(lines, select.PIPE_BUF) or 1
            self._put(b"".join(lines[:count]))
            lines = lines[count:]
            yield count

    def _put(self, data: bytes) -> None:
        begun = bool(self._rest)
        try:
            while data:
                self._wait_until_ready()
                data = data[os.write(self._fd, data[: select.PIPE_BUF]) :]
                begun = True
        except BrokenPipeError as error:
            raise BrokenPipeError(errno.EPIPE, "nobody reads it any longer") from error
        finally:
            self._rest = data if begun else b""

    def _wait_until_ready(self) -> None:
        ready = select.poll()
        ready.register(self._fd, select.POLLOUT)
        for _ in range(POLLS):
            if ready.poll(POLL_SECONDS * 1000):
                return
            trio.from_thread.check_cancelled()
        raise TimeoutError(errno.ETIMEDOUT, "it is full, and its reader reads nothing")

    def close(self) -> None:
        """Let go of standard output, which stays open."""
        if self._fd != -1:
            os.close(self._fd)
            self._fd = -1


class UnusableError(OSError):
    """The path leads to something that is not to be written to."""


def default_name(plugin: str) -> str:
    """Return the name of the file if the configuration has none; a second instance has its own."""
    return "points.jsonl" if plugin == "file" else f"{plugin}.jsonl"


def to_line(point: Published) -> bytes:
    """Return a point, or an event with its picture, as one line of JSON with its end."""
    document = point.as_dict()
    line = to_json(document)
    if not line.isascii():
        line = json.dumps(document, separators=(",", ":")).encode()
    return line + b"\n"


def how_many(lines: Sequence[bytes], room: float) -> int:
    """Return how many of the first lines have no more than `room` bytes together."""
    return sum(1 for _ in takewhile(lambda size: size <= room, accumulate(map(len, lines))))


def mend(fd: int) -> int:
    """Let a file end with a whole line; return how many bytes were cut for that."""
    size, length = os.fstat(fd).st_size, BLOCK
    tail = os.pread(fd, length, max(0, size - length))
    while b"\n" not in tail and len(tail) < size:
        length *= 2
        tail = os.pread(fd, length, max(0, size - length))
    tail = tail[tail.rfind(b"\n") + 1 :]
    if not tail:
        return 0
    try:
        json.loads(tail)
    except ValueError:
        os.ftruncate(fd, size - len(tail))
        return len(tail)
    os.write(fd, b"\n")  # only the end of the line was missing
    return 0


def sync_directory(path: Path) -> None:
    """See to it that a new or moved file is found after a power failure."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
