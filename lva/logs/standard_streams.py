"""Standard input, output and error: perhaps closed or full, perhaps of few characters."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, Final, TextIO

import click

from lva.errors import counted
from lva.logs.writer import Descriptor, LogWriter

#: The exit code of a command whose output cannot be written: EX_IOERR of sysexits.h.
EXIT_UNWRITTEN: Final = 74


class UnwrittenError(OSError):
    """Standard output cannot be written, and its reader has not merely gone."""


class Commands(click.Group):
    """Says in one line that standard output cannot be written."""

    def main(self, *args: Any, **options: Any) -> Any:
        prepare()
        try:
            return super().main(*args, **options)
        except UnwrittenError as error:
            # Python would complain when it flushes at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            click.echo(f"lva: standard output cannot be written: {error.strerror}", err=True)
            sys.exit(EXIT_UNWRITTEN)


def prepare() -> None:
    """Make ours of the standard streams; those that somebody has put in their place stay.

    What is said on standard error does not fail what it is about: it is dropped if it cannot be written.
    """
    _fill_closed()
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text_of(_Stdout(1, "w", closefd=False), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text_of(_Lenient(2, "w", closefd=False), sys.stderr)
    print_whole_lines()


def _fill_closed() -> None:
    """Open the null device for standard descriptors that are closed.

    Otherwise the next file or socket that is opened gets the number, and what is meant for standard error.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(
                os.open(os.devnull, os.O_RDWR), True
            )  # gets the lowest number, this one


class _Stdout(io.FileIO):
    """A file whose errors can be told from those of other files."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UnwrittenError(error.errno, error.strerror) from error


class _Lenient(io.FileIO):
    """A file that takes what cannot be written: the disk is full, or the terminal has gone."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


class _Handed(io.RawIOBase):
    """A file whose bytes a writer takes, so that whoever prints never waits for a reader."""

    def __init__(self, writer: LogWriter, number: int) -> None:
        self._writer = writer
        self._number = number

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data: Any, /) -> int:
        self._writer.take(bytes(data))
        return memoryview(data).nbytes


def hand_over(log: LogWriter) -> None:
    """Let what plugins print be written by threads, for which nobody waits; for the service.

    Args:
        log: Writes to standard error.
    """
    if _is_ours(sys.stdout):
        out = LogWriter(Descriptor(1), _loss)
        out.start()  # before a plugin prints: the thread would count as the plugin's
        sys.stdout = _text_of(_Handed(out, 1), sys.stdout)
    if _is_ours(sys.stderr):
        sys.stderr = _text_of(_Handed(log, 2), sys.stderr)


def _is_ours(stream: TextIO) -> bool:
    return isinstance(getattr(getattr(stream, "buffer", None), "raw", None), _Stdout | _Lenient)


def _loss(count: int) -> str:
    return f"lva: {counted(count, 'printed line')} dropped: nobody read standard output"


def _text_of(raw: io.RawIOBase, before: TextIO | None) -> TextIO:
    """Return a stream in place of Python's, which has none for a descriptor that was closed."""
    if before is not None:
        before.flush()
    encoding = getattr(before, "encoding", None) or "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=True
    )


def print_whole_lines() -> None:
    """Let what is printed come in whole lines, and escape the characters that the encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # replaced or closed
            stream.reconfigure(  # type: ignore[union-attr] # if not, that is the AttributeError
                line_buffering=True, write_through=False, errors="backslashreplace"
            )
