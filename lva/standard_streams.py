"""Standard input, output and error as the process finds them: perhaps closed, perhaps of few characters."""

from __future__ import annotations

import contextlib
import os
import sys


def fill_closed() -> None:
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


def print_whole_lines() -> None:
    """Let what is printed come in whole lines, and escape the characters that the encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # replaced or closed
            stream.reconfigure(  # type: ignore[union-attr] # if not, that is the AttributeError
                line_buffering=True, write_through=False, errors="backslashreplace"
            )
