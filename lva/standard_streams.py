"""Standard input, output and error: perhaps closed or full, perhaps of few characters."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, Final, TextIO

import click

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
        sys.stdout = _text_of(_Output(1, "w", closefd=False), sys.stdout)
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


class _Output(io.FileIO):
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
